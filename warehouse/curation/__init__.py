"""From labels to a release: filters, each with a decision on the row, and immutable versions."""
