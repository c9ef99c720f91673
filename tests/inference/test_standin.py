"""The stand-in teacher: it reads only the prompt, judges by shared words, and speaks the protocol."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from salt_water import PASSAGES, ranking_prompt

from inference.exchange import Request
from inference.standin.answers import VERSION, answer, read_prompt
from inference.standin.completions import completion
from inference.standin.faults import Draw, Faults
from inference.standin.lexical import best_first, helpful, misleading, read, weigh
from inference.standin.logprobs import token_logprobs
from inference.standin.server import MODEL, running_standin

QUERY = "Why do sailors die of thirst at sea?"
GOLD = "Osmosis: salt draws water through the membrane of every cell until it dries out."
words = st.sampled_from(["osmosis", "water", "cells", "salted", "the", "boil", "17", "é", "membranes", ""])
texts = st.lists(words, max_size=12).map(" ".join)


def ids(content: str) -> list[int]:
    return [int(n) for n in re.findall(r"\[(\d+)\]", content)]


def said(prompt: str) -> tuple[str, str]:
    result = answer([{"role": "system", "content": "You judge."}, {"role": "user", "content": prompt}])
    return result.content, result.reasoning


@given(st.lists(texts, min_size=1, max_size=20), texts)
def test_a_ranking_names_every_passage_once(passages: list[str], query: str) -> None:
    listing = "\n".join(f"[{i}] {text}" for i, text in enumerate(passages, 1))
    content, _ = said(f"Query: {query}\nPassages:\n{listing}\nTask: rank the passages.")
    assert sorted(ids(content)) == list(range(1, len(passages) + 1))
    assert content.count(" > ") == len(passages) - 1


@given(st.lists(texts, min_size=2, max_size=8, unique=True), texts, st.randoms())
def test_a_judgement_does_not_depend_on_the_order_of_the_passages(passages: list[str], query: str, rng: object) -> None:
    shuffled = list(passages)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = weigh(query, None, passages).evidence, weigh(query, None, shuffled).evidence
    assert [passages[i] for i in best_first(one)] == [shuffled[i] for i in best_first(other)]


@given(st.lists(texts, max_size=20), texts, texts)
def test_no_passage_both_helps_and_misleads(passages: list[str], query: str, gold: str) -> None:
    evidence = weigh(query, gold, passages).evidence
    assert not set(helpful(evidence)) & set(misleading(evidence))


def test_the_answer_shows_what_helps_where_the_query_alone_misleads() -> None:
    with_gold, chain = said(ranking_prompt(QUERY, GOLD, "choose the passages that help"))
    without, _ = said(ranking_prompt(QUERY, None, "choose the passages that help"))
    assert ids(with_gold) == [2] and ids(without) != [2]
    assert "[2] shares" in chain and "osmosis" in chain
    assert ids(said(ranking_prompt(QUERY, GOLD, "choose the passages that mislead"))[0]) == [4]


def test_where_nothing_is_shared_nothing_is_chosen() -> None:
    content, chain = said(ranking_prompt("Who won the chess title?", "Karpov", "choose the passages that help"))
    assert content == "None" and "No passage stands out" in chain


def test_a_chain_cites_the_words_that_it_judges_by_and_ends_with_the_order() -> None:
    content, chain = said(ranking_prompt("Does salt water dry out a cell?"))
    assert chain.startswith("The query is about ") and "salt" in chain
    first = ids(content)[0]
    assert first == 2 and f"[{first}] speaks of " in chain and f"So [{first}] comes first" in chain
    for number, cited in re.findall(r"\[(\d+)\] speaks of ([^.]*)\.", chain):
        held = set(read(PASSAGES[int(number) - 1]).stems)
        assert all(set(read(word).stems) <= held for word in cited.split(", "))


def test_a_prompt_is_read_to_its_last_list_and_a_query_may_span_lines() -> None:
    text = ranking_prompt("First line.\nPassages:\nmore of the query", "two\nlines", "choose the passages that help")
    prompt = read_prompt(text)
    assert prompt is not None
    assert prompt.query == "First line.\nPassages:\nmore of the query" and prompt.answer == "two\nlines"
    assert prompt.numbers == (1, 2, 3, 4) and prompt.passages == PASSAGES


def test_a_repair_turn_is_answered_by_the_prompt_before_it() -> None:
    prompt = ranking_prompt("Does salt water dry out a cell?")
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "[1"}]
    assert answer([*talk, {"role": "user", "content": "That answer cannot be used."}]).content == said(prompt)[0]


def test_a_question_without_passages_gets_a_sentence_that_says_so() -> None:
    assert "answers only prompts that list passages" in said("What is the capital of France?")[0]


def test_faults_are_drawn_by_seed_prompt_and_attempt_in_the_shares_asked_for() -> None:
    faults = Faults(rate_429=0.1, rate_500=0.2, rate_garbage=0.3, seed=5)
    drawn = [faults.pick(f"prompt {i}", 1) for i in range(4000)]
    assert drawn == [faults.pick(f"prompt {i}", 1) for i in range(4000)]
    shares = {name: drawn.count(name) / 4000 for name in set(drawn)}
    assert shares == pytest.approx({"429": 0.1, "500": 0.2, "garbage": 0.3, "none": 0.4}, abs=0.03)
    assert len({faults.pick("prompt 1", attempt) for attempt in range(40)}) == 4


def fetch(url: str, body: object = None) -> tuple[int, dict[str, object]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_speaks_the_protocol_and_says_what_it_is(some_requests: Callable[..., list[Request]]) -> None:
    question = {"model": MODEL, "messages": list(some_requests(1)[0].messages)}
    with running_standin() as server:
        assert fetch(f"{server.base_url}/models")[1]["data"][0]["id"] == MODEL  # type: ignore[index]
        status, completion = fetch(f"{server.base_url}/chat/completions", question)
        assert fetch(f"{server.base_url}/chat/completions", {"model": MODEL})[0] == 400
        assert fetch(f"{server.base_url}/chat/completions", {**question, "model": "other"})[0] == 404
        health = fetch(server.base_url.replace("/v1", "/healthz"))[1]
    assert status == 200 and completion["system_fingerprint"] == VERSION and completion["model"] == MODEL
    assert health == {"status": "ok", "version": VERSION, "counts": {"answered": 1}}


def test_it_runs_as_a_program_that_prints_its_address() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "inference.standin.server", "--port", "0", "--rate-500", "1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            status, _ = fetch(f"{url}/chat/completions", {"model": MODEL, "messages": []})
        finally:
            process.terminate()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url) and status == 500


def test_a_port_in_use_is_named() -> None:
    with running_standin() as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}"), running_standin(port=port):
            pass


def completed(url: str, **more: object) -> dict[str, Any]:
    prompt = ranking_prompt("Does salt water dry out a cell?")
    question = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}
    status, completion = fetch(f"{url}/chat/completions", question)
    assert status == 200
    return completion["choices"][0]  # type: ignore[index]


def test_log_probabilities_of_a_ranking_list_the_best_of_the_passages_not_yet_placed() -> None:
    with running_standin() as server:
        choice = completed(server.base_url, logprobs=True, top_logprobs=3)
        again = completed(server.base_url, logprobs=True, top_logprobs=3)
    entries = choice["logprobs"]["content"]
    order = [str(n) for n in ids(choice["message"]["content"])]
    places = [entry for entry in entries if entry["token"].isdigit()]
    assert choice == again
    assert [entry["token"] for entry in places] == order
    for place, entry in enumerate(places):
        top = entry["top_logprobs"]
        assert [other["token"] for other in top] == order[place : place + 3]
        assert (top[0]["token"], top[0]["logprob"]) == (entry["token"], entry["logprob"])
        assert [other["logprob"] for other in top] == sorted((o["logprob"] for o in top), reverse=True)
    assert 0.3 < math.exp(places[0]["logprob"]) < 1 and places[-1]["logprob"] == 0.0


@given(
    st.lists(st.floats(0, 40), min_size=1, max_size=20).map(lambda scores: sorted(scores, reverse=True)),
    st.integers(0, 20),
    st.integers(0, 200),
)
def test_tokens_join_to_the_content_and_no_position_holds_more_than_certainty(
    scores: list[float], top: int, length: int
) -> None:
    ranked = [(str(number), score) for number, score in enumerate(scores, 1)]
    content = " > ".join(f"[{number}]" for number, _ in ranked)[:length]
    entries = token_logprobs(content, ranked, top)
    assert "".join(entry["token"] for entry in entries) == content
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == content.encode()
    for entry in entries:
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) <= top
        assert math.fsum(math.exp(other["logprob"]) for other in entry["top_logprobs"]) <= 1 + 1e-9
        assert all(other["logprob"] <= entry["logprob"] for other in entry["top_logprobs"])


@given(st.text(max_size=40), st.integers(0, 20))
def test_any_text_is_cut_into_tokens_without_loss(content: str, top: int) -> None:
    entries = token_logprobs(content, [("1", 2.0), ("2", 1.0)], top)
    assert "".join(entry["token"] for entry in entries) == content


def test_where_nothing_is_ranked_every_token_is_certain() -> None:
    entries = token_logprobs("[2] [4] or None 1", (), 5)
    assert [entry["token"] for entry in entries] == ["[", "2", "]", " [", "4", "]", " or", " None", " 1"]
    assert {entry["logprob"] for entry in entries} == {0.0}


def test_log_probabilities_come_only_when_asked_for_and_at_most_twenty() -> None:
    question = {"model": MODEL, "messages": [{"role": "user", "content": ranking_prompt("Why?")}]}
    with running_standin() as server:
        assert "logprobs" not in completed(server.base_url)
        bare = completed(server.base_url, logprobs=True)["logprobs"]["content"]
        assert all(entry["top_logprobs"] == [] for entry in bare)
        for wrong in ({"logprobs": True, "top_logprobs": 21}, {"top_logprobs": 3}, {"stream": True}):
            assert fetch(f"{server.base_url}/chat/completions", {**question, **wrong})[0] == 400


def test_the_limit_on_tokens_has_two_names() -> None:
    with running_standin() as server:
        for name in ("max_tokens", "max_completion_tokens"):
            choice = completed(server.base_url, **{name: 3})
            assert choice["finish_reason"] == "length" and choice["message"]["content"] == ""


def student(system: str, shown: str, asked: str) -> dict[str, Any]:
    """The choice of an answer to a prompt for a trained reranker, with log-probabilities."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"{shown}{asked}"}]
    body = {"model": "m", "messages": messages, "logprobs": True, "top_logprobs": 20, "max_tokens": 100}
    found: dict[str, Any] = completion(body, Draw("none"))["choices"][0]
    return found


