"""Partitions: domain is dynamic (the active sources), recipe is static (the files in recipes/). Never one per query."""

import dagster as dg

from rankmill.settings import ROOT

domains = dg.DynamicPartitionsDefinition(name="domain")
recipes = dg.StaticPartitionsDefinition(sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
