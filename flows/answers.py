"""What the teacher's answers mean: judgements from mining answers, rankings from ranking answers.

A question without a usable answer leaves a rejection. Several rankings of one list become one by aggregation; its chain
is that of the sample closest to the aggregate, and its initial list is as that sample was shown, since the chain quotes
those numbers. Absent on purpose: asking (campaign.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from flows.questions import MINING, Aggregation, JudgedBy, Purpose, Question
from inference.exchange import Exchange, Failure
from ranking.aggregation import aggregate, closest, kendalls_w
from ranking.parsing import parse_ids, parse_ranking
from ranking.prompts import load_template
from warehouse.lake import canonical_sha256
from warehouse.ledger import REJECTION_SCHEMA, rejected

JUDGEMENT_SCHEMA: dict[str, Any] = {
    "domain": pl.String, "qid": pl.String, "docid": pl.String, "grade": pl.Int64, "origin": pl.String,
    "role": pl.String, "judge": pl.String, "exchange_key": pl.String, "prompt_sha256": pl.String,
}  # fmt: skip
RANKING_SCHEMA: dict[str, Any] = {
    "domain": pl.String, "ranking_id": pl.String, "qid": pl.String, "initial_list": pl.List(pl.String),
    "final_list": pl.List(pl.String), "relevant_docids": pl.List(pl.String), "reasoning": pl.String,
    "judged_by": pl.String, "list_seed": pl.Int64, "judge": pl.String, "exchange_key": pl.String,
    "prompt_sha256": pl.String, "agreement": pl.Float64,
}  # fmt: skip
SAMPLE_SCHEMA: dict[str, Any] = {
    "domain": pl.String, "ranking_id": pl.String, "qid": pl.String, "exchange_key": pl.String,
    "initial_list": pl.List(pl.String), "final_list": pl.List(pl.String),
}  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """Rows made from answers, and a rejection (stage, key, reason, detail) for every question without one."""

    rows: pl.DataFrame
    rejections: pl.DataFrame


def read_mining(
    questions: Sequence[Question], outcomes: Sequence[Exchange | Failure], domain: str, stage: str
) -> Labels:
    """Teacher judgements from mining answers: grade 1 positives, grade 0 hard negatives.

    A passage picked for both is kept as a positive, and the contradiction is recorded.
    """
    asked = {question.id: question for question in questions}
    picked: dict[Purpose, dict[tuple[str, str], Exchange]] = {purpose: {} for purpose in MINING}
    refused = []
    for outcome in outcomes:
        question = asked[outcome.request_id]
        if (rejection := _rejection(outcome)) is not None:
            refused.append(rejection)
            continue
        assert isinstance(outcome, Exchange)
        for position in parse_ids(outcome.content, len(question.docids)) or ():
            picked[question.purpose][question.qid, question.docids[position]] = outcome
    both = sorted(picked["mine_positives"].keys() & picked["mine_hard_negatives"].keys())
    rows = [
        (domain, qid, docid, grade, "teacher", role, exchange.served_model, exchange.key, prompt)
        for purpose, grade, role in zip(MINING, (1, 0), ("positive", "hard_negative"), strict=True)
        for prompt in [load_template(purpose).sha256]
        for (qid, docid), exchange in sorted(picked[purpose].items())
        if role == "positive" or (qid, docid) not in picked["mine_positives"]
    ]
    contradictions = [
        (f"{qid}/{docid}", "contradiction", "picked as positive and as hard negative") for qid, docid in both
    ]
    return Labels(
        pl.DataFrame(rows, schema=JUDGEMENT_SCHEMA, orient="row"),
        pl.concat([rejected(stage, refused), rejected("judgement", contradictions)]),
    )


@dataclass(frozen=True)
class Rankings:
    """Rows of RANKING_SCHEMA, of SAMPLE_SCHEMA for the samples behind them, and rejections of what gave none."""

    rows: pl.DataFrame
    samples: pl.DataFrame
    rejections: pl.DataFrame


@dataclass(frozen=True)
class _Sample:
    """One usable ranking of a list."""

    question: Question
    exchange: Exchange
    order: tuple[str, ...]


def read_rankings(
    questions: Sequence[Question],
    outcomes: Sequence[Exchange | Failure],
    domain: str,
    judged_by: JudgedBy,
    stage: str,
    aggregation: Aggregation = "rrf",
) -> Rankings:
    """One teacher ranking a query, from all of its samples that can be used; the chain came as reasoning beside it.

    `agreement` is Kendall's W over the samples, null where there is one only. A sample that cannot be used is a
    rejection of stage "sample"; a query left without any is one of stage `stage`.
    """
    asked = {question.id: question for question in questions}
    usable: dict[str, list[_Sample]] = {question.qid: [] for question in questions}
    refused: dict[str, list[tuple[str, str, str]]] = {qid: [] for qid in usable}
    for outcome in outcomes:
        question = asked[outcome.request_id]
        if (rejection := _rejection(outcome)) is not None:
            refused[question.qid].append(rejection)
            continue
        assert isinstance(outcome, Exchange)
        order = parse_ranking(outcome.content, len(question.docids)).order
        assert order is not None  # the engine's check has passed it
        if not outcome.reasoning.strip():
            detail = f"exchange {outcome.key[:12]} brought no reasoning"
            refused[question.qid].append((outcome.request_id, "empty_chain", detail))
            continue
        usable[question.qid].append(_Sample(question, outcome, tuple(question.docids[place] for place in order)))
    rows, kept = [], []
    for samples in usable.values():
        if samples:
            rows.append(_ranking(domain, samples, judged_by, aggregation))
            kept += [
                (domain, rows[-1][1], s.question.qid, s.exchange.key, list(s.question.docids), list(s.order))
                for s in samples
            ]
    queries_left = [(qid, *refused[qid][0][1:]) for qid, samples in usable.items() if not samples]
    samples_left = [rejection for qid, samples in usable.items() if samples for rejection in refused[qid]]
    frame = pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row").sort("qid")
    dropped = pl.concat([rejected(stage, queries_left), rejected("sample", samples_left)])
    seen = pl.DataFrame(kept, schema=SAMPLE_SCHEMA, orient="row").sort("qid", maintain_order=True)
    return Rankings(frame, seen, dropped.select(list(REJECTION_SCHEMA)))


def _ranking(domain: str, samples: Sequence[_Sample], judged_by: JudgedBy, aggregation: Aggregation) -> tuple[Any, ...]:
    """The row of RANKING_SCHEMA that a query's samples make together."""
    orders = [sample.order for sample in samples]
    final = aggregate(orders, aggregation)
    told = samples[closest(orders, final)]
    question, exchange = told.question, told.exchange
    keys = [sample.exchange.key for sample in samples]
    identity = [domain, question.qid, list(question.docids), exchange.key, *(keys if len(keys) > 1 else [])]
    return (
        domain, canonical_sha256(identity)[:24], question.qid, list(question.docids), list(final),
        list(question.relevant), exchange.reasoning, judged_by, question.list_seed, exchange.served_model,
        exchange.key, question.template.sha256, kendalls_w(orders) if len(orders) > 1 else None,
    )  # fmt: skip


def _rejection(outcome: Exchange | Failure) -> tuple[str, str, str] | None:
    if isinstance(outcome, Failure):
        return outcome.request_id, f"unanswered:{outcome.kind}", outcome.detail
    if outcome.fault is not None:
        return outcome.request_id, "malformed_answer", f"{outcome.fault}; exchange {outcome.key[:12]}"
    return None
