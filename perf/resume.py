"""How long going again over stored answers takes, and how much memory, for growing stores.

    python perf/resume.py [--counts 1000,100000,1000000] [--missing 0] [--prompt-chars 300] [--latency-ms 50]
                          [--in-flight 64] [--json FILE]

For each count a fresh store is filled, in a process of its own; then, in another fresh process, as many requests are
made one by one, never held, and go through `Engine.ask`, as when a campaign is started again after it was stopped.
`--missing` of them, spread evenly, are not stored and are bought from the loopback server. The clock starts before the
store is opened and stops with the last outcome; interpreter start and imports are not counted. Seconds an answer that
stay the same, and memory that stays the same, from the smallest store to the largest are what is hoped for.

Absent on purpose: a peer. Those measured by `engine.py` start again by reading everything they have into memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp  # noqa: F401 - the engine imports it when it is opened, when the clock runs
from contest import MAX_TOKENS, peak_rss_mb
from loopback import MODEL, RANKING, REASONING, loopback
from ours import PRICE, check

from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.running import run
from inference.store import ExchangeStore, now

SCOPE = "perf"
AT_ONCE = 5000
SAMPLING = Sampling(MODEL, temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS)
FILLER = "which of these passages would help most, and what would an answer to it rest on? "


@dataclass(frozen=True)
class Going:
    """What going again over one store took."""

    requests: int
    from_store: int
    bought: int
    seconds: float
    cpu_seconds: float
    rss_before_mb: float
    peak_rss_mb: float


def some_requests(count: int, prompt_chars: int) -> Iterator[Request]:
    """Distinct requests, made on the fly; the same ones every time."""
    padding = (FILLER * (1 + prompt_chars // len(FILLER)))[:prompt_chars]
    for number in range(count):
        prompt = f"question {number}: {padding}"[:prompt_chars]
        yield Request(f"r{number}", ({"role": "user", "content": prompt},), SAMPLING)


def is_missing(number: int, count: int, missing: int) -> bool:
    """Whether request `number` is one of the `missing`, which are spread evenly over all of them."""
    return (number + 1) * missing // count > number * missing // count


def answer_to(request: Request) -> Exchange:
    """An answer as the loopback server gives it."""
    return Exchange(
        request_id=request.id,
        key=request.key,
        model=MODEL,
        served_model=MODEL,
        content=RANKING,
        reasoning=REASONING,
        finish_reason="stop",
        prompt_tokens=1500,
        completion_tokens=350,
        cached_tokens=0,
        usd=0.0006,
        latency_s=0.05,
        attempts=1,
        created_at=now(),
    )


def fill(store: ExchangeStore, requests: Iterable[Request]) -> None:
    """Store an answer to each request."""
    source = iter(requests)
    while chunk := list(islice(source, AT_ONCE)):
        store.put([(request, answer_to(request)) for request in chunk], SCOPE)


def go_again(path: Path, base_url: str, count: int, prompt_chars: int, in_flight: int) -> Going:
    """Ask everything of an engine whose store is at `path`."""
    prices = Prices.load().with_price(MODEL, PRICE)
    pace = PaceSettings(max_in_flight=in_flight, start_in_flight=in_flight)
    before = peak_rss_mb()
    cpu, started = time.process_time(), time.perf_counter()
    with ExchangeStore(path) as store:
        budget = Budget(usd=1_000_000.0, scope=SCOPE)
        engine = Engine(Endpoint(base_url=base_url, api_key="none"), store, budget, prices, pace)

        async def ask() -> tuple[int, int]:
            stored = bought = 0
            async for outcome in engine.ask(some_requests(count, prompt_chars), check, total=count):
                assert isinstance(outcome, Exchange), outcome
                stored += outcome.from_store
                bought += not outcome.from_store
            return stored, bought

        stored, bought = run(ask())
    seconds = time.perf_counter() - started
    return Going(count, stored, bought, seconds, time.process_time() - cpu, before, peak_rss_mb())


def table(goings: list[Going], filled_s: list[float], sizes: list[int]) -> str:
    """One row per count, as Markdown."""
    columns = ["requests", "from store", "bought", "seconds", "answers/s", "CPU us/answer", "peak MB", "of it before"]
    rows = [[*columns, "store MB", "filled in s"], ["---:"] * (len(columns) + 2)]
    for going, filling, size in zip(goings, filled_s, sizes, strict=True):
        rows.append(
            [
                *(f"{n:,}" for n in (going.requests, going.from_store, going.bought)),
                f"{going.seconds:,.2f}",
                f"{going.requests / going.seconds:,.0f}",
                f"{1e6 * going.cpu_seconds / going.requests:.1f}",
                f"{going.peak_rss_mb:,.0f}",
                f"{going.rss_before_mb:,.0f}",
                f"{size / 1e6:,.0f}",
                f"{filling:,.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _fill_command(given: argparse.Namespace, count: int) -> None:
    chosen = (
        request
        for number, request in enumerate(some_requests(count, given.prompt_chars))
        if not is_missing(number, count, given.missing)
    )
    with ExchangeStore(given.store) as store:
        fill(store, chosen)


def _in_a_process(given: argparse.Namespace, step: str, count: int, store: Path, base_url: str) -> str:
    """Run one step of this script in a fresh process; gives what it printed."""
    command = [sys.executable, __file__, "--step", step, "--counts", str(count), "--store", str(store)]
    command += ["--missing", str(min(given.missing, count)), "--prompt-chars", str(given.prompt_chars)]
    command += ["--in-flight", str(given.in_flight), "--base-url", base_url]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="How long going again over stored answers takes.")
    parser.add_argument("--counts", default="1000,100000,1000000", help="requests of each run, with commas")
    parser.add_argument("--missing", type=int, default=0, help="requests of each run that are not stored")
    parser.add_argument("--prompt-chars", type=int, default=300, help="length of a prompt")
    parser.add_argument("--latency-ms", type=float, default=50.0, help="of the server, for what is missing")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--step", choices=["fill", "go"], help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = [int(count) for count in given.counts.split(",")]

    if given.step == "fill":
        _fill_command(given, counts[0])
        return
    if given.step == "go":
        print(json.dumps(asdict(go_again(given.store, given.base_url, counts[0], given.prompt_chars, given.in_flight))))
        return

    goings, filled_s, sizes = [], [], []
    for count in counts:
        with TemporaryDirectory(prefix="perf-") as folder, loopback(given.latency_ms) as base_url:
            store = Path(folder) / "exchanges.sqlite"
            started = time.perf_counter()
            _in_a_process(given, "fill", count, store, base_url)
            filled_s.append(time.perf_counter() - started)
            sizes.append(store.stat().st_size)
            goings.append(Going(**json.loads(_in_a_process(given, "go", count, store, base_url))))
            print(f"{count:,}: {goings[-1].seconds:.2f} s", file=sys.stderr)
    print(table(goings, filled_s, sizes))
    if given.json:
        given.json.write_text(json.dumps([asdict(going) for going in goings], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
