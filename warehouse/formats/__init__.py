"""Releases in the formats of others, out and in, each round trip without loss."""
