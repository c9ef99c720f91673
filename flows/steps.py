"""The two steps of a domain that ask the teacher: mined judgements, and rankings that never see the gold answer.

A step is performed by Dagster's assets and by `rankmill label` alike (warehouse/production.py); what one has made, the
other finds. Deliberately absent: how questions reach the teacher (campaign.py) and what they are (questions.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flows import answers, questions
from flows.campaign import Home, Label, Tell, label
from flows.paid import bring_back, keep, kept_at_an_error
from flows.questions import MINING, JudgedBy, LabelSettings, Pool, Purpose, Question
from flows.teacher import TeacherSettings
from inference.store import ExchangeStore
from ranking.agreement import agreement, position_bias, positions_of_top_pick
from ranking.prompts import load_template, titled
from warehouse.intake.source_tables import gold_passages
from warehouse.intake.steps import SOURCES
from warehouse.lake import Lake, Replace, content_sha256
from warehouse.ledger import Product
from warehouse.pages import pictures
from warehouse.production import Made, Shop, Step, own


@dataclass(frozen=True)
class Campaign:
    """One domain's questions to one teacher.

    `asked_again` is the store's count of questions that were asked again: with each, answers may be other ones.
    """

    domain: str
    labels: LabelSettings
    teacher: TeacherSettings
    asked_again: int
    store: Path
    ask: Callable[[str, Sequence[Question]], Label]

    @property
    def judged_by(self) -> JudgedBy:
        """Whose judgements count in the domain."""
        return self.labels.judged_by(self.domain)

    def shaped_by(self, purposes: Sequence[Purpose]) -> dict[str, Any]:
        """What shapes the teacher's answers, and nothing that does not: no key, no address, no budget."""
        return {
            "teacher": self.teacher.sampling.parameters,
            "labels": self.labels.model_dump(),
            "judged_by": self.judged_by,
            "prompts": [load_template(purpose).sha256 for purpose in purposes],
            "asked_again": self.asked_again,
        }


def campaign_of(
    domain: str, labels: LabelSettings, teacher: TeacherSettings, lake: Lake, home: Home, tell: Tell
) -> Campaign:
    """The campaign of a domain with the store of a home, into which comes what it has lost and the lake holds."""
    if lost := bring_back(lake, home.store):
        tell(f"{home.store} had lost {lost:,} answers, which are in it again, out of the lake: nothing is bought twice")
    with ExchangeStore(home.store) as store:
        asked_again = store.times_asked_again()

    def ask(name: str, asked: Sequence[Question]) -> Label:
        return label(name, asked, teacher, home, tell)

    return Campaign(domain, labels, teacher, asked_again, home.store, ask)


def mining_step(campaign: Campaign) -> Step:
    """What the teacher, shown the gold answer, calls positive and hard negative; measured against people."""
    domain = campaign.domain

    def work(shop: Shop) -> dict[str, Made]:
        asked = mining_questions(shop, campaign)
        bought, behind = _ask(shop, campaign, "mined_judgements", asked, MINING)
        mined = answers.read_mining(asked, bought.outcomes, domain, "mined_judgements")
        shown = pl.DataFrame(
            sorted({(question.qid, docid) for question in asked for docid in question.docids}),
            schema={"qid": pl.String, "docid": pl.String},
            orient="row",
        )
        # A passage that is the gold answer itself was picked with the answer in view: it says nothing of the teacher.
        gold = gold_passages(shop.read_domain("queries"), shop.read_domain("passages"))
        lost = mined.rejections.filter(pl.col("stage") == "mined_judgements").height
        product = Product(
            (
                Replace("judgements", mined.rows, {"domain": domain, "origin": "teacher"}),
                *behind,
            ),
            content_sha256(mined.rows, ["qid", "docid"]),
            len(asked),
            len(asked) - lost,
            mined.rejections,
            {
                **bought.figures,
                "positives": int((mined.rows["grade"] == 1).sum()),
                "hard_negatives": int((mined.rows["grade"] == 0).sum()),
                "gold_passages": gold.height,
                **agreement(mined.rows, people_in(shop), shown.join(gold, on=["qid", "docid"], how="anti")),
            },
            complete=bought.unanswered == 0,
        )
        return {"mined_judgements": Made(product, mined.rows.drop("domain"))}

    reads = [(asset, own(domain)) for asset in (*SOURCES, "candidates")]
    return Step(("mined_judgements",), domain, campaign.shaped_by(MINING), work, reads)


