"""What was paid for: out of the exchange store into the lake's `exchanges`, and back where a store was lost.

    calls = keep(lake, home.store, "teacher_rankings math", questions, "math")
    with every_call_kept(lake, store, "reranking"): ...          # whatever is bought in the block
    lost = bring_back(lake, path)                                # before anything is asked
    rebuild_store(lake, path)                                    # the same, whatever is lost

`exchanges` only grows: whatever the store holds and the lake does not is added, whoever asked for it, in a commit of
its own. So an answer to a question that has changed since stays, and so do those of a campaign that its budget stopped.
Which of them are behind the questions of today is the campaign's own to say (`campaign_exchanges`, written with what it
has made). What was spent without an answer comes along (`charges`), so that a rebuilt store has spent what the old one
had. What the lake holds and a store has lost (its file was removed, or is an older one) would be bought a second time,
past the budget, and the lake would go on showing the first answers: so it comes back before a campaign begins.
Deliberately absent: anything that asks.
"""

import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from flows.questions import Question, asked_for
from flows.standing import CHUNK
from inference.archive import Charge, Record, charges, faults, generations, keys, records, restore, restore_charges
from inference.budget import Budget
from inference.clerk import StoreUnusable
from inference.exchange import Exchange, Request
from inference.store import COLUMNS, ExchangeStore
from warehouse.catalog import LakeError
from warehouse.lake import Append, CommitMessage, Lake, Stream, Write
from warehouse.production import CODE_VERSION

EXCHANGE_SCHEMA = {
    "domain": pl.String, "purpose": pl.String, "key": pl.String, "request_id": pl.String, "model": pl.String,
    "served_model": pl.String, "messages": pl.String, "sampling": pl.String, "generation": pl.Int64,
    "content": pl.String, "reasoning": pl.String, "finish_reason": pl.String, "fault": pl.String,
    "prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "cached_tokens": pl.Int64, "usd": pl.Float64,
    "latency_s": pl.Float64, "attempts": pl.Int64, "created_at": pl.String, "prompt_sha256": pl.String,
    "repair_of": pl.String, "fingerprint": pl.String, "logprobs": pl.String,
}  # fmt: skip
CALL_SCHEMA = {
    "purpose": pl.String, "request_id": pl.String, "key": pl.String, "fault": pl.String, "prompt_sha256": pl.String,
}  # fmt: skip
CHARGE_SCHEMA = {"created_at": pl.String, "key": pl.String, "kind": pl.String, "usd": pl.Float64, "tokens": pl.Int64}
PIECE = 1000
SCOPE = Budget().scope


def keep(lake: Lake, path: Path, name: str, asked: Sequence[Question] = (), domain: str = "") -> pl.DataFrame:
    """Bring into the lake what the store at `path` has come to hold; gives purpose and key of the calls behind `asked`.

    Those rows name their question and prompt; the others what their request's id tells. Raises StoreUnusable and
    LakeError.
    """
    with _alone(path), ExchangeStore(path) as store:
        mine = calls_behind(store, asked)
        as_known = ["purpose", "key", "fault", "prompt_sha256"]
        # A check that has changed finds other faults in the same answers.
        new = mine.join(lake.read("exchanges", {"domain": domain}, as_known), on=as_known, how="anti", nulls_equal=True)
        others = keys(store).difference(mine["key"], lake.read("exchanges", columns=["key"])["key"])
        spent = pl.DataFrame(charges(store, SCOPE), schema=CHARGE_SCHEMA, orient="row")
        spent = spent.join(lake.read("charges"), on=["created_at", "key", "kind"], how="anti")
        writes: list[Write] = []
        if new.height:
            where = {"domain": domain, "key": new["key"].to_list()}
            writes.append(Stream("exchanges", lambda: exchange_rows(store, new, domain), where))
        if others:
            writes.append(Stream("exchanges", lambda: _others(store, others)))
        if spent.height:
            writes.append(Append("charges", spent))
        if writes:
            lake.commit(writes, CommitMessage("exchanges", name, CODE_VERSION))
    return mine.select("purpose", "key")


@contextmanager
def every_call_kept(lake: Lake, path: Path, name: str) -> Iterator[None]:
    """What was lost comes back; what is bought in the block comes into the lake, also where an error ends it."""
    bring_back(lake, path)
    with kept_at_an_error(lake, path, name):
        yield
    keep(lake, path, name)


