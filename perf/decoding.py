"""How near each decoder comes to the time that its sequential depth allows, over an endpoint of fixed latency.

    python perf/decoding.py [--queries 100] [--top 100] [--in-flight 64] [--latency-ms 200] [--rounds 1]
                            [--only 'sliding window,heapsort'] [--peer-queries 10] [--json FILE]

Each decoder reranks `--queries` lists of `--top` passages through `training.endpoint` and the engine (store on disk,
budget, pace, answers read) against a fresh `loopback.py`, whose one answer is read as an order, a name or a score.
Ideal is latency x the larger of two: the calls in sequence of one query, and all calls by those in flight, rounded up.
No schedule is shorter. The clock starts when the engine is built and stops with the last order.

Where RankLLM is installed, its client of endpoints goes over `--peer-queries` lists against the same server, whose
count is believed. It asks a window after the other, so that its seconds grow with the lists.

Absent on purpose: quality (the server reads nothing), and a GPU: how quick a model is, is not the decoder's doing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp  # noqa: F401 - the engine imports it at its first request, when the clock runs
from contest import MAX_TOKENS, count
from loopback import MODEL, loopback
from ours import PRICE
from prompts import ranking_prompts

from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.running import run
from inference.store import ExchangeStore
from ranking.decoding.calls import Decoder, Reply
from ranking.decoding.cascade import cascade
from ranking.decoding.desk import Desk, Ticket
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.setwise import elimination, heapsort
from ranking.parsing import recover_order

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `training` is the room, not the benchmark

from training.endpoint import decode_over, request_id

DECODERS: dict[str, Decoder] = {
    "sliding window 20/10": sliding_window(20, 10),
    "two passes": sliding_window(20, 10, passes=2),
    "heapsort of 20": heapsort(19, 10),
    "random groups": random_groups(20, repeats=3),
    "cascade": cascade(random_groups(20), sliding_window(10, 5), keep=20),
    "pointwise": pointwise(),
    "elimination": elimination(20),
}
SAMPLING = Sampling(MODEL, temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS)


@dataclass(frozen=True)
class Heat:
    """One run of one decoder."""

    decoder: str
    round: int
    calls: int
    depth: int
    most_in_flight: int
    ideal: float
    seconds: float


def rerank(name: str, number: int, given: argparse.Namespace) -> Heat:
    """One run against a server of its own."""
    shown = list(ranking_prompts(given.queries))
    with TemporaryDirectory(prefix="perf-") as folder, loopback(given.latency_ms) as base_url:
        store = ExchangeStore(Path(folder) / "exchanges.sqlite")
        engine = Engine(
            Endpoint(base_url=base_url, api_key="none"),
            store,
            Budget(usd=10_000.0, scope="perf"),
            Prices.load().with_price(MODEL, PRICE),
            PaceSettings(max_in_flight=given.in_flight, start_in_flight=given.in_flight),
        )

        def ask(ticket: Ticket) -> Request:
            # Twenty passages and the positions asked about: as long as a real window, and no two alike.
            text = f"{shown[ticket.query]}\n{ticket.round} {ticket.call}"
            return Request(request_id(ticket), ({"role": "user", "content": text},), SAMPLING)

        def read(ticket: Ticket, exchange: Exchange) -> Reply:
            positions = ticket.call.positions
            return Reply(tuple(positions[place] for place in recover_order(exchange.content, len(positions))), 1.0)

        with store:
            started = time.perf_counter()
            desk = Desk([given.top] * given.queries, DECODERS[name])
            run(decode_over([engine, engine], desk, ask, read))  # the second stage of a cascade asks the same one
            seconds = time.perf_counter() - started
        depth = max(desk.rounds)
        ideal = given.latency_ms / 1000 * max(depth, math.ceil(desk.calls / given.in_flight))
        return Heat(name, number, desk.calls, depth, int(count(base_url)["most_in_flight"]), ideal, seconds)


def table(heats: list[Heat], queries: int) -> str:
    """The heats as a Markdown table."""
    columns = ["decoder", "calls a query", "in sequence", "ideal s", "s", "of ideal", "most in flight"]
    lines = [f"| {' | '.join(columns)} |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name in dict.fromkeys(heat.decoder for heat in heats):
        mine = [heat for heat in heats if heat.decoder == name]
        of_ideal = median(heat.ideal / heat.seconds for heat in mine)
        cells = [
            name,
            f"{mine[0].calls / queries:.1f}",
            str(mine[0].depth),
            f"{mine[0].ideal:.2f}",
            f"{median(heat.seconds for heat in mine):.2f}",
            f"{of_ideal:.0%}",
            str(max(heat.most_in_flight for heat in mine)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rankllm(given: argparse.Namespace) -> dict[str, float | str] | None:
    """What RankLLM takes for a sliding window, against a server of its own; None where it is not installed."""
    if find_spec("rank_llm") is None:
        return None
    with loopback(given.latency_ms) as base_url:
        size = ["--queries", str(given.peer_queries), "--top", str(given.top)]
        script = [sys.executable, "-P", str(Path(__file__).parent / "peers" / "rankllm.py")]
        told = subprocess.run(
            [*script, "--base-url", base_url, "--model", MODEL, *size],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=3600,
        )  # fmt: skip
        return {**json.loads(told.stdout.splitlines()[-1]), **count(base_url)}  # RankLLM prints, too


def beside(peer: dict[str, float | str], heats: list[Heat], queries: int) -> str:
    """RankLLM's seconds a list beside ours, in words."""
    ours = median(heat.seconds for heat in heats if heat.decoder == "sliding window 20/10") / queries
    theirs = float(peer["seconds"]) / float(peer["queries"])
    return (
        f"RankLLM {peer['version']}, windows of 20 by 10: {theirs:.2f} s a list over {peer['queries']} lists "
        f"({float(peer['served']) / float(peer['queries']):.1f} calls each, at most {peer['most_in_flight']:g} in "
        f"flight); ours {ours:.3f} s a list over {queries}: {theirs / ours:.0f} times as fast."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="How near each decoder comes to its ideal over an endpoint.")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--top", type=int, default=100, help="passages a query")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", help="names of decoders, with commas; all by default")
    parser.add_argument("--peer-queries", type=int, default=10, help="lists that RankLLM goes over; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="also write every run there")
    given = parser.parse_args()

    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    print(
        f"{given.queries} queries x top {given.top}, {given.in_flight} in flight, {given.latency_ms:g} ms; {machine}, "
        f"load {os.getloadavg()[0]:.1f} at the start.\n"
    )
    names = given.only.split(",") if given.only else list(DECODERS)
    if unknown := [name for name in names if name not in DECODERS]:
        parser.error(f"no decoder {unknown[0]!r}; there are: {', '.join(DECODERS)}")
    heats: list[Heat] = []
    for number in range(1, given.rounds + 1):
        for name in names:
            heats.append(rerank(name, number, given))
            print(f"round {number}, {name}: {heats[-1].ideal / heats[-1].seconds:.0%} of ideal", file=sys.stderr)
    print(table(heats, given.queries))
    peer = rankllm(given) if given.peer_queries and "sliding window 20/10" in names else None
    if peer is not None:
        print(f"\n{beside(peer, heats, given.queries)}")
    if given.json:
        told = {"machine": machine, "heats": [asdict(heat) for heat in heats], "rankllm": peer}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
