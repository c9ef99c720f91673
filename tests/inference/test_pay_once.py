"""The store and its claims: kept through kill -9, shared by processes, and nothing paid twice."""

from __future__ import annotations

import asyncio
import math
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from asking import EngineFor, Make
from salt_water import DEAR

from inference.archive import records
from inference.budget import Budget
from inference.clerk import StoreUnusable
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Outcome, Request
from inference.prices import Cost
from inference.purchase import AHEAD
from inference.standin.faults import Faults
from inference.standin.server import Standin, running_standin
from inference.store import ExchangeStore, now

IN_FLIGHT = 8
ASKER = """
import sys
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine, ask_all
from inference.exchange import Outcome, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Prices
from inference.store import ExchangeStore

url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sampling = Sampling("stand-in-teacher", 0.0, 1.0, 400)
requests = [Request(str(i), ({"role": "user", "content": f"question {i}"},), sampling) for i in range(count)]
with ExchangeStore(path) as store:
    pace = PaceSettings(max_in_flight=8, backoff_base_s=0.01)
    engine = Engine(Endpoint(base_url=url, api_key="none"), store, Budget(), Prices.load(), pace)
    print(len(ask_all(engine, requests)))
"""


def asker(server: Standin, path: Path, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", ASKER, server.base_url, str(path), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_until(happened: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_killed_twice_in_the_middle_the_next_run_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    count, path = 120, tmp_path / "exchanges.sqlite"
    with running_standin(Faults(latency_s=0.03, rate_500=0.1)) as server:
        for answered in (20, 60):
            process = asker(server, path, count)
            wait_until(lambda answered=answered: server.counts["answered"] >= answered)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = asker(server, path, count)
        assert process.communicate(timeout=20)[0].strip() == str(count)
        assert count <= server.counts["answered"] <= count + 2 * IN_FLIGHT
    with sqlite3.connect(path) as con:
        assert con.execute("SELECT count(*), count(DISTINCT key) FROM exchanges").fetchone() == (count, count)
        kinds = dict(con.execute("SELECT kind, count(*) FROM spend GROUP BY kind").fetchall())
        assert con.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    assert kinds["answer"] == count
    assert kinds.get("presumed", 0) <= 2 * math.ceil((1 + AHEAD) * IN_FLIGHT)


def test_two_processes_that_ask_the_same_thing_at_once_buy_it_once(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with running_standin(Faults(latency_s=0.03)) as server:
        pair = [asker(server, path, 60) for _ in range(2)]
        assert [p.communicate(timeout=20)[0].strip() for p in pair] == ["60", "60"]
        assert server.counts["answered"] == 60


def test_processes_that_make_the_same_stores_at_once_all_succeed(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom inference.store import ExchangeStore\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        f"for i in range(40):\n    ExchangeStore(Path({str(tmp_path)!r}) / str(i)).close()\n"
    )
    pipe = subprocess.PIPE
    makers = [subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for maker in makers:
        assert maker.stdout is not None
        maker.stdout.readline()
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    assert [maker.wait(timeout=60) for maker in makers] == [0] * 4


def test_two_stores_on_one_file_buy_once(engine_for: EngineFor, some_requests: Make, tmp_path: Path) -> None:
    async def drain(engine: Engine) -> int:
        return len([o async for o in engine.ask(some_requests(40)) if isinstance(o, Exchange)])

    async def both(one: Engine, other: Engine) -> list[int]:
        return await asyncio.gather(drain(one), drain(other))

    with (
        running_standin(Faults(latency_s=0.05)) as server,
        ExchangeStore(tmp_path / "exchanges.sqlite") as second,
    ):
        assert asyncio.run(both(engine_for(server), engine_for(server, opened=second))) == [40, 40]
        assert server.counts["answered"] == 40


def claim_and_die(path: Path, request: Request, usd: float, tokens: int) -> None:
    """What a process leaves behind that is killed while its request is on its way."""
    program = (
        "import os\nfrom inference.budget import Budget\nfrom inference.exchange import Request, Sampling\n"
        "from inference.prices import Cost\nfrom inference.store import ExchangeStore\n"
        f"request = Request('x', {request.messages!r}, {request.sampling!r})\n"
        f"ExchangeStore({str(path)!r}).claim([(request, Cost({usd}, {tokens}))], Budget())\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_claim_of_a_dead_process_is_taken_over_and_counted_as_spent(
    some_requests: Make, store: ExchangeStore
) -> None:
    request = some_requests(1)[0]
    claim_and_die(store.path, request, 3.0, 30)
    assert store.reserved("all") == Cost(3.0, 30)
    claim = store.claim([(request, Cost(3.5, 35))], Budget(usd=7.0))[0]
    assert claim.status == "granted" and claim.spent == Cost(3.0, 30)
    assert store.reserved("all") == Cost(3.5, 35)


def test_a_dead_process_does_not_hold_a_budget_for_ever(some_requests: Make, store: ExchangeStore) -> None:
    mine, theirs = some_requests(2)
    claim_and_die(store.path, theirs, 3.0, 30)
    claim = store.claim([(mine, Cost(3.0, 30))], Budget(usd=5.0))[0]
    assert claim.status == "full" and claim.reserved.tokens == 0 and claim.spent.usd == 3.0


def test_a_claim_of_another_host_is_taken_over_when_its_lease_runs_out(
    some_requests: Make, store: ExchangeStore
) -> None:
    request = some_requests(1)[0]
    claim_and_die(store.path, request, 3.0, 30)
    with sqlite3.connect(store.path) as con:
        con.execute("UPDATE claims SET host = 'elsewhere'")
    assert store.claim([(request, Cost(1.0, 1))], Budget())[0].status == "busy"
    with sqlite3.connect(store.path) as con:
        con.execute("UPDATE claims SET expires_at = ?", (time.time() - 1,))
    assert store.claim([(request, Cost(1.0, 1))], Budget())[0].status == "granted"


def test_a_claim_is_refused_to_a_rival_until_it_is_given_up(some_requests: Make, store: ExchangeStore) -> None:
    request = some_requests(1)[0]
    assert store.claim([(request, Cost(1.0, 10))], Budget())[0].status == "granted"
    with ExchangeStore(store.path) as rival:
        assert rival.claim([(request, Cost(1.0, 10))], Budget())[0].status == "busy"
        rival.release([request.key], presumed=False)
        assert rival.claim([(request, Cost(1.0, 10))], Budget())[0].status == "busy"
        store.release([request.key], presumed=False)
        assert rival.claim([(request, Cost(1.0, 10))], Budget())[0].status == "granted"
    assert store.spent("all") == Cost(1.0, 10), "a store that closes on a claim counts it as spent"


def test_an_answer_bought_twice_is_paid_twice_and_the_first_one_stands(
    some_requests: Make, store: ExchangeStore
) -> None:
    request = some_requests(1)[0]
    one = Exchange(request.id, request.key, "m", "m", "first", "", "stop", 5, 5, 0, 2.0, 0.1, 1, now())
    other = Exchange(request.id, request.key, "m", "m", "second", "", "stop", 5, 5, 0, 2.0, 0.1, 1, now())
    assert store.put([(request, one)], "all")[0].content == "first"
    assert store.put([(request, other)], "all")[0].content == "first"
    assert store.spent("all") == Cost(4.0, 20)


@pytest.mark.parametrize("theirs", ["[2] > [1] > [4] > [3]", "something else"], ids=["good", "faulty"])
def test_what_another_process_bought_meanwhile_stands_and_is_repaired_where_it_is_faulty(
    theirs: str, engine_for: EngineFor, some_requests: Make, full_list: Callable[[Request, str], str | None]
) -> None:
    request = some_requests(1)[0]

    async def run(engine: Engine, rival: ExchangeStore) -> Outcome:
        async with aclosing(engine.ask([request], full_list)) as outcomes:
            waiting = asyncio.ensure_future(anext(outcomes))
            while not await asyncio.to_thread(lambda: rival.reserved("all").tokens):
                await asyncio.sleep(0.01)
            said = Exchange("theirs", request.key, "m", "m", theirs, "", "stop", 5, 5, 0, 2.0, 0.1, 1, now())
            await asyncio.to_thread(rival.put, [(request, said)], "all")
            return await waiting

    with running_standin(Faults(latency_s=0.5)) as server:
        engine = engine_for(server)
        with ExchangeStore(engine.store.path) as rival:
            outcome = asyncio.run(asyncio.wait_for(run(engine, rival), 20))
        assert isinstance(outcome, Exchange) and (outcome.request_id, outcome.fault) == (request.id, None)
        if full_list(request, theirs) is None:
            assert outcome.content == theirs and server.counts["answered"] == 1
        else:
            assert outcome.repair_of == request.key and server.counts["answered"] == 2


def test_an_answer_is_on_disk_before_it_is_handed_out(
    engine_for: EngineFor, some_requests: Make, store: ExchangeStore
) -> None:
    async def run(engine: Engine) -> None:
        async for outcome in engine.ask(some_requests(30)):
            with sqlite3.connect(store.path) as con:
                found = con.execute("SELECT 1 FROM exchanges WHERE key = ?", (outcome.key,)).fetchone()
            assert found == (1,)

    with running_standin() as server:
        asyncio.run(run(engine_for(server)))


def test_what_was_spent_outlives_the_process(engine_for: EngineFor, some_requests: Make, store: ExchangeStore) -> None:
    with running_standin() as server:
        outcomes = ask_all(engine_for(server, prices=DEAR), some_requests(3))
    store.close()
    with ExchangeStore(store.path) as opened:
        assert opened.spent("all").usd == sum(o.usd for o in outcomes if isinstance(o, Exchange)) > 0
        assert len(list(records(opened, (o.key for o in outcomes)))) == 3


def test_a_file_that_is_no_store_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    path.write_text("not a database, but at least a hundred bytes long, so that sqlite reads its header. " * 3)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"exchanges.sqlite cannot be opened: .*not a database"):
        ExchangeStore(path)
    assert path.read_bytes() == before


def test_a_store_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "exchanges.sqlite"
    with sqlite3.connect(path) as con:
        con.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnusable, match="has schema 99, this program reads 2"):
        ExchangeStore(path)


def test_a_closed_store_says_so(store: ExchangeStore) -> None:
    store.close()
    with pytest.raises(StoreUnusable, match="is closed; open it again"):
        store.spent("all")
