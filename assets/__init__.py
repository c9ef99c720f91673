"""What exists: the Dagster assets, checks, partitions and schedules."""
