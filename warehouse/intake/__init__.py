"""How rows come in: sources, the door that checks them, benchmarks, the first steps of every domain."""
