"""What is kept comes back as it was, whoever asks for it, in the generation that is asked now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.exchange import Exchange, Request, Sampling
from inference.store import ExchangeStore, now

SAMPLING = Sampling("m", 0.0, 1.0, 10)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
counts = st.integers(0, 2**53 - 1)
amounts = st.floats(0, 1e12)
answers = st.builds(
    Exchange,
    request_id=st.just("r0"),
    key=st.just(""),
    model=texts,
    served_model=texts,
    content=texts,
    reasoning=texts,
    finish_reason=texts,
    prompt_tokens=counts,
    completion_tokens=counts,
    cached_tokens=counts,
    usd=amounts,
    latency_s=amounts,
    attempts=counts,
    created_at=st.just(now()),
    generation=st.just(0),
    fingerprint=texts,
    fault=st.none() | texts,
    repair_of=st.none() | texts,
    logprobs=st.none() | texts,
)


def question(number: int) -> Request:
    return Request(f"r{number}", ({"role": "user", "content": f"question {number}"},), SAMPLING)


def bought(request: Request, content: str) -> Exchange:
    return Exchange(
        request.id, request.key, "m", "m", content, "", "stop", 1, 1, 0, 0.1, 0.2, 1, now(), request.generation
    )


@settings(max_examples=50, deadline=None)
@given(answers)
@example(replace(bought(question(0), 'a "b" \\ \0 \x1f \u2028 \U0001f600'), usd=0.1 + 0.2, latency_s=5e-324))
def test_an_answer_comes_back_from_the_store_as_it_was_put_in(answer: Exchange) -> None:
    request = question(0)
    answer = replace(answer, key=request.key)
    with TemporaryDirectory() as folder, ExchangeStore(Path(folder) / "exchanges.sqlite") as store:
        store.put([(request, answer)], "a")
        assert store.look_up([request]) == [(request, replace(answer, from_store=True))]


def test_one_look_up_answers_everybody_who_asks_under_their_own_names_in_their_own_order(store: ExchangeStore) -> None:
    requests = [question(number) for number in range(4)]
    store.put([(request, bought(request, request.id)) for request in requests[1:]], "a")
    again = replace(requests[2], id="another")
    asked = [requests[3], again, requests[0], requests[2]]
    found = store.look_up(asked)
    assert [request for request, _ in found] == asked
    said = [exchange and (exchange.request_id, exchange.content) for _, exchange in found]
    assert said == [("r3", "r3"), ("another", "r2"), None, ("r2", "r2")]


def test_only_what_is_asked_again_is_looked_up_in_its_next_generation(store: ExchangeStore) -> None:
    first, second = question(0), question(1)
    store.put([(first, bought(first, "old")), (second, bought(second, "old"))], "a")
    store.ask_again([first])
    (now_first, nothing), (now_second, old) = store.look_up([first, second])
    assert (now_first.generation, nothing) == (1, None)
    assert now_second is second and old is not None and old.content == "old"
    store.put([(now_first, bought(now_first, "new"))], "a")
    (_, new), _ = store.look_up([first, second])
    assert new is not None and new.content == "new"


def test_the_log_of_a_store_that_is_written_for_long_stays_small(store: ExchangeStore) -> None:
    long = "a reason to think so " * 200
    for start in range(0, 6_000, 100):
        chunk = [question(number) for number in range(start, start + 100)]
        store.put([(request, bought(request, long)) for request in chunk], "a")
    log = store.path.with_name(f"{store.path.name}-wal")
    assert store.path.stat().st_size > 24e6 and 0 < log.stat().st_size < 12e6
