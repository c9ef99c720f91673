"""The leaderboard: scores and calls into one row a recipe, domain and stage; nothing is selected.

    board = leaderboard(runs, qrels, splits, models, resamples=10_000, seed=0)

A row holds the mean with its interval, the paired comparison with the first stage (difference, p, wins), what the
answers cost, how many were malformed, how far a pointwise model's scores may be read as probabilities, and how far the
order decides in which a window is shown. Deliberately absent: the page that shows it (pages.leaderboard), and any
verdict on a model (promotion).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ranking.metrics import DEFAULT_MEASURES
from ranking.statistics import bootstrap_mean, calibration, holm, randomisation_test, win_tie_loss
from warehouse.evaluation import FIRST_STAGE, TEACHER, Runs, student_of
from warehouse.intake.sources import ALL_DOMAINS

STAGES = (FIRST_STAGE, TEACHER, "base", "sft", "rl")
HEADLINE = "nDCG@10"
KEYS = ["domain", "qid"]
TIMINGS = ("seconds_per_query", "seconds_p50", "seconds_p95")  # differ from one measurement to the next


def leaderboard(
    made: Runs,
    qrels: pl.DataFrame,
    splits: Mapping[str, str],
    models: pl.DataFrame,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """One row a recipe, domain and stage, and one of all domains' queries together.

    `qrels`: domain, qid, docid, grade. `splits`: the split evaluated on, by domain. Intervals are bootstraps over
    queries; `versus_*` is the paired difference to BM25, p that of the randomisation test with as many rounds as there
    are resamples, `p_holm` corrected over all comparisons of the board. The first stage has no comparison.
    """
    wide = made.scores.pivot(on="measure", index=["recipe", "stage", "model", *KEYS], values="value")
    release = dict(models.select("model", "release").iter_rows())
    answered = _scored_passages(made, qrels)
    rows = []
    for recipe in wide["recipe"].unique().sort():
        ours = wide.filter(pl.col("recipe") == recipe)
        base = ours.filter(pl.col("stage") == FIRST_STAGE)
        for domain in [*sorted(ours["domain"].unique()), ALL_DOMAINS]:
            for stage in in_order(ours["stage"].unique().to_list()):
                part = _of(ours.filter(pl.col("stage") == stage), domain)
                if part.is_empty():
                    continue
                # What was fused was asked once, for both.
                asked = made.calls.filter(pl.col("recipe") == recipe, pl.col("stage") == stage.partition("+")[0])
                own = pl.col("recipe") == recipe, pl.col("stage") == stage
                scored = answered.filter(*own)
                rows.append(
                    {
                        "recipe": recipe,
                        "domain": domain,
                        "stage": stage,
                        "fused": "+" in stage,
                        "model": part["model"][0],
                        "release": release.get(part["model"][0], ""),
                        "split": splits.get(domain, "held-out"),
                        "queries": part.height,
                        **_statistics(part, _of(base, domain), resamples, seed),
                        **_costs(_of(asked, domain), part.select(KEYS)),
                        **_calibrated(_of(scored, domain)),
                        **_position_bias(_of(made.probes.filter(*own), domain)),
                    }
                )
    return _corrected(pl.DataFrame(rows, infer_schema_length=None))


def in_order(stages: Sequence[str]) -> list[str]:
    """Stages as they follow each other, each one's fused run behind it, and then its twin that was asked otherwise."""
    return sorted(stages, key=lambda stage: (STAGES.index(student_of(stage)), stage))


