"""The decoder that asks about every passage alone."""

from ranking.decoding.calls import Call, Decoder, Ranked, Steps, Task, by_score


def pointwise() -> Decoder:
    """One parallel round of n calls; by score, falling, ties and what has no score as the first stage has them."""

    def decode(count: int) -> Steps:
        if count < 2:
            return Ranked(tuple(range(count)))
        replies = yield tuple(Call((position,), Task.SCORE) for position in range(count))
        return by_score([reply.score for reply in replies])

    return decode
