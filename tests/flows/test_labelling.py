"""Labelling: who sees the gold answer, whose judgements count, and a row or a reason for everything asked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.answers import JUDGEMENT_SCHEMA, read_mining, read_rankings
from flows.questions import (
    MINING,
    JudgedBy,
    LabelSettings,
    Pool,
    Question,
    mining_questions,
    pools_of,
    provisional_rankings,
    ranking_questions,
    resolve_judgements,
)
from inference.exchange import Exchange, Failure, Sampling
from ranking.prompts import passage_text, plain_text, titled
from ranking.retrieval import first_stage
from warehouse.intake.sources import FolderSource, read_source

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "complex_qa"
SAMPLING = Sampling("stand-in-teacher", 0.6, 0.95, 512)
SETTINGS = LabelSettings(mining_depth=12, mining_window=5, list_size=6)
QRELS = {"qid": pl.String, "docid": pl.String, "grade": pl.Int64}

some_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
gold = st.one_of(st.none(), some_text.filter(str.strip))


@st.composite
def a_pool(draw: st.DrawFn, qid: str = "q1") -> Pool:
    """A pool of none to many passages, some of them with the same text, one perhaps the gold answer itself."""
    answer = draw(gold)
    texts = draw(st.lists(some_text, max_size=14))
    copied, given_away = draw(st.tuples(st.booleans(), st.booleans()))
    if texts and copied:
        texts.append(texts[0])
    if answer is not None and given_away:
        texts.append(answer)
    docids = tuple(f"d{n}" for n in range(len(texts)))
    return Pool("math", qid, draw(some_text), answer, docids, dict(zip(docids, texts, strict=True)))


@st.composite
def verdicts_on(draw: st.DrawFn, pools: Sequence[Pool]) -> pl.DataFrame:
    rows = [(p.qid, d, draw(st.sampled_from((0, 0, 1, 2)))) for p in pools for d in p.docids if draw(st.booleans())]
    return pl.DataFrame(rows, schema=QRELS, orient="row")


def user(question: Question) -> str:
    return question.request.messages[-1]["content"]


def without_passages(question: Question) -> str:
    """All that a prompt says around its passages."""
    return "\n".join(line for line in user(question).split("\n") if not re.match(r"\[\d+\] ?", line))


def teacher(rows: Sequence[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        [("math", qid, docid, grade, "teacher", "", "t", "", "") for qid, docid, grade in rows],
        schema=JUDGEMENT_SCHEMA, orient="row",
    )  # fmt: skip


def human(rows: Sequence[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=QRELS, orient="row")


def answered(question: Question, content: str, fault: str | None = None, reasoning: str = "Since.") -> Exchange:
    return Exchange(
        request_id=question.id, key=question.request.key, model="stand-in-teacher", served_model="served",
        content=content, reasoning=reasoning, finish_reason="stop", prompt_tokens=9, completion_tokens=3,
        cached_tokens=0, usd=0.0, latency_s=0.1, attempts=1, created_at="now", fault=fault,
    )  # fmt: skip


def failed(question: Question) -> Failure:
    return Failure(question.id, question.request.key, "timeout", "no answer in 900 s")


@given(pool=a_pool(), other=gold, data=st.data())
def test_a_ranking_prompt_does_not_depend_on_the_gold_answer(
    pool: Pool, other: str | None, data: st.DataObject
) -> None:
    judged = data.draw(verdicts_on([pool]))
    secret = Pool(pool.domain, pool.qid, pool.query, other, pool.docids, pool.texts)
    keys = [
        [q.request.key for q in ranking_questions([p], judged, judged, "human", SETTINGS, SAMPLING, "s")[0]]
        for p in (pool, secret)
    ]
    assert keys[0] == keys[1]


@given(pool=a_pool())
def test_a_mining_prompt_shows_the_gold_answer_and_numbers_the_passages_as_the_docids_beside_it(pool: Pool) -> None:
    asked = mining_questions([pool], SETTINGS, SAMPLING)
    if pool.gold_answer is None:
        assert asked == []
        return
    assert [docid for q in asked if q.purpose == "mine_positives" for docid in q.docids] == list(pool.docids)
    assert sorted(q.purpose for q in asked) == sorted(MINING * (len(asked) // 2))
    for question in asked:
        assert f"Answer: {plain_text(pool.gold_answer)}\n" in user(question)
        assert 0 < len(question.docids) <= SETTINGS.mining_window
        for number, docid in enumerate(question.docids, start=1):
            assert f"\n[{number}] {passage_text(pool.texts[docid])}\n" in user(question)
    assert len({question.id for question in asked}) == len(asked)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real questions and answers are not at {REAL}")
def test_real_answers_stand_in_mining_prompts_and_in_ranking_prompts_only_as_passages() -> None:
    tables = read_source(FolderSource(REAL, "complex_qa"), limit=120)
    asked = tables.queries.filter(pl.col("split") == "train")
    found = first_stage(asked, tables.passages, 12)
    texts = {d: titled(title, text) for d, title, text in tables.passages.select("docid", "title", "text").iter_rows()}
    people = tables.judgements
    pools = pools_of(asked, found, people, texts, SETTINGS.mining_depth)
    gold_of = {pool.qid: plain_text(pool.gold_answer) for pool in pools if pool.gold_answer}
    assert len(gold_of) > 50
    mining = mining_questions(pools, SETTINGS, SAMPLING)
    assert all(f"Answer: {gold_of[question.qid]}\n" in user(question) for question in mining)
    ranking, _ = ranking_questions(pools, teacher([]), people, "human", SETTINGS, SAMPLING, "s")
    tried = 0
    for question in ranking:
        query, answer = plain_text(next(p.query for p in pools if p.qid == question.qid)), gold_of.get(question.qid)
        assert "Answer:" not in without_passages(question).replace(query, "")
        # "Yes" stands in many a question; an answer of several words must not.
        if answer is not None and len(answer.split()) >= 4 and answer not in query:
            assert answer not in without_passages(question)
            tried += 1
    assert tried > 30


def test_the_gold_answer_as_a_passage_is_ranked_like_any_other_passage() -> None:
    answer = "Osmosis draws the water out."
    pool = Pool("math", "q1", "Why does salt dry meat?", answer, ("d0", "d1"), {"d0": answer, "d1": "Salt is white."})
    (question,), _ = ranking_questions([pool], teacher([]), human([("q1", "d0", 1)]), "human", SETTINGS, SAMPLING, "s")
    assert user(question).count(answer) == 1
    assert answer not in without_passages(question)


@given(
    barred=st.lists(st.integers(0, 9), max_size=10), found=st.permutations(range(10)), depth=st.integers(1, 10),
    judged=st.sets(st.integers(0, 9)), missing=st.integers(0, 9),
)  # fmt: skip
def test_excluded_docids_are_in_no_pool_and_people_s_passages_follow_the_candidates(
    barred: list[int], found: list[int], depth: int, judged: set[int], missing: int
) -> None:
    asked = pl.DataFrame(
        [("math", "q1", "Why?", "so", [f"d{n}" for n in barred]), ("math", "q2", "How?", None, None)],
        schema={
            "domain": pl.String, "qid": pl.String, "text": pl.String, "gold_answer": pl.String,
            "excluded_docids": pl.List(pl.String),
        },
        orient="row",
    )  # fmt: skip
    candidates = pl.DataFrame(
        {"qid": ["q1"] * 10, "docid": [f"d{n}" for n in found], "rank": list(range(1, 11))}
    ).sample(fraction=1.0, shuffle=True, seed=1)
    people = human([("q1", f"d{n}", 1) for n in judged])
    texts = {f"d{n}": "text" for n in range(10) if n != missing}
    one, two = pools_of(asked, candidates, people, texts, depth)
    wanted = dict.fromkeys([*found[:depth], *sorted(judged)])
    assert one.docids == tuple(f"d{n}" for n in wanted if n not in barred and n != missing)
    assert (two.docids, two.gold_answer) == ((), None)


@given(data=st.data(), judged_by=st.sampled_from(("mined", "human", "both")))
def test_every_pool_is_asked_about_or_left_out_with_a_reason(data: st.DataObject, judged_by: JudgedBy) -> None:
    pools = [data.draw(a_pool(f"q{n}")) for n in range(data.draw(st.integers(0, 4)))]
    people, mined = data.draw(verdicts_on(pools)), data.draw(verdicts_on(pools))
    asked, dropped = ranking_questions(
        pools, teacher([*mined.iter_rows()]), people, judged_by, SETTINGS, SAMPLING, "teacher_rankings"
    )
    left = dropped.filter(pl.col("stage") == "teacher_rankings")
    assert sorted([*(question.qid for question in asked), *left["key"]]) == sorted(pool.qid for pool in pools)
    assert set(left["reason"]) <= {"no_positive", "no_negative", "no_gold_answer"}
    counts = {(q, d): g for q, d, g in resolve_judgements(teacher([*mined.iter_rows()]), people, judged_by).iter_rows()}
    for question in asked:
        assert 2 <= len(set(question.docids)) == len(question.docids) <= SETTINGS.list_size
        assert 0 < len(question.relevant) < len(question.docids)
        grades = {docid: counts.get((question.qid, docid)) or 0 for docid in question.docids}
        assert {docid for docid, grade in grades.items() if grade > 0} == set(question.relevant)
        shown = [line for line in user(question).split("\n") if re.match(r"\[\d+\]( |$)", line)]
        assert len(shown) == len(set(question.docids))


@given(data=st.data())
def test_every_question_ends_as_a_ranking_or_as_a_rejection(data: st.DataObject) -> None:
    pools = [
        Pool("math", f"q{n}", "Why?", None, ("d0", "d1", "d2"), {"d0": "one", "d1": "two", "d2": "three"})
        for n in range(data.draw(st.integers(0, 6)))
    ]
    people = human([(pool.qid, "d1", 1) for pool in pools])
    asked, _ = ranking_questions(pools, teacher([]), people, "human", SETTINGS, SAMPLING, "s")
    kinds = [data.draw(st.sampled_from(("good", "malformed", "unanswered", "silent"))) for _ in asked]
    outcomes: list[Exchange | Failure] = []
    for question, kind in zip(asked, kinds, strict=True):
        by_kind: dict[str, Exchange | Failure] = {
            "good": answered(question, "[2] > [3] > [1]"),
            "malformed": answered(question, "[2] > [2]", fault="the list repeats [2]"),
            "unanswered": failed(question),
            "silent": answered(question, "[2] > [3] > [1]", reasoning=" \n"),
        }
        outcomes.append(by_kind[kind])
    made = read_rankings(asked, outcomes, "math", "human", "teacher_rankings")
    assert made.rows.height + made.rejections.height == len(asked)
    assert made.rows.height == kinds.count("good")
    reasons = {"malformed": "malformed_answer", "unanswered": "unanswered:timeout", "silent": "empty_chain"}
    left = dict(made.rejections.select("key", "reason").iter_rows())
    assert left == {q.qid: reasons[kind] for q, kind in zip(asked, kinds, strict=True) if kind != "good"}
    assert set(made.rejections["stage"]) <= {"teacher_rankings"}
    by_qid = {question.qid: question for question in asked}
    for row in made.rows.iter_rows(named=True):
        shown = by_qid[row["qid"]].docids
        assert row["initial_list"] == list(shown)
        assert row["final_list"] == [shown[1], shown[2], shown[0]]
        assert (row["relevant_docids"], row["reasoning"], row["judge"]) == (["d1"], "Since.", "served")
    assert made.rows["ranking_id"].n_unique() == made.rows.height


@settings(max_examples=50)
@given(data=st.data())
def test_every_mining_question_ends_as_judgements_or_as_a_rejection(data: st.DataObject) -> None:
    docids = tuple(f"d{n}" for n in range(7))
    pool = Pool("math", "q1", "Why?", "so", docids, {docid: f"text of {docid}" for docid in docids})
    asked = mining_questions([pool], SETTINGS, SAMPLING)
    assert len(asked) == 4
    picks: dict[str, set[str]] = {purpose: set() for purpose in MINING}
    outcomes: list[Exchange | Failure] = []
    lost = 0
    for question in asked:
        kind = data.draw(st.sampled_from(("good", "good", "malformed", "unanswered")))
        chosen = sorted(data.draw(st.sets(st.integers(1, len(question.docids)))))
        content = " ".join(f"[{n}]" for n in chosen) or "None"
        if kind == "good":
            picks[question.purpose] |= {question.docids[n - 1] for n in chosen}
            outcomes.append(answered(question, content))
        else:
            lost += 1
            outcomes.append(failed(question) if kind == "unanswered" else answered(question, "?", fault="no ids"))
    mined = read_mining(asked, outcomes, "math", "mined_judgements")
    positives, negatives = (picks[purpose] for purpose in MINING)
    got = {docid: (grade, role) for docid, grade, role in mined.rows.select("docid", "grade", "role").iter_rows()}
    expected = dict.fromkeys(negatives, (0, "hard_negative")) | dict.fromkeys(positives, (1, "positive"))
    assert got == expected
    assert mined.rows.height == len(expected)
    by_stage = {stage: part for (stage,), part in mined.rejections.group_by("stage")}
    assert by_stage.get("mined_judgements", pl.DataFrame()).height == lost
    told = by_stage["judgement"]["key"].to_list() if "judgement" in by_stage else []
    assert told == sorted(f"q1/{docid}" for docid in positives & negatives)


def test_a_passage_picked_both_ways_is_a_positive_and_the_contradiction_is_recorded() -> None:
    pool = Pool("math", "q1", "Why?", "so", ("d0", "d1"), {"d0": "one", "d1": "two"})
    asked = mining_questions([pool], SETTINGS, SAMPLING)
    mined = read_mining(asked, [answered(question, "[2]") for question in asked], "math", "mined_judgements")
    assert mined.rows.select("docid", "grade", "role").rows() == [("d1", 1, "positive")]
    assert mined.rows["prompt_sha256"].to_list() == [asked[0].template.sha256]
    assert mined.rejections.rows() == [
        ("judgement", "q1/d1", "contradiction", "picked as positive and as hard negative")
    ]


@pytest.mark.parametrize(
    ("judged_by", "expected"),
    [
        ("mined", {"both": 1, "teacher only": 0}),
        ("human", {"both": 0, "people only": 2}),
        ("both", {"both": 0, "people only": 2, "teacher only": 0}),
    ],
)
def test_whose_judgements_count_is_a_choice(judged_by: JudgedBy, expected: dict[str, int]) -> None:
    mined = teacher([("q1", "both", 1), ("q1", "teacher only", 0)])
    people = human([("q1", "both", 0), ("q1", "people only", 2)])
    resolved = resolve_judgements(mined, people, judged_by)
    assert dict(resolved.select("docid", "grade").iter_rows()) == expected
    assert resolved.height == len(expected)


def test_the_choice_is_made_by_domain_with_the_paper_s_default() -> None:
    assert [LabelSettings().judged_by(domain) for domain in ("web_search", "math", "mine")] == [
        "human",
        "mined",
        "mined",
    ]
    assert LabelSettings(judgements={"math": "both"}).judged_by("web_search") == "human"


def test_a_passage_is_cut_in_the_prompt_and_only_there() -> None:
    long = {"d0": "a" * 200, "d1": "b"}
    pool = Pool("math", "q1", "Why?", "so", ("d0", "d1"), long)
    question = mining_questions([pool], LabelSettings(passage_characters=50), SAMPLING)[0]
    assert f"[1] {'a' * 50}\n" in user(question)


def test_what_is_left_out_of_a_list_as_a_copy_is_told() -> None:
    same = "The very same words stand in both of these passages."
    pool = Pool("math", "q1", "Why?", None, ("d0", "d1", "d2"), {"d0": same, "d1": same + "!", "d2": "Other words."})
    asked, dropped = ranking_questions(
        [pool], teacher([]), human([("q1", "d0", 1)]), "human", SETTINGS, SAMPLING, "teacher_rankings"
    )
    assert set(asked[0].docids) == {"d0", "d2"}
    assert dropped.rows() == [("passage", "q1/d1", "duplicate_passage", "near copy of d0, a passage of the same query")]


def test_a_question_tells_what_is_wrong_with_an_answer() -> None:
    pool = Pool("math", "q1", "Why?", "so", ("d0", "d1"), {"d0": "one", "d1": "two"})
    mining = mining_questions([pool], SETTINGS, SAMPLING)[0]
    (ranking,), _ = ranking_questions([pool], teacher([]), human([("q1", "d0", 1)]), "human", SETTINGS, SAMPLING, "s")
    assert [mining.fault_of(said) for said in ("[1] [2]", "None")] == [None, None]
    assert ranking.fault_of("[2] > [1]") is None
    for question, said in ((mining, "[3]"), (mining, "the first"), (ranking, "[1]"), (ranking, "[1] > [1]")):
        assert question.fault_of(said)


def test_settings_refuse_what_they_do_not_know() -> None:
    wrong: list[dict[str, Any]] = [{"depth": 3}, {"list_size": 21}, {"judgements": {"math": "teacher"}}]
    for values in wrong:
        with pytest.raises(ValueError, match=next(iter(values))):
            LabelSettings.model_validate_json(json.dumps(values))


def test_every_sample_of_a_list_counts_in_an_estimate() -> None:
    pools = [
        Pool("math", f"q{n}", f"Which of {n}?", None, tuple("abcdef"), {d: f"Text {d}" for d in "abcdef"})
        for n in (1, 2)
    ]
    foreseen = provisional_rankings(pools, LabelSettings(samples=3, list_size=5), Sampling("m", 0.0, 1.0, 10))
    assert len({question.request.key for question in foreseen}) == 6
    assert {question.docids[0] for question in foreseen if question.qid == "q1"} <= set("abcde")
