"""Releases side by side: what there is, and which rows came, went and changed between two of them, and why.

    releases(lake)                       # one row a release: sizes, licences, marks, models trained on it
    made = diff_releases(lake, "a316", "77f0")
    made.rows                            # change, why, detail, domain, qid, row_id_a, row_id_b

Rows are the same row when domain and query id are; why one is not in a release is looked up in what that release had
before it: the sources and rankings of the snapshot that it read, and every filter's decision. Nothing is computed
again, so a reason is the one that counted at the time.

Deliberately absent: tables at two snapshots (snapshots.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from warehouse.curation.audits import failed_audits
from warehouse.curation.contamination import CONTAMINATION
from warehouse.curation.filters import MASKED, REJECTED
from warehouse.curation.releases import known_release, release_pieces
from warehouse.lake import Lake

KEY = ["domain", "qid"]
PLACE = [*KEY, "nth"]
SOURCE, LEAK, TEACHER, LIST, JUDGEMENTS, SPLIT, RETRACTED = (
    "source", "leak", "teacher", "list", "judgements", "split", "retracted",
)  # fmt: skip
CAME, WENT, CHANGED = "came", "went", "changed"
REASON = {"domain": pl.String, "qid": pl.String, "why": pl.String, "detail": pl.String}
# Which columns of a row speak of which cause; positions count only where both lists hold the same passages.
_CAUSES = {
    SOURCE: ("query", "texts", "source", "license", "passage_licenses", "url"),
    LIST: ("docids",),
    TEACHER: ("exchange_key", "judge", "prompt_sha256", "reasoning", "final_order", "agreement"),
    JUDGEMENTS: ("relevant",),
    SPLIT: ("split",),
}
_POSITIONS = ("final_order", "relevant")
_READ = [
    "row_id",
    "ranking_id",
    *KEY,
    *(c for columns in _CAUSES.values() for c in columns if c != "texts"),
    "passages",
]


@dataclass(frozen=True)
class Diff:
    """Two releases (whole hashes), how many rows both hold unchanged, and the rows that differ, one row a cause."""

    a: str
    b: str
    same: int
    rows: pl.DataFrame

    def counts(self) -> pl.DataFrame:
        """Rows by change and cause. A row that changed for two causes is counted under both."""
        counted = self.rows.group_by("change", "why").len("rows")
        return counted.sort("change", "rows", "why", descending=[False, True, False])


def releases(lake: Lake) -> pl.DataFrame:
    """Every release, newest first: sizes, domains, licences, models, what retracted it and which audits it fails."""
    marks = lake.read("retraction_marks", {"unit": "release"})
    told = marks.join(lake.read("retractions"), on="retraction", how="left").select(
        release="id", successor="successor", retracted=_retraction_words()
    )
    models = lake.read("models", columns=["release", "model", "recipe", "stage", "created_at"]).sort("created_at")
    trained = models.select(
        "release", models=pl.format("{} {} {}", "recipe", "stage", pl.col("model").str.slice(0, 12))
    )
    made = lake.read("releases")
    failed = pl.Series("failed", [failed_audits(lake, name) for name in made["release"]], pl.List(pl.String))
    return (
        made.with_columns(failed)
        .join(trained.group_by("release", maintain_order=True).agg("models"), on="release", how="left")
        .join(told.group_by("release").agg(pl.col("retracted"), pl.col("successor").last()), on="release", how="left")
        .with_columns(pl.col("models", "retracted").fill_null(pl.lit([], pl.List(pl.String))))
        .sort("created_at", "release", descending=[True, False])
    )


def diff_releases(lake: Lake, a: str, b: str) -> Diff:
    """What happened to the rows of release `a` on the way to release `b`, each named by a beginning of its hash.

    Raises UnknownRelease.
    """
    first, second = known_release(lake, a), known_release(lake, b)
    old, new = _light(lake, first), _light(lake, second)
    both = old.join(new, on=PLACE, suffix="_b")
    parts = [
        _told(WENT, absent(lake, second, old.join(new, on=PLACE, how="anti")), "row_id", None),
        _told(CAME, absent(lake, first, new.join(old, on=PLACE, how="anti")), None, "row_id"),
        _changed(lake, second, both),
    ]
    rows = pl.concat(parts).sort("change", "why", "domain", "qid")
    changed = rows.filter(pl.col("change") == CHANGED)["row_id_b"].n_unique()
    return Diff(first, second, both.height - changed, rows)


def absent(lake: Lake, release: str, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` (domain, qid, row_id) with why and detail: what kept each of them out of a release at its time."""
    entry = lake.read("releases", {"release": release}).row(0, named=True)
    if rows.is_empty():
        return rows.with_columns(why=pl.lit(None, pl.String), detail=pl.lit(None, pl.String))
    known = pl.concat(
        [
            _taken_back(lake, entry, rows),
            *_not_in_the_source(lake, entry, rows),
            *_decided(lake, entry),
            _never_ranked(lake, entry, rows),
        ]
    ).unique(KEY, keep="first", maintain_order=True)
    unknown = f"nothing in snapshot {entry['read_snapshot']}, which it read, says why"
    return rows.join(known, on=KEY, how="left").with_columns(
        pl.col("why").fill_null("unknown"), pl.col("detail").fill_null(unknown)
    )


