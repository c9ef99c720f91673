"""The front door: the rankmill command, its settings and profiles."""
