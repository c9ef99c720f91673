"""Curation: copies of queries are found, the split never moves a row, and every dropped row has a reason."""

from __future__ import annotations

import math
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lake import LONG, curated, passages, queries, rankings, words

from warehouse.curation.contamination import words_of
from warehouse.curation.curate import ROW_SCHEMA, ReleaseSettings, curate, duplicate_queries, split_of, whole_rows

NOTHING = pl.DataFrame(schema={"benchmark": pl.String, "qid": pl.String, "text": pl.String})


def asked(*texts: str, domain: str = "math") -> pl.DataFrame:
    return pl.DataFrame(
        [(f"r{n}", domain, f"q{n:03}", text) for n, text in enumerate(texts)],
        schema=["ranking_id", "domain", "qid", "query"],
        orient="row",
    )


def whole() -> pl.DataFrame:
    return whole_rows(rankings().with_columns(consistency=pl.lit(0.75)), queries(), passages())


def jaccard(left: str, right: str) -> float:
    one, two = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (words_of(left), words_of(right)))
    return len(one & two) / len(one | two)


def test_an_exact_copy_is_found_across_domains_and_names_what_it_repeats() -> None:
    rows = pl.concat([asked("What is a ring?"), asked("what  is a RING", domain="web_search")])
    rows = rows.with_columns(ranking_id=pl.Series(["first", "second"]))
    assert duplicate_queries(rows, 0.8).rows() == [("second", "duplicate_query", "same text as math/q000")]


def test_a_near_copy_is_found_and_a_distant_one_is_kept() -> None:
    near = LONG.replace("somewhere", "anywhere")
    distant = " ".join(reversed(LONG.split()))
    assert jaccard(LONG, near) >= 0.8 > jaccard(LONG, distant)
    assert duplicate_queries(asked(LONG, near, distant), 0.8).rows() == [
        ("r1", "near_duplicate_query", "Jaccard >= 0.8 with math/q000")
    ]


def test_short_queries_are_copies_only_when_they_are_the_same() -> None:
    assert duplicate_queries(asked("2 plus 2", "2 plus 3", "two", "Two!", "three"), 0.8)["ranking_id"].to_list() == [
        "r3"
    ]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), changed=st.integers(0, 30))
def test_near_copies_are_those_of_the_true_jaccard(seed: int, changed: int) -> None:
    draw = random.Random(seed)
    first = words(f"near/{seed}", 60).split()
    second = list(first)
    for place in draw.sample(range(60), changed):
        second[place] = f"new{place}"
    similar = jaccard(" ".join(first), " ".join(second))
    found = duplicate_queries(asked(" ".join(first), " ".join(second)), 0.8)
    assert found["ranking_id"].to_list() == (["r1"] if similar >= 0.8 else [])


def test_the_first_query_in_domain_and_qid_order_stays_whatever_order_the_rows_come_in() -> None:
    copies = [words("copy", 20), words("copy", 20).upper(), words("copy", 20) + " indeed"]
    rows = asked(*copies, words("other", 20))
    expected = duplicate_queries(rows, 0.8)
    assert expected["ranking_id"].to_list() == ["r1", "r2"]
    for seed in range(5):
        assert duplicate_queries(rows.sample(fraction=1.0, shuffle=True, seed=seed), 0.8).equals(expected)


@given(qids=st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True), seed=st.integers(0, 3))
def test_a_query_falls_on_the_same_side_whatever_other_rows_there_are(qids: list[str], seed: int) -> None:
    chosen = ReleaseSettings(seed=seed)
    alone = {qid: split_of("math", qid, chosen) for qid in reversed(qids)}
    assert [split_of("math", qid, chosen) for qid in qids] == [alone[qid] for qid in qids]


def test_adding_rows_moves_no_row_to_another_split() -> None:
    rows = whole()
    few = curate(rows.filter(pl.col("qid").str.ends_with("3")), NOTHING, ReleaseSettings()).rows
    many = curate(rows, NOTHING, ReleaseSettings()).rows
    assert 0 < few.height < many.height == rows.height
    assert few.join(many, on=["row_id", "domain", "qid", "split"], how="semi").height == few.height


@pytest.mark.parametrize(("dev", "sft"), [(0.1, 0.5), (0.25, 0.8), (0.0, 1.0)])
def test_every_domain_is_split_in_about_the_shares_asked_for(dev: float, sft: float) -> None:
    chosen, count = ReleaseSettings(dev_share=dev, sft_share=sft), 4000
    expected = {"dev": dev, "sft": (1 - dev) * sft, "rl": (1 - dev) * (1 - sft)}
    for domain in ("math", "coding", "web_search", "überall"):
        got = [split_of(domain, f"q{n}", chosen) for n in range(count)]
        for split, share in expected.items():
            # Five standard deviations of a binomial share.
            assert abs(got.count(split) / count - share) <= 5 * math.sqrt(share * (1 - share) / count)


def test_another_seed_makes_another_split() -> None:
    sides = [[split_of("math", f"q{n}", ReleaseSettings(seed=seed)) for n in range(50)] for seed in (0, 1)]
    assert sides[0] != sides[1]


def test_whole_rows_put_positions_in_place_of_docids() -> None:
    rows = whole()
    texts = {(domain, docid): text for domain, docid, text in passages().select("domain", "docid", "text").iter_rows()}
    assert rows.height == rankings().height
    for row in rows.iter_rows(named=True):
        number = int(row["qid"].removeprefix("train"))
        assert [row["docids"][place] for place in row["final_order"]] == ["d4", "d3", "d2", "d1", "d0"]
        assert {row["docids"][place] for place in row["relevant"]} == {"d4", f"d{number % 4}"}
        assert row["passages"][2] == f"Title 2. {texts[row['domain'], 'd2']}"
        assert row["query"] == words(f"{row['domain']}/{row['qid']}", 9) + "?"


def test_every_row_is_kept_or_rejected_with_a_reason() -> None:
    rows = whole()
    spoilt = rows.with_columns(
        query=pl.when(pl.col("qid") == "train7")
        .then(pl.lit("The same question in both domains?"))
        .when((pl.col("qid") == "train9") & (pl.col("domain") == "math"))
        .then(pl.lit(f"So, {LONG.upper()}!"))
        .otherwise("query")
    )
    benchmark = pl.DataFrame({"benchmark": ["bench"], "qid": ["b1"], "text": [LONG]})
    made = curate(spoilt, benchmark, ReleaseSettings())
    assert made.rows.height + made.rejections.height == rows.height
    assert made.rejections.select("stage", "key", "reason").rows() == [
        ("training_set", "web_search-7", "duplicate_query"),
        ("training_set", "math-9", "contaminated"),
    ]
    assert "13-gram overlap with bench query b1" in made.rejections["detail"][1]
    assert made.findings["key"].to_list() == ["math-9"]
    assert made.rows["row_id"].n_unique() == made.rows.height
    assert set(made.rows.columns) == set(ROW_SCHEMA) - {"release"}


def test_the_order_of_what_comes_in_shapes_nothing() -> None:
    expected = curated()
    for seed in (1, 2):
        again = curated(shuffle=seed)
        assert again.rows.equals(expected.rows.select(again.rows.columns))
        assert again.rejections.equals(expected.rejections)


def test_nothing_in_gives_nothing_out_with_the_columns_of_a_release() -> None:
    made = curate(whole().clear(), NOTHING, ReleaseSettings())
    assert (made.rows.height, made.rejections.height, made.findings.height) == (0, 0, 0)
    assert dict(made.rows.schema) == {name: kind for name, kind in ROW_SCHEMA.items() if name != "release"}
