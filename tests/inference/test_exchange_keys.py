"""A request's key: what it depends on, what it does not, and that it never changes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from inference.exchange import Request, Sampling, repair_request

texts = st.text(max_size=60)
samplings = st.builds(
    Sampling,
    model=st.sampled_from(["a", "b"]),
    temperature=st.sampled_from([0.0, 0.6, 1.0]),
    top_p=st.sampled_from([0.95, 1.0]),
    max_tokens=st.integers(1, 9999),
    seed=st.none() | st.integers(0, 99),
    top_logprobs=st.none() | st.integers(0, 19),
)
requests = st.builds(
    Request,
    id=texts,
    messages=st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": texts}), min_size=1, max_size=3
    ).map(tuple),
    sampling=samplings,
    generation=st.integers(0, 3),
)


def test_a_key_is_the_same_in_every_version_of_the_program() -> None:
    request = Request("x", ({"role": "user", "content": "Größe?"},), Sampling("m", 0.6, 0.95, 100), 1)
    assert request.key == "72a91419f3b6d3d012acb57d69a6aebaec671389f6573c9bb243e6cab8102842"


@given(requests, texts)
def test_a_key_does_not_depend_on_the_id_or_on_the_order_of_fields(request: Request, other_id: str) -> None:
    turned = tuple(dict(reversed(m.items())) for m in request.messages)
    assert replace(request, id=other_id, messages=turned, mend=not request.mend).key == request.key


@given(requests, requests)
def test_two_keys_are_equal_exactly_when_the_questions_are(one: Request, other: Request) -> None:
    def question(r: Request) -> tuple[object, ...]:
        return (r.messages, r.sampling, r.generation)

    assert (one.key == other.key) == (question(one) == question(other))


@given(requests)
def test_every_part_of_the_question_changes_the_key(request: Request) -> None:
    s = request.sampling
    changed = [
        replace(request, generation=request.generation + 1),
        replace(request, messages=(*request.messages, {"role": "user", "content": ""})),
        replace(request, sampling=replace(s, model=s.model + "x")),
        replace(request, sampling=replace(s, temperature=s.temperature + 0.1)),
        replace(request, sampling=replace(s, top_p=s.top_p / 2)),
        replace(request, sampling=replace(s, max_tokens=s.max_tokens + 1)),
        replace(request, sampling=replace(s, seed=(s.seed or 0) + 1)),
        replace(request, sampling=replace(s, top_logprobs=0 if s.top_logprobs is None else s.top_logprobs + 1)),
        repair_request(request, "bad", "fault"),
    ]
    assert len({request.key, *(r.key for r in changed)}) == len(changed) + 1


def test_a_whole_number_and_its_float_ask_the_same() -> None:
    messages = ({"role": "user", "content": "q"},)
    assert Request("a", messages, Sampling("m", 0, 1, 5)).key == Request("a", messages, Sampling("m", 0.0, 1.0, 5)).key


def test_parameters_are_named_as_before_and_log_probabilities_only_where_they_are_asked_for() -> None:
    plain = Sampling("m", 0.6, 0.95, 100)
    assert plain.parameters == {"model": "m", "temperature": 0.6, "top_p": 0.95, "max_tokens": 100, "seed": None}
    assert replace(plain, top_logprobs=0).parameters == {**plain.parameters, "top_logprobs": 0}
