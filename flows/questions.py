"""What the teacher is asked: the questions of a label campaign, from rows of the lake.

    asked = mining_questions(pools, settings, sampling)           # two questions a window of a query's pool
    outcomes = campaign.label("mine", asked, ...).outcomes        # the paid half
    mined = answers.read_mining(asked, outcomes, ...)             # judgements, and a rejection for each bad answer

A mining question shows the gold answer, a ranking question never does (METHOD section 1). Positions in questions are
those of the docids beside them; nothing here knows HTTP, money, Dagster or Prefect.

A question makes its request whenever somebody asks for it: the prompts of a domain are many times its texts, and nobody
has to hold more of them than are on their way.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from inference.exchange import Request, Sampling
from ranking.lists import TrainingList, assemble_list, seed_of
from ranking.parsing import describe_ids_fault, describe_list_fault
from ranking.prompts import PromptTemplate, load_template
from warehouse.ledger import rejected

Purpose = Literal["mine_positives", "mine_hard_negatives", "rank_teacher"]
JudgedBy = Literal["mined", "human", "both"]
Aggregation = Literal["rrf", "borda"]
JUDGED_BY_PEOPLE = ("web_search", "ms_marco", "reasonrank")  # as in the paper: no mining where people have judged
MINING: tuple[Purpose, ...] = ("mine_positives", "mine_hard_negatives")


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
    samples: int = Field(
        1, ge=1, le=16, description="Rankings of each list, shown in different orders and aggregated into one."
    )
    aggregation: Aggregation = Field("rrf", description="How several rankings of a list become one.")
    passage_characters: int = Field(4000, ge=50, description="A passage is cut to this length in a teacher's prompt.")
    seed: int = Field(0, description="Seed of the lists' order.")

    def judged_by(self, domain: str) -> JudgedBy:
        """Whose judgements count in `domain`."""
        return self.judgements.get(domain, "human" if domain in JUDGED_BY_PEOPLE else "mined")


@dataclass(frozen=True)
class Question:
    """One request to the teacher and what its numbers stand for: [i] in the prompt is docids[i - 1].

    `id` is the request's, and `make` makes it.
    """

    id: str
    purpose: Purpose
    qid: str
    docids: tuple[str, ...]
    template: PromptTemplate
    make: Callable[[], Request] = field(repr=False, compare=False)
    relevant: tuple[str, ...] = ()
    list_seed: int = 0

    @property
    def request(self) -> Request:
        """The request, made anew with each call, and the same each time."""
        return self.make()

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


def ranking_questions(
    pools: Sequence[Pool],
    teacher: pl.DataFrame,
    human: pl.DataFrame,
    judged_by: JudgedBy,
    settings: LabelSettings,
    sampling: Sampling,
    stage: str,
) -> tuple[list[Question], pl.DataFrame]:
    """`samples` questions a query, over a list with relevant and other passages; and rejections of queries without one.

    The first sample shows the list in its own order, each further one in an order from a seed of its own.
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
            remedy = f"where people have judged, set labels.judgements: {{{pool.domain}: human}}"
            queries_left.append((pool.qid, "no_gold_answer", f"mining needs a gold answer to show; {remedy}"))
        elif not chosen.relevant:
            queries_left.append((pool.qid, "no_positive", f"no passage of its pool of {len(pool.docids)} is relevant"))
        elif len(chosen.relevant) == len(chosen.docids):
            queries_left.append((pool.qid, "no_negative", f"all {len(chosen.docids)} passages are relevant"))
        else:
            shown: set[tuple[str, ...]] = set()
            for sample in range(settings.samples):
                seed, docids = _order(pool.qid, chosen, sample, settings.seed)
                if docids in shown:  # a short list has few orders; asking in one of them twice says nothing new
                    continue
                shown.add(docids)
                asked = _question(pool, "rank_teacher", docids, settings, sampling, sample, None)
                questions.append(replace(asked, relevant=chosen.relevant, list_seed=seed))
    return questions, pl.concat([rejected(stage, queries_left), rejected("passage", copies_left)])


def asked_for(request_id: str) -> tuple[str, str]:
    """Domain and purpose of a request, as its id tells them; what no campaign has asked is a reranking's."""
    parts = request_id.split("/")
    of_a_campaign = len(parts) > 3 and parts[-2] in get_args(Purpose)
    return (parts[0], parts[-2]) if of_a_campaign else ("", "reranking")


def provisional_rankings(pools: Sequence[Pool], settings: LabelSettings, sampling: Sampling) -> list[Question]:
    """Ranking questions as long as the real ones will be, for an estimate before anything is mined."""
    return [
        _question(pool, "rank_teacher", _shuffled(pool, settings, sample), settings, sampling, sample, None)
        for pool in pools
        if len(pool.docids) > 1
        for sample in range(settings.samples)
    ]


def _shuffled(pool: Pool, settings: LabelSettings, sample: int) -> tuple[str, ...]:
    """A pool's best candidates as a sample may show them: each sample is a question, and an answer, of its own."""
    docids = list(pool.docids[: settings.list_size])
    if sample:
        random.Random(seed_of(f"{pool.qid}/{sample}", 0)).shuffle(docids)
    return tuple(docids)


def check_of(questions: Sequence[Question]) -> Callable[[Request, str], str | None]:
    """What is wrong with an answer to one of `questions`, as the engine asks it."""
    by_id = {question.id: question for question in questions}
    return lambda request, content: by_id[request.id].fault_of(content)


def _order(qid: str, chosen: TrainingList, sample: int, seed: int) -> tuple[int, tuple[str, ...]]:
    """Seed and docids of a list as a sample shows it."""
    if sample == 0:
        return chosen.seed, chosen.docids
    list_seed = seed_of(f"{qid}/{sample}", seed)
    docids = list(chosen.docids)
    random.Random(list_seed).shuffle(docids)
    return list_seed, tuple(docids)


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
    template, name = load_template(purpose), f"{pool.domain}/{pool.qid}/{purpose}/{start}"
    make = partial(_request, name, template, pool, docids, answer, settings.passage_characters, sampling)
    return Question(name, purpose, pool.qid, docids, template, make)


def _request(
    name: str,
    template: PromptTemplate,
    pool: Pool,
    docids: Sequence[str],
    answer: str | None,
    characters: int,
    sampling: Sampling,
) -> Request:
    passages = [pool.texts[docid][:characters] for docid in docids]
    return Request(name, tuple(template.messages(pool.query, passages, answer)), sampling)
