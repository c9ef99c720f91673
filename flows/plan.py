"""What a campaign would ask, before anything is bought: how many questions are answered, missing, changed, rejected.

    planned = plan(campaign, shop, store, retry=True)
    asked_again = retry_rejected(campaign, planned, store)

Reads the store and the lake, and buys nothing. The ranking questions of a domain depend on what is mined; until it is,
they are planned over each query's best candidates and marked as provisional. Deliberately absent: repair turns, which
nobody can foresee.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows import questions, steps
from flows.questions import MINING, Purpose, Question
from flows.standing import State, standing
from flows.steps import Campaign
from inference.budget import Estimate, estimate
from inference.exchange import Request
from inference.store import ExchangeStore
from warehouse.ledger import latest
from warehouse.production import Shop


@dataclass(frozen=True)
class Planned:
    """The questions of one purpose of one domain: how many stand where, and what is to be bought.

    `retry` are the rejected questions, in the generation in which they were last asked, that may be asked again.
    """

    domain: str
    purpose: str
    states: Mapping[State, int]
    estimate: Estimate
    retry: tuple[Request, ...]
    provisional: bool = False


def plan(campaign: Campaign, shop: Shop, store: ExchangeStore, retry: bool) -> list[Planned]:
    """Mining and ranking of one domain; `retry` counts rejected questions among what is to be bought."""
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
    """Have every rejected question asked in its next generation from now on; gives how many there are."""
    return sum(store.ask_again(each.retry) for each in planned)


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
    known = shop.read_domain("exchanges", ["purpose", "request_id"])
    asked_before = {name for kind, name in known.iter_rows() if kind in purposes}
    states: Counter[State] = Counter()
    again: list[Request] = []
    wanted: list[Request] = []
    for request, state in standing(store, asked, asked_before):
        states[state] += 1
        if state == "rejected" and retry and request.generation + 1 < teacher.generations:
            again.append(request)
            wanted.append(request.in_generation(request.generation + 1))
        else:
            wanted.append(request)
    foreseen = estimate(wanted, teacher.prices, store, teacher.pace.max_in_flight, teacher.share)
    return Planned(campaign.domain, purpose, states, foreseen, tuple(again), provisional)
