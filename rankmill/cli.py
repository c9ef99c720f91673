"""The `rankmill` command. Every subcommand is thin: it reads settings, calls one room, and prints."""

import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from rankmill import (
    cli_alert,
    cli_audit,
    cli_backup,
    cli_benchmark,
    cli_formats,
    cli_label,
    cli_lake,
    cli_models,
    cli_plan,
    cli_serve,
)
from rankmill.options import AsJson, BudgetUsd, Home, Limit, ProfileName, Sources, environment, plain_errors

app = typer.Typer(
    name="rankmill",
    help="A data factory for reasoning rerankers: queries and passages in; audited training sets, checkpoints and a "
    "leaderboard out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_lake.app, name="lake")
app.add_typer(cli_benchmark.app, name="benchmark")


@app.command()
def run(
    sources: Sources = None,
    limit: Limit = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(
            "--benchmarks",
            help="A folder with queries.jsonl files, at any depth, that no training row may overlap. Repeatable.",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Recipe to train and evaluate. Repeatable. [default: reasonrank]"),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(
            "--release", help="Train on this past release (a beginning of its hash) in place of making a new one."
        ),
    ] = None,
    budget_usd: BudgetUsd = None,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Materialize the whole graph: sources, labels, release, SFT, RL, evaluation, leaderboard, champion.

    Can be stopped and run again at any time: what is done is not done twice, and no answer that came back is paid for
    twice.
    """
    with plain_errors():
        environment(profile, home, RANKMILL_BUDGET_USD=budget_usd, RANKMILL_RELEASE=release)
        from rich.console import Console

        from rankmill.activation import activate
        from rankmill.run import prepare_home, report_paths, run_graph
        from rankmill.settings import Settings, SettingsError
        from rankmill.tables import show_leaderboard

        settings = Settings.load()
        profile_now = settings.profile  # refuses to start without key or budget before anything is made
        known = settings.recipes()
        chosen = recipe or ["reasonrank"]
        if unknown := [name for name in chosen if name not in known]:
            raise SettingsError(f"there is no recipe {unknown[0]!r}. Recipes: {', '.join(known)}.")
        if settings.release is not None:
            _tell_release(settings)
        prepare_home(settings)
        activate(settings, sources, limit, benchmarks)
        console = Console(stderr=True)
        console.print(f"profile {settings.profile_name}: {profile_now.description}", highlight=False, soft_wrap=True)
        run_graph(settings, chosen, console)
        show_leaderboard(settings)
        for path in report_paths(settings.home):
            typer.echo(f"report: {path}")
        typer.echo(f"web UI: {_ui_command(profile, home)}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 3000,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Open the factory in Dagster's web UI on this machine (Ctrl-C ends it)."""
    with plain_errors():
        environment(profile, home)
        from rankmill.run import prepare_home
        from rankmill.settings import Settings

        settings = Settings.load()
        prepare_home(settings)
        _open_instance(settings)
        typer.echo(f"http://127.0.0.1:{port} (home {settings.home})")
        os.chdir(settings.dagster_home)  # a dagster.yaml in the working folder draws a warning
        command = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-m",
            "assets.definitions",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ]
        os.execv(sys.executable, command)


@app.command()
def prepare(profile: ProfileName = None, home: Home = None) -> None:
    """Make home, run history, pools and domains ready, for servers that are started by other means (deploy/)."""
    with plain_errors():
        environment(profile, home)
        from rankmill.run import prepare_home
        from rankmill.settings import Settings

        settings = Settings.load()
        prepare_home(settings)
        _open_instance(settings)
        typer.echo(f"ready: home {settings.home}, run history {settings.dagster_home}")


@app.command()
def leaderboard(as_json: AsJson = False, home: Home = None) -> None:
    """The newest leaderboard: every recipe and stage, by domain, with intervals and costs."""
    with plain_errors():
        environment(None, home)
        from rankmill.settings import Settings
        from rankmill.tables import show_leaderboard

        show_leaderboard(Settings.load(), as_json)


