"""Lists that one model orders, or two: a cascade, whose second orders what the first has put in front.

    made = rerank(settings, [small, large], keep=20, lists=lists, batch=None, exact=True, watch=print)

A model of this home is asked by its own process (rankmill.rerank), the teacher over its endpoint
(rankmill.rerank_teacher). In a cascade the first model is done with all lists before the second is started: they share
a machine, on which two at once would be no quicker, and each keeps what it has answered.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rankmill.chosen_model import ChosenModel
from rankmill.rerank import rerank_here
from rankmill.rerank_lists import CandidateList
from rankmill.rerank_teacher import rerank_by_teacher
from rankmill.reranking import Reranking, fronts, one_after_the_other
from rankmill.settings import Settings


def rerank(
    settings: Settings,
    models: Sequence[ChosenModel],
    keep: int,
    lists: Sequence[CandidateList],
    batch: int | None,
    exact: bool,
    watch: Callable[[Any], None],
) -> Reranking:
    """Have the first model order `lists`, and every further one the first `keep` of what the one before has made.

    Raises JournalBusy, RerankStopped, and what training.over_endpoint.rerank_over raises.
    """
    made = _asked(settings, models[0], lists, batch, exact, watch)
    for model in models[1:]:
        second = _asked(settings, model, fronts(lists, made.run, keep), batch, exact, watch)
        made = one_after_the_other(made, second)
    return made


def _asked(
    settings: Settings,
    chosen: ChosenModel,
    lists: Sequence[CandidateList],
    batch: int | None,
    exact: bool,
    watch: Callable[[Any], None],
) -> Reranking:
    if chosen.is_teacher:
        return rerank_by_teacher(settings, chosen, lists, watch)
    return rerank_here(settings, chosen, lists, batch, exact, watch)
