"""Which sources a command works on: those it names, once they have passed the door, else those of the last one."""

from pathlib import Path

from rankmill.settings import Settings, SettingsError
from warehouse.evaluation import held_out
from warehouse.intake.benchmarks import read_benchmarks
from warehouse.intake.sources import read_source


def activate(
    settings: Settings,
    sources: list[str] | None,
    limit: int | None,
    benchmarks: list[Path] | None,
    evaluates: bool = True,
) -> None:
    """Keep the chosen sources, once every one has passed the door, and there is something to evaluate on if need be."""
    if sources is None and limit is None and benchmarks is None:
        return
    registry = settings.registry
    chosen = registry.choose(sources, limit)
    read_benchmarks([], benchmarks or [], hub=False)
    if sources is not None:
        tables = [
            read_source(active.source(), active.limit, settings.profile_that_buys_nothing.seed) for active in chosen
        ]
        if evaluates and not sum(held_out(table.queries, table.judgements, None, 0).height for table in tables):
            raise SettingsError(
                "no source has a judged query of the split dev or test, so nothing could be evaluated. "
                "Give some queries that split in queries.jsonl, and judgements in qrels.tsv."
            )
    registry.keep(chosen, benchmarks)
