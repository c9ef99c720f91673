"""Champion and challengers: who is promoted and who is not, each reason, what people decide, and the history of it."""

from __future__ import annotations

import json

import polars as pl
import pytest
from measured_models import FIRST, QUERIES, Values, evaluate, level, scores
from small_lake import message

from warehouse import promotion
from warehouse.lake import Append, Lake
from warehouse.promotion import PromotionRefused, PromotionSettings, compare, judge, judge_new, measured, standing

SETTINGS = PromotionSettings()


def test_a_model_is_judged_as_it_is_served_and_not_by_its_twin_that_was_asked_the_other_way(lake: Lake) -> None:
    better = scores("a", {"new": level(0.5, "law", "math")})
    twin = better.filter(model="new").with_columns(stage=pl.lit("sft~direct"), value=pl.lit(0.0), run=pl.lit("twin"))
    both = pl.concat([better, twin])
    assert measured(both, "new", "nDCG@10").equals(measured(better, "new", "nDCG@10"))
    evaluate(lake, "a", {"new": level(0.5, "law", "math")})
    lake.commit([Append("dev_scores", twin)], message("runs"))
    assert night(lake, "a") == [("new", promotion.PROMOTED)]
    value = promotion.standings(lake)["value"][0]
    assert value == pytest.approx(0.5055)


def night(lake: Lake, *recipes: str, settings: PromotionSettings = SETTINGS) -> list[tuple[str, str]]:
    """The asset's work: judge what is new, and keep it; gives models and decisions."""
    judged = judge_new(lake, lake.snapshot(), list(recipes or ("a", "b")), settings, 500, 0)
    lake.commit([Append("promotions", judged.records)], message("champion"))
    assert judged.champion == champion(lake)
    return judged.records.select("model", "decision").rows()


def champion(lake: Lake) -> str | None:
    return standing(lake.read("promotions")).champion


def reason(lake: Lake, model: str) -> str:
    return lake.read("promotions", {"model": model}).sort("number")["reason"][-1]


def verdict(ours: Values, theirs: Values | None = None, **bounds: float) -> promotion.Verdict:
    told = scores("a", {"new": ours, **({"old": theirs} if theirs else {})})
    other = measured(told, "old", "nDCG@10") if theirs else None
    settings = PromotionSettings(**bounds)
    one = compare(measured(told, "new", "nDCG@10"), other, "old" if theirs else "bm25", settings, 500, 0)
    return judge({"new": one}, settings)["new"]


def test_a_gain_that_is_significant_and_costs_no_domain_anything_is_promoted() -> None:
    told = verdict(level(0.5, "law", "math"))
    assert told.decision == "promoted"
    assert told.reason.startswith("+0.1000 nDCG@10 to bm25 on 24 queries, p 0.002; no domain loses")
    assert told.p == pytest.approx(1 / 501, abs=0.002)


@pytest.mark.parametrize(
    ("ours", "bounds", "said"),
    [
        (level(0.4, "law", "math"), {}, "+0.0000 nDCG@10 to bm25"),
        (level(0.3, "law", "math"), {}, "-0.1000 nDCG@10 to bm25"),
        (level(0.42, "law", "math"), {"margin": 0.05}, "a gain of more than 0.05 is asked"),
        # Above the margin on the mean, and not significantly so: half of the queries lie below it.
        ({"law": [0.4 + 0.001 * n + (0.2 if n % 2 else 0.01) for n in range(12)]}, {"margin": 0.1}, "may be chance"),
        ({"law": [0.9, *FIRST["law"][1:]], "math": FIRST["math"]}, {}, "may be chance: p 1, at most 0.05 asked"),
        (level(0.9, "law") | level(0.3, "math"), {}, "-0.1000 on math (12 queries); at most -0.05 is allowed"),
    ],
)
def test_what_is_not_better_stays_a_challenger_and_the_reason_says_why(
    ours: Values, bounds: dict[str, float], said: str
) -> None:
    told = verdict(ours, **bounds)
    assert told.decision == "challenger"
    assert said in told.reason


def test_a_domain_may_lose_up_to_the_bound() -> None:
    ours = level(0.9, "law") | level(0.36, "math")
    assert verdict(ours).decision == "promoted"
    assert verdict(ours, most_regression=0.03).decision == "challenger"


