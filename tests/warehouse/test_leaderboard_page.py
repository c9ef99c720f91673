"""The leaderboard's page: the front of cost and quality, the queries that gained and lost, the champion, one file."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.metrics import evaluate
from warehouse.benchmarks.boards import Board, published, unregistered
from warehouse.benchmarks.registry import Published
from warehouse.evaluation import FIRST_STAGE, Reranked, collect
from warehouse.leaderboard import leaderboard
from warehouse.pages.comparisons import LETTER, LINE, Bar, Point, bars, front, pareto, reliability, weights
from warehouse.pages.extremes import Texts, extremes
from warehouse.pages.leaderboard import page_values
from warehouse.pages.reports import write_report

QUERIES, DEPTH = 30, 12
SETTINGS: dict[str, Any] = {
    "first_stage": "bm25", "query_retrieved": "text", "query_reranked": "text", "decoder": "sliding_window",
    "decoding": "{}", "window_size": 6, "passage_tokens": 64, "temperature": 0.0, "repeats": 1, "think": True,
    "template": "rank_student", "prompt_sha256": "prompt", "highest_score": None, "recipe_sha256": "recipe",
}  # fmt: skip
MODELS = {
    "model": pl.String, "recipe": pl.String, "stage": pl.String, "parent": pl.String, "release": pl.String,
    "weights_sha256": pl.String, "path": pl.String, "seed": pl.Int64, "steps": pl.Int64, "tokens": pl.Int64,
    "seconds": pl.Float64, "history": pl.String, "created_at": pl.String,
}  # fmt: skip

costs = st.floats(0, 1e6).map(lambda cost: 0.0 if cost < 1e-3 else cost)
shares = st.floats(0, 1)
points = st.builds(
    lambda label, cost, ends: Point(label, cost, ends[1], ends[0], ends[2], "sft fused"),
    st.text(max_size=8).filter(str.isprintable), costs, st.tuples(shares, shares, shares).map(sorted),
)  # fmt: skip


@given(st.lists(points, min_size=1, max_size=12))
def test_the_front_is_what_nothing_surpasses(given_points: list[Point]) -> None:
    best = front(given_points)
    assert all(one.cost < other.cost and one.value < other.value for one, other in pairwise(best))
    for point in given_points:
        surpassed = any(
            (other.cost <= point.cost and other.value > point.value)
            or (other.cost < point.cost and other.value >= point.value)
            for other in given_points
        )
        assert surpassed != any((p.cost, p.value) == (point.cost, point.value) for p in best)


@given(st.lists(points, min_size=1, max_size=40))
def test_a_chart_of_quality_and_cost_keeps_its_points_and_labels_inside_and_apart(given_points: list[Point]) -> None:
    drawn = ElementTree.fromstring(pareto(given_points, "tokens a query"))
    circles = list(drawn.iter("circle"))
    assert len(circles) == len(given_points)
    tall = float(drawn.attrib["viewBox"].split()[3])
    for circle in circles:
        assert 30 <= float(circle.attrib["cx"]) <= 372
        assert 11 <= float(circle.attrib["cy"]) <= tall - 30
    labels = sorted(
        (float(text.attrib["y"]), *_reach(text)) for group in drawn.iter("g") for text in group.iter("text")
    )
    assert all(
        below - above >= LINE - 0.2 or begin >= other_end - 0.2 or other_begin >= end - 0.2
        for (above, begin, end), (below, other_begin, other_end) in combinations(labels, 2)
    )
    assert labels[0][0] >= 10 and labels[-1][0] <= tall - 20


def _reach(text: ElementTree.Element) -> tuple[float, float]:
    """From where to where a label runs."""
    x, long = float(text.attrib["x"]), LETTER * len(text.text or "")
    return (x - long, x) if text.attrib["text-anchor"] == "end" else (x, x + long)


def test_a_label_stands_at_its_own_mark_where_no_other_is_in_the_way() -> None:
    """The first stage at the left edge, and a model that left its order as it was: one height, far apart."""
    bm25, base, sft = (
        Point(kind, cost, value, 0.2, 0.5, kind)
        for kind, cost, value in (
            (
                "bm25",
                0,
                0.34,
            ),
            ("base", 656, 0.34),
            ("sft", 625, 0.318),
        )
    )
    drawn = ElementTree.fromstring(pareto([bm25, base, sft], "tokens"))
    for group in drawn.iter("g"):
        mark, text = group.find("circle"), group.find("text")
        assert mark is not None and text is not None
        assert float(text.attrib["y"]) - 4 == pytest.approx(float(mark.attrib["cy"]), abs=0.2)
        assert text.attrib["text-anchor"] == "start"


def test_what_costs_more_stands_further_right_and_what_is_better_higher() -> None:
    drawn = ElementTree.fromstring(
        pareto(
            [Point("bm25", 0, 0.3, 0.3, 0.3, "bm25"), Point("sft", 10, 0.5, 0.5, 0.5, "sft"),
             Point("rl", 1000, 0.4, 0.4, 0.4, "rl", champion=True)], "tokens",
        )
    )  # fmt: skip
    placed = {group.attrib["class"]: group.find("circle") for group in drawn.iter("g")}
    across = [float(placed[kind].attrib["cx"]) for kind in ("bm25", "sft", "rl")]  # type: ignore[union-attr]
    up = [float(placed[kind].attrib["cy"]) for kind in ("bm25", "rl", "sft")]  # type: ignore[union-attr]
    assert across == sorted(across)
    assert up == sorted(up, reverse=True)
    assert "not surpassed: bm25, sft" in drawn.attrib["aria-label"]
    assert [text.text for text in drawn.iter("text") if (text.text or "").startswith("★")] == ["★ rl"]


def test_bars_and_reliability_are_drawn_to_scale() -> None:
    drawn = ElementTree.fromstring(bars([Bar("a<b", 0.25, 0.2, 0.3, "sft"), Bar("c", 0.75, 0.7, 0.8, "rl")], "coding"))
    small, large = (float(bar.attrib["width"]) for bar in drawn.iter("rect"))
    assert large == pytest.approx(3 * small, abs=0.3)
    parts = [{"count": n, "confidence": 0.1 * n, "accuracy": 0.5} for n in (0, 1, 9)]
    seen = list(ElementTree.fromstring(reliability(parts, "sft")).iter("circle"))
    assert len(seen) == 2
    assert float(seen[1].attrib["r"]) > float(seen[0].attrib["r"])


def test_the_curve_behind_a_weight_is_drawn_with_what_was_chosen() -> None:
    tried = [
        {"fold": fold, "weight": n / 10, "value": 0.3 + 0.01 * (n if fold == "half 1" else -n), "queries": 7,
         "chosen": n == (10 if fold == "half 1" else 0)}
        for fold in ("half 1", "half 2") for n in range(11)
    ]  # fmt: skip
    drawn = ElementTree.fromstring(weights(tried, "sft+rrf"))
    lines = [[float(pair.split(",")[1]) for pair in line.attrib["points"].split()] for line in drawn.iter("polyline")]
    assert [len(line) for line in lines] == [11, 11]
    assert lines[0] == sorted(lines[0], reverse=True) and lines[1] == sorted(lines[1])
    told = [title.text for title in drawn.iter("title")]
    assert told == ["half 1: 1, mean 0.4000 of 7 other dev queries", "half 2: 0, mean 0.3000 of 7 other dev queries"]


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Any, Texts]:
    """Thirty queries whose relevant passage stands at place 6; the model puts it n places higher, or lower."""
    keys = [("a" if n % 2 else "b", f"q{n:02}") for n in range(QUERIES)]
    first = pl.DataFrame(
        [(d, q, f"{q}-d{p}", p, float(-p)) for d, q in keys for p in range(1, DEPTH + 1)],
        schema=["domain", "qid", "docid", "rank", "score"], orient="row",
    )  # fmt: skip
    moves = {q: 5 - n // 3 for n, (_, q) in enumerate(keys)}  # 5 places up, …, 4 places down; a few stay
    run = (
        first.with_columns(
            key=pl.when(pl.col("docid") == pl.format("{}-d6", "qid"))
            .then(pl.col("rank") - pl.col("qid").replace_strict(moves) - pl.col("qid").replace_strict(moves).sign() / 2)
            .otherwise(pl.col("rank").cast(pl.Float64))
        )
        .sort("domain", "qid", "key")
        .with_columns(rank=pl.int_range(1, DEPTH + 1).over("domain", "qid"), value=pl.lit(None, dtype=pl.Float64))
        .with_columns(score=-pl.col("rank").cast(pl.Float64))
    )
    run.write_parquet(tmp_path / "run.parquet")
    calls = [
        {"domain": d, "qid": q, "round": turn, "docids": [f"{q}-d{p}" for p in places], "prompt_hash": f"{q}{turn}",
         "completion": f"<think> turn {turn} of {q} </think>", "fault": "tags" if turn == 2 else None,
         "prompt_tokens": 50, "completion_tokens": 9, "seconds": 0.5}
        for d, q in keys for turn, places in ((1, range(7, 13)), (2, range(1, 7)))
    ]  # fmt: skip
    pl.DataFrame(calls, infer_schema_length=None).write_parquet(tmp_path / "calls.parquet")
    qrels = pl.DataFrame(
        [(d, q, f"{q}-d6", 2) for d, q in keys] + [(d, q, f"{q}-d1", 0) for d, q in keys],
        schema=["domain", "qid", "docid", "grade"], orient="row",
    )  # fmt: skip
    texts = Texts(
        pl.DataFrame([(d, q, f"What of {q}?") for d, q in keys], schema=["domain", "qid", "text"], orient="row"),
        pl.DataFrame(
            [(d, f"{q}-d{p}", f"Title {p}" if p != 6 else None, f"The <b>text</b> {p} of {q}.") for d, q in keys
             for p in range(1, DEPTH + 1)],
            schema={"domain": pl.String, "docid": pl.String, "title": pl.String, "text": pl.String}, orient="row",
        ),
        qrels,
    )  # fmt: skip
    folds = texts.queries.select("domain", "qid", fold=pl.lit("test"))
    model = Reranked("run-1", "model-1", tmp_path, "transformers", "5", "here")
    return collect("reasonrank", SETTINGS, first, {"sft": model}, qrels, folds), texts


def test_the_best_and_worst_queries_are_those_that_gained_and_lost_the_most(measured: tuple[Any, Texts]) -> None:
    made, texts = measured
    told = extremes(made, "reasonrank", "sft", texts)
    assert [len(told[kind]) for kind in ("best", "worst")] == [10, 10]
    gains = [row["gained"] for row in told["best"]]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0
    losses = [row["gained"] for row in told["worst"]]
    assert losses == sorted(losses) and losses[-1] < 0
    every = made.scores.filter(measure="nDCG@10").pivot(on="stage", index=["domain", "qid"], values="value")
    differences = (every["sft"] - every[FIRST_STAGE]).sort()
    assert gains == pytest.approx(differences.tail(10).reverse().to_list())
    assert losses == pytest.approx(differences.head(10).to_list())
    # Recomputed from the runs by the metric itself.
    best = told["best"][0]
    own = made.runs.filter(stage="sft", qid=best["qid"])
    qrels = texts.qrels.filter(qid=best["qid"])
    assert evaluate(own, qrels, ["nDCG@10"], ["domain", "qid"])["nDCG@10"][0] == pytest.approx(best["after"])


def test_a_query_is_shown_with_both_orders_grades_and_the_last_answer(measured: tuple[Any, Texts]) -> None:
    made, texts = measured
    best = extremes(made, "reasonrank", "sft", texts)["best"][0]
    assert best["query"] == f"What of {best['qid']}?"
    top = best["reranked"][0]
    assert (top["docid"], top["grade"], top["other"]) == (f"{best['qid']}-d6", 2, 6)
    assert top["name"] == f"The <b>text</b> 6 of {best['qid']}."
    assert [(row["grade"], row["other"]) for row in best["first"][:3]] == [(0, 2), (None, 3), (None, 4)]
    assert (best["calls"], best["fault"]) == (2, "tags")
    assert best["answer"] == f"<think> turn 2 of {best['qid']} </think>"
    assert len(best["window"]) == 6 and best["window"][0].startswith("Title 1")
    # Where a call shows one passage, each answer stands beside its own.
    alone = made.calls.explode("docids").with_columns(docids=pl.concat_list("docids"))
    single = replace(made, calls=alone)
    shown = extremes(single, "reasonrank", "sft", texts)["best"][0]
    assert shown["answer"] is None
    assert shown["reranked"][0]["answer"] == f"<think> turn 2 of {shown['qid']} </think>"


@pytest.mark.parametrize("champion", ["model-1", None, "another-model"])
def test_the_page_is_one_file_that_marks_the_champion(
    measured: tuple[Any, Texts], champion: str | None, tmp_path: Path
) -> None:
    made, texts = measured
    models = pl.DataFrame(
        [("model-1", "reasonrank", "sft", "base", "r" * 16, "w", "models/m", 0, 2, 9, 1.0, "[]", "2026")],
        schema=MODELS, orient="row",
    )  # fmt: skip
    board = leaderboard(made, texts.qrels, {"a": "test", "b": "dev"}, models, resamples=200, seed=0)
    told = {**SETTINGS, "decoding": {"name": "sliding_window", "window": 6}, "fusion": "none"}
    paper = Published(system="<i>Other</i>", setting="top 100, windows of 20", source="a paper", scores={"Small": 57.0})
    known = unregistered("Small").model_copy(update={"published": (paper,)})
    ours = {"part": "Small", "system": "mine", "origin": "here", "queries": 4, "measures": {"nDCG@10": 0.25},
            "low": 0.2, "high": 0.3, "malformed_rate": None,
            "setting": {"first_stage": "bm25", "query_retrieved": "text", "depth": 9},
            "versus": {"difference": 0.1234, "low": 0.1, "high": 0.15, "p": 0.01, "p_holm": 0.02, "wins": 3, "ties": 0,
                       "losses": 1},
            "costs": {"calls_per_query": 9, "depth_per_query": 9, "input_tokens_per_query": 1234,
                      "output_tokens_per_query": 56, "cached_tokens_per_query": None, "seconds_p50": 1.5,
                      "seconds_p95": 2.5, "usd_per_query": 0.0123}}  # fmt: skip
    benchmarks = [Board("Small", known, (ours, *published(known, "Small")))] if champion is None else []
    lines = "vLLM:\n\n```sh\nvllm serve <m> --port 1\n```"
    card = f"## How to ask it\n\nPassages of 9 tokens.\n\n{lines}\n\n## Recipe\n\nmine\n"
    values = page_values(
        board, made, texts, models, {"reasonrank": told}, ["people"], champion, benchmarks, {"model-1": card}
    )
    assert values["chains"] == []  # nothing here was asked without one
    pair = {"thinks": "reasonrank rl", "direct": "reasonrank-direct rl", "queries": 30, "mean": 0.41, "other": 0.44,
            "difference": -0.03, "low": -0.05, "high": 0.01, "p_holm": 0.2, "wins": 8, "ties": 9, "losses": 13,
            "tokens_per_query_thinks": 4321.0, "tokens_per_query_direct": 987.0,
            "seconds_per_query_thinks": 9.5, "seconds_per_query_direct": 1.25}  # fmt: skip
    values["chains"] = [] if champion is None else [pair]
    page = write_report(tmp_path / "board.html", "leaderboard.html.j2", values).read_text("utf-8")
    for figure in ('id="chains"', "-0.0300 (-0.050 … +0.010)", "8 / 9 / 13", "4,321 against 987", "9.50 against 1.25"):
        assert (figure in page) is (champion is not None), figure
    marked = re.findall(r"★ (bm25|sft)</td>", page)
    assert marked == {"model-1": ["sft"] * 3, None: ["bm25"] * 3, "another-model": []}[champion]
    said = {
        "model-1": "the sft of reasonrank",
        None: "no model has taken its place",
        "another-model": "not on this board",
    }
    assert said[champion] in page
    assert page.count("<svg") == 2 + 3
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//|<script|@import|url\(""", page) == []
    shown = re.findall(r"<tr([^>]*)><td>Small</td><td[^>]*>([^<]*)</td><td>([^<]*)</td>.*<td>([^<]*)</td></tr>", page)
    assert ("benchmarks" in page) is (champion is None)
    assert shown == ([] if champion is not None else [
        (' class="published"', "&lt;i&gt;Other&lt;/i&gt;", "published",
         "top 100, windows of 20; fusion: none told; a paper"),
        ("", "mine", "here, 4 queries", "bm25 over text, top 9, no reranking"),
    ])  # fmt: skip
    for figure in ("+0.1234 (+0.100 … +0.150)", ">0.02<", "3 / 0 / 1", "1,234 + 56", "1.50 / 2.50", "0.0123"):
        assert (figure in page) is (champion is None), figure
    # Money is drawn where somebody took some, and who told nothing of it is left out.
    billed = board.with_columns(usd_per_query=pl.when(pl.col("stage") == "sft").then(0.002))
    charts = page_values(billed, made, texts, models, {"reasonrank": told}, ["people"], champion)["pareto"]
    assert [chart.count("<circle") for chart in charts] == [2, 2, 1] and "sft: " in charts[2]
    assert "USD a query" in charts[2] and "USD a query" not in page
    # What models and passages say is text and never markup.
    assert "<b>text</b>" not in page
    assert "&lt;think&gt; turn 2 of" in page
    assert "<summary><b>vLLM</b></summary><pre>vllm serve &lt;m&gt; --port 1\n</pre>" in page
    assert "In other programs: Passages of 9 tokens." in page and "rankmill serve --model model-1" in page
    assert page.count("<summary><b>+") == page.count("<summary><b>-") == 10
