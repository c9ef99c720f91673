"""What exists: the Dagster assets, checks, partitions and schedules; the only room that knows dagster (beside the front door)."""