def test_models_judged_together_pay_for_being_many_and_the_best_of_those_that_pass_is_promoted() -> None:
    # Six gains and no loss: p = 2 / 2^6 = 0.031 alone, and too much for one of two.
    few = {"law": [v + (0.1 if n < 6 else 0) for n, v in enumerate(FIRST["law"])], "math": FIRST["math"]}
    assert verdict(few).decision == "promoted"
    told = scores("a", {"x": few, "y": {domain: [v + 1e-3 for v in of] for domain, of in few.items()}, "z": few})
    ours = {m: compare(measured(told, m, "nDCG@10"), None, "bm25", SETTINGS, 500, 0) for m in ("x", "y", "z")}
    verdicts = judge(ours, SETTINGS)
    assert {model: one.decision for model, one in verdicts.items()} == {
        "x": "challenger", "y": "promoted", "z": "challenger",
    }  # fmt: skip
    assert "may be chance: p 0.06" in verdicts["x"].reason
    both = judge({"x": ours["y"], "y": ours["y"]}, SETTINGS)
    assert both["x"].reason.startswith("it passes too, but y gains more")


def test_the_first_to_beat_bm25_is_champion_and_a_worse_model_never_takes_its_place(lake: Lake) -> None:
    evaluate(lake, "a", {"weak": level(0.41, "law") | level(0.3, "math")})
    assert night(lake) == [("weak", "challenger")]
    assert champion(lake) is None
    evaluate(lake, "a", {"good": level(0.6, "law", "math")})
    assert night(lake) == [("good", "promoted")]
    # The next model of the recipe takes the champion's rows in `scores`; it is compared with what they were.
    evaluate(lake, "a", {"worse": level(0.5, "law", "math")})
    assert night(lake) == [("worse", "challenger")]
    assert "-0.1000 nDCG@10 to good on 24 queries" in reason(lake, "worse")
    evaluate(lake, "b", {"better": level(0.7, "law", "math")})
    assert night(lake) == [("better", "promoted")]
    history = lake.read("promotions").sort("number")
    assert history.select("number", "model", "decision", "against", "who").rows() == [
        (1, "weak", "challenger", "bm25", "rule"),
        (2, "good", "promoted", "bm25", "rule"),
        (3, "worse", "challenger", "good", "rule"),
        (4, "better", "promoted", "good", "rule"),
    ]
    last = history.row(-1, named=True)
    assert (last["measure"], last["queries"]) == ("nDCG@10", 24)
    assert (last["value"], last["difference"]) == pytest.approx((0.7055, 0.1))
    assert last["low"] <= last["difference"] <= last["high"]
    assert night(lake) == []


def test_a_model_is_judged_again_only_on_other_scores_or_bounds(lake: Lake) -> None:
    evaluate(lake, "a", {"new": level(0.45, "law", "math")})
    strict = PromotionSettings(margin=0.1)
    assert night(lake, settings=strict) == [("new", "challenger")]
    assert night(lake, settings=strict) == []
    evaluate(lake, "a", {"new": level(0.47, "law", "math")})
    assert night(lake, settings=strict) == [("new", "challenger")]
    assert night(lake) == [("new", "promoted")]
    assert night(lake, settings=strict) == []  # the champion is not held against itself


def test_only_queries_measured_alike_count_and_a_new_domain_is_held_against_bm25(lake: Lake) -> None:
    evaluate(lake, "a", {"old": level(0.6, "law", "math")})
    night(lake)
    # Other candidates or judgements for math, and a domain that the champion never saw.
    later = level(0.4, "law") | level(0.2, "math") | level(0.5, "physics")
    evaluate(lake, "a", {"new": level(0.7, "law") | level(0.3, "math") | level(0.6, "physics")}, later)
    evaluate(lake, "b", {"lame": level(0.7, "law") | level(0.3, "math") | level(0.4, "physics")}, later)
    assert dict(night(lake)) == {"new": "promoted", "lame": "challenger"}
    assert lake.read("promotions", {"model": "new"})["queries"].item() == QUERIES
    assert "-0.1000 on physics" in reason(lake, "lame")
    evaluate(lake, "a", {"newest": level(0.9, "law")}, level(0.1, "law"))
    assert night(lake) == [("newest", "challenger")]
    assert "no query was measured alike for it and new" in reason(lake, "newest")


