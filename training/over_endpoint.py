"""Reranking of first-stage candidates by a model behind an endpoint: what training.rerank does, over the engine.

    result = rerank_over(engine, job, watch)               # run.parquet, calls.parquet, result.json, as there

The engine brings its store, its budget and its pace: what was answered before costs nothing, a stop for want of money
keeps all that came, and the same job goes on from there. calls.parquet also has `cached_tokens` and `usd` of each call,
as they were billed; a question that a decoder asks twice is bought once, and its second row costs nothing. Seconds are
those of the HTTP request, whoever else was being answered meanwhile.

Prompts are those that a student of the recipe reads, cut by the same tokenizer. Deliberately absent: lists that are too
long; the endpoint refuses a call, which is counted and keeps the order shown.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from inference.engine import Asks
from inference.exchange import Exchange, Failure, Request
from inference.progress import Progress
from inference.running import run
from ranking.decoding.calls import Call, Reply
from ranking.decoding.desk import Desk, Ticket
from ranking.prompts import load_template
from training.endpoint import Answered, CallUnanswered, decode_over
from training.jobs import EndpointRerankJob, RerankResult, base_model, finished, publish, workspace
from training.rankers import call_prompt
from training.requests import Asking
from training.rerank import (
    CALL_SCHEMA,
    PROBE_SCHEMA,
    Query,
    probe_row,
    read_queries,
    run_rows,
    turned_round,
    worth_probing,
)

COSTS = {"cached_tokens": pl.Int64, "usd": pl.Float64}


@dataclass(frozen=True)
class Lists:
    """The queries of a job, and the prompts that their calls become."""

    job: EndpointRerankJob
    queries: Sequence[Query]
    tokenizer: Any

    def prompt(self, ticket: Ticket) -> list[dict[str, str]]:
        """The messages of a call, its texts cut to the recipe's budgets."""
        query = self.queries[ticket.query]
        passages = [query.passages[position] for position in ticket.call.positions]
        return call_prompt(self.job.recipe, self.tokenizer, query.text, passages)


def rerank_over(engine: Asks, job: EndpointRerankJob, watch: Callable[[Progress], None]) -> RerankResult:
    """Do the job, or return its stored result.

    Raises CallUnanswered, NoLogprobs, and what `Session.ask` of the engine raises; answers that came are stored.
    """
    if (done := finished(job)) is not None:
        return done
    started = time.time()
    from training.student import load_tokenizer, resolve

    tokenizer = load_tokenizer(resolve(base_model(job.recipe), job.base_cache))
    queries = read_queries(job.candidates)
    decoding = job.recipe.decoding
    lists = Lists(job, queries, tokenizer)
    asking = Asking(job.recipe, job.model.path, lists.prompt)
    desk = Desk([min(decoding.top, len(query.docids)) for query in queries], decoding.decoder())
    begun = time.time()
    answered = run(decode_over([engine], desk, asking.ask, asking.read, forgo=asking.forgo, on_progress=watch))
    seconds = time.time() - begun
    calls = call_rows(answered, asking, queries)
    final = {(query.domain, query.qid): made for query, made in zip(queries, desk.ranked, strict=True)}
    with workspace(job) as part:
        run_rows(queries, final).write_parquet(part / "run.parquet")
        calls.write_parquet(part / "calls.parquet")
        if job.probe_positions:
            run(_probed(engine, asking, answered, queries)).write_parquet(part / "probes.parquet")
        result = _result(job, queries, calls, answered, seconds, time.time() - started)
        publish(part, job, result)
    return result