@app.command()
def score(
    run: Annotated[Path, typer.Option("--run", help="TREC run: qid Q0 docid rank score tag.")],
    qrels: Annotated[Path, typer.Option("--qrels", help="TREC qrels: qid 0 docid grade.")],
    measures: Annotated[
        str, typer.Option("--measures", help="Names as in ir-measures, separated by commas.")
    ] = "nDCG@10,R@10,R@100,RR,AP",
    as_json: AsJson = False,
) -> None:
    """Evaluate a TREC run with trec_eval's semantics; means are over all queries of the qrels."""
    with plain_errors():
        from ranking.metrics import evaluate
        from ranking.trec import TrecFileError, read_qrels, read_run

        names = [name.strip() for name in measures.split(",") if name.strip()]
        ranked, judged = read_run(run), read_qrels(qrels)
        if ranked.join(judged, on="qid", how="semi").is_empty():
            raise TrecFileError(f"no query of {run} is judged in {qrels}. Give the run and the qrels of one query set.")
        if ranked.join(judged, on=["qid", "docid"], how="semi").is_empty():
            typer.echo(f"no passage of {run} is judged in {qrels}: are they of one collection?", err=True)
        per_query = evaluate(ranked, judged, names)
        result: dict[str, Any] = {name: float(per_query[name].mean()) for name in names}  # type: ignore[arg-type]
        result["queries"] = per_query.height
        typer.echo(
            json.dumps(result)
            if as_json
            else "\n".join(
                f"{name:10} {value:.4f}" if isinstance(value, float) else f"{name:10} {value}"
                for name, value in result.items()
            )
        )


@app.command()
def doctor(as_json: AsJson = False, profile: ProfileName = None, home: Home = None) -> None:
    """Look for what is missing and say the command that mends it. Ends with 1 if something is wrong."""
    with plain_errors():
        environment(profile, home)
        from rankmill.doctor import examine

        findings = examine()
        if as_json:
            typer.echo(json.dumps([finding.__dict__ for finding in findings], indent=1))
        else:
            for finding in findings:
                typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.detail}")
                if not finding.ok:
                    typer.echo(f"     mend: {finding.remedy}")
        raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


for _command in (
    cli_serve.rerank,
    cli_serve.serve,
    cli_label.estimate,
    cli_label.label,
    cli_label.resynthesize,
    cli_plan.plan,
    cli_models.models,
    cli_models.promote,
    cli_models.rollback,
    cli_formats.export,
    cli_formats.audit,
    cli_audit.why,
    cli_audit.retract,
    cli_backup.backup,
    cli_backup.restore,
    cli_alert.alert,
):
    app.command()(_command)


def _tell_release(settings: Any) -> None:
    """Refuse a release that does not exist before anything is done, and say where one was retracted."""
    from rankmill.cli_lake import open_lake
    from warehouse.audit.versions import releases
    from warehouse.curation.releases import known_release

    lake = open_lake()
    name = known_release(lake, settings.release)
    row = next(row for row in releases(lake).iter_rows(named=True) if row["release"] == name)
    for why in row["retracted"]:
        typer.echo(f"warning: release {name[:12]} was retracted ({why})", err=True)


def _open_instance(settings: Any) -> None:
    """Bring the run history up to what is: domains that are active, runs whose process is gone, pools."""
    import dagster as dg

    from rankmill.dead_runs import end_dead_runs, open_pools

    with dg.DagsterInstance.get() as instance:
        if ended := end_dead_runs(instance):
            typer.echo(f"{len(ended)} runs whose process is gone are marked as failed: {', '.join(ended)}")
        open_pools(instance)
        instance.add_dynamic_partitions("domain", [entry.domain for entry in settings.registry.active()])


def _ui_command(profile: str | None, home: Path | None) -> str:
    """The command that opens this very factory, as it can be typed here."""
    options = [f"--{name} {value}" for name, value in (("profile", profile), ("home", home)) if value is not None]
    return " ".join([sys.argv[0] if sys.argv[0].endswith("rankmill") else "rankmill", "ui", *options])


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the `rankmill` command; SIGTERM, as `docker stop` sends it, ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    finally:
        gc.freeze()  # the interpreter would look through a million objects once more before it ends: a second


if __name__ == "__main__":
    main()
