"""`rankmill benchmark`: what is registered, a part's texts as a folder, and a model beside what others published."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rankmill.cli_serve import Keep, Then, ThenRecipe
from rankmill.options import AsJson, Home, ProfileName, environment, plain_errors

app = typer.Typer(
    help="Measure on published benchmarks: list them, fetch their texts, run a first stage and a model.",
    no_args_is_help=True,
)
Named = Annotated[str, typer.Argument(help="A part of a registered benchmark, such as BRIGHT/biology, or a folder.")]


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """Every registered benchmark, its parts, and what was published for it."""
    with plain_errors():
        from rankmill.benchmark import REGISTRY
        from rankmill.tables import show_rows
        from warehouse.benchmarks.registry import registered

        known = registered(REGISTRY)
        if as_json:
            typer.echo(json.dumps([one.model_dump(mode="json") for one in known]))
            return
        columns = {"benchmark": "left", "place": "left", "parts": "left", "published": "left"}
        lines = []
        for one in known:
            library = f"hub: {one.hub.dataset}" if one.hub else None
            place = library or (f"ir_datasets: {one.ir_datasets}" if one.ir_datasets else "bring a folder")
            lines.append((one.name, place, ", ".join(one.parts), ", ".join(row.system for row in one.published)))
        show_rows("benchmarks; never trained on", columns, lines)


@app.command()
def fetch(
    part: Named,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write. [default: in the home]")] = None,
    home: Home = None,
) -> None:
    """A part's queries, passages and judgements as a folder, which can be copied to where there is no network."""
    with plain_errors():
        environment(None, home)
        from rankmill import benchmark
        from rankmill.settings import Settings
        from warehouse.benchmarks.registry import find, registered

        folder = out or Settings.load().home / "benchmarks" / part
        found = benchmark.fetch(find(registered(benchmark.REGISTRY), part), part, folder)
        typer.echo(
            f"{folder}: {found.queries.height:,} queries, {found.passages.height:,} passages, "
            f"{found.judgements.height:,} judgements"
        )


@app.command()
def run(
    part: Named,
    model: Annotated[
        str | None, typer.Option("--model", help="What `rerank` takes; without, the first stage alone.")
    ] = None,
    known_as: Annotated[
        str | None, typer.Option("--as", help="The registered part that a folder holds, for its published rows.")
    ] = None,
    first_stage: Annotated[
        Path | None, typer.Option("--run", help="TREC run to rerank. [default: the folder's, else BM25]")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Prompt and decoding. [default: the model's]")] = None,
    then: Then = None,
    then_recipe: ThenRecipe = None,
    keep: Keep = 20,
    passage_tokens: Annotated[
        int | None, typer.Option("--passage-tokens", min=1, help="Tokens of a passage. [default: the benchmark's]")
    ] = None,
    as_json: AsJson = False,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Measure the first stage, and a model that reranks it, beside what others published. Kept in the lake."""
    with plain_errors():
        environment(profile, home)
        from rich.console import Console

        from rankmill import benchmark
        from rankmill.chosen_model import choose_models
        from rankmill.cli_serve import Watching
        from rankmill.settings import Settings
        from warehouse.benchmarks.boards import Board, corrected, published

        settings = Settings.load()
        settings.home.mkdir(parents=True, exist_ok=True)
        chosen_part = benchmark.chosen_part(settings, part, known_as)
        chosen = choose_models(settings, (model, recipe), (then if model is not None else None, then_recipe))
        with Watching(Console(stderr=True)) as watch:
            made = benchmark.measure(settings, chosen_part, chosen, keep, first_stage, passage_tokens, watch)
        for note in made.notes:
            typer.echo(note, err=True)
        rows = [*corrected(made.rows), *published(chosen_part.benchmark, chosen_part.name)]
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            _show(Board(chosen_part.name, chosen_part.benchmark, tuple(rows)))


@app.command()
def scores(as_json: AsJson = False, home: Home = None) -> None:
    """Everything that was measured in this home, part by part, beside what others published."""
    with plain_errors():
        environment(None, home)
        from rankmill import benchmark
        from rankmill.settings import Settings

        boards = benchmark.measured(Settings.load())
        if as_json:
            typer.echo(json.dumps([row for board in boards for row in board.rows]))
            return
        for board in boards:
            _show(board)
        if not boards:
            typer.echo("none yet: `rankmill benchmark run PART` makes some")


def _show(board: Any) -> None:
    from rankmill.tables import show_rows
    from warehouse.benchmarks.boards import published_how

    names, rows = board.benchmark.measures, board.rows
    lines = []
    for row in sorted(rows, key=lambda row: -row["measures"].get(names[0], 0.0)):
        values = {name: f"{row['measures'][name]:.4f}" if name in row["measures"] else "" for name in names}
        versus, rate = row.get("versus"), row.get("malformed_rate")
        lines.append(
            {
                "system": row["system"],
                **values,
                "interval": f"{row['low']:.3f} to {row['high']:.3f}" if "low" in row else "",
                "vs first": f"{versus['difference']:+.3f}, p {versus['p_holm']:.2g}" if versus else "",
                "malformed": "" if rate is None else f"{100 * rate:.1f} %",
                "from": f"here, {row['queries']} queries" if "queries" in row else published_how(row),
            }
        )
    told = [name for name in lines[0] if any(line[name] for line in lines)]
    columns = {name: "left" if name in ("system", "from") else "right" for name in told}
    title = f"{board.part}: {board.benchmark.description}"
    show_rows(title, columns, [tuple(line[name] for name in told) for line in lines])
