"""The figures behind the data-quality report and the dataset card, read from the lake and from nowhere else."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from warehouse.curation.releases import licenses_of, read_release
from warehouse.lake import Lake
from warehouse.ledger import Materialization, latest
from warehouse.pages import pictures
from warehouse.pages.reports import data_uri, funnel_of, reasons_of


def quality_values(lake: Lake, domains: Sequence[str], judged_by: Callable[[str], str], alpha: float) -> dict[str, Any]:
    """What data_quality.html.j2 shows of the newest release."""
    made, rows, values = _common(lake, domains)
    consistency = [value for d in domains for value in _figures(lake, "consistent_rankings", d).get("_values", [])]
    per_domain = []
    for domain in domains:
        released = rows.filter(pl.col("domain") == domain)
        mined = _figures(lake, "mined_judgements", domain)
        ranked, kept = latest(lake, "teacher_rankings", domain), latest(lake, "consistent_rankings", domain)
        per_domain.append(
            {
                "domain": domain, "judged_by": judged_by(domain), "ranked": ranked.rows_out if ranked else 0,
                "consistent": kept.rows_out if kept else 0, "released": released.height,
                "list_length": _mean(released["docids"].list.len()),
                "positives": _mean(released["relevant"].list.len()),
                "chain_words": _mean(released["reasoning"].str.count_matches(r"\S+"), 0),
                **{name: _number(mined.get(f"teacher_{name}")) for name in ("precision", "recall", "kappa")},
            }
        )  # fmt: skip
    samples = rows.sort("row_id").group_by("domain", maintain_order=True).head(2).sort("domain", "row_id")
    return {
        **values,
        "created_at": made.created_at,
        "read_snapshot": made.read_snapshot,
        "splits": {split: made.figures[split] for split in ("sft", "rl", "dev")},
        "alpha": alpha,
        "domains": per_domain,
        "findings": made.figures["findings"],
        "funnel_picture": data_uri(pictures.funnel(values["funnel"])),
        "consistency_picture": data_uri(pictures.histogram(consistency, alpha, "NDCG@10")),
        "samples": samples.to_dicts(),
    }


def card_values(lake: Lake, domains: Sequence[str], sampling: dict[str, Any]) -> dict[str, Any]:
    """What dataset_card.md.j2 shows of the newest release."""
    _, rows, values = _common(lake, domains)
    prompts = rows.select("prompt_sha256").unique().sort("prompt_sha256")["prompt_sha256"].to_list()
    teachers = sorted(rows["judge"].unique().to_list())
    composition = [
        {
            "domain": domain,
            **{s: part.filter(pl.col("split") == s).height for s in ("sft", "rl", "dev")},
            "licenses": licenses_of(part),
        }
        for domain in domains
        for part in [rows.filter(pl.col("domain") == domain)]
    ]
    return {
        **values,
        "domains": composition,
        "teachers": teachers,
        "sampling": sampling,
        "prompts": {f"rank_teacher {number}": digest for number, digest in enumerate(prompts, start=1)},
    }


def _common(lake: Lake, domains: Sequence[str]) -> tuple[Materialization, pl.DataFrame, dict[str, Any]]:
    made = latest(lake, "training_set")
    if made is None:
        raise LookupError("there is no release yet. Materialize training_set first.")
    rows = read_release(lake, made.figures["release"])
    everything = [*domains, ""]
    ledger = lake.read("materializations").filter(pl.col("partition_key").is_in(everything))
    queries = lake.read("queries", columns=["domain", "split"]).filter(pl.col("domain").is_in(list(domains)))
    exchanges = lake.read("exchanges", columns=["domain", "usd", "prompt_tokens", "completion_tokens"]).filter(
        pl.col("domain").is_in(list(domains))
    )
    benchmarks = latest(lake, "benchmarks")
    held_out = queries.filter(pl.col("split") != "train").height
    rejections = lake.read("rejections").filter(pl.col("partition_key").is_in(everything))
    values = {
        "release": made.figures["release"],
        "rows": rows.height,
        "stand_in": any("stand-in" in judge for judge in rows["judge"].unique()),
        "contaminated": made.figures["contaminated"],
        "benchmark_queries": held_out + (benchmarks.rows_out if benchmarks else 0),
        "not_read": benchmarks.figures["benchmarks_not_read"] if benchmarks else {},
        "funnel": funnel_of(ledger, queries.height - held_out),
        "reasons": reasons_of(rejections),
        "cost": {
            "calls": exchanges.height,
            "tokens": int((exchanges["prompt_tokens"] + exchanges["completion_tokens"]).sum()),
            "usd": float(exchanges["usd"].sum()),
        },
    }
    return made, rows, values


def _figures(lake: Lake, asset: str, domain: str) -> dict[str, Any]:
    made = latest(lake, asset, domain)
    return dict(made.figures) if made else {}


def _mean(series: pl.Series, digits: int = 1) -> str:
    return _number(series.mean(), digits)  # type: ignore[arg-type]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
