"""`rankmill models`, `promote` and `rollback`: every model with its standing, and what a person decides about them."""

import getpass
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rankmill.cli_lake import open_lake
from rankmill.options import AsJson, Home, ProfileName, environment, plain_errors

Who = Annotated[str | None, typer.Option("--who", help="Who decides. [default: the user's name]")]


def models(as_json: AsJson = False, home: Home = None) -> None:
    """Every model, newest first: what it was trained on, its NDCG@10 over all domains, its standing and the reason.

    A new model is promoted by the rule of the profile's `promotion` where it beats the champion (bm25 while there is
    none), else it stays a challenger. Every decision: rankmill lake query "SELECT * FROM promotions ORDER BY number".
    """
    with plain_errors():
        environment(None, home)
        from rankmill.tables import show_rows
        from warehouse.promotion import standings

        found = standings(open_lake())
        if as_json:
            typer.echo(found.write_json())
            return
        columns = {
            "model": "left", "recipe": "left", "stage": "left", "release": "left", "made": "left",
            "dev nDCG@10": "right", "standing": "left",
        }  # fmt: skip
        show_rows("models, newest first", columns, [_line(row) for row in found.iter_rows(named=True)])
        if found.is_empty():
            typer.echo("none yet: `rankmill run` makes some")


def promote(
    model: Annotated[str, typer.Argument(help="A model's id (or a beginning of it), or recipe/stage for its newest.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the decision.")],
    who: Who = None,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Make a model the champion because you say so, whatever the rule says; kept as your decision.

    Servers and commands that name `champion` use it from their next start. Later models are held against it.
    """
    with plain_errors():
        environment(profile, home)
        from rankmill.settings import Settings, SettingsError
        from warehouse import promotion
        from warehouse.models import named_models

        _given(reason)
        chosen = Settings.load().profile_that_buys_nothing
        lake = open_lake()
        found = named_models(lake.read("models"), model)
        if found.is_empty():
            raise SettingsError(f"there is no model {model!r}. `rankmill models` lists those of this home.")
        row = found.row(-1, named=True)
        against = promotion.promote(
            lake, row, reason=reason, who=who or getpass.getuser(), settings=chosen.promotion,
            resamples=chosen.evaluation.resamples, seed=chosen.evaluation.seed,
        )  # fmt: skip
        typer.echo(f"{row['model'][:12]} ({row['recipe']}/{row['stage']}) is champion in place of {against[:12]}")


def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the decision.")] = "rolled back by hand",
    who: Who = None,
    home: Home = None,
) -> None:
    """Make the previous champion champion again; the rule does not promote the one that goes a second time."""
    with plain_errors():
        environment(None, home)
        from warehouse import promotion

        _given(reason)
        gone, back = promotion.roll_back(open_lake(), reason=reason, who=who or getpass.getuser())
        typer.echo(f"{gone[:12]} is rolled back; {back[:12]} stands in its place")


def _given(reason: str) -> None:
    from rankmill.settings import SettingsError

    if not reason.strip():
        raise SettingsError("a decision is kept with its reason: give --reason TEXT.")


def _line(row: Mapping[str, Any]) -> tuple[Any, ...]:
    who = f" by {row['who']}" if row["who"] not in (None, "rule") else ""
    told = f"{row['standing']}{who}" + (f": {row['reason']}" if row["reason"] else "")
    return (
        row["model"][:12], row["recipe"], row["stage"], row["release"][:12],
        row["created_at"][:16].replace("T", " "), None if row["value"] is None else f"{row['value']:.4f}", told,
    )  # fmt: skip
