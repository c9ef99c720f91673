"""Reranking of first-stage candidates by a student (METHOD.md section 5), a process of its own.

    python -m training.rerank JOB.json [JOB.json ...]       # several students share the imports

Advances the decoders of all queries together, in batches that wait for no round's end, answers greedily, reads each
answer strictly; a malformed one is counted by kind and falls back to what can be recovered of its order. Each job
leaves run.parquet (domain, qid, docid, rank, score, value), calls.parquet (one row a model call) and result.json; with
`probe_positions` also probes.parquet, the last window of each query asked once more, turned round. A process that was
killed leaves its answers (training.kept_answers). Deliberately absent: metrics; scoring a run is `ranking.metrics`, and
whoever scores it reads the malformed rate beside it.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from ranking.aggregation import kendall_tau
from ranking.decoding.calls import Call, Ranked, Reply, Task
from ranking.decoding.desk import Desk, Ticket, decode_in_batches
from ranking.prompts import load_template
from training.curves import quiet
from training.faults import TrainingStopped, attempted, explained
from training.host import settle
from training.jobs import LeftOut, RerankJob, RerankResult, finished, publish, weights_sha256, workspace
from training.kept_answers import KeptAnswers
from training.rankers import Ranker, call_prompt, misfit, ranker_for
from training.ranks import best_device
from training.recipes import RecipeError
from training.reporting import Reporter, open_reporter
from training.student import StudentError

CANDIDATE_COLUMNS = ["domain", "qid", "query", "docid", "rank", "text"]
CALL_SCHEMA = pl.Schema(
    [
        ("domain", pl.String),
        ("qid", pl.String),
        ("round", pl.Int32),
        ("docids", pl.List(pl.String)),
        ("prompt_hash", pl.String),
        ("completion", pl.String),
        ("fault", pl.String),
        ("prompt_tokens", pl.Int32),
        ("completion_tokens", pl.Int32),
        ("seconds", pl.Float64),
    ]
)
# `shown` as the window was asked about, `ordered` what was made of it, `turned` what was made of it shown from its end.
PROBE_SCHEMA = pl.Schema(
    [
        ("domain", pl.String),
        ("qid", pl.String),
        ("shown", pl.List(pl.String)),
        ("ordered", pl.List(pl.String)),
        ("turned", pl.List(pl.String)),
        ("tau", pl.Float64),
        ("fault", pl.String),
    ]
)


class CandidatesError(ValueError):
    """A candidates file that cannot be reranked; the message names the file and the fault."""


# Errors that say what to do next: the way to them in the code says nothing more.
PLAIN = (CandidatesError, RecipeError, StudentError, TrainingStopped)


@dataclass(frozen=True)
class Query:
    """A query and its first-stage list, best first."""

    domain: str
    qid: str
    text: str
    docids: tuple[str, ...]
    passages: tuple[str, ...]


@dataclass
class Recorder:
    """Has calls answered, and keeps a row of every one."""

    job: RerankJob
    ranker: Ranker
    queries: Sequence[Query]
    reporter: Reporter
    calls: list[dict[str, Any]] = field(default_factory=list)
    faults: int = 0
    kept: KeptAnswers = field(init=False)
    last: dict[int, tuple[Call, Reply]] = field(default_factory=dict)
    asked_last: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = KeptAnswers(self.job.answers)

    def order(self, desk: Desk) -> None:
        """Have all of a desk's calls answered."""
        prompts: dict[Ticket, list[dict[str, str]]] = {}

        def weight(ticket: Ticket) -> int:
            prompts[ticket] = self._prompt_of(ticket.query, ticket.call)
            return sum(len(message["content"]) for message in prompts[ticket])

        def replies_to(tickets: list[Ticket]) -> list[Reply]:
            if self.calls:  # else there is nothing to tell of
                self._tell(desk)
            return self.replies(tickets, [prompts.pop(ticket) for ticket in tickets])

        decode_in_batches(desk, self.job.recipe.decoding.batch, weight, replies_to)
        self._tell(desk)
        self.calls.sort(key=itemgetter("domain", "qid", "round"))

    def _tell(self, desk: Desk) -> None:
        """How many lists are through, and what was answered for that."""
        figures = {"calls": float(len(self.calls)), "malformed_rate": self.faults / max(1, len(self.calls))}
        self.reporter.step(f"rerank {self.job.student}", desk.finished, len(self.queries), figures)

    def replies(self, tickets: Sequence[Ticket], prompts: Sequence[list[dict[str, str]]]) -> list[Reply]:
        """The replies to a batch of calls, each kept."""
        replies: dict[int, Reply] = {}
        for index, answer in self.kept.of(self.ranker, prompts, [ticket.call for ticket in tickets]):
            ticket = tickets[index]
            call, query = ticket.call, self.queries[ticket.query]
            replies[index] = answer.reply
            self.faults += answer.reply.fault is not None
            self.calls.append(
                {
                    "domain": query.domain,
                    "qid": query.qid,
                    "round": ticket.round,
                    "docids": [query.docids[position] for position in call.positions],
                    "prompt_hash": hashlib.sha256(json.dumps(prompts[index]).encode()).hexdigest(),
                    "completion": answer.text,
                    "fault": None if answer.reply.fault is None else str(answer.reply.fault),
                    "prompt_tokens": answer.prompt_tokens,
                    "completion_tokens": answer.completion_tokens,
                    "seconds": answer.seconds,
                }
            )
        for index, ticket in enumerate(tickets):  # as its decoder asked, whatever was answered first
            before = self.asked_last.get(ticket.query, (0, 0))
            if (ticket.round, ticket.place) >= before:
                self.asked_last[ticket.query] = ticket.round, ticket.place
                self.last[ticket.query] = ticket.call, replies[index]
        return [replies[index] for index in range(len(tickets))]

    def probe(self) -> pl.DataFrame:
        """The last window of each query asked again, shown from its end: rows of PROBE_SCHEMA.

        `fault` is that of either answer; such a pair has no tau. What orders nothing (a pick, a score) is not probed.
        """
        asked = worth_probing(self.last)
        calls = [turned_round(self.last[n][0]) for n in asked]
        prompts = [self._prompt_of(n, call) for n, call in zip(asked, calls, strict=True)]
        rows: dict[int, dict[str, Any]] = {}
        for index, answer in self.ranker.answer(prompts, calls):
            query, (call, reply) = self.queries[asked[index]], self.last[asked[index]]
            rows[index] = probe_row(query, call, reply, answer.reply)
            self.reporter.step(f"probe {self.job.student}", len(rows), len(asked), {})
        return pl.DataFrame([rows[index] for index in sorted(rows)], schema=PROBE_SCHEMA)

    def _prompt_of(self, number: int, call: Call) -> list[dict[str, str]]:
        query = self.queries[number]
        passages = [query.passages[position] for position in call.positions]
        return call_prompt(self.job.recipe, self.ranker.tokenizer, query.text, passages)


