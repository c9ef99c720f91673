"""The `rankmill` command. Every subcommand is thin: it reads settings, calls one room, and prints."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="rankmill",
    help="A data factory for reasoning rerankers: queries and passages in; audited training sets, checkpoints and a "
    "leaderboard out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lake_app = typer.Typer(help="Look into the lake: every table, at every snapshot, read-only.", no_args_is_help=True)
app.add_typer(lake_app, name="lake")

Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of lake, answers, models and reports. [default: .rankmill]")
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Where to run: offline, api, gpu, or a YAML file. [default: offline]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program in place of a table for a person.")]


@app.command()
def run(
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--sources",
            help="A folder with queries.jsonl, passages.jsonl and qrels.tsv; `seed` for the shipped domains; "
            "`hf:NAME` for a Hugging Face set. Repeatable; remembered for later runs.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most queries a source, chosen by hash.")] = None,
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
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", min=0, help="Hard limit of all spending on a teacher in this home.")
    ] = None,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Materialize the whole graph: sources, labels, release, SFT, RL, evaluation, leaderboard.

    Can be stopped and run again at any time: what is done is not done twice, and no answer is paid for twice.
    """
    with plain_errors():
        _environment(profile, home, RANKMILL_BUDGET_USD=budget_usd)
        from rich.console import Console

        from rankmill.run import prepare_home, report_paths, run_graph
        from rankmill.settings import Settings, SettingsError
        from rankmill.tables import show_leaderboard

        settings = Settings.load()
        profile_now = settings.profile  # refuses to start without key or budget before anything is made
        known = settings.recipes()
        chosen = recipe or ["reasonrank"]
        if unknown := [name for name in chosen if name not in known]:
            raise SettingsError(f"there is no recipe {unknown[0]!r}. Recipes: {', '.join(known)}.")
        prepare_home(settings)
        _activate(settings, sources, limit, benchmarks)
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
        _environment(profile, home)
        from rankmill.run import prepare_home
        from rankmill.settings import Settings

        settings = Settings.load()
        prepare_home(settings)
        _show_domains(settings)
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
def leaderboard(as_json: AsJson = False, home: Home = None) -> None:
    """The newest leaderboard: every recipe and stage, by domain, with intervals and costs."""
    with plain_errors():
        _environment(None, home)
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
def rerank(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A model of this home (its id, or recipe/stage such as reasonrank/rl), or a checkpoint folder.",
        ),
    ],
    run: Annotated[Path, typer.Option("--run", help="TREC run with the first stage's candidates.")],
    queries: Annotated[Path, typer.Option("--queries", help="queries.jsonl with qid and text.")],
    passages: Annotated[Path, typer.Option("--passages", help="passages.jsonl with docid and text (and title).")],
    out: Annotated[Path, typer.Option("--out", help="TREC run to write.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe whose prompt and decoding are used.")] = "reasonrank",
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Rerank a TREC run with a trained model."""
    with plain_errors():
        _environment(profile, home)
        from rankmill.rerank import rerank_files
        from rankmill.settings import Settings

        result = rerank_files(Settings.load(), model, run, queries, passages, out, recipe)
        typer.echo(
            f"{out}: {result.queries} queries, {result.calls} calls, {100 * result.malformed_rate:.1f} % malformed, "
            f"{result.seconds_per_query:.2f} s a query"
        )


@app.command()
def doctor(as_json: AsJson = False, profile: ProfileName = None, home: Home = None) -> None:
    """Look for what is missing and say the command that mends it. Ends with 1 if something is wrong."""
    with plain_errors():
        _environment(profile, home)
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


@lake_app.command()
def snapshots(as_json: AsJson = False, home: Home = None) -> None:
    """Every commit of the lake, newest first, with asset, run and code version."""
    with plain_errors():
        _environment(None, home)
        from rankmill.tables import show_frame

        frame = _lake().snapshots()
        if not as_json:
            import polars as pl

            said = pl.col("commit_message")
            frame = frame.select(
                "snapshot_id",
                pl.col("snapshot_time").dt.truncate("1s"),
                asset=said.str.extract("asset=(.*) run="),
                run=said.str.extract("run=([^ ]{1,8})"),
                code=said.str.extract("code=(.*)$"),
            )
        show_frame(frame, as_json)


@lake_app.command()
def query(
    sql: Annotated[str, typer.Argument(help='One SELECT over the lake\'s tables, such as "SELECT * FROM releases".')],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Ask the lake in SQL (DuckDB). Read-only."""
    with plain_errors():
        _environment(None, home)
        from rankmill.tables import show_frame

        show_frame(_lake().query(sql), as_json)


def _lake() -> Any:
    from rankmill.settings import Settings, SettingsError
    from warehouse.lake import Lake

    settings = Settings.load()
    if not settings.lake_folder.is_dir():
        raise SettingsError(
            f"there is no lake in {settings.home}. Make one with `rankmill run`, or name another --home."
        )
    return Lake.at(settings.lake_folder)


def _activate(settings: Any, sources: list[str] | None, limit: int | None, benchmarks: list[Path] | None) -> None:
    """Keep the chosen sources, once every one of them has passed the door and there is something to evaluate on."""
    from assets.resources import registry_of
    from rankmill.settings import SettingsError
    from warehouse.benchmarks import read_benchmarks
    from warehouse.evaluation import held_out
    from warehouse.sources import read_source

    registry = registry_of(settings)
    if sources is None and limit is None and benchmarks is None:
        return
    chosen = registry.choose(sources, limit)
    read_benchmarks([], benchmarks or [], hub=False)
    if sources is not None:
        tables = [read_source(active.source(), active.limit, settings.profile.seed) for active in chosen]
        if not sum(held_out(table.queries, table.judgements, None, 0).height for table in tables):
            raise SettingsError(
                "no source has a judged query of the split dev or test, so nothing could be evaluated. "
                "Give some queries that split in queries.jsonl, and judgements in qrels.tsv."
            )
    registry.keep(chosen, benchmarks)


def _show_domains(settings: Any) -> None:
    import dagster as dg

    from assets.resources import registry_of

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("domain", [entry.domain for entry in registry_of(settings).active()])


def _ui_command(profile: str | None, home: Path | None) -> str:
    """The command that opens this very factory, as it can be typed here."""
    options = [f"--{name} {value}" for name, value in (("profile", profile), ("home", home)) if value is not None]
    return " ".join([sys.argv[0] if sys.argv[0].endswith("rankmill") else "rankmill", "ui", *options])


def _environment(profile: str | None, home: Path | None, **values: Any) -> None:
    """Options become the environment that settings read, so that child processes see the same."""
    if profile is not None and profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).absolute())
    given = {"RANKMILL_PROFILE": profile, "RANKMILL_HOME": str(home.absolute()) if home else None, **values}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that tell a person what to do are printed as they are; only a defect shows a traceback."""
    try:
        yield
    except Exception as error:
        if not _for_people(error):
            raise
        typer.echo(f"{type(error).__name__}: {getattr(error, 'description', None) or error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("stopped; what is done is kept. Run the same command to go on.", err=True)
        raise typer.Exit(130) from None


def _for_people(error: BaseException) -> bool:
    module = type(error).__module__.split(".")[0]
    ours = {"ranking", "inference", "warehouse", "training", "flows", "assets", "rankmill"}
    return module in ours or (module == "dagster" and type(error).__name__ == "Failure")


def main() -> None:
    """Entry point of the `rankmill` command."""
    app()


if __name__ == "__main__":
    main()