def ranking_step(campaign: Campaign) -> Step:
    """The teacher's order of each training list, with its chain; several samples of a list become one."""
    domain, labels = campaign.domain, campaign.labels

    def work(shop: Shop) -> dict[str, Made]:
        asked, without = ranking_questions(shop, campaign)
        bought, behind = _ask(shop, campaign, "teacher_rankings", asked, ("rank_teacher",))
        ranked = answers.read_rankings(
            asked, bought.outcomes, domain, campaign.judged_by, "teacher_rankings", labels.aggregation
        )
        dropped = pl.concat([without, ranked.rejections])
        product = Product(
            (
                Replace("rankings", ranked.rows, {"domain": domain}),
                Replace("ranking_samples", ranked.samples, {"domain": domain}),
                *behind,
            ),
            content_sha256(ranked.rows, ["ranking_id"]),
            ranked.rows.height + dropped.filter(pl.col("stage") == "teacher_rankings").height,
            ranked.rows.height,
            dropped,
            {
                **bought.figures,
                **{f"position_{name}": value for name, value in position_bias(ranked.samples).items()},
                **_concordance(ranked.rows),
            },
            complete=bought.unanswered == 0,
        )
        shown = ranked.rows.select("qid", "relevant_docids", "final_list", "reasoning")
        plots = {"position_bias": pictures.positions(positions_of_top_pick(ranked.samples))} if shown.height else {}
        return {"teacher_rankings": Made(product, shown, plots)}

    reads = [(asset, own(domain)) for asset in (*SOURCES, "candidates", "mined_judgements")]
    return Step(("teacher_rankings",), domain, campaign.shaped_by(("rank_teacher",)), work, reads)


def mining_questions(shop: Shop, campaign: Campaign) -> list[Question]:
    """The domain's mining questions; none where people's judgements alone count."""
    if campaign.judged_by == "human":
        return []
    return questions.mining_questions(pools_in(shop, campaign), campaign.labels, campaign.teacher.sampling)


def ranking_questions(shop: Shop, campaign: Campaign) -> tuple[list[Question], pl.DataFrame]:
    """The domain's ranking questions by the judgements that count, and rejections of queries without one."""
    judged = shop.read_domain("judgements").filter(pl.col("origin") == "teacher")
    pools, people = pools_in(shop, campaign), people_in(shop)
    sampling = campaign.teacher.sampling
    return questions.ranking_questions(
        pools, judged, people, campaign.judged_by, campaign.labels, sampling, "teacher_rankings"
    )


def pools_in(shop: Shop, campaign: Campaign) -> list[Pool]:
    """Pools of the domain's training queries; dev and test queries are never shown to a teacher."""
    queries = shop.read_domain("queries").filter(pl.col("split") == "train")
    passages = shop.read_domain("passages", ["docid", "title", "text"])
    texts = {docid: titled(title, text) for docid, title, text in passages.iter_rows()}
    depth = campaign.labels.mining_depth
    return questions.pools_of(queries, shop.read_domain("candidates"), people_in(shop), texts, depth)


def people_in(shop: Shop) -> pl.DataFrame:
    """People's judgements of the domain."""
    return shop.read_domain("judgements").filter(pl.col("origin") == "human")


def _concordance(rankings: pl.DataFrame) -> dict[str, float]:
    """Kendall's W over the samples of a list, as a mean over the lists; nothing where each was ranked once."""
    values = rankings["agreement"].drop_nulls().to_list()
    return {"kendalls_w": sum(values) / len(values)} if values else {}


def _ask(
    shop: Shop, campaign: Campaign, asset: str, asked: Sequence[Question], purposes: Sequence[Purpose]
) -> tuple[Label, list[Replace]]:
    """The answers, which come into the lake whatever ends the campaign; and which of the lake's are behind them."""
    domain, name = campaign.domain, f"{asset} {campaign.domain}"
    with kept_at_an_error(shop.lake, campaign.store, name, asked, domain):
        bought = campaign.ask(name, asked)
    behind = keep(shop.lake, campaign.store, name, asked, domain).with_columns(domain=pl.lit(domain))
    return bought, [
        Replace("campaign_exchanges", behind.filter(purpose=purpose), {"domain": domain, "purpose": purpose})
        for purpose in purposes
    ]