def worth_probing(last: Mapping[int, tuple[Call, Reply]]) -> list[int]:
    """Of the last calls by query, those that order something."""
    orders = (Task.ORDER, Task.FIRST_TOKEN)
    return [n for n, (call, _) in sorted(last.items()) if call.task in orders and len(call.positions) > 1]


def turned_round(call: Call) -> Call:
    """The same window, shown from its end."""
    return replace(call, positions=call.positions[::-1])


def probe_row(query: Query, call: Call, reply: Reply, turned: Reply) -> dict[str, Any]:
    """A row of PROBE_SCHEMA: what was made of a window as it was shown, and of the same turned round."""
    shown, ordered, other = (
        [query.docids[position] for position in order] for order in (call.positions, reply.order, turned.order)
    )
    fault = reply.fault or turned.fault
    return {
        "domain": query.domain,
        "qid": query.qid,
        "shown": shown,
        "ordered": ordered,
        "turned": other,
        "tau": None if fault else kendall_tau(ordered, other),
        "fault": None if fault is None else str(fault),
    }


def run(job: RerankJob, reporter: Reporter, started: float | None = None) -> RerankResult:
    """Do the job, or return its stored result."""
    if (done := finished(job)) is not None:
        reporter.note(f"rerank: nothing to do, {job.folder} is finished")
        return done
    started = time.time() if started is None else started
    from training.checkpoints import hardware, versions
    from training.student import load_student, load_tokenizer, resolve

    quiet()
    source = resolve(job.model, job.base_cache)
    student = load_student(source, dtype=job.recipe.model.inference_dtype)
    ranker = ranker_for(job.recipe, student, load_tokenizer(source))
    everything = read_queries(job.candidates)
    queries, left_out = fitting(everything, job, ranker)
    reporter.note(f"rerank {job.student}: {len(queries)} queries on {best_device()}, {len(left_out)} left out")
    decoding = job.recipe.decoding
    recorder = Recorder(job, ranker, queries, reporter)
    if recorder.kept:
        reporter.note(f"rerank {job.student}: {len(recorder.kept)} batches were answered before, by a killed process")
    counts = [min(decoding.top, len(query.docids)) for query in queries]
    begun = time.time()
    desk = Desk(counts, decoding.decoder())
    with explained(job, lambda: f"{desk.finished} of {len(queries)} lists", lambda: "What was answered is kept."):
        recorder.order(desk)
    seconds = time.time() - begun + recorder.kept.seconds
    final = {(query.domain, query.qid): made for query, made in zip(queries, desk.ranked, strict=True)}
    with workspace(job) as part:
        run_rows(everything, final).write_parquet(part / "run.parquet")
        pl.DataFrame(recorder.calls, schema=CALL_SCHEMA).write_parquet(part / "calls.parquet")
        if job.probe_positions:
            recorder.probe().write_parquet(part / "probes.parquet")
        malformed = Counter(call["fault"] for call in recorder.calls if call["fault"])
        prompt_tokens = sum(call["prompt_tokens"] for call in recorder.calls)
        completion_tokens = sum(call["completion_tokens"] for call in recorder.calls)
        result = RerankResult(
            stage=job.stage,
            job=job.sha256,
            recipe=job.recipe.name,
            recipe_sha256=job.recipe.sha256,
            release=job.release,
            model=job.model,
            seed=job.seed,
            seconds=time.time() - started,
            versions=versions(),
            hardware=hardware(job.recipe.model.inference_dtype),
            student=job.student,
            weights_sha256=weights_sha256(Path(source)) if Path(source).is_dir() else job.model.sha256,
            template_sha256=load_template(job.recipe.contract.template).sha256,
            queries=len(everything),
            calls=len(recorder.calls),
            malformed=dict(malformed),
            malformed_rate=malformed.total() / max(1, len(recorder.calls)),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds_per_query=seconds / max(1, len(queries)),
            tokens_per_query=(prompt_tokens + completion_tokens) / max(1, len(queries)),
            rows_left_out=tuple(left_out),
        )
        publish(part, job, result)
    recorder.kept.forget()
    return result


