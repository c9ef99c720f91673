"""From held-out queries to scored runs: which queries count, what a reranker reads, what every stage scored.

    reported = held_out(queries, qrels, limit=100, seed=0)
    first = candidate_texts(reported, candidates, passages)          # what is reranked
    made = collect("reasonrank", settings, first, {"sft": reranked}, qrels, folds_of(reported, spare, 0), fusion)

Deliberately absent: reranking itself (training.rerank), and what scores add up to (leaderboard).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ranking.lists import seed_of
from ranking.metrics import DEFAULT_MEASURES, evaluate
from ranking.prompts import titled
from warehouse.fusing import KEYS, SPARE, TEST, WEIGHTS, Fusion, fused
from warehouse.lake import canonical_sha256, content_sha256

FIRST_STAGE = "bm25"
TEACHER = "teacher"  # behind its endpoint, asked as a student is
TWIN = "~"
TABLES = (
    "rerank_runs",
    "rerank_calls",
    "scores",
    "dev_scores",
    "run_settings",
    "fusion_weights",
    "position_probes",
)  # as the fields of Runs
RUN_COLUMNS = ("domain", "qid", "docid", "rank", "score")
CALL_COLUMNS = (
    "domain", "qid", "round", "docids", "completion", "fault", "prompt_tokens", "completion_tokens", "seconds",
)  # fmt: skip
# What all runs of a recipe were measured with, as `collect` is given it, and where it stands in `run_settings`.
SETTINGS = {
    "first_stage": pl.String, "query_retrieved": pl.String, "query_reranked": pl.String, "decoder": pl.String,
    "decoding": pl.String, "window_size": pl.Int64, "passage_tokens": pl.Int64, "temperature": pl.Float64,
    "repeats": pl.Int64, "think": pl.Boolean, "template": pl.String, "prompt_sha256": pl.String,
    "highest_score": pl.Float64, "recipe_sha256": pl.String,
}  # fmt: skip
OF_A_RUN = {
    "run": pl.String, "recipe": pl.String, "stage": pl.String, "model": pl.String, "fusion": pl.String,
    "fusion_weight": pl.Float64, "engine": pl.String, "engine_version": pl.String, "hardware": pl.String,
    "calls": pl.Int64, "malformed": pl.String, "malformed_rate": pl.Float64,
}  # fmt: skip
PROBE = pl.Schema(
    [
        ("domain", pl.String),
        ("qid", pl.String),
        ("shown", pl.List(pl.String)),
        ("ordered", pl.List(pl.String)),
        ("turned", pl.List(pl.String)),
        ("tau", pl.Float64),
        ("fault", pl.String),
    ]
)


def held_out(queries: pl.DataFrame, qrels: pl.DataFrame, limit: int | None, seed: int) -> pl.DataFrame:
    """The queries to evaluate on: a domain's test split where it has one, else dev; at most `limit`, chosen by hash.

    Only queries with a relevant passage in `qrels` count, as in trec_eval. Returns domain, qid, text, split.
    """
    judged = qrels.filter(pl.col("grade") > 0).select("domain", "qid").unique()
    known = queries.join(judged, on=["domain", "qid"], how="semi")
    tested = known.filter(pl.col("split") == "test")["domain"].unique().to_list()
    split = pl.when(pl.col("domain").is_in(tested)).then(pl.lit("test")).otherwise(pl.lit("dev"))
    return _drawn(known.filter(pl.col("split") == split), limit, seed)


def spare(
    queries: pl.DataFrame, qrels: pl.DataFrame, reported: pl.DataFrame, limit: int | None, seed: int
) -> pl.DataFrame:
    """Judged dev queries of the domains whose test queries are `reported`: what is chosen on. Like held_out."""
    tested = reported.filter(pl.col("split") == "test")["domain"].unique().to_list()
    dev = queries.filter(pl.col("split") == "dev", pl.col("domain").is_in(tested))
    judged = qrels.filter(pl.col("grade") > 0).select("domain", "qid").unique()
    return _drawn(dev.join(judged, on=["domain", "qid"], how="semi"), limit, seed)


def _drawn(known: pl.DataFrame, limit: int | None, seed: int) -> pl.DataFrame:
    draws = [seed_of(f"evaluate/{domain}/{qid}", seed) for domain, qid in known.select("domain", "qid").iter_rows()]
    ordered = known.with_columns(draw=pl.Series(draws, dtype=pl.Int64)).sort("domain", "draw")
    kept = ordered if limit is None else ordered.group_by("domain", maintain_order=True).head(limit)
    return kept.select("domain", "qid", "text", "split").sort("domain", "qid")


def candidate_texts(queries: pl.DataFrame, candidates: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Candidates with both texts, as a reranker reads them: domain, qid, query, docid, rank, score, text."""
    texts = passages.select(
        "domain",
        "docid",
        text=pl.Series([titled(t, x) for t, x in passages.select("title", "text").iter_rows()], dtype=pl.String),
    )
    return (
        candidates.join(queries.select("domain", "qid", query="text"), on=["domain", "qid"], how="inner")
        .join(texts, on=["domain", "docid"], how="inner")
        .select("domain", "qid", "query", "docid", "rank", "score", "text")
        .sort("domain", "qid", "rank")
    )


