"""What a campaign would ask, before anything is bought: how many questions are answered, missing, changed, rejected.

    planned = plan(campaign, shop, store, retry=True)
    retry_rejected(planned, store)

Reads the store and the lake, and buys nothing. The ranking questions of a domain depend on what is mined; until it is,
they are planned over each query's best candidates and marked as provisional.

What is asked again, in its next generation: a malformed answer, and a ranking that the consistency filter left out,
unless the teacher's temperature is 0: then it would say the same. A repair turn that is still to come is counted.
Deliberately absent: repair turns of answers to come, which nobody can foresee, and asking again for a chain that did
not come, since it is the server that keeps it back.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import polars as pl

from flows import questions, steps
from flows.campaign import foresee
from flows.questions import MINING, Purpose, Question
from flows.standing import State, standing
from flows.steps import Campaign
from flows.teacher import TeacherSettings
from inference.estimate import Estimate
from inference.exchange import Request
from inference.store import ExchangeStore
from warehouse.ledger import latest
from warehouse.production import Shop

Asking = Literal["mined_judgements", "teacher_rankings"]  # the assets that ask the teacher


@dataclass(frozen=True)
class Planned:
    """The questions of one purpose of one domain: how many stand where, and what is to be bought.

    `retry` are the rejected and inconsistent questions, in the generation in which they were last asked, that may be
    asked again.
    """

    domain: str
    purpose: str
    states: Mapping[State, int]
    estimate: Estimate
    retry: tuple[Request, ...]
    provisional: bool = False


def plan(campaign: Campaign, shop: Shop, store: ExchangeStore, retry: bool) -> list[Planned]:
    """Mining and ranking of one domain; `retry` counts what may be asked again among what is to be bought."""
    mined = _plan(campaign, "mining", steps.mining_questions(shop, campaign), shop, store, retry, MINING)
    settled = mined.estimate.calls == 0 and latest(shop.lake, "mined_judgements", campaign.domain) is not None
    if settled or campaign.judged_by == "human":
        asked, _ = steps.ranking_questions(shop, campaign)
    else:
        pools = steps.pools_in(shop, campaign)
        asked = questions.provisional_rankings(pools, campaign.labels, campaign.teacher.sampling)
    provisional = not settled and campaign.judged_by != "human"
    ranked = _plan(campaign, "ranking", asked, shop, store, retry, ("rank_teacher",), provisional)
    return [mined, ranked]


def retry_rejected(planned: Sequence[Planned], store: ExchangeStore) -> int:
    """Have every question of `retry` asked in its next generation from now on; gives how many there are."""
    return sum(store.ask_again(each.retry) for each in planned)


def ask_again(
    campaign: Campaign, asset: Asking, shop: Shop, store: ExchangeStore,
    since: datetime, usd: float | None,
) -> int:  # fmt: skip
    """Have an asset's rejected and inconsistent questions asked in their next generation; gives how many.

    Not those that were answered `since` (a night asks once), nor more than `usd` pays for at the worst.
    """
    mining = asset == "mined_judgements"
    known = {"asset": asset, "partition_key": campaign.domain}
    left_out = frozenset() if mining else inconsistent(shop)
    if not left_out and shop.read("rejections", known, ["key"]).is_empty():
        return 0
    asked = steps.mining_questions(shop, campaign) if mining else steps.ranking_questions(shop, campaign)[0]
    stand = standing(store, asked, left_out=left_out)
    may = [request for request, state, _ in stand if _may_be_asked_again(request, state, campaign.teacher)]
    before = since.astimezone(UTC).isoformat(timespec="milliseconds")
    prices, chosen, left = campaign.teacher.prices, [], usd
    for request, answer in store.look_up(may):
        if answer is None or answer.created_at >= before:
            continue
        worst = prices.worst_case(request).usd * campaign.teacher.share
        if left is not None:
            if worst > left:
                break
            left -= worst
        chosen.append(request)
    return store.ask_again(chosen)


def inconsistent(shop: Shop) -> frozenset[str]:
    """Keys of the ranking requests behind the domain's rankings that the consistency filter left out."""
    known = {"asset": "consistent_rankings", "partition_key": shop.partition_key}
    dropped = shop.read("rejections", known, ["key"]).rename({"key": "ranking_id"})
    if dropped.is_empty():
        return frozenset()
    exchanges = shop.read_domain("exchanges", ["key", "repair_of"])
    behind = shop.read_domain("ranking_samples", ["ranking_id", "exchange_key"]).join(dropped, on="ranking_id")
    keys = behind.join(exchanges, left_on="exchange_key", right_on="key").select(
        pl.coalesce("repair_of", "exchange_key")
    )
    return frozenset(keys.to_series())


def _may_be_asked_again(request: Request, state: State, teacher: TeacherSettings) -> bool:
    wanted = state == "rejected" or (state == "inconsistent" and teacher.temperature > 0)
    return wanted and request.generation + 1 < teacher.generations


def _plan(
    campaign: Campaign,
    purpose: str,
    asked: Sequence[Question],
    shop: Shop,
    store: ExchangeStore,
    retry: bool,
    purposes: Sequence[Purpose],
    provisional: bool = False,
) -> Planned:
    teacher = campaign.teacher
    known = shop.read_domain("exchanges", ["purpose", "model", "request_id"])
    asked_before = {name for kind, model, name in known.iter_rows() if kind in purposes and model == teacher.model}
    states: Counter[State] = Counter()
    again: list[Request] = []

    def wanted() -> Iterator[Request | None]:
        for request, state, due in standing(store, asked, asked_before, inconsistent(shop)):
            states[state] += 1
            if retry and _may_be_asked_again(request, state, teacher):
                again.append(request)
                yield request.in_generation(request.generation + 1)
            else:
                yield due

    foreseen = foresee(wanted(), teacher, store)
    return Planned(campaign.domain, purpose, states, foreseen, tuple(again), provisional)
