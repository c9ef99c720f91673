"""`rankmill plan`: what training a recipe on a release would take."""

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from rankmill.options import PROFILES, AsJson, Home, environment, plain_errors


def plan(
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe to plan.")] = "reasonrank",
    release: Annotated[
        str, typer.Option("--release", help="Release to train on: `newest`, or a beginning of its hash.")
    ] = "newest",
    device: Annotated[str, typer.Option("--device", help="Accelerator: a100, h100 or h200.")] = "h100",
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="How many of them. [default: the profile's training processes]"),
    ] = None,
    as_json: AsJson = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help=f"Whose training: {PROFILES}, or a YAML file. [default: gpu]"),
    ] = None,
    home: Home = None,
) -> None:
    """Say what training would take, in tokens, steps, memory of a device and hours, from the release's own rows.

    Rows and tokens are counted; memory and hours are reckoned from the model's shape (training/planning.py says how).
    """
    with plain_errors():
        environment(profile or "gpu", home)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from rankmill.cli_lake import open_lake
        from rankmill.settings import Settings, SettingsError
        from training.checkpoints import read_rows
        from training.curves import quiet
        from training.planning import ACCELERATORS, plan_of, shape_and_tokenizer
        from training.rl import accumulated
        from warehouse.curation.releases import export_rows, known_release
        from warehouse.formats.outgoing import newest_release

        settings = Settings.load()
        if device not in ACCELERATORS:
            raise SettingsError(f"there is no device {device!r}. Devices: {', '.join(ACCELERATORS)}.")
        if recipe not in settings.recipes():
            raise SettingsError(f"there is no recipe {recipe!r}. Recipes: {', '.join(settings.recipes())}.")
        lake = open_lake()
        name = newest_release(lake) if release == "newest" else known_release(lake, release)
        path = export_rows(lake, name, settings.home / "releases")
        chosen = settings.recipe(recipe)
        profile_read = settings.profile_that_buys_nothing
        if "rl" in chosen.stages:
            accumulated(chosen, profile_read.training.processes)  # or the stage would stop at its start
        quiet()
        shape, tokenizer, whose = shape_and_tokenizer(chosen, settings.models / "base")
        rows = {split: read_rows(path, split) for split in ("sft", "rl")}
        training = profile_read.training
        devices, seed = count or training.processes, profile_read.seed
        accelerator = ACCELERATORS[device]
        made = plan_of(chosen, rows, tokenizer, shape, accelerator, devices, seed, training)
        if as_json:
            stages = [{**asdict(stage), "fits": stage.fits(made.device)} for stage in made.stages]
            typer.echo(json.dumps({**asdict(made), "release": name, "tokenizer": whose, "stages": stages}))
            return
        shared = "" if made.count == 1 else ", weights sharded" if training.sharded else ", all weights on each"
        typer.echo(f"{made.recipe} ({made.base}) on release {name[:12]}, {made.count} x {made.device.name}{shared}")
        for stage in made.stages:
            typer.echo(
                f"  {stage.stage:4} {stage.rows:,} rows ({stage.left_out:,} left out), {stage.examples:,} examples, "
                f"longest {stage.longest:,} tokens; {stage.tokens:,.0f} tokens in {stage.steps:,} steps; "
                f"{stage.memory / 2**30:.0f} GiB a device ({'fits' if stage.fits(made.device) else 'DOES NOT FIT'}); "
                f"{f'{stage.hours:.1f} h' if stage.hours >= 1 else f'{60 * stage.hours:.1f} min'}"
            )
            if not stage.steps:
                few = "fewer than sampling.prompts draws together" if stage.examples else "no row fits"
                typer.echo(f"       not one step: {few}. The stage would stop with an error that says what to change")
        if whose != made.base:
            typer.echo(f"tokens counted with the tokenizer of {whose}: {made.base} is not at hand")
        typer.echo("rows and tokens are counted, memory and hours are reckoned (training/planning.py); nothing started")