def by_hand(lake: Lake, model: str, why: str = "asked for") -> str:
    row = lake.read("models", {"model": model}).row(0, named=True)
    return promotion.promote(lake, row, reason=why, who="ann", settings=SETTINGS, resamples=500, seed=0)


def test_people_promote_and_roll_back_and_the_rule_leaves_their_decisions_alone(lake: Lake) -> None:
    evaluate(lake, "a", {"good": level(0.6, "law", "math")})
    evaluate(lake, "b", {"weak": level(0.41, "law") | level(0.3, "math")})
    night(lake)
    assert by_hand(lake, "weak") == "good"
    assert champion(lake) == "weak"
    kept = lake.read("promotions", {"who": "ann"}).row(0, named=True)
    assert (kept["decision"], kept["against"], kept["reason"]) == ("promoted", "good", "asked for")
    assert kept["difference"] == pytest.approx(-0.245)
    with pytest.raises(PromotionRefused, match="champion already"):
        by_hand(lake, "weak")
    assert promotion.roll_back(lake, reason="too slow", who="bob") == ("weak", "good")
    assert promotion.roll_back(lake, reason="and this", who="bob") == ("good", "bm25")
    assert champion(lake) is None
    with pytest.raises(PromotionRefused, match="no champion"):
        promotion.roll_back(lake, reason="again", who="bob")
    # Both would be judged on these new scores, had no person decided.
    evaluate(lake, "a", {"good": level(0.8, "law", "math")})
    evaluate(lake, "b", {"weak": level(0.8, "law", "math"), "third": level(0.5, "law", "math")})
    assert night(lake) == [("third", "promoted")]
    assert lake.read("promotions")["number"].sort().to_list() == list(range(1, 7))
    assert promotion.decided_by_people(lake.read("promotions")) == [
        (3, "weak", "promoted"), (4, "weak", "rolled_back"), (5, "good", "rolled_back"),
    ]  # fmt: skip
    told = {row["model"]: row for row in promotion.standings(lake).iter_rows(named=True)}
    assert {model: row["standing"] for model, row in told.items()} == {
        "good": "rolled back", "weak": "rolled back", "third": "champion",
    }  # fmt: skip
    assert (told["good"]["reason"], told["good"]["who"]) == ("and this", "bob")
    assert told["third"]["value"] == pytest.approx(0.5055)


def test_a_model_of_a_retracted_release_is_never_promoted(lake: Lake) -> None:
    evaluate(lake, "a", {"good": level(0.6, "law", "math")})
    mark = {"retraction": "r", "unit": "model", "id": "good", "release": "release-1"}
    said = {"retraction": "r", "reason": "withdrawn"}
    marks = [Append("retraction_marks", pl.DataFrame([mark])), Append("retractions", pl.DataFrame([said]))]
    lake.commit(marks, message("retraction"))
    assert night(lake) == [("good", "challenger")]
    assert reason(lake, "good") == "its release was retracted: withdrawn"
    with pytest.raises(PromotionRefused, match="withdrawn"):
        by_hand(lake, "good")


def test_models_that_were_never_measured_stand_there_and_can_be_promoted_by_a_person(lake: Lake) -> None:
    evaluate(lake, "a", {"seen": level(0.6, "law", "math")})
    row = lake.read("models").with_columns(model=pl.lit("unseen"), created_at=pl.lit("2026-02-01"))
    lake.commit([Append("models", row)], message("models"))
    night(lake)
    shown = json.loads(promotion.standings(lake).write_json())
    assert [(row["model"], row["standing"], row["value"]) for row in shown] == [
        ("unseen", "not judged", None), ("seen", "champion", pytest.approx(0.6055)),
    ]  # fmt: skip
    assert by_hand(lake, "unseen") == "seen"
    kept = lake.read("promotions", {"model": "unseen"}).row(0, named=True)
    assert (kept["queries"], kept["difference"], kept["p"]) == (0, None, None)
    # Nothing can be told against a champion without scores, and nobody takes its place unseen.
    evaluate(lake, "b", {"next": level(0.9, "law", "math")})
    assert night(lake) == [("next", "challenger")]