def score(run: pl.DataFrame, qrels: pl.DataFrame) -> pl.DataFrame:
    """Per-query scores in long form: domain, qid, measure, value; every query of `qrels` has a row a measure."""
    wide = evaluate(run, qrels, DEFAULT_MEASURES, by=["domain", "qid"])
    return wide.unpivot(index=["domain", "qid"], variable_name="measure", value_name="value")


@dataclass(frozen=True)
class Reranked:
    """A finished reranking: the name of the run, its model's id, and the folder with run.parquet and calls.parquet.

    `engine`, its version and `hardware` say what answered; `asked` holds those of `SETTINGS` that are this run's own.
    `spare` is the folder of the dev queries of domains whose test queries are reported, where they were reranked.
    """

    run: str
    model: str
    folder: Path
    engine: str
    engine_version: str
    hardware: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    spare: Path | None = None


@dataclass(frozen=True)
class Runs:
    """Runs of all stages, the calls behind them, per-query scores and what each run was made with, as rows of the lake.

    `scores` are of the queries that are reported, `dev_scores` of those that a champion is chosen by. `settings` has a
    row a run (table run_settings); every score is one join away from it, by recipe and run. `weights` are those that
    were tried for fused runs (table fusion_weights), `probes` windows that were asked both ways round.
    """

    runs: pl.DataFrame
    calls: pl.DataFrame
    scores: pl.DataFrame
    dev_scores: pl.DataFrame
    settings: pl.DataFrame
    weights: pl.DataFrame
    probes: pl.DataFrame

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The rows by the name of their table."""
        scores = (self.scores, self.dev_scores)
        frames = (self.runs, self.calls, *scores, self.settings, self.weights, self.probes)
        return dict(zip(TABLES, frames, strict=True))

    @property
    def sha256(self) -> str:
        """Over what was measured; what the calls took, in seconds too, is no part of it."""
        scores = ["stage", *KEYS, "measure"]
        keys = {"scores": scores, "dev_scores": scores, "rerank_runs": ["stage", *KEYS, "rank"],
                "run_settings": ["stage"], "fusion_weights": ["stage", "fold", "weight"],
                "position_probes": ["stage", *KEYS]}  # fmt: skip
        return canonical_sha256([content_sha256(self.tables[table], by) for table, by in keys.items()])


def keep_candidates(candidates: pl.DataFrame, folder: Path) -> tuple[Path, str]:
    """`candidates` as a Parquet file named by its content, and the hash of that content."""
    digest = content_sha256(candidates, ["domain", "qid", "rank"])
    path = folder / f"candidates-{digest[:12]}.parquet"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        candidates.write_parquet(part)
        part.replace(path)
    return path, digest


def twin_stage(stage: str, way: str) -> str:
    """The name of a student's run when it is asked the other way: sft~direct was taught with a chain."""
    return f"{stage}{TWIN}{way}"


def student_of(stage: str) -> str:
    """Which student a stage's run is of: sft for sft+rrf, sft~direct and sft~direct+rrf."""
    return stage.partition("+")[0].partition(TWIN)[0]


def fused_stage(stage: str, fusion: Fusion) -> str:
    """The name that a stage's fused run goes by, as in sft+rrf."""
    return f"{stage}+{fusion.method}"


