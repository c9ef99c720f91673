"""Columns of the table behind each asset, and where those that are copied through come from.

Columns are read from the lake's schema (warehouse/schema), so the UI shows what a query would find. What they hold is
said in meanings.py; where they come from is said here, once. Deliberately absent: the sources of columns that are
computed, or answered by a model; and of those that hold a word of their own beside what they copy: the first stage, the
base model and the teacher among the models of `benchmark_runs`, and `all` among the domains of `leaderboard`.
"""

from collections.abc import Mapping

import dagster as dg

from assets.meanings import meaning
from warehouse.migrations import column_types

SCHEMA, LINEAGE = "dagster/column_schema", "dagster/column_lineage"
TABLES = {
    "queries": "queries",
    "passages": "passages",
    "human_judgements": "judgements",
    "benchmarks": "benchmarks",
    "candidates": "candidates",
    "mined_judgements": "judgements",
    "teacher_rankings": "rankings",
    "consistent_rankings": "consistent_rankings",
    "training_set": "training_rows",
    "sft_model": "models",
    "rl_model": "models",
    "benchmark_runs": "rerank_runs",
    "leaderboard": "leaderboard",
    "champion": "promotions",
}
"""The table that holds an asset's rows; reports have none."""

_OF_A_QUERY = {"domain": ("queries.domain",), "qid": ("queries.qid",)}
_OF_A_RANKING = (
    "domain", "qid", "ranking_id", "reasoning", "exchange_key", "prompt_sha256", "judge", "agreement",
)  # fmt: skip
SOURCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "candidates": {**_OF_A_QUERY, "docid": ("passages.docid",)},
    "mined_judgements": {**_OF_A_QUERY, "docid": ("candidates.docid", "human_judgements.docid")},
    "teacher_rankings": {
        **_OF_A_QUERY,
        "initial_list": ("candidates.docid", "human_judgements.docid"),
        "final_list": ("candidates.docid", "human_judgements.docid"),
        "relevant_docids": ("mined_judgements.docid", "human_judgements.docid"),
    },
    "consistent_rankings": {name: (f"teacher_rankings.{name}",) for name in ("domain", "ranking_id", "qid")},
    "training_set": {
        **{name: (f"teacher_rankings.{name}",) for name in _OF_A_RANKING},
        **{name: (f"queries.{name}",) for name in ("source", "license", "url")},
        "query": ("queries.text",),
        "docids": ("passages.docid",),
        "passages": ("passages.title", "passages.text"),
        "passage_licenses": ("passages.license",),
        "consistency": ("consistent_rankings.consistency",),
    },
    "sft_model": {"release": ("training_set.release",)},
    "rl_model": {"release": ("training_set.release",), "parent": ("sft_model.weights_sha256",)},
    "benchmark_runs": {
        **_OF_A_QUERY,
        "docid": ("candidates.docid",),
        "recipe": ("sft_model.recipe", "rl_model.recipe"),
    },
    "leaderboard": {name: (f"benchmark_runs.{name}",) for name in ("recipe", "stage", "model")},
    "champion": {name: (f"benchmark_runs.{name}",) for name in ("model", "recipe", "stage")},
}
"""By asset and column: the columns (asset.column) whose values it holds."""


def schema_of(asset: str) -> dict[str, dg.TableSchema]:
    """Metadata of an asset's definition: the columns of its table."""
    if asset not in TABLES:
        return {}
    table = TABLES[asset]
    columns = column_types()[table].items()
    return {SCHEMA: dg.TableSchema([dg.TableColumn(name, kind, meaning(table, name)) for name, kind in columns])}


def lineage_of(asset: str) -> dict[str, dg.TableColumnLineage]:
    """Metadata of a materialization (where the UI looks for it): where its columns come from."""
    if asset not in SOURCES:
        return {}
    deps = {
        column: [dg.TableColumnDep(dg.AssetKey(source), name) for source, name in map(_split, sources)]
        for column, sources in SOURCES[asset].items()
    }
    return {LINEAGE: dg.TableColumnLineage(deps)}


def _split(source: str) -> tuple[str, str]:
    asset, _, column = source.partition(".")
    return asset, column