def with_measures(board: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of a leaderboard for people: measures spread out, the best stage of each domain marked."""
    rows = []
    for row in board.iter_rows(named=True):
        measures = json.loads(row["measures"])
        rows.append({**row, "value": measures[HEADLINE], "recall": measures["R@10"], "rr": measures["RR"]})
    for row in rows:
        rivals = [r["value"] for r in rows if (r["recipe"], r["domain"]) == (row["recipe"], row["domain"])]
        row["best"] = row["value"] == max(rivals)
    return rows


def _of(frame: pl.DataFrame, domain: str) -> pl.DataFrame:
    return frame if domain == ALL_DOMAINS else frame.filter(pl.col("domain") == domain)


def _statistics(part: pl.DataFrame, base: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    _, low, high = bootstrap_mean(part[HEADLINE].to_numpy(), resamples, seed)
    pair = part.join(base.select(*KEYS, base=HEADLINE), on=KEYS, how="inner")
    ours, theirs = pair[HEADLINE].to_numpy(), pair["base"].to_numpy()
    versus, versus_low, versus_high = bootstrap_mean(ours - theirs, resamples, seed)
    measures = {measure: float(part[measure].mean() or 0.0) for measure in DEFAULT_MEASURES}  # type: ignore[arg-type]
    is_first = part["stage"][0] == FIRST_STAGE
    counted = None if is_first else win_tie_loss(ours, theirs)
    return {
        "measures": json.dumps(measures),
        "low": low,
        "high": high,
        "versus_bm25": versus,
        "versus_low": versus_low,
        "versus_high": versus_high,
        "p": None if is_first else randomisation_test(ours, theirs, resamples, seed),
        "wins": counted and counted.wins,
        "ties": counted and counted.ties,
        "losses": counted and counted.losses,
    }


def _corrected(board: pl.DataFrame) -> pl.DataFrame:
    """`p_holm` beside p: every comparison that the board shows counts, whatever recipe, stage or domain it is of."""
    compared = board["p"].is_not_null()
    corrected = iter(holm(board["p"].drop_nulls().to_list()))
    values = [next(corrected) if known else None for known in compared]
    return board.with_columns(p_holm=pl.Series(values, dtype=pl.Float64))


def _costs(calls: pl.DataFrame, queries: pl.DataFrame) -> dict[str, Any]:
    """What answers cost a query, over all of `queries`: those that were not asked about cost nothing.

    Depth is the number of rounds that wait for one another. Seconds of a call are its share of the batch that it was
    answered in, so a query's are what it kept the machine busy. Null is what nobody told.
    """
    a_query = queries.join(
        calls.group_by(KEYS).agg(
            depth=pl.col("round").n_unique(),
            seconds=pl.col("seconds").sum(),
        ),
        on=KEYS,
        how="left",
    )
    seconds = a_query["seconds"].fill_null(0.0)
    count = queries.height
    told_rounds = calls["round"].null_count() == 0
    cached = calls["cached_tokens"].drop_nulls()
    prompts, written = float(calls["prompt_tokens"].sum()), float(calls["completion_tokens"].sum())
    faults = calls["fault"].drop_nulls().to_list()
    return {
        "malformed": json.dumps(dict(sorted(Counter(faults).items()))),
        "malformed_rate": len(faults) / max(1, calls.height),
        "calls_per_query": calls.height / count,
        "depth_per_query": float(a_query["depth"].sum()) / count if told_rounds else None,
        "tokens_per_query": (prompts + written) / count,
        "input_tokens_per_query": prompts / count,
        "output_tokens_per_query": written / count,
        "cached_tokens_per_query": float(cached.sum()) / count if cached.len() else None,
        "seconds_per_query": float(seconds.sum()) / count,
        "seconds_p50": seconds.quantile(0.5, "linear"),
        "seconds_p95": seconds.quantile(0.95, "linear"),
        "usd_per_query": float(calls["usd"].sum()) / count if calls["usd"].null_count() == 0 else None,
    }


def _scored_passages(made: Runs, qrels: pl.DataFrame) -> pl.DataFrame:
    """Passages that a pointwise model gave a score: recipe, stage, domain, score (0 to 1), relevant.

    A passage that nobody judged counts as not relevant, as in NDCG. Malformed answers gave no score.
    """
    scale = made.settings.filter(pl.col("highest_score").is_not_null()).select("recipe", "run", "highest_score")
    relevant = qrels.filter(pl.col("grade") > 0).select(*KEYS, "docid", relevant=pl.lit(True))
    return (
        made.calls.filter(pl.col("fault").is_null())
        .join(scale, on=["recipe", "run"], how="inner")
        .select("recipe", "run", "stage", *KEYS, "highest_score", docid="docids")
        .explode("docid")
        .join(made.runs.select("recipe", "run", *KEYS, "docid", "value"), on=["recipe", "run", *KEYS, "docid"])
        .join(relevant, on=[*KEYS, "docid"], how="left")
        .select(
            "recipe",
            "stage",
            "domain",
            score=pl.col("value") / pl.col("highest_score"),
            relevant=pl.col("relevant").fill_null(False),
        )
        .drop_nulls("score")
    )


def _calibrated(scored: pl.DataFrame) -> dict[str, Any]:
    if scored.is_empty():
        return dict.fromkeys(("ece", "tpr", "tnr", "calibration"))
    found = calibration(scored["score"].to_numpy(), scored["relevant"].to_numpy())
    told = {"passages": scored.height, "relevant": int(scored["relevant"].sum()), "bins": found.bins.to_dicts()}
    return {"ece": found.ece, "tpr": found.tpr, "tnr": found.tnr, "calibration": json.dumps(told)}


def _position_bias(probes: pl.DataFrame) -> dict[str, Any]:
    """Mean tau of windows that were asked both ways round: 1 where the order shown decides nothing."""
    told = probes["tau"].drop_nulls()
    return {"position_tau": told.mean() if told.len() else None, "position_probes": told.len() or None}
