"""What the teacher is asked and what its answers mean: the pure half of a label campaign.

    asked = mining_questions(pools, settings, sampling)           # two questions a window of a query's pool
    outcomes = campaign.label(asked, ...)                         # the paid half, flows/campaign.py
    mined = read_mining(asked, outcomes)                          # judgements, and a rejection for each bad answer

A mining question shows the gold answer, a ranking question never does (METHOD section 1). Positions in questions are
those of the docids beside them; nothing here knows HTTP, money, Dagster or Prefect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from inference.exchange import Exchange, Failure, Request, Sampling
from ranking.lists import assemble_list
from ranking.parsing import describe_ids_fault, describe_list_fault, parse_ids, parse_ranking
from ranking.prompts import PromptTemplate, load_template
from warehouse.lake import canonical_sha256
from warehouse.ledger import REJECTION_SCHEMA, rejected

Purpose = Literal["mine_positives", "mine_hard_negatives", "rank_teacher"]
JudgedBy = Literal["mined", "human", "both"]
JUDGED_BY_PEOPLE = ("web_search", "ms_marco", "reasonrank")  # as in the paper: no mining where people have judged
MINING: tuple[Purpose, ...] = ("mine_positives", "mine_hard_negatives")
JUDGEMENT_SCHEMA: dict[str, Any] = {
    "domain": pl.String, "qid": pl.String, "docid": pl.String, "grade": pl.Int64, "origin": pl.String,
    "role": pl.String, "judge": pl.String, "exchange_key": pl.String, "prompt_sha256": pl.String,
}  # fmt: skip
RANKING_SCHEMA: dict[str, Any] = {
    "domain": pl.String, "ranking_id": pl.String, "qid": pl.String, "initial_list": pl.List(pl.String),
    "final_list": pl.List(pl.String), "relevant_docids": pl.List(pl.String), "reasoning": pl.String,
    "judged_by": pl.String, "list_seed": pl.Int64, "judge": pl.String, "exchange_key": pl.String,
    "prompt_sha256": pl.String,
}  # fmt: skip


class LabelSettings(BaseModel):
    """How training lists are mined and put together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mining_depth: int = Field(40, ge=1, description="Candidates of a query that the teacher is shown when mining.")
    mining_window: int = Field(20, ge=2, le=50, description="Passages in one mining question.")
    list_size: int = Field(20, ge=2, le=20, description="Most passages of a training list.")
    judgements: dict[str, JudgedBy] = Field(
        {},
        description="Whose judgements count in a domain: mined, human, or both (people first, the teacher where they "
        "are silent). Not named: human for web_search, ms_marco and reasonrank, mined elsewhere.",
    )
    passage_characters: int = Field(4000, ge=50, description="A passage is cut to this length in a teacher's prompt.")
    seed: int = Field(0, description="Seed of the lists' order.")

    def judged_by(self, domain: str) -> JudgedBy:
        """Whose judgements count in `domain`."""
        return self.judgements.get(domain, "human" if domain in JUDGED_BY_PEOPLE else "mined")


@dataclass(frozen=True)
class Question:
    """One request to the teacher and what its numbers stand for: [i] in the prompt is docids[i - 1]."""

    request: Request
    purpose: Purpose
    qid: str
    docids: tuple[str, ...]
    template: PromptTemplate
    relevant: tuple[str, ...] = ()
    list_seed: int = 0

    def fault_of(self, content: str) -> str | None:
        """What is wrong with an answer to this question, in words for the repair turn; None when it is right."""
        describe = describe_list_fault if self.purpose == "rank_teacher" else describe_ids_fault
        return describe(content, len(self.docids))


@dataclass(frozen=True)
class Pool:
    """A query and the passages that the teacher may judge, best first; `texts` is what a model reads of each."""

    domain: str
    qid: str
    query: str
    gold_answer: str | None
    docids: tuple[str, ...]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """Rows made from answers, and a rejection (stage, key, reason, detail) for every question without one."""

    rows: pl.DataFrame
    rejections: pl.DataFrame


def pools_of(
    queries: pl.DataFrame,
    candidates: pl.DataFrame,
    judgements: pl.DataFrame,
    texts: Mapping[str, str],
    depth: int,
) -> list[Pool]:
    """One pool a query: its first `depth` candidates, then the passages that people judged for it.

    People's passages stand in for the pages that an answer links to, which the paper shows the teacher beside what was
    retrieved. A query's excluded_docids are in no pool.
    """
    ranked = dict(
        candidates.filter(pl.col("rank") <= depth).sort("qid", "rank").group_by("qid", maintain_order=True)
        .agg("docid").iter_rows()
    )  # fmt: skip
    judged = dict(judgements.sort("qid", "docid").group_by("qid", maintain_order=True).agg("docid").iter_rows())
    pools = []
    for row in queries.sort("qid").iter_rows(named=True):
        barred = set(row["excluded_docids"] or [])
        found = dict.fromkeys([*ranked.get(row["qid"], []), *judged.get(row["qid"], [])])
        docids = tuple(docid for docid in found if docid not in barred and docid in texts)
        pools.append(Pool(row["domain"], row["qid"], row["text"], row["gold_answer"], docids, texts))
    return pools


def mining_questions(pools: Sequence[Pool], settings: LabelSettings, sampling: Sampling) -> list[Question]:
    """Two questions (positives, hard negatives) for each window of a pool whose query has a gold answer."""
    questions = []
    for pool in pools:
        if not pool.gold_answer:
            continue
        for start in range(0, len(pool.docids), settings.mining_window):
            docids = pool.docids[start : start + settings.mining_window]
            for purpose in MINING:
                questions.append(_question(pool, purpose, docids, settings, sampling, start, pool.gold_answer))
    return questions


