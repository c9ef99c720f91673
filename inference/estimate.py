"""What a set of requests would buy, before the first call: from the real prompts and from answers that are stored.

    foreseen = estimate(due, prices, store, pace)
    print(foreseen.line)

Absent on purpose: what is due (the caller knows), and the limit itself (`budget`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from inference.exchange import Request
from inference.pace import ASSUMED_TOKENS_PER_S, PaceSettings
from inference.prices import NOTHING, Prices, prompt_tokens_about
from inference.store import ExchangeStore, Usual


@dataclass(frozen=True)
class Estimate:
    """What a set of requests would buy.

    `usd_at_most` and the tokens behind it are a bound: the engine's own worst case of each request (a prompt token a
    byte, an answer of all its max_tokens), and the same once more for the repair turn that may follow. Beyond it lies
    only what an endpoint charges for attempts that it never answers. `prompt_tokens`, `completion_tokens`, `usd` and
    `hours` are what is to be expected, repair turns not foreseen, if answers go on as the `seen` stored ones of the
    same model did; with none seen, every answer is taken to be full and to come at ASSUMED_TOKENS_PER_S. `hours` go by
    the slowest of the pace's limits, and in batch mode (`in_window`) by the provider's window.
    """

    requests: int = 0
    stored: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: float = 0.0
    tokens_at_most: int = 0
    usd: float = 0.0
    usd_at_most: float = 0.0
    hours: float = 0.0
    in_window: bool = False
    seen: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        added |= {"seen": max(self.seen, other.seen), "in_window": self.in_window or other.in_window}
        return Estimate(**added)

    @property
    def line(self) -> str:
        """The estimate in one line."""
        basis = (
            f"as {self.seen:,} stored answers were" if self.seen else f"at {ASSUMED_TOKENS_PER_S} tokens/s an answer"
        )
        took = (
            f"within {self.hours:,.0f} h, the provider's window" if self.in_window else f"{self.hours:,.2f} h {basis}"
        )
        return (
            f"{self.calls:,} calls to buy, {self.stored:,} stored; {self.prompt_tokens:,} prompt tokens and about "
            f"{self.completion_tokens:,.0f} more, ${self.usd:,.2f} (at most ${self.usd_at_most:,.2f}), {took}"
        )


def estimate(
    due: Iterable[Request | None],
    prices: Prices,
    store: ExchangeStore,
    pace: PaceSettings,
    share: float = 1.0,
    window_h: float | None = None,
) -> Estimate:
    """Calls, tokens, USD and hours before anything is bought, from the real prompts of what is `due`.

    None stands for a request that is answered already. `share` of the listed price is paid; `window_h` is a batch's.
    Raises UnknownPrice.
    """
    usual: dict[str, Usual | None] = {}
    prompt = expected = usd = seconds = 0.0
    worst, missing, stored = NOTHING, set[str](), 0
    for request in due:
        if request is None or request.key in missing:
            stored += 1
            continue
        missing.add(request.key)
        model, limit = request.sampling.model, request.sampling.max_tokens
        price = prices.of(model)
        if model not in usual:
            usual[model] = store.usual(model)
        was = usual[model]
        tokens = limit if was is None else min(float(limit), was.completion_tokens)
        about = prompt_tokens_about(request) if was is None else len(request.messages_json) * was.tokens_per_byte
        prompt, expected = prompt + about, expected + tokens
        usd += share * (about * price.input + tokens * price.output) / 1e6
        worst += prices.worst_case(request) + prices.worst_repair(request)
        seconds += tokens / ASSUMED_TOKENS_PER_S if was is None else was.seconds
    calls = len(missing)
    return Estimate(
        requests=calls + stored,
        stored=stored,
        calls=calls,
        prompt_tokens=round(prompt),
        completion_tokens=expected,
        tokens_at_most=worst.tokens,
        usd=usd,
        usd_at_most=share * worst.usd,
        hours=_hours(calls, prompt + expected, seconds, pace) if window_h is None else window_h * bool(calls),
        in_window=window_h is not None,
        seen=max((was.answers for was in usual.values() if was is not None), default=0),
    )


def _hours(calls: int, tokens: float, seconds: float, pace: PaceSettings) -> float:
    """How long calls take that last `seconds` one after the other, by the slowest of the limits on them."""
    minutes = [seconds / pace.max_in_flight / 60]
    if pace.requests_per_minute is not None:
        minutes.append(calls / pace.requests_per_minute)
    if pace.tokens_per_minute is not None:
        minutes.append(tokens / pace.tokens_per_minute)
    return max(minutes) / 60
