"""What is known of a release, read from the lake once for the report, the card, Croissant and OpenLineage.

    known = facts_of(lake, domains)            # the newest release, or one that begins with `release`
    known.rows                                 # light: no query, passage or chain is read for it

Nothing is computed that is not already a row or a count of rows. Deliberately absent: how any of it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from warehouse.curation.releases import known_release
from warehouse.lake import Lake
from warehouse.ledger import Materialization, book
from warehouse.pages.charts import Stage
from warehouse.pages.marks import marks_of

_LIGHT = """
    SELECT row_id, domain, qid, split, ranking_id, judge, prompt_sha256, consistency, source, license, passage_licenses,
           len(docids) AS passages, len(relevant) AS positives,
           len(regexp_split_to_array(trim(coalesce(reasoning, '')), '\\s+')) AS chain_words
    FROM training_rows WHERE release = ? ORDER BY row_id
"""
_COST = """
    SELECT domain, purpose, served_model, count(*) AS calls, sum(prompt_tokens + completion_tokens)::BIGINT AS tokens,
           sum(usd) AS usd
    FROM exchanges SEMI JOIN campaign_exchanges USING (domain, purpose, key)
    WHERE list_contains(?, domain) GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True)
class Facts:
    """A release, its rows without texts, and the ledger of the steps before it."""

    lake: Lake
    domains: Sequence[str]
    release: Mapping[str, Any]
    rows: pl.DataFrame
    made: Mapping[tuple[str, str], Materialization]
    calls: pl.DataFrame

    @property
    def name(self) -> str:
        """The release's whole hash."""
        return str(self.release["release"])

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """What every filter decided about the lists that came to this release."""
        return self.lake.read("decisions", {"release": self.name})

    @cached_property
    def overlaps(self) -> pl.DataFrame:
        """What lists share with benchmarks and held-out queries."""
        return self.lake.read("benchmark_overlaps", {"release": self.name}).sort(
            "domain", "ranking_id", "benchmark", "item"
        )

    @cached_property
    def clusters(self) -> pl.DataFrame:
        """Texts that are copies of one another."""
        return self.lake.read("duplicate_clusters", {"release": self.name})

    @cached_property
    def rejections(self) -> pl.DataFrame:
        """What every step of the active domains left out."""
        keys = pl.col("partition_key").is_in([*self.domains, ""])
        return self.lake.read("rejections").filter(keys)

    @cached_property
    def marks(self) -> list[str]:
        """What was taken back of the release, in sentences; nothing where it is as it was made."""
        return marks_of(self.lake, self.name)

    @property
    def cost(self) -> dict[str, Any]:
        """Calls, tokens and USD of all labels of these domains."""
        calls, tokens, usd = (self.calls[name].sum() for name in ("calls", "tokens", "usd"))
        return {"calls": int(calls), "tokens": int(tokens or 0), "usd": float(usd or 0)}

    @property
    def stand_in(self) -> bool:
        """Whether a row was labelled by the stand-in teacher."""
        return any("stand-in" in judge for judge in self.rows["judge"].drop_nulls().unique())

    @property
    def not_read(self) -> dict[str, str]:
        """Registered benchmarks that could not be read, with the reason."""
        benchmarks = self.made.get(("benchmarks", ""))
        return dict(benchmarks.figures.get("benchmarks_not_read", {})) if benchmarks else {}

    @cached_property
    def compared_with(self) -> int:
        """Benchmark items and held-out queries that rows were compared with."""
        benchmarks = self.made.get(("benchmarks", ""))
        return self.queries["held_out"] + (benchmarks.rows_out if benchmarks else 0)

    @cached_property
    def queries(self) -> dict[str, int]:
        """Queries of the active domains: for training, and held out."""
        sql = "SELECT split = 'train', count(*) FROM queries WHERE list_contains(?, domain) GROUP BY ALL"
        counted = dict(self.lake.query(sql, [list(self.domains)]).iter_rows())
        return {"train": counted.get(True, 0), "held_out": counted.get(False, 0)}

    def stages(self) -> list[Stage]:
        """From sourced to released: what came through each step, and what it lost by reason."""
        train, held_out = self.queries["train"], self.queries["held_out"]
        ranked, consistent = self._out("teacher_rankings"), self._out("consistent_rankings")
        came = self.made[("training_set", "")].rows_in if ("training_set", "") in self.made else consistent
        return [
            Stage("queries sourced", train + held_out, [("held out to evaluate", held_out)] if held_out else []),
            Stage("queries for training", train, self._lost("teacher_rankings", train - ranked, "never ranked")),
            Stage("lists ranked by the teacher", ranked, self._lost("consistent_rankings", ranked - consistent, "")),
            Stage(
                "consistent with the judgements",
                consistent,
                self._lost("training_set", max(consistent, came) - self.rows.height, "left out"),
            ),
            Stage("rows released", self.rows.height),
        ]

    def _out(self, asset: str) -> int:
        return sum(made.rows_out for (name, key), made in self.made.items() if name == asset and key in self.domains)

    def _lost(self, asset: str, lost: int, otherwise: str) -> list[tuple[str, int]]:
        """Reasons of the rows lost on the way; what no step of its own rejected is named `otherwise`."""
        here = self.rejections.filter(asset=asset, stage=asset)
        told = [(reason.replace("_", " "), count) for reason, count in here["reason"].value_counts().iter_rows()]
        rest = lost - sum(count for _, count in told)
        return [*told, (otherwise, rest)] if rest > 0 and otherwise else told


def facts_of(lake: Lake, domains: Sequence[str], release: str | None = None) -> Facts:
    """The facts of a release, the newest one where none is named. Raises LookupError where there is none."""
    made = book(lake)
    if release is None:
        newest = made.get(("training_set", ""))
        if newest is None:
            raise LookupError("there is no release yet. Materialize training_set first.")
        release = str(newest.figures["release"])
    name = known_release(lake, release)
    return Facts(
        lake=lake,
        domains=list(domains),
        release=lake.read("releases", {"release": name}).row(0, named=True),
        rows=lake.query(_LIGHT, [name]),
        made=made,
        calls=lake.query(_COST, [list(domains)]),
    )
