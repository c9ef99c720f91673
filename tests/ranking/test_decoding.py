"""Decoding: the calls and the order that theory says, whoever answers, and that no candidate is ever lost."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankers import Answer, at_random, decode, garbage, perfect, reversed_of

from ranking.decoding.calls import Call, Decoder, Reply, Task, by_score
from ranking.decoding.cascade import cascade
from ranking.decoding.desk import Desk, Ticket, decode_all, decode_in_batches
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.setwise import elimination, heapsort

windows_and_steps = st.integers(1, 12).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window)))
EVERY: dict[str, Decoder] = {
    "sliding window": sliding_window(6, 3),
    "two passes": sliding_window(5, 2, passes=2),
    "first token": sliding_window(6, 3, task=Task.FIRST_TOKEN),
    "random groups": random_groups(5, repeats=3),
    "heapsort": heapsort(4, k=7),
    "elimination": elimination(5),
    "elimination by orders": elimination(5, Task.ORDER),
    "pointwise": pointwise(),
    "cascade": cascade(pointwise(), sliding_window(4, 2), keep=9),
    "cascade of cascades": cascade(cascade(sliding_window(3, 1), heapsort(2, 3), 8), random_groups(3), keep=5),
}
every = pytest.mark.parametrize("decoder", EVERY.values(), ids=EVERY.keys())


def shuffled(count: int, seed: int) -> list[float]:
    """A worth for each position, no two alike."""
    return [float(value) for value in random.Random(seed).sample(range(count), count)]


def best_first(worth: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted(range(len(worth)), key=lambda position: -worth[position]))


# Every decoder -------------------------------------------------------------------------------------------------------


@every
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 2**32))
def test_no_position_is_lost_whatever_the_model_says_in_whatever_order_its_replies_come(
    decoder: Decoder, counts: list[int], seed: int
) -> None:
    orders = decode(counts, decoder, at_random(seed), seed).orders
    assert [sorted(order) for order in orders] == [list(range(count)) for count in counts]


@every
@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_who_is_answered_first_and_how_many_are_in_flight_changes_nothing(
    decoder: Decoder, counts: list[int], seed: int
) -> None:
    answer = perfect(shuffled(40, seed))
    together, scattered = decode(counts, decoder, answer), decode(counts, decoder, answer, seed)
    assert together.ranked == scattered.ranked
    assert together.rounds == scattered.rounds
    assert sorted(map(repr, together.tickets)) == sorted(map(repr, scattered.tickets))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("random groups", "cascade of cascades")])
@given(count=st.integers(0, 40))
def test_garbage_leaves_the_first_stage_as_it_was_and_every_answer_is_counted(name: str, count: int) -> None:
    decoded = decode([count], EVERY[name], garbage)  # random groups have a test of their own
    assert decoded.orders == [tuple(range(count))]
    assert decoded.faults == ({"tags": len(decoded.tickets)} if decoded.tickets else {})


@every
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_asked_about_a_list_that_has_but_one_order(decoder: Decoder, count: int) -> None:
    decoded = decode([count], decoder, garbage)
    assert (decoded.orders, decoded.tickets, decoded.rounds) == ([tuple(range(count))], [], [0])


@every
def test_calls_of_one_batch_could_be_asked_in_any_order_since_none_is_made_from_anothers_reply(
    decoder: Decoder,
) -> None:
    steps = decoder(30)
    calls, answer = next(steps), at_random(1)
    while True:
        assert len(set(calls)) == len(calls) or decoder is EVERY["random groups"]
        assert all(len(call.positions) == len(set(call.positions)) > 0 for call in calls)
        try:
            calls = steps.send([answer(call) for call in calls])
        except StopIteration:
            break


# Sliding window ------------------------------------------------------------------------------------------------------


def test_a_hundred_candidates_at_twenty_and_ten_make_nine_calls_in_sequence_from_the_back_to_the_front() -> None:
    decoded = decode([100], sliding_window(20, 10), lambda call: Reply(call.positions))
    assert [ticket.call.positions for ticket in decoded.tickets] == [
        tuple(range(start, start + 20)) for start in range(80, -1, -10)
    ]
    assert (decoded.rounds, decoded.orders) == ([9], [tuple(range(100))])


@given(windows_and_steps, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 3))
def test_queries_advance_together_and_each_pays_only_for_its_own_windows(
    shape: tuple[int, int], counts: list[int], passes: int
) -> None:
    window, step = shape
    rounds: list[list[Ticket]] = []

    def keep(tickets: list[Ticket]) -> list[Reply]:
        rounds.append(tickets)
        return [Reply(ticket.call.positions) for ticket in tickets]

    decode_all(counts, sliding_window(window, step, passes), keep)
    calls = [0 if count < 2 else passes * (1 + max(0, math.ceil((count - window) / step))) for count in counts]
    asked = [one.query for batch in rounds for one in batch]
    assert [asked.count(query) for query in range(len(counts))] == calls
    assert len(rounds) == max(calls, default=0)
    assert all(len(one.call.positions) <= window for batch in rounds for one in batch)
    assert all(len({one.query for one in batch}) == len(batch) for batch in rounds)


@given(windows_and_steps, st.integers(0, 60), st.integers(), st.integers(1, 3))
def test_a_right_model_brings_the_best_to_the_front_and_each_pass_as_many_again(
    shape: tuple[int, int], count: int, seed: int, passes: int
) -> None:
    window, step = shape
    worth = shuffled(count, seed)
    (order,) = decode([count], sliding_window(window, step, passes), perfect(worth)).orders
    # What two neighbouring windows share goes on: window - step places, which at 20/10 is the step itself.
    carried = window - step if count > window else window
    assert order[:carried] == best_first(worth)[:carried]
    twice = min(window, 2 * (window - step))
    assert passes == 1 or order[:twice] == best_first(worth)[:twice]


def test_at_twenty_and_ten_the_top_ten_of_the_list_come_first_even_from_its_very_end() -> None:
    worth = [float(position) for position in range(100)]
    (order,) = decode([100], sliding_window(20, 10), perfect(worth)).orders
    assert order[:10] == tuple(range(99, 89, -1))
    (order,) = decode([100], sliding_window(20, 10), reversed_of(worth)).orders
    assert order[:10] == tuple(range(10))


@pytest.mark.parametrize(("window", "step"), [(20, 0), (20, 21), (0, 0), (5, -1)])
def test_a_step_that_would_pass_over_candidates_is_refused(window: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {window}, got {step}"):
        sliding_window(window, step)


# Heapsort and elimination --------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 50), st.integers())
def test_heapsort_finds_the_first_k_exactly_and_leaves_the_rest_as_it_was(
    children: int, k: int, count: int, seed: int
) -> None:
    worth = shuffled(count, seed)
    decoded = decode([count], heapsort(children, k), perfect(worth))
    (order,) = decoded.orders
    assert order[:k] == best_first(worth)[:k]
    assert list(order[k:]) == sorted(order[k:])
    assert all(ticket.call.task is Task.BEST for ticket in decoded.tickets)
    assert all(2 <= len(ticket.call.positions) <= children + 1 for ticket in decoded.tickets)
    assert all(list(ticket.call.positions) == sorted(ticket.call.positions) for ticket in decoded.tickets)


def test_heapsort_of_sets_of_twenty_takes_about_twenty_three_calls_for_the_top_ten_of_a_hundred() -> None:
    runs = [decode([100], heapsort(19, 10), perfect(shuffled(100, seed))) for seed in range(60)]
    calls = [len(run.tickets) for run in runs]
    assert mean(calls) == pytest.approx(23, abs=1.5)
    # Six nodes make the heap, at most two calls each; a place after the first takes two at most.
    assert min(calls) >= 6 + 9 and max(calls) <= 6 + 1 + 2 * 9
    # The five nodes below the root are asked at once.
    assert all(run.rounds[0] == len(run.tickets) - 4 for run in runs)


def test_a_list_in_order_costs_heapsort_no_more_than_one_call_a_node_and_two_a_place() -> None:
    worth = [float(-position) for position in range(100)]
    decoded = decode([100], heapsort(19, 10), perfect(worth))
    assert decoded.orders == [tuple(range(100))]
    assert [len(ticket.call.positions) for ticket in decoded.tickets[:5]] == [20, 20, 20, 20, 5]


@given(st.integers(2, 8), st.integers(0, 40), st.integers())
def test_elimination_takes_n_minus_one_calls_and_has_the_first_of_its_pool_exactly(
    window: int, count: int, seed: int
) -> None:
    worth = shuffled(count, seed)
    decoded = decode([count], elimination(window), perfect(worth))
    exact = count if count <= window else window - 1
    assert decoded.orders[0][:exact] == best_first(worth)[:exact]
    assert len(decoded.tickets) == decoded.rounds[0] == max(0, count - 1)
    assert all(len(ticket.call.positions) <= window for ticket in decoded.tickets)


def test_elimination_over_one_pool_is_a_whole_sort_and_a_reversed_model_turns_it_round() -> None:
    worth = shuffled(20, 5)
    assert decode([20], elimination(20), perfect(worth)).orders == [best_first(worth)]
    assert decode([20], elimination(20), reversed_of(worth)).orders == [best_first(worth)[::-1]]


# One round -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers())
def test_pointwise_is_one_round_of_n_calls_and_sorts_the_whole_list(count: int, seed: int) -> None:
    worth = shuffled(count, seed)
    decoded = decode([count], pointwise(), perfect(worth))
    assert decoded.orders == [best_first(worth)]
    assert (len(decoded.tickets), decoded.rounds) == ((count, [1]) if count > 1 else (0, [0]))
    if count > 1:
        assert decoded.ranked[0].scores == tuple(sorted(worth, reverse=True))


def test_without_a_score_a_passage_stands_behind_those_that_have_one_and_ties_are_the_first_stages() -> None:
    made = by_score([None, 0.5, -1.0, None, 0.5])
    assert made.order == (1, 4, 2, 0, 3)
    assert made.scores == (0.5, 0.5, -1.0, -1.0, -1.0)


@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 40), st.integers(0, 5), st.integers())
def test_random_groups_are_one_round_in_which_everybody_is_shown_once_a_repeat(
    size: int, repeats: int, count: int, seed: int, worth_seed: int
) -> None:
    worth = shuffled(count, worth_seed)
    decoded = decode([count], random_groups(size, repeats, seed), perfect(worth))
    shown = [position for ticket in decoded.tickets for position in ticket.call.positions]
    groups = math.ceil(count / size)
    assert decoded.rounds[0] <= 1 and len(decoded.tickets) <= repeats * groups
    if count >= 2 * groups:  # nobody is alone in a group
        assert sorted(shown) == sorted(list(range(count)) * (repeats if count > 1 else 0))
    if count > 1 and count >= 2 * groups:
        (made,) = decoded.ranked
        assert made.scores is not None and made.scores[0] == 1.0  # the best wins every group that it is in
        scores = dict(zip(made.order, made.scores, strict=True))
        assert scores[best_first(worth)[0]] == 1.0


def test_more_repeats_bring_random_groups_nearer_to_the_true_order() -> None:
    def misplaced(repeats: int) -> float:
        errors = []
        for seed in range(10):
            worth = shuffled(100, seed)
            (order,) = decode([100], random_groups(20, repeats, seed), perfect(worth)).orders
            true = {position: place for place, position in enumerate(best_first(worth))}
            errors.append(mean(abs(true[position] - place) for place, position in enumerate(order)))
        return mean(errors)

    once, often = misplaced(1), misplaced(16)
    assert often < once / 2


def test_random_groups_take_garbage_for_the_first_stages_order_within_each_group() -> None:
    agreeing = decode([37], random_groups(5, 3), lambda call: Reply(call.positions))
    talking = decode([37], random_groups(5, 3), garbage)
    assert agreeing.ranked == talking.ranked
    assert talking.faults == {"tags": 24}


# Cascade -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 12), st.integers())
def test_a_cascade_asks_the_second_about_what_the_first_put_in_front_and_nothing_else(
    count: int, keep: int, seed: int
) -> None:
    small, large = shuffled(count, seed), shuffled(count, seed + 1)

    def answer(call: Call) -> Reply:
        return perfect(large if call.ranker else small)(call)

    decoded = decode([count], cascade(pointwise(), sliding_window(12, 6), keep), answer)
    front = best_first(small)[:keep]
    (order,) = decoded.orders
    assert order[:keep] == tuple(sorted(front, key=lambda position: -large[position]))
    assert order[keep:] == best_first(small)[keep:]
    second = [ticket.call for ticket in decoded.tickets if ticket.call.ranker]
    assert all(set(call.positions) <= set(front) for call in second)
    assert len(second) == (1 if min(count, keep) > 1 else 0)


def test_a_second_stage_that_talks_garbage_leaves_what_the_first_has_made() -> None:
    worth = shuffled(50, 3)

    def answer(call: Call) -> Reply:
        return garbage(call) if call.ranker else perfect(worth)(call)

    for second in (sliding_window(6, 3), heapsort(3, 5), elimination(6), pointwise()):
        assert decode([50], cascade(pointwise(), second, keep=20), answer).orders == [best_first(worth)]


# The desk ------------------------------------------------------------------------------------------------------------


def test_a_query_goes_on_though_another_waits_for_ever() -> None:
    desk = Desk([30, 30], sliding_window(10, 5))
    slow, *ready = desk.take()
    while ready:
        for ticket in ready:
            desk.put(ticket, Reply(ticket.call.positions))
        ready = desk.take()
    assert desk.rounds == [1, 5] and not desk.done
    with pytest.raises(RuntimeError, match="1 queries still wait for replies, query 0 among them"):
        _ = desk.ranked
    desk.put(slow, Reply(slow.call.positions))
    assert [ticket.query for ticket in desk.take()] == [0]


def makespan(counts: list[int], decoder: Decoder, in_flight: int) -> tuple[int, int]:
    """(time, ideal) in calls of one length: at every tick all free hands take what has waited longest."""
    desk, time = Desk(counts, decoder), 0
    while not desk.done:
        for ticket in desk.take(in_flight):
            desk.put(ticket, Reply(ticket.call.positions, 0.0))
        time += 1
    return time, max(max(desk.rounds), math.ceil(desk.calls / in_flight))


@pytest.mark.parametrize(
    ("decoder", "calls"),
    [
        (sliding_window(20, 10), 9),
        (sliding_window(20, 10, passes=2), 18),
        (heapsort(19, 10), 19),
        (random_groups(20, repeats=3), 15),
        (cascade(random_groups(20), sliding_window(10, 5), keep=20), 8),
        (pointwise(), 100),
        (elimination(20), 99),
    ],
)
def test_a_hundred_queries_over_sixty_four_hands_take_the_ideal_time_or_one_call_more(
    decoder: Decoder, calls: int
) -> None:
    time, ideal = makespan([100] * 100, decoder, 64)
    assert ideal == math.ceil(100 * calls / 64)
    assert ideal <= time <= ideal + 1


@every
@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 30), max_size=6), batch=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_batches_are_full_while_so_many_calls_are_open_and_change_no_order(
    decoder: Decoder, counts: list[int], batch: int, seed: int
) -> None:
    answer, sizes = perfect(shuffled(30, seed)), list[tuple[int, int]]()
    desk = Desk(counts, decoder)
    handed = 0

    def replies_to(tickets: list[Ticket]) -> list[Reply]:
        nonlocal handed
        handed += len(tickets)
        sizes.append((len(tickets), sum(len(one.calls) - len(one.replies) for one in desk._open.values())))
        order = [(ticket.round, -len(ticket.call.positions)) for ticket in tickets]
        assert order == sorted(order)  # earlier rounds first, and of one round the widest
        return [answer(ticket.call) for ticket in tickets]

    decode_in_batches(desk, batch, lambda ticket: len(ticket.call.positions), replies_to)
    assert desk.ranked == decode(counts, decoder, answer).ranked
    assert handed == desk.calls
    assert all(size == min(batch, unanswered) for size, unanswered in sizes)


def test_the_rest_of_a_round_does_not_wait_for_the_next_one() -> None:
    sizes = []

    def replies_to(tickets: list[Ticket]) -> list[Reply]:
        sizes.append(len(tickets))
        return [Reply(ticket.call.positions) for ticket in tickets]

    desk = Desk([100] * 5, sliding_window(20, 10))
    decode_in_batches(desk, 4, lambda ticket: 0, replies_to)
    # 45 calls: eleven full batches and one; a round after the other would be 9 x 2.
    assert sizes == [4] * 11 + [1] and desk.finished == 5


def test_what_has_waited_longest_is_taken_first_and_nothing_twice() -> None:
    desk = Desk([3, 3, 3], pointwise())
    assert [(t.query, t.place) for t in desk.take(4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len(desk.take()) == 5 and desk.take() == []


@pytest.mark.parametrize("reply", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2], []])
def test_an_order_that_is_no_permutation_of_its_window_is_refused(reply: list[int]) -> None:
    with pytest.raises(ValueError, match=r"query 1: window \[0, 1, 2\] came back as .*not a permutation"):
        decode_all([0, 3], sliding_window(3, 1), lambda tickets: [Reply(tuple(reply))])


def test_a_call_is_answered_once() -> None:
    desk = Desk([30], pointwise())
    ticket = desk.take(1)[0]
    desk.put(ticket, Reply(ticket.call.positions, 1.0))
    with pytest.raises(ValueError, match="query 0: call 0 of round 1 is not open"):
        desk.put(ticket, Reply(ticket.call.positions, 1.0))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_reply_too_few_or_too_many_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        decode_all([2, 2], sliding_window(2, 1), lambda tickets: [Reply((1, 0))] * count)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sliding_window(20, 10, passes=0), "at least one pass, got 0"),
        (lambda: random_groups(1), "at least 2 passages to be ordered, got 1"),
        (lambda: random_groups(5, repeats=0), "at least one repeat, got 0"),
        (lambda: heapsort(0), "at least one child, got 0"),
        (lambda: heapsort(5, k=0), "at least one passage, got k = 0"),
        (lambda: elimination(1), "at least 2 passages to put one aside, got 1"),
        (lambda: cascade(pointwise(), pointwise(), keep=0), "keep = 0"),
    ],
)
def test_a_shape_that_could_not_work_is_refused(make: Answer, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[call-arg]
