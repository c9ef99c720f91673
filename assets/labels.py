"""Who says what is relevant, and in what order: candidates, mined judgements, teacher rankings."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import dagster as dg

from assets.asking import at_its_place
from assets.partitions import domains
from assets.production import law, produce
from assets.resources import Factory
from assets.tags import unattended
from flows.nights import night_at
from flows.plan import Asking
from flows.steps import Campaign, mining_step, ranking_step
from inference.budget import BudgetExceeded
from warehouse.intake.steps import SOURCES, candidates_step
from warehouse.production import Step


@dg.asset(
    check_specs=law("candidates"),
    group_name="labels",
    partitions_def=domains,
    deps=["queries", "passages"],
    kinds={"duckdb", "polars"},
    pool="lake",
)
def candidates(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """First-stage candidates of every query: BM25 (k1 0.9, b 0.4, stems), best first, excluded_docids left out."""
    step = candidates_step(context.partition_key, factory.settings.profile.candidates)
    yield from produce(context, factory, step)


@dg.asset(
    check_specs=law("mined_judgements"),
    group_name="labels",
    partitions_def=domains,
    deps=[*SOURCES, "candidates"],
    kinds={"openai", "duckdb"},
    pool="teacher",
)
def mined_judgements(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """What the teacher, shown the gold answer, calls positive and hard negative; measured against people."""
    yield from _ask(context, factory, "mined_judgements", mining_step)


@dg.asset(
    check_specs=law("teacher_rankings"),
    group_name="labels",
    partitions_def=domains,
    deps=[*SOURCES, "candidates", "mined_judgements"],
    kinds={"openai", "duckdb"},
    pool="teacher",
)
def teacher_rankings(context: dg.AssetExecutionContext, factory: Factory) -> Iterator[dg.MaterializeResult]:
    """The teacher's order of each training list, with its chain; it never sees the gold answer here."""
    yield from _ask(context, factory, "teacher_rankings", ranking_step)


def _ask(
    context: dg.AssetExecutionContext, factory: Factory, asset: Asking, step_of: Callable[[Campaign], Step]
) -> Iterator[dg.MaterializeResult]:
    """A step that asks the teacher: in an unattended run within the night's budget, what failed asked again."""
    domain, left = context.partition_key, None
    if unattended(context.run.tags):
        night = night_at(datetime.now(UTC))
        left = factory.allowance(night)
        again = factory.ask_again(domain, asset, night, left)
        context.log.info(f"{again} rejected or inconsistent questions of {asset} are asked again")
    campaign = factory.campaign(domain, context.log.info, left)
    step = step_of(at_its_place(context, factory, campaign))
    try:
        yield from produce(context, factory, step)
    except BudgetExceeded as stopped:
        own = factory.settings.profile.teacher.budget_usd
        if left is None or (own is not None and own <= left.cap_usd):
            raise
        raise dg.Failure(f"{asset} {domain}: {left.words}", allow_retries=False) from stopped
