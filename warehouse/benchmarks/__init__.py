"""Benchmarks: which there are and what was published for them, their texts as folders, and what was measured here."""
