"""The figures behind the campaign report: what labelling cost, how long answers took, and how far the teacher is even.

Read from the lake's exchanges, rankings and rejections, and from nowhere else: of the questions of the newest campaign
every generation that was paid counts.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from ranking.agreement import position_bias, positions_of_top_pick
from ranking.consistency import consistency
from warehouse.lake import Lake
from warehouse.ledger import campaign_calls
from warehouse.pages import pictures
from warehouse.pages.reports import data_uri, reasons_of

LABELS = ("mined_judgements", "teacher_rankings", "consistent_rankings")
# Of a call, all but its texts, which are gigabytes.
_CALLS = (
    "domain", "purpose", "key", "served_model", "generation", "repair_of", "fault", "prompt_tokens",
    "completion_tokens", "cached_tokens", "usd", "latency_s",
)  # fmt: skip
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def campaign_values(lake: Lake, domains: Sequence[str], alpha: float) -> dict[str, Any]:
    """What campaign.html.j2 shows of the labelling of `domains`; an accepted row is a ranking with NDCG@10 >= alpha."""
    chosen = pl.col("domain").is_in(list(domains))
    calls = campaign_calls(lake, _CALLS).filter(chosen)
    rankings = lake.read("rankings").filter(chosen)
    samples = lake.read("ranking_samples").filter(chosen)
    accepted = consistency(rankings).filter(pl.col("consistency") >= alpha)
    rejections = lake.read("rejections").filter(
        pl.col("asset").is_in(LABELS) & pl.col("partition_key").is_in(list(domains))
    )
    usd = float(calls["usd"].sum())
    agreed = rankings["agreement"].drop_nulls()
    return {
        "alpha": alpha,
        "calls": calls.height,
        "tokens": int((calls["prompt_tokens"] + calls["completion_tokens"]).sum()),
        "usd": usd,
        "accepted": accepted.height,
        "usd_per_accepted": usd / accepted.height if accepted.height else None,
        "repairs": calls["repair_of"].is_not_null().sum(),
        "asked_again": int((calls["generation"] > 0).sum()),
        "stand_in": any("stand-in" in name for name in calls["served_model"].unique()),
        "by_teacher": _by(calls, ["served_model", "purpose"]),
        "by_domain": [_domain(domain, calls, rankings, accepted) for domain in domains],
        "bias": position_bias(samples),
        "bias_picture": data_uri(pictures.positions(positions_of_top_pick(samples))) if samples.height else None,
        "kendalls_w": float(agreed.mean()) if agreed.len() else None,  # type: ignore[arg-type]
        "reasons": reasons_of(rejections, examples=3),
    }


def _by(calls: pl.DataFrame, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Calls, tokens, money, malformed answers and latency percentiles of each group, which are null if nobody knows."""
    # An answer that came in a batch stands there with none.
    latencies = pl.col("latency_s").filter(pl.col("latency_s") > 0)
    return (
        calls.group_by(keys)
        .agg(
            calls=pl.len(),
            malformed=pl.col("fault").is_not_null().sum(),
            prompt_tokens=pl.col("prompt_tokens").mean(),
            completion_tokens=pl.col("completion_tokens").mean(),
            cached=pl.col("cached_tokens").sum() / pl.col("prompt_tokens").sum().clip(1),
            usd=pl.col("usd").sum(),
            **{name: latencies.quantile(share, "linear") for name, share in PERCENTILES.items()},
        )
        .sort(keys)
        .to_dicts()
    )


def _domain(domain: str, calls: pl.DataFrame, rankings: pl.DataFrame, accepted: pl.DataFrame) -> dict[str, Any]:
    here = pl.col("domain") == domain
    usd, kept = float(calls.filter(here)["usd"].sum()), accepted.filter(here).height
    return {
        "domain": domain,
        "calls": calls.filter(here).height,
        "usd": usd,
        "ranked": rankings.filter(here).height,
        "accepted": kept,
        "usd_per_accepted": usd / kept if kept else None,
    }