def _light(lake: Lake, release: str) -> pl.DataFrame:
    """A release's rows with a hash in place of the passages' texts, numbered where a query has several lists."""
    pieces = [
        piece.with_columns(texts=pl.col("passages").list.join("\x00").hash()).drop("passages", "release", strict=False)
        for piece in release_pieces(lake, release, _READ)
    ]
    columns = [name for name in _READ if name != "passages"]
    empty = lake.read("training_rows", {"release": ""}, columns).with_columns(texts=pl.lit(0, pl.UInt64))
    rows = pl.concat([empty, *(piece.select(empty.columns) for piece in pieces)]).sort(*KEY, "ranking_id")
    return rows.with_columns(nth=pl.int_range(pl.len()).over(KEY))


def _told(change: str, rows: pl.DataFrame, a: str | None, b: str | None) -> pl.DataFrame:
    nothing = pl.lit(None, pl.String)
    return rows.select(
        pl.lit(change).alias("change"), "why", "detail", *KEY,
        row_id_a=nothing if a is None else pl.col(a), row_id_b=nothing if b is None else pl.col(b),
    )  # fmt: skip


def _changed(lake: Lake, release: str, both: pl.DataFrame) -> pl.DataFrame:
    differs = {name: pl.col(name).ne_missing(pl.col(f"{name}_b")) for columns in _CAUSES.values() for name in columns}
    moved = both.with_columns(**{f"{name}_differs": differs[name] for name in differs})
    kept = pl.col("docids_differs").not_()
    found = [
        _told(
            CHANGED,
            moved.with_columns(*(pl.col(f"{name}_differs") & kept for name in _POSITIONS))
            .with_columns(what=pl.concat_list(
                *(pl.when(f"{name}_differs").then(pl.lit("texts of passages" if name == "texts" else name))
                  for name in columns)
            ).list.drop_nulls().list.join(", "))
            .filter(pl.col("what") != "")
            .with_columns(why=pl.lit(cause), detail=_moved() if cause == SPLIT else pl.format("other {}", "what")),
            "row_id", "row_id_b",
        )
        for cause, columns in _CAUSES.items()
    ]  # fmt: skip
    masked = lake.read("decisions", {"release": release, "outcome": MASKED}, ["ranking_id", "filter", "reason"])
    words = pl.format("masked by filter {}", "filter")
    told = masked.select("ranking_id", said=words).unique().group_by("ranking_id").agg(pl.col("said").first())
    rows = pl.concat(found)
    names = both.select("ranking_id_b", row_id_b="row_id_b").unique("row_id_b")
    return (
        rows.join(names, on="row_id_b", how="left")
        .join(told, left_on="ranking_id_b", right_on="ranking_id", how="left")
        .with_columns(
            detail=pl.when((pl.col("why") == SOURCE) & pl.col("said").is_not_null())
            .then(pl.format("{}; {}", "detail", "said"))
            .otherwise("detail")
        )
        .select(rows.columns)
    )


def _moved() -> pl.Expr:
    return pl.format("moved from {} to {}", "split", "split_b")


def _reasons(rows: pl.DataFrame, why: str | pl.Expr, detail: str | pl.Expr) -> pl.DataFrame:
    said = [pl.lit(text) if isinstance(text, str) else text for text in (why, detail)]
    return rows.select(*KEY, why=said[0], detail=said[1]).cast(REASON)  # type: ignore[arg-type]


