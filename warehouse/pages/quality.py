"""The figures of the data-quality report: what an auditor reads first about a release.

    values = quality_values(facts_of(lake, domains), judged_by, alpha, bounds)
    write_report(path, "data_quality.html.j2", values)

All of it stands in the lake; where a thing was never looked at, the page says so and shows no zero. Deliberately
absent: the card (cards.py), and thresholds, which the steps themselves hold their rows against.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from warehouse.audit import suites
from warehouse.audit.drift import DriftBounds, since_previous
from warehouse.audit.teacher import ALL, TeacherAudit, audit_teacher
from warehouse.curation import contamination, contents, duplicates, licences, structure
from warehouse.curation.filters import KEPT, OUTCOMES
from warehouse.curation.releases import SPLITS
from warehouse.intake import door
from warehouse.pages.charts import histogram, sankey
from warehouse.pages.facts import Facts
from warehouse.pages.marks import on_page
from warehouse.pages.reports import reasons_of

NARROW, WIDE = 380, 760
LEAKS, CLUSTERS, EXAMPLES = 50, 20, 2
REMEDIES: Mapping[str, str] = {
    **structure.REASONS, **licences.REASONS, **contents.REASONS, **duplicates.REASONS,
    **contamination.REASONS, **door.REMEDIES,
    "inconsistent": "The ranking contradicts the judgements. Look at the sweep below before you move alpha.",
    "no_positive": "Nothing in the pool helps. Add passages to the domain, or raise `candidates`.",
    "no_candidate": "No passage shares a word with the query. Add passages to the domain.",
    "empty_chain": "The teacher gave no chain. Serve a reasoning model with the parser that fits it.",
}  # fmt: skip
_SAMPLES = """
    SELECT * EXCLUDE (place) FROM (
        SELECT *, row_number() OVER (PARTITION BY domain ORDER BY row_id) AS place
        FROM training_rows WHERE release = ?
    ) WHERE place <= 2 ORDER BY domain, row_id