def collect(
    recipe: str,
    settings: Mapping[str, Any],
    first: pl.DataFrame,
    reranked: Mapping[str, Reranked],
    qrels: pl.DataFrame,
    folds: pl.DataFrame,
    fusion: Fusion | None = None,
) -> Runs:
    """The first stage and every reranking of it (by stage), scored over the queries of `folds` that are reported.

    `first` and `qrels` are of all queries of `folds` (fusing.folds_of). With a fusion each reranking stands there
    twice, as it is and fused. `settings` holds what `SETTINGS` names. A reranking that did not read the queries by
    which a champion is chosen has no `dev_scores`. Raises NothingToChooseOn.
    """
    reported = folds.filter(pl.col("fold") != SPARE)
    shown = content_sha256(first.join(reported, on=KEYS, how="semi"), ["domain", "qid", "rank"])
    names = {"run": f"{FIRST_STAGE}-{shown[:12]}", "model": FIRST_STAGE}
    unscored = first.select(*RUN_COLUMNS, value=pl.lit(None, dtype=pl.Float64))
    runs = [_named(unscored, recipe, FIRST_STAGE, names)]
    retrieved = {name: settings[name] for name in ("first_stage", "query_retrieved", "recipe_sha256")}
    told = [{**retrieved, **names, "recipe": recipe, "stage": FIRST_STAGE, "fusion": "none", **_malformed(None)}]
    calls, tried, probes = [], [], [_named(pl.DataFrame(schema=PROBE), recipe, FIRST_STAGE, names)]
    for stage, made in reranked.items():
        names = {"run": made.run, "model": made.model}
        answered = _calls_of(made).join(reported, on=KEYS, how="semi")
        calls.append(_named(answered, recipe, stage, names))
        if (probed := made.folder / "probes.parquet").is_file():
            asked_twice = pl.read_parquet(probed).join(reported, on=KEYS, how="semi")
            probes.append(_named(asked_twice, recipe, stage, names))
        how = {
            **{name: settings[name] for name in SETTINGS},
            **made.asked,
            "recipe": recipe,
            "engine": made.engine,
            "engine_version": made.engine_version,
            "hardware": made.hardware,
            **_malformed(answered),
        }
        folders = [made.folder, *([made.spare] if made.spare is not None else [])]
        run = pl.concat([pl.read_parquet(folder / "run.parquet").select(*RUN_COLUMNS, "value") for folder in folders])
        runs.append(_named(run, recipe, stage, names))
        told.append({**how, **names, "stage": stage, "fusion": "none"})
        if fusion is not None:
            share = "dev" if fusion.weight is None else f"{fusion.weight:g}"
            together = {**names, "run": f"{made.run}+{fusion.method}={share}"}
            # By the scores that the model gave, where its decoder has any; else by places.
            both = fused(run.with_columns(score=pl.coalesce("value", "score")), first, qrels, folds, fusion)
            unscored = both.run.with_columns(value=pl.lit(None, dtype=pl.Float64))
            runs.append(_named(unscored, recipe, fused_stage(stage, fusion), together))
            tried.append(_named(both.weights, recipe, fused_stage(stage, fusion), {"run": together["run"]}))
            weighed = {"fusion": fusion.method, "fusion_weight": fusion.weight}
            told.append({**how, **together, "stage": fused_stage(stage, fusion), **weighed})
    deciding = first.select(KEYS).unique().join(_deciding(folds), on=KEYS, how="semi")
    decided = [run for run in runs if deciding.join(run, on=KEYS, how="anti").is_empty()]
    return Runs(
        pl.concat([run.join(reported, on=KEYS, how="semi") for run in runs], how="vertical_relaxed"),
        pl.concat(calls, how="vertical_relaxed"),
        _scored(runs, qrels.join(reported, on=KEYS, how="semi")),
        _scored(decided, qrels.join(_deciding(folds), on=KEYS, how="semi")).filter(~pl.col("fused")),
        pl.DataFrame(told, schema={**OF_A_RUN, **SETTINGS}),
        pl.concat(tried)
        if tried
        else pl.DataFrame(schema={**WEIGHTS, "recipe": pl.String, "stage": pl.String, "run": pl.String}),
        pl.concat(probes),
    )


def _deciding(folds: pl.DataFrame) -> pl.DataFrame:
    """Domain and qid of the queries that a champion is chosen by: of dev, or of test where a domain has no others."""
    of_dev = folds.filter(pl.col("fold") != TEST)
    return pl.concat([of_dev, folds.join(of_dev, on="domain", how="anti")]).select(KEYS)


def _scored(runs: Sequence[pl.DataFrame], qrels: pl.DataFrame) -> pl.DataFrame:
    """Rows of `scores` of named runs."""
    names = ("recipe", "stage", "run", "model")
    scores = [score(run, qrels).with_columns(**{name: pl.lit(run[name][0]) for name in names}) for run in runs]
    return pl.concat(scores, how="vertical_relaxed").with_columns(fused=pl.col("stage").str.contains("+", literal=True))


def _calls_of(made: Reranked) -> pl.DataFrame:
    """What an endpoint says of cache and price stands beside a call; a local model tells nothing and costs nothing."""
    calls = pl.read_parquet(made.folder / "calls.parquet")
    local = {"cached_tokens": pl.lit(None, dtype=pl.Int64), "usd": pl.lit(0.0)}
    return calls.with_columns(**{name: value for name, value in local.items() if name not in calls.columns}).select(
        *CALL_COLUMNS, *local, messages_sha256="prompt_hash"
    )


def _malformed(calls: pl.DataFrame | None) -> dict[str, Any]:
    """How many calls a run took, and their malformed answers by kind."""
    faults = [] if calls is None else calls["fault"].drop_nulls().to_list()
    count = 0 if calls is None else calls.height
    kinds = {kind: faults.count(kind) for kind in sorted(set(faults))}
    return {"calls": count, "malformed": json.dumps(kinds), "malformed_rate": len(faults) / max(1, count)}


def _named(frame: pl.DataFrame, recipe: str, stage: str, names: Mapping[str, str]) -> pl.DataFrame:
    literals = {"recipe": recipe, "stage": stage, **names}
    return frame.with_columns(**{name: pl.lit(value) for name, value in literals.items()})
