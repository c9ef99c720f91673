"""What a ranking is: prompts, parsing, metrics, rewards, retrieval and decoding as pure functions."""
