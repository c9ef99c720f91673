"""Decoders over windows that are ordered whole: the sliding window, with words or with one token, and random groups."""

import random

from ranking.decoding.calls import Call, Decoder, Ranked, Steps, Task, by_score


def sliding_window(window: int = 20, step: int = 10, passes: int = 1, task: Task = Task.ORDER) -> Decoder:
    """Windows from the back to the front (RankGPT; METHOD section 5): 100 candidates at 20/10 make 9 calls in sequence.

    `passes` go over the order that the one before has left. Task.FIRST_TOKEN is FIRST's decoding: one token a window.
    """
    if not 1 <= step <= window:
        raise ValueError(f"a sliding window of {window} needs a step from 1 to {window}, got {step}.")
    if passes < 1:
        raise ValueError(f"a sliding window needs at least one pass, got {passes}.")

    def decode(count: int) -> Steps:
        order = list(range(count))
        for _ in range(passes if count > 1 else 0):
            end = count
            while True:
                start = max(0, end - window)
                (reply,) = yield (Call(tuple(order[start:end]), task),)
                order[start:end] = reply.order
                if start == 0:
                    break
                end -= step
        return Ranked(tuple(order))

    return decode


def random_groups(size: int = 20, repeats: int = 1, seed: int = 0) -> Decoder:
    """Every repeat deals the candidates into random groups of nearly one size, which are ordered all at once.

    One parallel round of repeats x ceil(n / size) calls. A place is worth from 1 (first) to 0 (last of its group); a
    candidate's score is its mean over the repeats. A group is shown in the first stage's order.
    """
    if size < 2:
        raise ValueError(f"a group needs at least 2 passages to be ordered, got {size}.")
    if repeats < 1:
        raise ValueError(f"random groups need at least one repeat, got {repeats}.")

    def decode(count: int) -> Steps:
        dice = random.Random(f"{seed}/{count}")
        calls = []
        for _ in range(repeats if count > 1 else 0):
            dealt = dice.sample(range(count), count)
            groups = -(-count // size)
            calls += [Call(tuple(sorted(dealt[number::groups]))) for number in range(groups)]
        asked = tuple(call for call in calls if len(call.positions) > 1)
        points = [0.0] * count
        for call in calls:
            if len(call.positions) == 1:
                points[call.positions[0]] += 0.5  # alone in its group: nothing won, nothing lost
        for reply in (yield asked) if asked else ():
            last = len(reply.order) - 1
            for place, position in enumerate(reply.order):
                points[position] += (last - place) / last
        return by_score([total / repeats for total in points])

    return decode