def read_queries(path: Path) -> list[Query]:
    """Queries with their candidates in first-stage order. Raises CandidatesError naming a missing column."""
    table = pl.read_parquet(path)
    missing = [column for column in CANDIDATE_COLUMNS if column not in table.columns]
    if missing:
        raise CandidatesError(f"{path}: no column {', '.join(missing)}; materialize candidates again")
    grouped = (
        table.select(CANDIDATE_COLUMNS)
        .sort("domain", "qid", "rank")
        .group_by("domain", "qid", maintain_order=True)
        .agg(pl.col("query").first(), "docid", "text")
    )
    return [
        Query(domain, qid, query, tuple(docids), tuple(texts))
        for domain, qid, query, docids, texts in grouped.iter_rows()
    ]


def fitting(queries: Sequence[Query], job: RerankJob, ranker: Ranker) -> tuple[list[Query], list[LeftOut]]:
    """Queries whose longest call fits into the model's context; the others keep the first stage's order, named."""
    kept, left_out = [], []
    for query in queries:
        if (reason := misfit(job.recipe, ranker, query.text, query.passages)) is None:
            kept.append(query)
        else:
            left_out.append(LeftOut(row_id=f"{query.domain}/{query.qid}", reason=reason))
    return kept, left_out


def run_rows(queries: Sequence[Query], ranked: Mapping[tuple[str, str], Ranked]) -> pl.DataFrame:
    """All candidates in their final order, scores strictly falling with rank; what was not reranked keeps its place.

    `value` is the score that the model gave, null where its decoder has none; what was not asked about has the lowest.
    """
    frames = []
    for query in queries:
        count = len(query.docids)
        made = ranked.get((query.domain, query.qid), Ranked(()))
        order = [*made.order, *range(len(made.order), count)]
        lowest = made.scores[-1] if made.scores else None
        frames.append(
            pl.DataFrame(
                {
                    "domain": [query.domain] * count,
                    "qid": [query.qid] * count,
                    "docid": [query.docids[position] for position in order],
                    "rank": range(1, count + 1),
                    "score": [float(count - place) for place in range(count)],
                    "value": [*(made.scores or ()), *[lowest] * (count - len(made.scores or ()))],
                },
                schema_overrides={"rank": pl.Int32, "value": pl.Float64},
            )
        )
    return pl.concat(frames)


def main(argv: Sequence[str]) -> int:
    """Run the job files named on the command line, one after the other; gives the status to exit with."""
    started = time.time()
    settle()
    with open_reporter() as reporter:
        for path in argv:
            job = RerankJob.model_validate_json(Path(path).read_bytes())
            if attempted(partial(run, job, reporter, started), job, reporter, PLAIN):
                return 1
            started = time.time()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