def _taken_back(lake: Lake, entry: dict[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    made = list(_retractions(lake, entry))
    marks = lake.read("retraction_marks", {"unit": "row"}).filter(pl.col("retraction").is_in(made))
    told = marks.join(lake.read("retractions"), on="retraction").select(row_id="id", detail=_retraction_words())
    return _reasons(rows.join(told.unique("row_id"), on="row_id"), RETRACTED, pl.col("detail"))


def _retraction_words() -> pl.Expr:
    return pl.format(
        "{} {}, by {} on {}: {}", "selector", "value", "who", pl.col("retracted_at").str.slice(0, 10), "reason"
    )


def _not_in_the_source(lake: Lake, entry: dict[str, Any], rows: pl.DataFrame) -> list[pl.DataFrame]:
    outside = rows.filter(~pl.col("domain").is_in(entry["domains"]))
    queries = lake.read("queries", columns=[*KEY, "split"], snapshot=entry["read_snapshot"])
    gone = rows.join(queries, on=KEY, how="anti")
    held = rows.select(KEY).join(queries.filter(pl.col("split") != "train").rename({"split": "held"}), on=KEY)
    return [
        _reasons(outside, SOURCE, pl.format("domain {} was not among its sources", "domain")),
        _reasons(gone, SOURCE, "its sources did not hold the query"),
        _reasons(held, SOURCE, pl.format("its sources hold the query out ({})", "held")),
    ]


def _decided(lake: Lake, entry: dict[str, Any]) -> list[pl.DataFrame]:
    """What filters said of the rankings that came to a release, and what was left out before it."""
    at = entry["read_snapshot"]
    names = lake.read("rankings", columns=["domain", "ranking_id", "qid"], snapshot=at)
    told = lake.read("decisions", {"release": _curated(lake, entry), "outcome": REJECTED})
    fell = told.unique("ranking_id", keep="first", maintain_order=True).join(names, on=["domain", "ranking_id"])
    measured = pl.format("{} ({} against {})", "reason", pl.col("value").round(3), "threshold")
    said = pl.coalesce(measured, "reason")
    why = pl.when(pl.col("filter") == CONTAMINATION).then(pl.lit(LEAK)).otherwise(pl.format("filter {}", "filter"))
    left = lake.read("rejections", snapshot=at).rename({"partition_key": "domain"})
    unlike = left.filter(pl.col("asset") == "consistent_rankings", pl.col("stage") == pl.col("asset"))
    unlike = unlike.join(names, left_on=["domain", "key"], right_on=["domain", "ranking_id"])
    asked = left.filter(
        pl.col("asset").is_in(["queries", "candidates", "mined_judgements", "teacher_rankings"]),
        pl.col("stage") == pl.col("asset"),
    ).with_columns(qid="key")
    by = pl.when(pl.col("asset") == "queries").then(pl.lit(SOURCE)).otherwise(pl.lit(TEACHER))
    return [
        _reasons(fell, why, pl.concat_str(said, "detail", separator=": ", ignore_nulls=True)),
        _reasons(unlike, "filter consistency", pl.format("{}: {}", "reason", "detail")),
        _reasons(asked, by, pl.format("{}: {}", "reason", pl.coalesce("detail", pl.lit("")))),
    ]


def _retractions(lake: Lake, entry: dict[str, Any]) -> Iterator[str]:
    """The retractions that took rows out of a release and out of those that it was made from."""
    while entry["parent"] is not None:
        yield entry["retraction"]
        entry = _parent(lake, entry)


def _curated(lake: Lake, entry: dict[str, Any]) -> str:
    """The release that filters made: a release made by taking rows out of another one had that one's decisions."""
    while entry["parent"] is not None and lake.read("decisions", {"release": entry["release"]}, ["release"]).is_empty():
        entry = _parent(lake, entry)
    return str(entry["release"])


def _parent(lake: Lake, entry: dict[str, Any]) -> dict[str, Any]:
    return lake.read("releases", {"release": entry["parent"]}).row(0, named=True)


def _never_ranked(lake: Lake, entry: dict[str, Any], rows: pl.DataFrame) -> pl.DataFrame:
    ranked = lake.read("rankings", columns=KEY, snapshot=entry["read_snapshot"])
    return _reasons(rows.join(ranked, on=KEY, how="anti"), TEACHER, "the teacher had not ranked a list for the query")
