"""From a model that can judge a few passages to the order of a whole candidate list."""
