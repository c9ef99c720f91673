"""Asking through a provider's Batch API: `engine` is the way in."""
