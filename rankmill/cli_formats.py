"""`rankmill export` and `rankmill audit`: releases in the formats of others, and others' sets under our filters."""

import json
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from rankmill.options import AsJson, Home, ProfileName, environment, plain_errors

FORMAT_NAMES = "reasonrank, verl, llamafactory, trl, trec, rankllm, beir, hub"


def export(
    release: Annotated[
        str, typer.Argument(help="A release: the beginning of its hash (`rankmill lake releases`), or `newest`.")
    ],
    form: Annotated[str, typer.Option("--format", help=f"How to write it: {FORMAT_NAMES} (see docs/formats.md).")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make. Written whole or not at all.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Split to take: sft, rl or dev. Repeatable. [default: all]")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option("--recipe", help="Recipe whose prompt and response form verl, llamafactory and trl are given."),
    ] = "reasonrank",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")] = False,
    as_json: AsJson = False,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Write a release in the format of another tool, ready for it to read.

    What a format cannot hold is listed in the folder's export.json and in docs/formats.md; only `hub` keeps every
    column. Prompts are those that training uses, with whole texts: the budget of tokens is the other tool's own.
    """
    with plain_errors():
        environment(profile, home)
        from rankmill.cli_lake import open_lake
        from rankmill.settings import Settings, SettingsError
        from warehouse.formats.outgoing import SPLITS, release_rows
        from warehouse.formats.prompted import Form
        from warehouse.formats.registry import ExportOptions
        from warehouse.formats.registry import export as write

        if wrong := [name for name in split or () if name not in SPLITS]:
            raise SettingsError(f"there is no split {wrong[0]!r}. Splits: {', '.join(SPLITS)}.")
        settings = Settings.load()
        if recipe not in settings.recipes():
            raise SettingsError(f"there is no recipe {recipe!r}. Recipes: {', '.join(settings.recipes())}.")
        contract = settings.recipe(recipe).contract
        if "teacher_ranking" not in contract.fits["labels"] or contract.name == "letters":
            raise SettingsError(
                f"{recipe} asks about {settings.recipe(recipe).units.name}s with the contract {contract.name}; an "
                "export holds lists in the form `[2] > [1]`. Name a recipe with a listwise contract: reasonrank."
            )
        rows = release_rows(open_lake(), release)
        card = settings.home / "releases" / rows.release[:12] / "README.md"
        options = ExportOptions(
            tuple(name for name in SPLITS if name in (split or SPLITS)),
            Form(contract.template, contract.think),
            card if card.is_file() else None,
        )
        told = write(rows, form, out, options, overwrite)
        if as_json:
            typer.echo(json.dumps(told))
            return
        written = ", ".join(f"{count:,} {name}" for name, count in told["written"].items())  # type: ignore[attr-defined]
        typer.echo(f"{out}: release {rows.release[:12]} as {form}: {written}")
        typer.echo(f"not held by this format: {'; '.join(told['not_held'])}")  # type: ignore[arg-type]


def audit(
    folder: Annotated[Path, typer.Argument(help="The set: a folder in ReasonRank's layout, or in another format.")],
    form: Annotated[
        str | None,
        typer.Option("--format", help="reasonrank, verl, trl or hub. [default: what the folder's files show]"),
    ] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(
            "--benchmarks",
            help="A folder with queries.jsonl (and passages.jsonl) files, at any depth, to look for in the set. "
            "Repeatable. [default: the registered benchmarks, where the profile may ask the hub]",
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", min=0, max=1, help="NDCG@10 that a list needs. [default: the profile's]")
    ] = None,
    template: Annotated[
        str, typer.Option("--template", help="Prompt template that verl and trl prompts were made with: name or file.")
    ] = "rank_student",
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML report to write. [default: <home>/audits/<folder>/report.html]")
    ] = None,
    as_json: AsJson = False,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Check a reranking training set that somebody else made: what is wrong, in which list, and what to do.

    Every filter of a release looks at every list: form (length, both labels, an order that names each passage once),
    licences, texts twice in a list or under opposite labels, what the texts say, agreement of ranking and labels, the
    teacher's first pick, and words shared with benchmarks. Nothing of the set is changed. Its tables and every
    decision go into a lake of their own below <home>/audits, which `rankmill lake query` can read.
    """
    with plain_errors():
        environment(profile, home)
        from rankmill.settings import ROOT, Settings
        from warehouse.curation.contamination import never_train_on
        from warehouse.formats import audit as auditing
        from warehouse.formats.registry import read_set
        from warehouse.intake.benchmarks import read_benchmarks
        from warehouse.lake import Lake, opened
        from warehouse.pages.reports import write_report

        settings = Settings.load()
        chosen = settings.profile_that_buys_nothing
        read = read_set(folder, form, template)
        registered = [] if benchmarks else sorted((ROOT / "benchmarks").glob("*.yaml"))
        items = read_benchmarks(registered, benchmarks or [], chosen.hub)
        never = never_train_on(items.items, read.queries())
        audited = auditing.audit(read, never, chosen.release, chosen.alpha if alpha is None else alpha)
        place = _place_of(settings.home / "audits", folder.resolve())
        with opened(Lake.at(place / "lake")) as lake:
            auditing.store(lake, audited, run_id="audit")
        page = write_report(out or place / "report.html", "audit.html.j2", auditing.values(audited))
        unread = items.notes["benchmarks_not_read"]
        if as_json:
            faults = audited.faults().to_dicts()
            typer.echo(json.dumps({**auditing.summary(audited), "faults": faults, "benchmarks_not_read": unread}))
        else:
            _say(auditing.summary(audited), unread)
            typer.echo(f"report: {page}")
            typer.echo(f'every decision: rankmill lake query "SELECT * FROM decisions" --home {place}')


def _place_of(audits: Path, folder: Path) -> Path:
    """Where the audit of a folder is kept: under the folder's name, with a number where another one has it."""
    for number in count(1):
        place = audits / (folder.name if number == 1 else f"{folder.name}-{number}")
        mark = place / "folder"
        if not place.exists() or (mark.is_file() and mark.read_text("utf-8") == str(folder)):
            break
    place.mkdir(parents=True, exist_ok=True)
    mark.write_text(str(folder), "utf-8")
    return place


def _say(told: dict[str, Any], unread: dict[str, str]) -> None:
    typer.echo(
        f"{told['folder']} ({told['format']}): {told['lists']:,} lists, {told['clean']:,} of them without a fault "
        f"that a release rejects; {100 * told['consistent_share']:.1f} % consistent at alpha {told['alpha']:g}"
    )
    for reason in told["reasons"]:
        typer.echo(f"  {reason['lists']:6,} {reason['outcome']:8} {reason['reason']}: {reason['remedy']}")
        for example in reason["examples"][:2]:
            typer.echo(f"                  {example['place']} {example['detail'] or ''}".rstrip())
    for name, why in unread.items():
        typer.echo(f"not compared with {name}: {why}")
    typer.echo(f"compared with {told['benchmark_items']:,} benchmark items")