@contextmanager
def kept_at_an_error(
    lake: Lake, path: Path, name: str, asked: Sequence[Question] = (), domain: str = ""
) -> Iterator[None]:
    """What was bought in the block until an error ended it comes into the lake."""
    try:
        yield
    except Exception:
        # What ended it is what a person must hear; the next run keeps what could not be kept now.
        with suppress(StoreUnusable, LakeError):
            keep(lake, path, name, asked, domain)
        raise


def calls_behind(store: ExchangeStore, asked: Sequence[Question]) -> pl.DataFrame:
    """The stored calls behind questions (CALL_SCHEMA): every generation that was paid, repairs included."""
    by_key = {request.key: question for question, request in _all_generations(store, asked)}
    rows = []
    for key, repair_of, fault in faults(store, by_key):
        question = by_key.get(key) or by_key[repair_of or ""]
        rows.append((question.purpose, question.id, key, fault, question.template.sha256))
    calls = pl.DataFrame(rows, schema=CALL_SCHEMA, orient="row")
    return calls.unique("key", maintain_order=True).sort("purpose", "request_id", "key")


def exchange_rows(store: ExchangeStore, calls: pl.DataFrame, domain: str) -> Iterator[pl.DataFrame]:
    """The lake's rows of `calls` (CALL_SCHEMA), in their order, a piece at a time."""
    for piece in calls.iter_slices(PIECE):
        found = {record.exchange.key: record for record in records(store, piece["key"])}
        known = piece.select("purpose", "request_id", "prompt_sha256", "key").iter_rows()
        rows = [_row(found[key], domain, purpose, asked, prompt) for purpose, asked, prompt, key in known]
        yield pl.DataFrame(rows, schema=EXCHANGE_SCHEMA)


def bring_back(lake: Lake, path: Path) -> int:
    """Put exchanges of the lake into a store that has lost some; gives how many it had lost."""
    known = set(lake.read("exchanges", columns=["key"])["key"])
    if not known:
        return 0
    with ExchangeStore(path) as store:
        lost = len(known.difference(keys(store)))
    return rebuild_store(lake, path)[1] if lost else 0


def rebuild_store(lake: Lake, path: Path) -> tuple[int, int]:
    """Put the lake's exchanges and charges into the store at `path`; gives how many exchanges, and how many were new.

    What was spent is then what had been spent when they came into the lake.
    """
    known = 0

    def stored() -> Iterator[Record]:
        nonlocal known
        # An exchange that two domains hold stands in one piece: it was bought at one moment.
        for piece in lake.pieces("exchanges", "created_at", PIECE):
            rows = piece.unique("key", maintain_order=True).sort("created_at", "key")
            known += rows.height
            for row in rows.iter_rows(named=True):
                exchange = Exchange(**{name: row[name] for name in COLUMNS})
                yield Record(exchange, tuple(json.loads(row["messages"])), json.loads(row["sampling"]))

    with ExchangeStore(path) as store:
        new = restore(store, stored(), SCOPE)
        restore_charges(store, (Charge(*row) for row in lake.read("charges").select(*CHARGE_SCHEMA).iter_rows()), SCOPE)
        return known, new


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Nobody else brings the same store's rows meanwhile: two would find the same ones missing, and add them twice."""
    with path.with_suffix(".keeping").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _others(store: ExchangeStore, wanted: set[str]) -> Iterator[pl.DataFrame]:
    """Rows of exchanges that no question at hand is behind, a piece at a time."""
    ordered = sorted(wanted)
    for first in range(0, len(ordered), PIECE):
        piece = set(ordered[first : first + PIECE])
        found = [record for record in records(store, piece) if record.exchange.key in piece]
        rows = [_row(each, *asked_for(each.exchange.request_id), each.exchange.request_id, None) for each in found]
        yield pl.DataFrame(rows, schema=EXCHANGE_SCHEMA)


def _row(record: Record, domain: str, purpose: str, request_id: str, prompt_sha256: str | None) -> dict[str, Any]:
    return {
        **{name: value for name, value in asdict(record.exchange).items() if name in EXCHANGE_SCHEMA},
        "domain": domain,
        "purpose": purpose,
        "request_id": request_id,
        "messages": json.dumps(record.messages, ensure_ascii=False),
        "sampling": json.dumps(record.sampling),
        "prompt_sha256": prompt_sha256,
    }


def _all_generations(store: ExchangeStore, asked: Sequence[Question]) -> Iterable[tuple[Question, Request]]:
    for first in range(0, len(asked), CHUNK):
        chunk = asked[first : first + CHUNK]
        requests = [question.request for question in chunk]
        for question, request, last in zip(chunk, requests, generations(store, requests), strict=True):
            for generation in range(last + 1):
                yield question, request.in_generation(generation)
