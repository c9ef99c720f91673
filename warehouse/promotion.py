"""Champion and challengers: which model is to be used, by what rule a new one takes its place, and who said otherwise.

    compared = compare(measured(scores, new, measure), measured(scores, champion, measure), settings, 10_000, 0)
    verdicts = judge({new: compared}, settings)                # pure: frames in, decisions out
    standing(lake.read("promotions")).champion                 # None: bm25 is the one to beat

A model takes the champion's place where it gains more than a margin, significantly (paired over the dev queries that
both were measured on alike; those of the test split decide only in a domain that has no others), and loses no more than
a bound on any domain. Models judged together pay for being many (Holm). Every decision is a row of `promotions`: the
rule's and people's, none altered. A champion whose scores were replaced by those of a later model of its recipe is read
at the snapshot that its decision names.

Deliberately absent: measuring a champion anew on queries that came later (they count for the bound alone), correction
for the nights that a rule is asked, and runs that no server serves: fused ones, and those asked the other way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ranking.statistics import bootstrap_mean, holm, randomisation_test
from warehouse.evaluation import FIRST_STAGE, TWIN
from warehouse.lake import Append, CommitMessage, Lake, canonical_sha256, content_sha256, now
from warehouse.production import CODE_VERSION

PROMOTED, CHALLENGER, ROLLED_BACK = "promoted", "challenger", "rolled_back"
RULE = "rule"  # stands in `who` where no person decided
KEYS = ["domain", "qid"]
# Neither fused nor asked otherwise than the recipe says.
AS_SERVED = ~pl.col("fused") & ~pl.col("stage").str.contains(TWIN, literal=True)
_RECORD = {
    "number": pl.Int64, "model": pl.String, "recipe": pl.String, "stage": pl.String, "decision": pl.String,
    "against": pl.String, "reason": pl.String, "measure": pl.String, "value": pl.Float64, "queries": pl.Int64,
    "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "who": pl.String,
    "snapshot": pl.Int64, "evidence": pl.String, "created_at": pl.String,
}  # fmt: skip


class PromotionRefused(ValueError):
    """A promotion or a rollback that cannot be; the message says why and what can."""


class PromotionSettings(BaseModel):
    """When a new model takes the champion's place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Literal["nDCG@10", "R@10", "R@100", "RR", "AP"] = Field("nDCG@10", description="What is compared.")
    margin: float = Field(0.0, ge=0, description="Mean gain over the champion that must be exceeded, significantly.")
    alpha: float = Field(0.05, gt=0, lt=1, description="Most that p may be, corrected for models judged together.")
    most_regression: float = Field(0.05, ge=0, description="Most that the mean of any one domain may fall.")


