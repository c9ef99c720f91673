"""Reranking by a real model behind a real vLLM, with log-probabilities; `make test-vllm` runs it.

What is read off one token must come out as it does with the same weights in this process: the orders of windows by
letters and the probabilities of yes, as far as the twenty that vLLM lists go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from inference.archive import everything
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.logprobs import tokens
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.store import ExchangeStore
from inference.vllm import VllmSettings, serving_vllm
from ranking.decoding.replies import LETTERS
from training import rerank
from training.first_token import FirstToken
from training.jobs import EndpointRerankJob, ModelRef, RerankJob, served_model
from training.over_endpoint import rerank_over
from training.recipes import Recipe, load_recipe
from training.reporting import LineReporter

pytestmark = pytest.mark.vllm

MODEL = "smollm2-135m-instruct"
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = {
    "units": {
        "list": {"max_passages": 4, "passage_tokens": 32, "query_tokens": 32},
        "pair": {"passage_tokens": 32, "query_tokens": 32},
    },
    "decoding": {
        "first_token_window": {"window": 4, "step": 2, "top": 6, "batch": 1},
        "pointwise_logits": {"top": 6, "batch": 1},
        "pointwise_said": {"top": 2, "max_new_tokens": 24, "batch": 1},
    },
    "model": {"base": "smollm2", "bf16": False, "gradient_checkpointing": False, "tuning": "full"},
}
QUERIES = {"q1": "Why does the moon raise tides?", "q2": "Why does iron rust in water?"}
TEXTS = (
    "Bread rises because yeast makes gas.",
    "The pull of the moon raises the tides of the sea.",
    "Iron rusts where water and oxygen meet it.",
    "A violin has four strings.",
    "Tides follow the moon, twice a day.",
    "Rust is an oxide of iron.",
)


@pytest.fixture(scope="module")
def base_url(python: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = VllmSettings(
        model=str(checkpoint), served_name=MODEL, python=python, dtype="float32", max_model_len=2048,
        cpu_kv_cache_gib=1, start_timeout_s=400, extra_args=("--enforce-eager",),
    )  # fmt: skip
    with serving_vllm(settings, tmp_path_factory.mktemp("logs") / "vllm.log") as address:
        yield address


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("candidates") / "candidates.parquet"
    rows = [
        {"domain": "d", "qid": qid, "query": query, "docid": f"d{rank}", "rank": rank, "score": -float(rank)}
        | {"text": TEXTS[rank - 1]}
        for qid, query in QUERIES.items()
        for rank in range(1, 7)
    ]
    pl.DataFrame(rows).write_parquet(path)
    return path


def over(recipe: Recipe, base_url: str, candidates: Path, checkpoint: Path, folder: Path) -> EndpointRerankJob:
    job = EndpointRerankJob(
        recipe=recipe, release="", model=served_model(MODEL), candidates=candidates, candidates_sha256="toy",
        output=folder, cache=checkpoint.parent,
    )  # fmt: skip
    prices = Prices.load().with_price(MODEL, Price(input=0, cached=0, output=0, source="a server of one's own"))
    with ExchangeStore(folder / "exchanges.sqlite") as store:
        engine = Engine(Endpoint(base_url=base_url, api_key="none"), store, Budget(), prices, PaceSettings())
        rerank_over(engine, job, lambda _: None)
    return job


def test_yes_has_the_probability_that_it_has_at_home(
    base_url: str, candidates: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(RECIPES / "direct-point.yaml", SMALL)
    job = over(recipe, base_url, candidates, checkpoint, tmp_path)
    there = pl.read_parquet(job.folder / "run.parquet").sort("qid", "docid")
    model = ModelRef(path=str(checkpoint), sha256="base")
    local = RerankJob(
        recipe=recipe, release="", model=model, candidates=candidates, candidates_sha256="toy", student="base",
        output=tmp_path / "home",
    )  # fmt: skip
    rerank.run(local, LineReporter())
    here = pl.read_parquet(local.folder / "run.parquet").sort("qid", "docid")
    calls = pl.read_parquet(job.folder / "calls.parquet").explode("docids")
    both = calls.filter(pl.col("completion").str.contains("yes") & pl.col("completion").str.contains("no"))
    print(both.height, "of", calls.height, "answers list both words")
    assert both.height
    shared = both.select("qid", docid="docids")
    pairs = there.join(here, on=["qid", "docid"], suffix="_here").join(shared, on=["qid", "docid"], how="semi")
    # vLLM's kernels round otherwise, and a word with a blank before it counts as the word.
    assert pairs["value"].to_list() == pytest.approx(pairs["value_here"].to_list(), abs=0.05)


def test_letters_that_vllm_lists_stand_in_the_order_that_they_have_at_home(
    base_url: str, candidates: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from training.student import load_student, load_tokenizer

    recipe = load_recipe(RECIPES / "first.yaml", SMALL)
    job = over(recipe, base_url, candidates, checkpoint, tmp_path)
    calls = pl.read_parquet(job.folder / "calls.parquet")
    assert calls.height == 4 and set(calls["fault"]) <= {None, "unlisted"}
    with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
        answers = [(record.messages, tokens(record.exchange.logprobs)[0]) for record in everything(store)]
    scorer = FirstToken(load_student(checkpoint), load_tokenizer(checkpoint), LETTERS[:4])
    for messages, first in answers:
        assert len(first.top) >= 20
        ((_, read),) = scorer.read([list(messages)], batch=1)
        listed = {token: logprob for token, logprob in first.top if token in read.logprobs}
        assert listed == pytest.approx({token: read.logprobs[token] for token in listed}, abs=0.02)


def test_a_score_is_read_from_words_and_the_tokens_have_log_probabilities(
    base_url: str, candidates: Path, checkpoint: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(RECIPES / "erank.yaml", SMALL)
    job = over(recipe, base_url, candidates, checkpoint, tmp_path)
    assert pl.read_parquet(job.folder / "calls.parquet").height == 4
    with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
        for record in everything(store):
            written = tokens(record.exchange.logprobs)
            assert record.exchange.completion_tokens == len(written)
            assert record.exchange.content in "".join(token.text for token in written)
            assert all(token.logprob <= 0 for token in written)
