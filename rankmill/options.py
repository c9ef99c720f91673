"""What every command shares: its options, how they reach the settings, and errors that a person can read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of lake, answers, models and reports. [default: .rankmill]")
]
PROFILES = ", ".join(sorted(path.stem for path in (Path(__file__).parents[1] / "profiles").glob("*.yaml")))
ProfileName = Annotated[
    str | None, typer.Option("--profile", help=f"Where to run: {PROFILES}, or a YAML file. [default: offline]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program in place of a table for a person.")]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--sources",
        help="A folder with queries.jsonl, passages.jsonl and qrels.tsv; `seed` for the shipped domains; "
        "`hf:NAME` for a Hugging Face set. Repeatable; remembered for later runs.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Most queries a source, chosen by hash.")]
BudgetUsd = Annotated[
    float | None, typer.Option("--budget-usd", min=0, help="Hard limit of all spending on a teacher in this home.")
]


def environment(profile: str | None, home: Path | None, **values: Any) -> None:
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