def read_mining(
    questions: Sequence[Question], outcomes: Sequence[Exchange | Failure], domain: str, stage: str
) -> Labels:
    """Teacher judgements from mining answers: grade 1 positives, grade 0 hard negatives.

    A passage picked for both is kept as a positive, and the contradiction is recorded.
    """
    asked = {question.request.id: question for question in questions}
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


def ranking_questions(
    pools: Sequence[Pool],
    teacher: pl.DataFrame,
    human: pl.DataFrame,
    judged_by: JudgedBy,
    settings: LabelSettings,
    sampling: Sampling,
    stage: str,
) -> tuple[list[Question], pl.DataFrame]:
    """One question a query, over a list with relevant and other passages; and rejections of queries without one.

    Rejections of stage `stage` are queries; those of stage "passage" are copies left out of a list.
    """
    questions, queries_left, copies_left = [], [], []
    verdicts = resolve_judgements(teacher, human, judged_by)
    by_query: dict[str, dict[str, int]] = {}
    for qid, docid, grade in verdicts.select("qid", "docid", "grade").iter_rows():
        by_query.setdefault(qid, {})[docid] = grade
    for pool in pools:
        grades = {docid: by_query.get(pool.qid, {}).get(docid) for docid in pool.docids}
        positives = sorted((d for d, g in grades.items() if g), key=lambda docid: -(grades[docid] or 0))
        hard = [docid for docid, grade in grades.items() if grade == 0]
        chosen = assemble_list(pool.qid, positives, hard, pool.docids, pool.texts, settings.list_size, settings.seed)
        copies_left += [
            (f"{pool.qid}/{docid}", "duplicate_passage", f"near copy of {twin}, a passage of the same query")
            for docid, twin in chosen.duplicates
        ]
        if judged_by == "mined" and not pool.gold_answer:
            queries_left.append((pool.qid, "no_gold_answer", "mining needs a gold answer to show"))
        elif not chosen.relevant:
            queries_left.append((pool.qid, "no_positive", f"no passage of its pool of {len(pool.docids)} is relevant"))
        elif len(chosen.relevant) == len(chosen.docids):
            queries_left.append((pool.qid, "no_negative", f"all {len(chosen.docids)} passages are relevant"))
        else:
            question = _question(pool, "rank_teacher", chosen.docids, settings, sampling, 0, None)
            questions.append(
                Question(
                    question.request, "rank_teacher", pool.qid, chosen.docids, question.template, chosen.relevant,
                    chosen.seed,
                )
            )  # fmt: skip
    return questions, pl.concat([rejected(stage, queries_left), rejected("passage", copies_left)])


def read_rankings(
    questions: Sequence[Question],
    outcomes: Sequence[Exchange | Failure],
    domain: str,
    judged_by: JudgedBy,
    stage: str,
) -> Labels:
    """Teacher rankings from ranking answers; the chain is what came as reasoning beside the answer."""
    asked = {question.request.id: question for question in questions}
    rows, refused = [], []
    for outcome in outcomes:
        question = asked[outcome.request_id]
        if (rejection := _rejection(outcome)) is not None:
            refused.append((question.qid, *rejection[1:]))
            continue
        assert isinstance(outcome, Exchange)
        order = parse_ranking(outcome.content, len(question.docids)).order
        assert order is not None  # the engine's check has passed it
        if not outcome.reasoning.strip():
            refused.append((question.qid, "empty_chain", f"exchange {outcome.key[:12]} brought no reasoning"))
            continue
        identity = [domain, question.qid, list(question.docids), outcome.key]
        rows.append(
            (
                domain, canonical_sha256(identity)[:24], question.qid, list(question.docids),
                [question.docids[position] for position in order], list(question.relevant), outcome.reasoning,
                judged_by, question.list_seed, outcome.served_model, outcome.key, question.template.sha256,
            )
        )  # fmt: skip
    frame = pl.DataFrame(rows, schema=RANKING_SCHEMA, orient="row").sort("qid")
    return Labels(frame, rejected(stage, refused).select(list(REJECTION_SCHEMA)))


def resolve_judgements(teacher: pl.DataFrame, human: pl.DataFrame, judged_by: JudgedBy) -> pl.DataFrame:
    """The judgements that count (qid, docid, grade): the teacher's, people's, or people's and else the teacher's."""
    columns = ["qid", "docid", "grade"]
    if judged_by == "mined":
        return teacher.select(columns)
    if judged_by == "human":
        return human.select(columns)
    return pl.concat([human.select(columns), teacher.join(human, on=["qid", "docid"], how="anti").select(columns)])


def _question(
    pool: Pool,
    purpose: Purpose,
    docids: tuple[str, ...],
    settings: LabelSettings,
    sampling: Sampling,
    start: int,
    answer: str | None,
) -> Question:
    template = load_template(purpose)
    passages = [pool.texts[docid][: settings.passage_characters] for docid in docids]
    messages = tuple(template.messages(pool.query, passages, answer))
    request = Request(f"{pool.domain}/{pool.qid}/{purpose}/{start}", messages, sampling)
    return Question(request, purpose, pool.qid, docids, template)


def _rejection(outcome: Exchange | Failure) -> tuple[str, str, str] | None:
    if isinstance(outcome, Failure):
        return outcome.request_id, f"unanswered:{outcome.kind}", outcome.detail
    if outcome.fault is not None:
        return outcome.request_id, "malformed_answer", f"{outcome.fault}; exchange {outcome.key[:12]}"
    return None
