"""Every decoder over an endpoint, through the real engine: a model ranks there as it does at home, and is billed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from model_server import ModelServer, serving_model
from test_systems import TINY
from training_toys import RECIPE, Lines

from inference.breaker import BreakerSettings
from inference.budget import Budget, BudgetExceeded
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.standin.faults import Faults
from inference.standin.server import MODEL, running_standin
from inference.store import ExchangeStore
from ranking.decoding.replies import LETTERS
from training import rerank
from training.jobs import EndpointRerankJob, ModelRef, RerankJob, served_model
from training.over_endpoint import rerank_over
from training.recipes import Recipe, load_recipe
from training.requests import NoLogprobs

NAMES = sorted(path.stem for path in RECIPE.parent.glob("*.yaml"))
every = pytest.mark.parametrize("name", NAMES)
SAID = {
    "listwise_think": "<think> why </think> <answer> {order} </answer>",
    "listwise_direct": "<answer> {order} </answer>",
    "setwise_think": "<think> why </think> <answer> [2] </answer>",
    "score_think": "<think> why </think> <answer> 7 </answer>",
}


# Decoders that no shipped recipe chooses, each for the lists of the toy.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "two passes": ("reasonrank-direct", {"name": "sliding_window", "window": 3, "step": 2, "passes": 2}),
    "random groups": ("reasonrank-direct", {"name": "random_groups", "size": 3, "repeats": 2}),
    "elimination": ("reasonrank", {"name": "elimination", "window": 3}),
    "two passes by letters": ("first", {"name": "first_token_window", "window": 3, "step": 2, "passes": 2}),
}
LONG_ENOUGH = {"decoding": {"setwise_heapsort": {"max_new_tokens": 40}}}


def system(name: str) -> Recipe:
    """A shipped system, or one with another decoder, small, in the arithmetic that the server computes in."""
    name, decoding = OTHERS.get(name, (name, {}))
    written = {} if name == "first" else {"max_new_tokens": 60}
    other = {"decoding": {**decoding, "top": 5, "batch": 4, **written}} if decoding else LONG_ENOUGH
    return load_recipe(RECIPE.with_name(f"{name}.yaml"), TINY, {"model": {"bf16": False}, **other})


def job_of(recipe: Recipe, candidates: Path, output: Path, model: str = MODEL, **changes: Any) -> EndpointRerankJob:
    return EndpointRerankJob(
        recipe=recipe,
        release="",
        model=served_model(model),
        candidates=candidates,
        candidates_sha256="toy",
        output=output,
        **changes,
    )


def engine(base_url: str, store: ExchangeStore, usd: float = 5.0) -> Engine:
    return Engine(
        Endpoint(base_url=base_url, api_key="none"),
        store,
        Budget(usd=usd, scope="reranking"),
        Prices.load().with_price(MODEL, Price(input=1.0, cached=0.1, output=2.0, source="a test's")),
        PaceSettings(max_in_flight=4, max_attempts=2, backoff_base_s=0.01),
        BreakerSettings(share=1.0),
    )


def quiet(_: object) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def student(tiny: ModelRef) -> Any:
    from training.student import load_student

    return load_student(Path(tiny.path), device="cpu")


Over = Callable[..., tuple[EndpointRerankJob, Any]]


@pytest.fixture
def over(candidates_path: Path, base_folder: Path, tmp_path: Path) -> Over:
    def run(recipe: Recipe, base_url: str, folder: str = "out", usd: float = 5.0, **changes: Any) -> Any:
        job = job_of(recipe, candidates_path, tmp_path / folder, cache=base_folder.parent, **changes)
        with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
            return job, rerank_over(engine(base_url, store, usd), job, quiet)

    return run


def calls_of(job: RerankJob) -> pl.DataFrame:
    return pl.read_parquet(job.folder / "calls.parquet").sort("domain", "qid", "round", pl.col("docids").list.join(" "))


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_a_model_behind_an_endpoint_ranks_as_it_does_at_home(
    name: str, over: Over, student: Any, tiny: ModelRef, tokenizer: Any, candidates_path: Path, tmp_path: Path
) -> None:
    recipe = system(name)
    at_home = RerankJob(
        recipe=recipe, release="", model=tiny, candidates=candidates_path, candidates_sha256="toy", student="base",
        output=tmp_path / "home", probe_positions=True,
    )  # fmt: skip
    local = rerank.run(at_home, Lines())
    # All letters are listed, so that nothing is cut off; what a cut does is seen in the test of the replies.
    with serving_model(student, tokenizer, also=(*LETTERS[:3], "yes", "no")) as server:
        job, result = over(recipe, server.base_url, probe_positions=True)
    assert (result.calls, result.malformed, result.prompt_tokens) == (local.calls, local.malformed, local.prompt_tokens)
    here, there = (pl.read_parquet(one.folder / "run.parquet") for one in (at_home, job))
    assert there.drop("value").equals(here.drop("value"))
    assert there["value"].to_list() == pytest.approx(here["value"].to_list(), abs=1e-4)
    probes = [pl.read_parquet(one.folder / "probes.parquet").sort("domain", "qid") for one in (at_home, job)]
    assert probes[0].equals(probes[1])
    for column in ("docids", "prompt_hash", "fault", "round"):
        assert calls_of(at_home)[column].to_list() == calls_of(job)[column].to_list()
    written = recipe.name not in ("first", "direct-point")
    assert all((body.get("top_logprobs"), body["max_tokens"] == 1) != (20, True) for body in server.asked) is written


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("first", "direct-point")])
def test_words_are_read_by_the_recipe_s_grammar_and_a_score_counts_with_its_probability(
    name: str, over: Over, student: Any, tokenizer: Any
) -> None:
    from training.generate import Completion, Writer

    recipe = system(name)

    def said(shown: str) -> str:
        order = " > ".join(f"[{n}]" for n in range(shown.count("\n["), 0, -1))
        return SAID[recipe.contract.name].format(order=order)

    with serving_model(student, tokenizer, says=lambda shown: f"{said(shown)} and on it goes") as server:
        job, result = over(recipe, server.base_url)
    assert result.malformed == {}
    asked = {said(body["messages"][-1]["content"]) for body in server.asked}
    assert set(calls_of(job)["completion"]) == asked
    if name != "erank":
        assert all("logprobs" not in body for body in server.asked)
        return
    assert {body["top_logprobs"] for body in server.asked} == {0}
    answer = tokenizer.encode(SAID["score_think"], add_special_tokens=False)
    prompts = [
        tuple(
            tokenizer.apply_chat_template(b["messages"], add_generation_prompt=True, tokenize=True, return_dict=False)
        )
        for b in server.asked
    ]
    writer = Writer(student, tokenizer)
    own = sorted(7 * writer.confidence(Completion(prompt, tuple(answer), "", 0.0)) for prompt in prompts)
    # The texts of both domains are the same, and asked about once.
    run = pl.read_parquet(job.folder / "run.parquet").filter(pl.col("rank") <= 4)
    values = run.filter(pl.col("domain") == "toy")["value"]
    assert values.sort().to_list() == pytest.approx(own, abs=1e-4)
    assert 0 < own[0] < own[-1] < 7


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_stand_in_answers_all_of_them_and_what_was_answered_costs_nothing_again(name: str, over: Over) -> None:
    with running_standin() as server:
        job, result = over(system(name), server.base_url)
        bought = server.counts["answered"]
        again, second = over(system(name), server.base_url, "again")
        assert server.counts["answered"] == bought > 0
    assert result.malformed == {} and (again.sha256, second.usd) == (job.sha256, result.usd)
    read = [pl.read_parquet(one.folder / "run.parquet") for one in (job, again)]
    assert read[0].equals(read[1]) and calls_of(job).equals(calls_of(again))
    # A finished job asks nobody at all.
    assert over(system(name), "http://127.0.0.1:9/v1", "again")[1] == second


def test_tokens_cached_tokens_and_money_of_each_call_are_as_the_endpoint_bills_them(
    over: Over, student: Any, tokenizer: Any, tmp_path: Path
) -> None:
    with serving_model(student, tokenizer, cached=16) as server:
        job, result = over(system("direct-point"), server.base_url)
    calls = calls_of(job)
    assert set(calls["cached_tokens"]) == {16} and result.cached_tokens == 16 * calls.height
    price = (calls["prompt_tokens"] - 16) * 1.0 + 16 * 0.1 + calls["completion_tokens"] * 2.0
    # Both domains hold the same texts: what is asked of the second was bought for the first.
    billed = calls.select(usd=pl.when(pl.col("usd") > 0).then(price / 1e6).otherwise(0.0))["usd"]
    assert calls["usd"].to_list() == pytest.approx(billed.to_list())
    assert (calls["usd"] > 0).sum() == calls.height / 2 == len(server.asked)
    with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
        assert result.usd == pytest.approx(store.spent("reranking").usd) == pytest.approx(calls["usd"].sum())


def test_a_question_that_is_asked_twice_is_billed_once_and_untold_cached_tokens_stay_unknown(
    over: Over, tmp_path: Path
) -> None:
    # Two repeats of groups of all four are the same question, and so are those of the two domains.
    recipe = load_recipe(
        RECIPE, TINY, {"decoding": {"name": "random_groups", "size": 4, "repeats": 2, "top": 4, "max_new_tokens": 60}}
    )
    with running_standin() as server:
        job, _ = over(recipe, server.base_url)
        calls = calls_of(job)
        assert (calls.height, server.counts["answered"]) == (8, 2)
    assert calls.filter(pl.col("usd") > 0).height == 2 and calls["cached_tokens"].null_count() == 8
    with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
        assert calls["usd"].sum() == pytest.approx(store.spent("reranking").usd)


def test_an_endpoint_that_tells_no_log_probabilities_is_named_and_its_answers_are_kept(
    over: Over, student: Any, tokenizer: Any, tmp_path: Path
) -> None:
    for name, contract in (("direct-point", "yes_no"), ("first", "letters"), ("erank", "score_think")):
        says = None if contract != "score_think" else (lambda _: SAID["score_think"])
        with (
            serving_model(student, tokenizer, tells=False, says=says) as server,
            pytest.raises(NoLogprobs, match=f"told no log-probabilities of its answer, and the contract {contract}"),
        ):
            over(system(name), server.base_url)
        with ExchangeStore(tmp_path / "exchanges.sqlite") as store:
            assert store.usual(MODEL) is not None
        assert list((tmp_path / "out").glob("*")) == []


def test_a_budget_stops_it_and_more_money_goes_on_where_it_stopped(over: Over) -> None:
    with running_standin() as server:
        with pytest.raises(BudgetExceeded, match="all answers are kept"):
            over(system("reasonrank-direct"), server.base_url, usd=0.0008)
        kept = server.counts["answered"]
        _, result = over(system("reasonrank-direct"), server.base_url)
        assert 0 < kept < server.counts["answered"] == result.calls / 2


def test_a_call_that_the_endpoint_refuses_is_counted_and_keeps_the_order_shown(
    base_folder: Path, candidates_path: Path, tmp_path: Path
) -> None:
    first = pl.read_parquet(candidates_path)
    long = (pl.col("domain") == "toy") & (pl.col("qid") == "q1")
    query = pl.when(long).then(pl.lit("Why planets? " + "Why indeed? " * 400)).otherwise("query")
    first.with_columns(query=query).write_parquet(tmp_path / "long.parquet")
    recipe = load_recipe(RECIPE, TINY, {"units": {"query_tokens": 5_000}})
    job = job_of(recipe, tmp_path / "long.parquet", tmp_path / "long", cache=base_folder.parent)
    with running_standin(Faults(context_tokens=900)) as server, ExchangeStore(tmp_path / "long.sqlite") as store:
        result = rerank_over(engine(server.base_url, store), job, quiet)
    assert result.malformed == {"refused": 2} and result.calls == 8
    run = pl.read_parquet(job.folder / "run.parquet").filter(long).sort("rank")
    assert run["docid"].to_list() == [f"toy-d1-{rank}" for rank in range(1, 7)]
    assert calls_of(job).filter(pl.col("fault") == "refused")["usd"].sum() == 0


def test_probabilities_told_as_read_are_those_of_the_model(over: Over, student: Any, tokenizer: Any) -> None:
    with serving_model(student, tokenizer, also=("yes", "no")) as server:
        job, _ = over(system("direct-point"), server.base_url)
    told = calls_of(job)["completion"][0].split()
    shown = dict(zip(told[::2], map(float, told[1::2]), strict=True))
    chance = math.exp(shown["yes"]) / (math.exp(shown["yes"]) + math.exp(shown["no"]))
    values = pl.read_parquet(job.folder / "run.parquet")["value"].to_list()
    assert any(value == pytest.approx(chance, abs=1e-3) for value in values)
    assert isinstance(server, ModelServer) and len(server.asked) == 8