@dataclass(frozen=True)
class Comparison:
    """A model beside another: mean difference with its 95 % interval, and p of a gain of no more than the margin.

    `queries` were measured alike for both; where there are none, the figures are None. `domains` (domain, queries,
    difference) compares with the first stage where a domain has no such query.
    """

    against: str
    queries: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    domains: pl.DataFrame


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a model, and why; `p` is corrected."""

    decision: str
    reason: str
    p: float | None


@dataclass(frozen=True)
class Standing:
    """The champion and the one before it; None stands for the first stage."""

    champion: str | None
    before: str | None


@dataclass(frozen=True)
class Judged:
    """A round: rows for `promotions`, and the champion after it."""

    records: pl.DataFrame
    champion: str | None


def measured(scores: pl.DataFrame, model: str, measure: str) -> pl.DataFrame:
    """What a model scored: domain, qid, value, first (the first stage's value), alike.

    `alike` is all that the first stage scored on the query: two models with the same one were measured on the same
    list and judgements. Fused runs are left out, and those of a student that was asked the other way.
    """
    ours = scores.filter(pl.col("model") == model, AS_SERVED, pl.col("measure") == measure)
    first = (
        scores.filter(pl.col("stage") == FIRST_STAGE, pl.col("recipe").is_in(ours["recipe"].unique().implode()))
        .sort("measure")
        .group_by(KEYS)
        .agg(
            first=pl.col("value").filter(pl.col("measure") == measure).first(),
            alike=pl.concat_str("measure", "value", separator=" ").str.join(", "),
        )
    )
    return ours.select(*KEYS, "value").join(first, on=KEYS, how="inner").sort(KEYS)


def compare(
    ours: pl.DataFrame,
    theirs: pl.DataFrame | None,
    against: str,
    settings: PromotionSettings,
    resamples: int,
    seed: int,
) -> Comparison:
    """A model's `measured` values beside another's; None as `theirs` is the first stage that the model reordered."""
    if theirs is None:
        pairs = ours.select(*KEYS, "value", other="first")
    else:
        other = theirs.select(*KEYS, "alike", other="value")
        pairs = ours.join(other, on=[*KEYS, "alike"], how="inner", maintain_order="left")
        pairs = pairs.select(*KEYS, "value", "other")
    alone = ours.filter(~pl.col("domain").is_in(pairs["domain"].unique().implode()))
    domains = (
        pl.concat([pairs, alone.select(*KEYS, "value", other="first")])
        .group_by("domain")
        .agg(queries=pl.len(), difference=(pl.col("value") - pl.col("other")).mean())
        .sort("domain")
    )
    if pairs.is_empty():
        return Comparison(against, 0, None, None, None, None, domains)
    gained = pairs["value"].to_numpy() - pairs["other"].to_numpy()
    difference, low, high = bootstrap_mean(gained, resamples, seed)
    p = randomisation_test(gained, [settings.margin] * pairs.height, resamples, seed)
    return Comparison(against, pairs.height, difference, low, high, p, domains)


def judge(compared: Mapping[str, Comparison], settings: PromotionSettings) -> dict[str, Verdict]:
    """The rule's verdict on models (by id) that were compared with the same champion: at most one is promoted."""
    corrected = dict(zip(compared, holm([1.0 if c.p is None else c.p for c in compared.values()]), strict=True))
    faults = {model: _faults(one, corrected[model], settings) for model, one in compared.items()}
    passed = [model for model in compared if not faults[model]]
    best = max(passed, key=lambda model: (compared[model].difference, model), default=None)
    verdicts = {}
    for model, one in compared.items():
        p = None if one.p is None else corrected[model]
        if faults[model]:
            verdicts[model] = Verdict(CHALLENGER, "; ".join(faults[model]), p)
        elif model != best:
            gain = f"{compared[str(best)].difference:+.4f} to its {one.difference:+.4f}"
            verdicts[model] = Verdict(CHALLENGER, f"it passes too, but {_short(str(best))} gains more: {gain}", p)
        else:
            gain = (
                f"{one.difference:+.4f} {settings.measure} to {_short(one.against)} on {one.queries} queries, p {p:.2g}"
            )
            verdicts[model] = Verdict(PROMOTED, f"{gain}; no domain loses more than {settings.most_regression:g}", p)
    return verdicts


def _faults(one: Comparison, p: float, settings: PromotionSettings) -> list[str]:
    """Why a model is not promoted, a sentence a bound that it misses."""
    other, told = _short(one.against), []
    if one.difference is None:
        told.append(f"no query was measured alike for it and {other}: lists or judgements have changed since")
    elif one.difference <= settings.margin:
        bound = f"; a gain of more than {settings.margin:g} is asked" if settings.margin else ""
        told.append(f"{one.difference:+.4f} {settings.measure} to {other} on {one.queries} queries{bound}")
    elif p > settings.alpha:
        told.append(
            f"{one.difference:+.4f} {settings.measure} to {other} on {one.queries} queries may be chance: p {p:.2g}, "
            f"at most {settings.alpha:g} asked"
        )
    told += [
        f"{difference:+.4f} on {domain} ({queries} queries); at most {-settings.most_regression:g} is allowed"
        for domain, queries, difference in one.domains.iter_rows()
        if difference < -settings.most_regression
    ]
    return told


def standing(history: pl.DataFrame) -> Standing:
    """Who is champion after all decisions of `history` (rows of `promotions`)."""
    line: list[str] = []
    for model, decision in history.sort("number", "created_at").select("model", "decision").iter_rows():
        if decision == PROMOTED:
            line.append(model)
        elif decision == ROLLED_BACK and line and line[-1] == model:
            line.pop()
    return Standing(line[-1] if line else None, line[-2] if len(line) > 1 else None)


def decided_by_people(history: pl.DataFrame) -> list[tuple[int, str, str]]:
    """Number, model and decision of what people decided."""
    theirs = history.filter(pl.col("who") != RULE).sort("number", "created_at")
    return theirs.select("number", "model", "decision").rows()


def judge_new(
    lake: Lake, at: int, recipes: list[str], settings: PromotionSettings, resamples: int, seed: int
) -> Judged:
    """Judge the models of `recipes` that were measured and have no verdict on these very scores, as of snapshot `at`.

    The champion is not judged against itself, nor a model that a person decided about. Writes nothing.
    """
    history = lake.read("promotions", snapshot=at)
    scores = lake.read("dev_scores", snapshot=at).filter(pl.col("recipe").is_in(recipes))
    known = lake.read("models", snapshot=at).filter(pl.col("model").is_in(scores["model"].unique().implode()))
    champion = standing(history).champion
    # Each model's newest decision.
    settled = {row["model"]: row for row in history.sort("number", "created_at").iter_rows(named=True)}
    new = {}
    for row in known.sort("created_at", "model").iter_rows(named=True):
        ours = measured(scores, row["model"], settings.measure)
        evidence = canonical_sha256([settings.model_dump(), content_sha256(ours, KEYS)])
        last = settled.get(row["model"])
        judged = last is not None and (last["who"] != RULE or last["evidence"] == evidence)
        if row["model"] != champion and not judged and ours.height:
            new[row["model"]] = (row, ours, evidence)
    if not new:
        return Judged(pl.DataFrame(schema=_RECORD), champion)
    theirs = None if champion is None else _scored(lake, champion, history, settings.measure, at)[0]
    against = champion or FIRST_STAGE
    compared = {model: compare(o, theirs, against, settings, resamples, seed) for model, (_, o, _) in new.items()}
    taken_back = _taken_back(lake, at)
    verdicts = judge({model: one for model, one in compared.items() if model not in taken_back}, settings)
    records = []
    for model, (row, ours, evidence) in new.items():
        gone = Verdict(CHALLENGER, f"its release was retracted: {taken_back.get(model)}", compared[model].p)
        record = _record(row, ours, compared[model], verdicts.get(model, gone), settings.measure)
        records.append({**record, "who": RULE, "snapshot": at, "evidence": evidence})
    records.sort(key=lambda record: record["decision"] == PROMOTED)  # the one that is promoted comes last
    frame = _numbered(history, records)
    return Judged(frame, standing(pl.concat([history, frame], how="diagonal")).champion)


def promote(
    lake: Lake,
    model: Mapping[str, Any],
    *,
    reason: str,
    who: str,
    settings: PromotionSettings,
    resamples: int,
    seed: int,
) -> str:
    """Make a model (a row of `models`) champion because a person says so; returns what it takes the place of.

    What is known of its scores beside the champion's is kept with the decision. Raises PromotionRefused.
    """
    at = lake.snapshot()
    history = lake.read("promotions", snapshot=at)
    champion = standing(history).champion
    name = f"{_short(model['model'])} ({model['recipe']}/{model['stage']})"
    if model["model"] == champion:
        raise PromotionRefused(f"{name} is the champion already.")
    if (why := _taken_back(lake, at).get(model["model"])) is not None:
        raise PromotionRefused(f"{name} was trained on a release that was retracted: {why}. Train on what is left.")
    ours, seen = _scored(lake, model["model"], history, settings.measure, at)
    theirs = None if champion is None else _scored(lake, champion, history, settings.measure, at)[0]
    compared = compare(ours, theirs, champion or FIRST_STAGE, settings, resamples, seed)
    record = _record(model, ours, compared, Verdict(PROMOTED, reason, compared.p), settings.measure)
    _commit(lake, history, {**record, "who": who, "snapshot": seen, "evidence": None})
    return champion or FIRST_STAGE


def roll_back(lake: Lake, *, reason: str, who: str) -> tuple[str, str]:
    """Make the previous champion champion again; returns the model that goes and what stands in its place.

    Raises PromotionRefused where there is no champion.
    """
    history = lake.read("promotions")
    now_champion = standing(history)
    if now_champion.champion is None:
        raise PromotionRefused("there is no champion to roll back: no model stands above bm25. See `rankmill models`.")
    promoted = history.filter(pl.col("model") == now_champion.champion).sort("number").row(-1, named=True)
    against = now_champion.before or FIRST_STAGE
    kept = {name: promoted[name] for name in ("model", "recipe", "stage", "measure", "value", "snapshot")}
    _commit(lake, history, {**kept, "decision": ROLLED_BACK, "against": against, "reason": reason, "who": who})
    return now_champion.champion, against


def standings(lake: Lake, measure: str = "nDCG@10") -> pl.DataFrame:
    """Every model, newest first: model, recipe, stage, release, created_at, value, standing, reason, who, decided_at.

    `value` is the mean of `measure` over the queries that decide, of the newest evaluation, else of that which its last
    decision rested on. `standing` is champion, challenger, was champion, rolled back or not judged.
    """
    history = lake.read("promotions").sort("number", "created_at")
    champion = standing(history).champion
    last = {row["model"]: row for row in history.iter_rows(named=True)}
    scores = lake.read("dev_scores", {"measure": measure}).filter(AS_SERVED)
    means = dict(scores.group_by("model").agg(pl.col("value").mean()).iter_rows())
    words = {PROMOTED: "was champion", CHALLENGER: "challenger", ROLLED_BACK: "rolled back"}
    taken_back, rows = _taken_back(lake, lake.snapshot()), []
    for row in lake.read("models").sort("created_at", "model", descending=True).iter_rows(named=True):
        model, decided = row["model"], last.get(row["model"], {})
        stands = "champion" if model == champion else words.get(decided.get("decision", ""), "not judged")
        kept = decided.get("value") if decided.get("measure") == measure else None
        mark = f"; retracted: {taken_back[model]}" if model in taken_back else ""
        rows.append(
            {
                **{name: row[name] for name in ("model", "recipe", "stage", "release", "created_at")},
                "value": means.get(model, kept), "standing": stands, "reason": decided.get("reason", "") + mark,
                "who": decided.get("who"), "decided_at": decided.get("created_at"),
            }
        )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _scored(lake: Lake, model: str, history: pl.DataFrame, measure: str, at: int) -> tuple[pl.DataFrame, int | None]:
    """What a model scored, and the snapshot where it stands: `at`, else the newest that a decision about it names."""
    ours = pl.col("model") == model
    places = [at, *history.filter(ours).sort("number", descending=True)["snapshot"].drop_nulls()]
    for place in places:
        recipes = lake.read("dev_scores", {"model": model}, ["recipe"], place)["recipe"].unique()
        if recipes.len():
            return measured(lake.read("dev_scores", {"recipe": recipes[0]}, snapshot=place), model, measure), place
    nothing = lake.read("dev_scores", {"model": model}, snapshot=at)
    return measured(nothing, model, measure), None


def _taken_back(lake: Lake, at: int) -> dict[str, str]:
    """Models that a retraction reached, and why it was."""
    marks = lake.read("retraction_marks", {"unit": "model"}, snapshot=at)
    why = lake.read("retractions", columns=["retraction", "reason"], snapshot=at)
    return dict(marks.join(why, on="retraction").select("id", "reason").iter_rows())


def _record(
    model: Mapping[str, Any], ours: pl.DataFrame, one: Comparison, verdict: Verdict, measure: str
) -> dict[str, Any]:
    return {
        **{name: model[name] for name in ("model", "recipe", "stage")},
        "decision": verdict.decision, "against": one.against, "reason": verdict.reason, "measure": measure,
        "value": ours["value"].mean(), "queries": one.queries, "difference": one.difference, "low": one.low,
        "high": one.high, "p": verdict.p,
    }  # fmt: skip


def _numbered(history: pl.DataFrame, records: list[dict[str, Any]]) -> pl.DataFrame:
    last = int(history["number"].max() or 0) if history.height else 0  # type: ignore[arg-type]
    at = now()
    numbered = [{**record, "number": last + n, "created_at": at} for n, record in enumerate(records, start=1)]
    return pl.DataFrame(numbered, schema=_RECORD)


def _commit(lake: Lake, history: pl.DataFrame, record: dict[str, Any]) -> None:
    message = CommitMessage("promotion", record["model"], CODE_VERSION)
    lake.commit([Append("promotions", _numbered(history, [record]))], message)


def _short(model: str) -> str:
    return model[:12]