def call_rows(answered: Sequence[Answered], asking: Asking, queries: Sequence[Query]) -> pl.DataFrame:
    """A row a call, query by query."""
    rows, paid = [], set[str]()
    for one in _in_order(answered):
        query, said = queries[one.ticket.query], one.exchange
        rows.append(
            {
                "domain": query.domain,
                "qid": query.qid,
                "round": one.ticket.round,
                "docids": [query.docids[position] for position in one.ticket.call.positions],
                "prompt_hash": hashlib.sha256(json.dumps(asking.prompt(one.ticket)).encode()).hexdigest(),
                "completion": "" if said is None else asking.told(said),
                "fault": None if one.reply.fault is None else str(one.reply.fault),
                "prompt_tokens": 0 if said is None else said.prompt_tokens,
                "completion_tokens": 0 if said is None else said.completion_tokens,
                "seconds": 0.0 if said is None else said.latency_s,
                "cached_tokens": 0 if said is None else said.cached_tokens,
                "usd": 0.0 if said is None or said.key in paid else said.usd,
            }
        )
        paid |= set() if said is None else {said.key}
    calls = pl.DataFrame(rows, schema={**CALL_SCHEMA, **COSTS})
    # An endpoint that never tells of any cannot be told from one that has none.
    told = pl.col("cached_tokens").sum() > 0
    return calls.with_columns(cached_tokens=pl.when(told).then("cached_tokens"))


def _in_order(answered: Sequence[Answered]) -> list[Answered]:
    """Query by query, as its decoder asked: they arrive as it happens."""
    return sorted(answered, key=lambda one: (one.ticket.query, one.ticket.round, one.ticket.place))


async def _probed(engine: Asks, asking: Asking, answered: Sequence[Answered], queries: Sequence[Query]) -> pl.DataFrame:
    """The last window of each query asked again, shown from its end (training.rerank)."""
    last: dict[int, tuple[Call, Reply]] = {
        one.ticket.query: (one.ticket.call, one.reply) for one in _in_order(answered)
    }
    tickets = {n: Ticket(n, 0, 0, turned_round(last[n][0])) for n in worth_probing(last)}
    requests = {f"turned {n}": n for n in tickets}

    def asked() -> list[Request]:
        return [replace(asking.ask(tickets[n]), id=name) for name, n in requests.items()]

    rows: dict[int, dict[str, Any]] = {}
    async for outcome in engine.ask(asked()):
        n = requests[outcome.request_id]
        turned = _reply_of(outcome, tickets[n], asking)
        rows[n] = probe_row(queries[n], *last[n], turned)
    return pl.DataFrame([rows[n] for n in sorted(rows)], schema=PROBE_SCHEMA)


def _reply_of(outcome: Exchange | Failure, ticket: Ticket, asking: Asking) -> Reply:
    if isinstance(outcome, Exchange):
        return asking.read(ticket, outcome)
    given_up = asking.forgo(ticket, outcome)
    if given_up is None:
        raise CallUnanswered(
            f"a window that was shown turned round was never answered ({outcome.kind}: {outcome.detail}). All answers "
            "are kept: ask again, and only the rest is asked."
        )
    return given_up


def _result(
    job: EndpointRerankJob,
    queries: Sequence[Query],
    calls: pl.DataFrame,
    answered: Sequence[Answered],
    decoding_s: float,
    whole_s: float,
) -> RerankResult:
    malformed = Counter(calls["fault"].drop_nulls().to_list())
    prompt, completed = int(calls["prompt_tokens"].sum()), int(calls["completion_tokens"].sum())
    served = {said.served_model: said.fingerprint for one in answered if (said := one.exchange) is not None}
    return RerankResult(
        stage=job.stage,
        job=job.sha256,
        recipe=job.recipe.name,
        recipe_sha256=job.recipe.sha256,
        release=job.release,
        model=job.model,
        seed=job.seed,
        seconds=whole_s,
        versions=served,
        hardware="not told",
        student=job.student,
        weights_sha256=job.model.sha256,
        template_sha256=load_template(job.recipe.contract.template).sha256,
        queries=len(queries),
        calls=calls.height,
        malformed=dict(malformed),
        malformed_rate=malformed.total() / max(1, calls.height),
        prompt_tokens=prompt,
        completion_tokens=completed,
        seconds_per_query=decoding_s / max(1, len(queries)),
        tokens_per_query=(prompt + completed) / max(1, len(queries)),
        rows_left_out=(),
        cached_tokens=int(cached.sum()) if (cached := calls["cached_tokens"].drop_nulls()).len() else None,
        usd=float(calls["usd"].sum()),
    )