"""


def quality_values(known: Facts, judged_by: Callable[[str], str], alpha: float, bounds: DriftBounds) -> dict[str, Any]:
    """What data_quality.html.j2 shows of a release."""
    stages = known.stages()
    teacher = audit_teacher(known.lake, known.domains)
    scores = teacher.scored["consistency"].to_list()
    return {
        "release": known.name,
        "marks": on_page(known.name, known.marks),
        "created_at": known.release["created_at"],
        "read_snapshot": known.release["read_snapshot"],
        "rows": known.rows.height,
        "splits": {split: known.rows.filter(split=split).height for split in SPLITS},
        "alpha": alpha,
        "stand_in": known.stand_in,
        "not_read": known.not_read,
        "compared_with": known.compared_with,
        "cost": known.cost,
        "costs": _costs(known),
        "funnel": {"narrow": sankey(stages, NARROW), "wide": sankey(stages, WIDE)},
        "suites": _suites(known),
        "domains": [_domain(known, domain, judged_by(domain)) for domain in known.domains],
        "consistency": histogram(_counts(scores, 20, (0, 1)), (0, 1), "NDCG@10 of the teacher's ranking", alpha),
        "lengths": _distribution(known.rows["passages"], "passages a list"),
        "chains": _distribution(known.rows["chain_words"], "words a chain"),
        "sweep": _sweep(teacher, alpha),
        "teacher": _opinions(teacher),
        "drift": _drift(known, bounds),
        "reasons": [{**row, "remedy": REMEDIES.get(row["reason"], "")} for row in reasons_of(known.rejections)],
        "filters": _filters(known.decisions),
        "outcomes": OUTCOMES,
        "contents": _contents(known.decisions),
        "leaks": _leaks(known),
        "clusters": _clusters(known),
        "licences": _licences(known),
        "samples": known.lake.query(_SAMPLES, [known.name]).to_dicts(),
    }


def _suites(known: Facts) -> dict[str, Any]:
    """What the newest validations of the tables below a release say."""
    results = suites.newest(known.lake)
    tables = (
        results.group_by("suite", "asset", "docs", "release")
        .agg(expectations=pl.len(), failed=(~pl.col("passed")).sum(), rows=pl.col("rows").max())
        .sort("suite")
    )
    lost = [
        {**row, "more": row["offending"] - len(row["keys"])} for row in suites.failures(results)
    ]  # critical ones come first
    return {"tables": tables.to_dicts(), "failures": lost, "expectations": results.height, "folder": suites.DATA_DOCS}


def _domain(known: Facts, domain: str, judged_by: str) -> dict[str, Any]:
    released = known.rows.filter(domain=domain)
    ranked, kept = (known.made.get((asset, domain)) for asset in ("teacher_rankings", "consistent_rankings"))
    return {
        "domain": domain, "judged_by": judged_by, "ranked": ranked.rows_out if ranked else 0,
        "consistent": kept.rows_out if kept else 0, "released": released.height,
        **{name: _number(released[column].mean(), digits) for name, column, digits in (
            ("list_length", "passages", 1), ("positives", "positives", 1), ("chain_words", "chain_words", 0))},
    }  # fmt: skip


def _sweep(teacher: TeacherAudit, alpha: float) -> list[dict[str, Any]]:
    """What each alpha would keep of all rankings, and what a row kept would have cost."""
    rows = teacher.sweep.filter(domain=ALL).select("alpha", "kept", "share", "usd_per_kept").to_dicts()
    return [{**row, "ours": abs(row["alpha"] - alpha) < 1e-9} for row in rows if round(row["alpha"] * 20) % 2 == 0]


def _opinions(teacher: TeacherAudit) -> list[dict[str, Any]]:
    """By domain: the teacher against people, against itself, and the pull of the order in which it is shown lists."""
    frames = (
        (teacher.against_people, {"pairs": "pairs", "precision": "precision", "recall": "recall", "kappa": "kappa"}),
        (teacher.two_opinions, {"lists": "lists", "first_is_positive": "first", "kappa": "own_kappa"}),
        (teacher.position, {"top_pick_position": "place", "bias_p_value": "p_value"}),
    )
    rows: dict[str, dict[str, Any]] = {}
    for frame, names in frames:
        for row in frame.to_dicts():
            rows.setdefault(row["domain"], {}).update({to: row[name] for name, to in names.items() if name in row})
    shown = ("precision", "recall", "kappa", "first", "own_kappa", "place", "p_value")
    return [
        {"domain": domain, "pairs": row.get("pairs"), "lists": row.get("lists"),
         **{name: _number(row.get(name)) for name in shown}}
        for domain, row in sorted(rows.items(), key=lambda pair: (pair[0] == ALL, pair[0]))
    ]  # fmt: skip


def _drift(known: Facts, bounds: DriftBounds) -> dict[str, Any] | None:
    """How far this release has moved from the one made before it; None where it is the first."""
    found = since_previous(known.lake, known.name, bounds)
    return None if found is None else {"before": found[0], "rows": found[1].to_dicts()}


def _filters(decisions: pl.DataFrame) -> list[dict[str, Any]]:
    """Lists by filter and outcome; a list that has several reasons of one outcome counts once."""
    counted = decisions.group_by("filter", "outcome", maintain_order=True).agg(
        lists=pl.struct("domain", "ranking_id").n_unique()
    )
    names = counted["filter"].unique(maintain_order=True)
    by = {(name, outcome): lists for name, outcome, lists in counted.iter_rows()}
    return [{"filter": name, **{outcome: by.get((name, outcome), 0) for outcome in OUTCOMES}} for name in names]


def _contents(decisions: pl.DataFrame) -> list[dict[str, Any]]:
    """Faults of texts by reason and what was done about them, with examples."""
    told = decisions.filter((pl.col("outcome") != KEPT) & pl.col("reason").is_in(list(contents.REASONS)))
    grouped = (
        told.sort("domain", "ranking_id")
        .group_by("reason", "outcome", maintain_order=True)
        .agg(lists=pl.len(), examples=pl.format("{}: {}", "ranking_id", pl.col("detail").fill_null("")).head(EXAMPLES))
        .sort("lists", descending=True, maintain_order=True)
    )
    return [{**row, "remedy": REMEDIES.get(row["reason"], "")} for row in grouped.to_dicts()]


def _leaks(known: Facts) -> dict[str, Any]:
    found = known.overlaps
    vetted = found.filter(pl.col("exception").is_not_null())
    lists = pl.struct("domain", "ranking_id")
    return {
        "shown": found.sort(pl.col("exception").is_null(), descending=True, maintain_order=True).head(LEAKS).to_dicts(),
        "more": max(0, found.height - LEAKS),
        "lists": found.filter(pl.col("exception").is_null()).select(lists.n_unique()).item(),
        "vetted": vetted.height,
        "by_test": found.group_by("test").len("found").sort("found", descending=True).to_dicts(),
    }


def _clusters(known: Facts) -> dict[str, Any]:
    """Clusters of copies, the largest first, each with who stays."""
    grouped = (
        known.clusters.sort("domain", "id")
        .group_by("unit", "cluster", maintain_order=True)
        .agg(
            members=pl.len(),
            stays=pl.format("{}/{}", "domain", "id").filter(pl.col("representative")).first(),
            others=pl.format("{}/{}", "domain", "id").filter(~pl.col("representative")).head(4),
            least=pl.col("similarity").min(),
        )
        .sort("members", descending=True, maintain_order=True)
    )
    return {"shown": grouped.head(CLUSTERS).to_dicts(), "count": grouped.height}


def _licences(known: Facts) -> dict[str, Any]:
    """Rows by licence, and what stands in the way of publishing; `checked` where the licence filter has looked."""
    under = pl.concat(
        [
            known.rows.select("row_id", "domain", licence="license"),
            known.rows.select("row_id", "domain", licence="passage_licenses").explode("licence"),
        ]
    )
    table = (
        under.group_by(pl.col("licence").fill_null("not stated"))
        .agg(rows=pl.col("row_id").n_unique(), domains=pl.col("domain").unique().sort())
        .sort("rows", descending=True)
    )
    released = known.rows["ranking_id"]
    return {
        "table": table.to_dicts(),
        "checked": known.decisions.filter(filter=licences.LICENCES).height > 0,
        "hindrances": licences.hindrances(known.decisions, released).to_dicts(),
    }


def _costs(known: Facts) -> list[dict[str, Any]]:
    by_domain = known.calls.group_by("domain", maintain_order=True).agg(pl.col("calls", "tokens", "usd").sum())
    released = dict(known.rows.group_by("domain").len().iter_rows())
    return [
        {**row, "rows": released.get(row["domain"], 0),
         "usd_per_row": row["usd"] / released[row["domain"]] if released.get(row["domain"]) else None}
        for row in by_domain.to_dicts()
    ]  # fmt: skip


def _distribution(values: pl.Series, label: str) -> str:
    """A histogram between round ends."""
    if values.is_empty():
        return histogram([], (0, 1), label)
    top = float(values.max())  # type: ignore[arg-type]
    bins = min(20, max(1, int(top)))
    step = max(1, -(-int(top + 1) // bins))
    return histogram(_counts(values.to_list(), bins, (0, step * bins)), (0, step * bins), label)


def _counts(values: Sequence[float], bins: int, ends: tuple[float, float]) -> list[int]:
    import numpy as np

    return [int(count) for count in np.histogram(values, bins=bins, range=ends)[0]]


def _number(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
