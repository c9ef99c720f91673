"""`rankmill estimate | label | resynthesize`: label campaigns without Dagster, on the same lake and answers."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rankmill.options import AsJson, BudgetUsd, Home, Limit, ProfileName, Sources, environment, plain_errors

if TYPE_CHECKING:
    from flows.plan import Planned
    from flows.resynthesis import Mill
    from rankmill.progress import ChangingLine

WIDEST = 1_000  # columns of a table, in letters: more than any has

Domains = Annotated[
    list[str] | None, typer.Option("--domain", help="Only this domain. Repeatable. [default: every active one]")
]
Retry = Annotated[
    Literal["rejected"] | None,
    typer.Option("--retry", help="`rejected`: ask what was answered malformed once more, as a fresh generation."),
]


def estimate(
    sources: Sources = None,
    limit: Limit = None,
    domain: Domains = None,
    retry: Retry = None,
    profile: ProfileName = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what labelling would take, in calls, tokens, USD and hours, from the real prompts; buy nothing."""
    with plain_errors():
        mill = _mill(sources, limit, domain, None, profile, home, buys=False)
        planned = _plan(mill, retry, _line())
        _show(planned, mill, as_json)


def label(
    sources: Sources = None,
    limit: Limit = None,
    domain: Domains = None,
    retry: Retry = None,
    budget_usd: BudgetUsd = None,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Label without Dagster: sources, candidates, mined judgements, teacher rankings, consistency filter.

    Answers come from the exchange store where it has them; `rankmill run` goes on from what was made here.
    """
    with plain_errors():
        mill, line = _mill(sources, limit, domain, budget_usd, profile, home), _line()
        _label(mill, _plan(mill, retry, line), line)


def resynthesize(
    domain: Domains = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its estimate, and stop.")] = False,
    budget_usd: BudgetUsd = None,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Label what is missing, new, changed or was rejected: print the plan, stay in the budget, leave a report."""
    with plain_errors():
        mill = _mill(None, None, domain, budget_usd, profile, home, buys=not dry_run)
        line = _line()
        planned = _plan(mill, "rejected", line)
        _show(planned, mill, as_json=False)
        if not dry_run:
            _label(mill, planned, line)


def _mill(
    sources: list[str] | None,
    limit: int | None,
    domains: list[str] | None,
    budget_usd: float | None,
    profile: Any,
    home: Any,
    buys: bool = True,
) -> "Mill":
    environment(profile, home, RANKMILL_BUDGET_USD=budget_usd)
    from flows.resynthesis import Mill
    from rankmill.activation import activate
    from rankmill.settings import Settings

    settings = Settings.load()
    # To buy it takes a key and a budget, and that is refused before anything is made.
    chosen = settings.profile if buys else settings.profile_that_buys_nothing
    activate(settings, sources, limit, None, evaluates=False)
    asks = f"Asks {chosen.teacher.model} at {chosen.teacher.base_url}."
    typer.echo(f"profile {settings.profile_name}: {chosen.description} {asks}", err=True)
    registry = settings.registry
    active = registry.active() if domains is None else [registry.domain(name) for name in domains]
    return Mill(
        lake=settings.lake(),
        active=active,
        labels=chosen.labels,
        teacher=chosen.teacher,
        home=settings.campaign_home,
        candidates=chosen.candidates,
        alpha=chosen.alpha,
        seed=chosen.seed,
        reports=settings.reports,
    )


def _line() -> "ChangingLine":
    from rich.console import Console

    from rankmill.progress import ChangingLine

    return ChangingLine(Console(stderr=True))


def _plan(mill: "Mill", retry: str | None, line: "ChangingLine") -> "list[Planned]":
    from flows.resynthesis import plan_all

    return plan_all(mill, retry == "rejected", line.line)


def _label(mill: "Mill", planned: "list[Planned]", line: "ChangingLine") -> None:
    from flows.resynthesis import label_all, report

    try:
        with line.shown("labelling"):
            label_all(mill, planned, line.line, line.say)
    finally:
        typer.echo(f"report: {report(mill, planned)}")


def _show(planned: "list[Planned]", mill: "Mill", as_json: bool) -> None:
    from flows.standing import STATES

    if prices := mill.teacher.prices_told(datetime.now(UTC).date()):
        typer.echo(prices, err=True)
    if as_json:
        rows = [
            {
                "domain": each.domain,
                "questions": each.purpose,
                **{state: each.states.get(state, 0) for state in STATES},
                **asdict(each.estimate),
                "provisional": each.provisional,
            }
            for each in planned
        ]
        typer.echo(json.dumps(rows))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A state that no question is in has no column: what is to be paid has to be read whole.
    states = [
        state for state in STATES if state in ("answered", "new") or any(each.states.get(state) for each in planned)
    ]
    table = Table(box=box.SIMPLE)
    for name in ("domain", "questions"):
        table.add_column(name, no_wrap=True)
    for name in (*states, "calls", "prompt tokens", "answer tokens", "USD", "USD at most", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    total = None
    for each in planned:
        foreseen = each.estimate
        total = foreseen if total is None else total + foreseen
        mark = " *" if each.provisional else ""
        table.add_row(
            each.domain, each.purpose + mark, *(f"{each.states.get(s, 0):,}" for s in states), *_cells(foreseen)
        )
    if total is not None:
        table.add_section()
        table.add_row("all", "", *(f"{sum(p.states.get(s, 0) for p in planned):,}" for s in states), *_cells(total))
    Console(width=max(Console().width, Console(width=WIDEST).measure(table).maximum)).print(table)
    if total is not None:
        typer.echo(total.line)
    if any(each.provisional for each in planned):
        typer.echo("* over each query's best candidates: which lists are ranked is known once judgements are mined")


def _cells(foreseen: Any) -> list[str]:
    return [
        f"{foreseen.calls:,}",
        f"{foreseen.prompt_tokens:,}",
        f"{foreseen.completion_tokens:,.0f}",
        f"{foreseen.usd:,.2f}",
        f"{foreseen.usd_at_most:,.2f}",
        f"≤ {foreseen.hours:,.0f}" if foreseen.in_window else f"{foreseen.hours:,.2f}",
    ]
