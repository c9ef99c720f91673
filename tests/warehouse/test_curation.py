"""Curation: every list is decided on by every filter that it meets, the split never moves a row, nothing is lost."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lake import LONG, SETTINGS, curated, passages, queries, rankings, words

from ranking.prompts import titled
from warehouse.curation.benchmark_index import ITEMS
from warehouse.curation.curate import Curated, ReleaseSettings, curate, pipeline, splits
from warehouse.curation.filters import PASSAGES, ROWS, Lists
from warehouse.curation.rows import ROW_CONTENT, digests, lists_of, release_sha256, sha256_of, whole_rows

NOTHING = ITEMS.to_frame()


def lists() -> Lists:
    return lists_of(rankings().with_columns(consistency=pl.lit(0.75)), queries(), passages())


def sides(qids: list[str], chosen: ReleaseSettings, domain: str = "math") -> list[str]:
    return splits(pl.DataFrame({"domain": [domain] * len(qids), "qid": qids}), chosen).to_list()


@settings(deadline=None, max_examples=20)
@given(qids=st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True), seed=st.integers(0, 3))
def test_a_query_falls_on_the_same_side_whatever_other_rows_there_are(qids: list[str], seed: int) -> None:
    chosen = ReleaseSettings(seed=seed)
    together = dict(zip(qids, sides(qids, chosen), strict=True))
    assert dict(zip(qids[::-1], sides(qids[::-1], chosen), strict=True)) == together
    assert sides(qids[:1], chosen) == [together[qids[0]]]


def test_adding_rows_moves_no_row_to_another_split_and_changes_no_id() -> None:
    every = lists()
    few = curate(Lists(every.rows.filter(pl.col("qid").str.ends_with("3")), every.passages), NOTHING, SETTINGS).rows
    many = curate(every, NOTHING, SETTINGS).rows
    assert 0 < few.height < many.height == every.rows.height
    assert few.join(many, on=["row_id", "domain", "qid", "split", "content_sha256"], how="semi").height == few.height


@pytest.mark.parametrize(("dev", "sft"), [(0.1, 0.5), (0.25, 0.8), (0.0, 1.0)])
def test_every_domain_is_split_in_about_the_shares_asked_for(dev: float, sft: float) -> None:
    chosen, count = ReleaseSettings(dev_share=dev, sft_share=sft), 4000
    expected = {"dev": dev, "sft": (1 - dev) * sft, "rl": (1 - dev) * (1 - sft)}
    for domain in ("math", "coding", "web_search", "überall"):
        got = sides([f"q{n}" for n in range(count)], chosen, domain)
        for split, share in expected.items():
            # Five standard deviations of a binomial share.
            assert abs(got.count(split) / count - share) <= 5 * math.sqrt(share * (1 - share) / count)


def test_another_seed_makes_another_split() -> None:
    qids = [f"q{n}" for n in range(50)]
    assert sides(qids, ReleaseSettings(seed=0)) != sides(qids, ReleaseSettings(seed=1))


def test_light_rows_put_positions_in_place_of_docids() -> None:
    made = lists()
    assert (made.rows.schema, made.passages.schema) == (ROWS, PASSAGES)
    assert made.rows.height == rankings().height
    for row in made.rows.iter_rows(named=True):
        number = int(row["qid"].removeprefix("train"))
        assert [row["docids"][place] for place in row["final_order"]] == ["d4", "d3", "d2", "d1", "d0"]
        assert {row["docids"][place] for place in row["relevant"]} == {"d4", f"d{number % 4}"}
        assert row["query"] == words(f"{row['domain']}/{row['qid']}", 9) + "?"


def test_a_docid_that_a_list_does_not_hold_and_a_query_that_is_missing_are_rejected_and_not_lost() -> None:
    def where(ranking_id: str, column: str, value: object) -> pl.Expr:
        return pl.when(pl.col("ranking_id") == ranking_id).then(pl.lit(value)).otherwise(column).alias(column)

    spoilt = rankings().with_columns(
        where("math-1", "final_list", ["d4", "d3", "d2", "d1", "zz"]),
        where("math-2", "qid", "nobody asked"),
        where("math-3", "initial_list", ["d0", "d1", "d2", "d3", "d4x"]),
        consistency=pl.lit(0.75),
    )
    made = curate(lists_of(spoilt, queries(), passages()), NOTHING, SETTINGS)
    fallen = dict(made.rejections().select("key", "reason").iter_rows())
    assert set(fallen) == {"math-1", "math-2", "math-3"}
    assert (fallen["math-1"], fallen["math-2"]) == ("not_a_permutation", "empty_query")
    assert made.rows.height + len(fallen) == rankings().height


def test_a_passage_is_read_with_its_title_as_a_prompt_shows_it() -> None:
    titles = pl.DataFrame(
        {
            "domain": ["math"] * 4, "docid": ["a", "b", "c", "d"], "title": ["Rings", None, "", "Fields"],
            "text": ["A set.", "Alone.", "Also alone.", "Fields are rings."], "source": ["s"] * 4,
            "license": ["CC0-1.0"] * 4,
        }
    )  # fmt: skip
    told = lists_of(rankings().with_columns(consistency=pl.lit(1.0)).clear(), queries(), titles).passages["text"]
    assert told.to_list() == [titled(title, text) for title, text in titles.select("title", "text").iter_rows()]
    assert told[0] == "Rings. A set."


def spoilt() -> Lists:
    whole = lists()
    query = (
        pl.when(pl.col("qid") == "train7")
        .then(pl.lit("The same question in both domains?"))
        .when((pl.col("qid") == "train9") & (pl.col("domain") == "math"))
        .then(pl.lit(f"So, {LONG.upper()}!"))
        .otherwise("query")
    )
    return Lists(whole.rows.with_columns(query=query), whole.passages)


def test_every_list_is_kept_or_rejected_with_one_reason_and_every_filter_decided_about_it() -> None:
    never = pl.DataFrame([("bench", "b1", "query", LONG, False)], schema=ITEMS, orient="row")
    source = spoilt()
    made = curate(source, never, SETTINGS)
    rejections = made.rejections()
    assert made.rows.height + rejections.height == source.rows.height
    assert rejections.select("stage", "key", "reason").rows() == [
        ("training_set", "web_search-7", "duplicate_query"),
        ("training_set", "math-9", "contaminated"),
    ]
    assert "13-gram overlap with bench query b1" in rejections["detail"][1]
    assert made.rows["row_id"].n_unique() == made.rows.height
    names = [name for name, _ in pipeline(SETTINGS, never)]
    stopped = {"web_search-7": names.index("duplicates"), "math-9": names.index("contamination")}
    for key in source.rows["ranking_id"]:
        met = made.decisions.filter(pl.col("ranking_id") == key)["filter"].unique(maintain_order=True).to_list()
        assert met == names[: stopped.get(key, len(names)) + 1]
    assert made.decisions["domain"].null_count() == 0
    assert made.found["benchmark_overlaps"].select("ranking_id", "item").rows() == [("math-9", "b1")]
    assert made.found["duplicate_clusters"].filter(pl.col("unit") == "query").height == 2


def test_the_order_of_what_comes_in_shapes_nothing() -> None:
    expected = curated()
    for seed in (1, 2):
        again = curated(shuffle=seed)
        assert again.rows.equals(expected.rows)
        assert again.rejections().equals(expected.rejections())
        assert again.decisions.equals(expected.decisions)
        assert all(again.found[table].equals(found) for table, found in expected.found.items())


def test_nothing_in_gives_nothing_out() -> None:
    empty = Lists(ROWS.to_frame(), PASSAGES.to_frame())
    made = curate(empty, NOTHING, SETTINGS)
    assert isinstance(made, Curated)
    assert (made.rows.height, made.rejections().height, made.decisions.height) == (0, 0, 0)
    assert list(whole_rows(made.rows, made.passages)) == []
    assert len(release_sha256(made.rows)) == 64


def test_whole_rows_carry_the_texts_and_licences_of_their_own_passages_in_any_size_of_piece() -> None:
    made = curated()
    texts = {
        (domain, docid): text for domain, docid, text in made.passages.select("domain", "docid", "text").iter_rows()
    }
    rows = pl.concat(whole_rows(made.rows, made.passages))
    assert rows["row_id"].to_list() == made.rows["row_id"].to_list()
    for row in rows.iter_rows(named=True):
        assert row["passages"] == [texts[row["domain"], docid] for docid in row["docids"]]
        assert row["passage_licenses"] == ["CC0-1.0"]
    one_by_one = [
        piece for at in range(made.rows.height) for piece in whole_rows(made.rows[at : at + 1], made.passages)
    ]
    assert pl.concat(one_by_one).equals(rows)


def test_a_digest_from_hashes_of_passages_is_that_from_their_texts() -> None:
    made = curated()
    hashed = made.passages.with_columns(digest=sha256_of(made.passages["text"]))
    from_texts = digests(whole_rows(made.rows, made.passages))
    assert digests(whole_rows(made.rows, hashed, "digest"), hashed=True).equals(from_texts)
    assert from_texts["content_sha256"].to_list() == made.rows["content_sha256"].to_list()
    assert all(made.rows.select(pl.col("content_sha256").str.starts_with(pl.col("row_id"))).to_series())


@pytest.mark.parametrize("column", [name for name in ROW_CONTENT if name != "passage_licenses"])
def test_one_changed_value_of_any_column_gives_another_digest(column: str) -> None:
    rows = pl.concat(whole_rows(curated().rows, curated().passages)).head(1)
    kind = rows.schema[column]
    changed: pl.Expr = pl.lit("another")
    if kind == pl.List(pl.String):
        changed = pl.col(column).list.reverse()
    elif kind == pl.List(pl.Int64):
        changed = pl.col(column).list.eval(pl.element() + 1)
    elif kind == pl.Float64:
        changed = pl.col(column).fill_null(0.5) + 1e-9
    altered = rows.with_columns(changed.alias(column))
    assert digests(iter([altered]))["content_sha256"][0] != digests(iter([rows]))["content_sha256"][0]


def test_a_passage_that_is_missing_is_named_and_not_left_out() -> None:
    made = curated()
    with pytest.raises(LookupError, match=r"passage d0 of (math|web_search) is on a list and not in the lake"):
        list(whole_rows(made.rows, made.passages.filter(pl.col("docid") != "d0")))