MOON = "Query: Why does the moon\nraise tides?\nPassages:\n"


def test_letters_are_ranked_as_numbers_are_and_the_first_one_lists_them_all() -> None:
    lines = ["Rust eats iron.", "The moon raises the tides of the sea.", "Bread rises."]
    shown = "".join(f"[{name}] {text}\n" for name, text in zip("ABC", lines, strict=True))
    said = student(
        "Give their letters.", f"{MOON}{shown}", "Rank all 3 passages for the query: Why does the moon\nraise"
    )
    first = said["logprobs"]["content"][0]
    assert said["message"]["content"].startswith("B > ") and said["message"]["reasoning_content"] == ""
    assert first["token"] == "B" and {one["token"] for one in first["top_logprobs"]} == {"A", "B", "C"}
    assert math.fsum(math.exp(one["logprob"]) for one in first["top_logprobs"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("passage", "word", "score"), [("The moon raises tides.", "yes", "10"), ("Rust eats iron.", "no", "0")]
)
def test_a_passage_is_judged_by_the_share_of_the_query_that_it_holds(passage: str, word: str, score: str) -> None:
    shown = f"Query: Why does the moon\nraise tides?\nPassage: {passage}\n"
    judged = student("Answer yes or no.", shown, "Does the passage help to answer the query?\n")
    assert judged["message"]["content"] == word
    assert {one["token"] for one in judged["logprobs"]["content"][0]["top_logprobs"]} == {"yes", "no"}
    system = "First reason inside <think> </think>, then give a score from 0 (not at all) to 10 (fully)."
    scored = student(system, shown, "How much does the passage help to answer the query?\n")
    assert scored["message"]["content"] == f"<answer> {score} </answer>" and scored["message"]["reasoning_content"]
    (place,) = [token for token in scored["logprobs"]["content"] if token["token"].strip() == score]
    assert place["logprob"] == max(one["logprob"] for one in place["top_logprobs"]) < 0
    assert "".join(token["token"] for token in scored["logprobs"]["content"]) == scored["message"]["content"]


def test_the_best_of_a_set_and_an_order_in_tags_are_said_as_they_are_asked_for() -> None:
    shown = f"{MOON}[1] Rust eats iron.\n[2] The moon raises the tides.\n"
    picked = student("First reason inside <think>", shown, "Which of the 2 passages helps most to answer the query: W")
    assert picked["message"]["content"] == "<answer> [2] </answer>" and picked["message"]["reasoning_content"]
    ordered = student("Give the order inside <answer> </answer>.", shown, "Rank all 2 passages for the query: Why")
    assert ordered["message"] == {
        "role": "assistant", "content": "<answer> [2] > [1] </answer>", "reasoning_content": ""
    }  # fmt: skip
