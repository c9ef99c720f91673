"""`rankmill why` and `rankmill retract`: a row's whole history, and taking back what should not have been used."""

import getpass
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rankmill.cli_lake import open_lake
from rankmill.options import AsJson, Home, environment, plain_errors

LINE = 110  # characters of a passage on the terminal
ROWS = 10


def why(
    row: Annotated[str, typer.Argument(help="Id of a training row or of a ranking, or a beginning that only it has.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with every text to this file.")] = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Where a training row comes from, why it was kept, and where it went.

    Sources, licences and addresses; prompt, exchanges, tokens and cost; the teacher's chain; judgements and
    consistency; every filter's decision; split, releases, models and their scores. All of it is read from the lake,
    nothing is computed again, and what the lake does not hold is said. Ids stand in `rankmill lake diff` and in
    `rankmill lake query "SELECT row_id, qid FROM training_rows"`.
    """
    with plain_errors():
        environment(None, home)
        from warehouse.audit.provenance import explain
        from warehouse.pages.reports import write_report

        told = explain(open_lake(), row)
        if html is not None:
            typer.echo(f"page: {write_report(html, 'row.html.j2', {'e': told})}", err=as_json)
        if as_json:
            typer.echo(json.dumps(asdict(told), indent=1, ensure_ascii=False))
        elif html is None:
            for line in _story(told):
                typer.echo(line)


def retract(
    source: Annotated[str | None, typer.Option("--source", help="Take back all that came from this source.")] = None,
    query: Annotated[str | None, typer.Option("--query", help="Take back one query: DOMAIN/QID.")] = None,
    license: Annotated[
        str | None, typer.Option("--licence", "--license", help="Take back all that is under this SPDX licence.")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it is kept with the retraction.")] = None,
    who: Annotated[str | None, typer.Option("--who", help="Who takes it back. [default: the user's name]")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this nothing is written.")] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Take back a source, a query or a licence: show what it reached, and with --yes release what is left.

    Shown first: every row, release, model and score that the data reached, also through a passage on a list. With --yes
    a new release without those rows is made, models and releases are marked (cards and report too), and who, when and
    why are kept; old releases stay readable. Later runs leave the same data out. The lake's past keeps the texts: this
    is no erasure.
    """
    with plain_errors():
        environment(None, home)
        from rankmill.settings import Settings, SettingsError
        from warehouse.audit import retraction
        from warehouse.pages.marks import mark_written
        from warehouse.production import CODE_VERSION

        given = [(k, v) for k, v in (("source", source), ("query", query), ("license", license)) if v is not None]
        if len(given) != 1:
            raise SettingsError("say what to take back by one of --source NAME, --query DOMAIN/QID or --licence SPDX.")
        if yes and not (reason or "").strip():
            raise SettingsError("a retraction is kept with its reason: give --reason TEXT.")
        lake = open_lake()
        reach = retraction.reach_of(lake, retraction.Selector(*given[0]))
        if not as_json:
            _show_reach(reach)
        done = None
        if yes:
            name = who or getpass.getuser()
            done = retraction.retract(lake, reach, reason=str(reason), who=name, code_version=CODE_VERSION)
            settings = Settings.load()
            for release in reach.releases["release"]:
                mark_written(lake, release, settings.home / "releases", settings.reports)
        if as_json:
            typer.echo(json.dumps({**_reach_values(reach), "done": asdict(done) if done else None}, indent=1))
        elif done is None:
            typer.echo("nothing was written; add --yes and --reason TEXT to do it")
        else:
            typer.echo(_done(done, reach))


def _story(told: Any) -> Iterator[str]:
    """An explanation as lines for a terminal."""
    name = f"row {told.row_id}, split {told.split}" if told.row_id else "not in any release"
    yield f"{told.domain}/{told.qid}: {name}; ranking {told.ranking_id}"
    if told.read_snapshot is not None:
        yield f"as the lake was at snapshot {told.read_snapshot}, which its newest release was made from"
    yield from _section("query", [told.query["text"], _origin(told.query)])
    yield from _section(
        "passages, as they were shown",
        [
            f"[{p['shown']}] put at {p['place'] or '-'}{', relevant' if p['relevant'] else ''}: {p['docid']}, "
            f"{_origin(p)}\n    {_cut(p['text'])}"
            for p in told.passages
        ],
    )
    yield from _section(f"chain of {told.judge}", [told.chain])
    yield from _section("exchanges", [_exchange(x) for x in told.exchanges])
    yield from _section(
        "judgements",
        [
            f"{j['docid']}: {j['grade']} by {j['judge']} ({j['origin']}, {j['role']})"
            + (f", exchange_key {j['exchange_key'][:12]}" if j["exchange_key"] else "")
            for j in told.judgements
        ],
    )
    score = "not known" if told.consistency is None else f"{told.consistency:.3f}"
    asked = "" if told.alpha is None else f", at least {told.alpha} asked"
    several = "" if told.agreement is None else f"; Kendall's W of {told.samples} samples {told.agreement:.3f}"
    yield from _section("consistency (NDCG@10 of the ranking against the judgements)", [f"{score}{asked}{several}"])
    decisions = [
        f"{d['filter']}: {d['outcome']}" + (f", {d['reason']}" if d["reason"] else "")
        + (f", measured {d['value']:.3f}" if d["value"] is not None else "")
        + (f" against {d['threshold']:g}" if d["threshold"] is not None else "")
        + (f" ({d['detail']})" if d["detail"] else "") + f"  [release {d['release'][:12]}]"
        for d in told.decisions
    ]  # fmt: skip
    left = [f"{r['asset']}: rejected, {r['reason']} ({r['detail']})" for r in told.rejections]
    yield from _section("what every filter decided", [*decisions, *left])
    releases = [
        f"{r['release'][:12]}, made {r['created_at']}, split {r['split']}"
        + (f"; RETRACTED by {r['who']} on {r['retracted_at'][:10]}: {r['reason']}" if r["retracted"] else "")
        for r in told.releases
    ]
    yield from _section("releases", releases)
    models = [
        f"{m['model'][:12]} ({m['recipe']}/{m['stage']}): {m['use']}{'; RETRACTED' if m['retracted'] else ''}"
        for m in told.models
    ]
    yield from _section("models", models)
    scores = [
        f"{s['model'][:12]} ({s['stage']}) on {s['domain']}: nDCG@10 {s['measures']['nDCG@10']:.4f} "
        f"({s['low']:.3f}-{s['high']:.3f}), {s['versus_bm25']:+.4f} to bm25, {s['queries']} {s['split']} queries"
        for s in told.scores
    ]
    yield from _section("scores of these models", scores)
    yield from _section("not in the lake", told.missing)


def _section(title: str, lines: Any) -> Iterator[str]:
    yield f"\n{title}"
    for line in lines or ("none",):
        yield "  " + str(line).replace("\n", "\n  ")


def _origin(found: Any) -> str:
    return f"source {found['source'] or '-'}, licence {found['license'] or '-'}, {found['url'] or 'no address'}"


def _exchange(x: Any) -> str:
    sampling = ", ".join(f"{name} {value}" for name, value in x["sampling"].items() if name != "model")
    repairs = f", repairs {x['repair_of'][:12]}" if x["repair_of"] else ""
    fault = f"; FAULT {x['fault']}" if x["fault"] else ""
    took = f", {x['latency_s']:.2f} s" if x["latency_s"] else ""  # nobody knows what an answer of a batch took
    return (
        f"{x['purpose']}: {x['served_model']} (asked for {x['model']}), generation {x['generation']}{repairs}{fault}\n"
        f"  {x['prompt_tokens']:,} + {x['completion_tokens']:,} tokens, {x['cached_tokens']:,} cached, "
        f"${x['usd']:.4f}{took}, {x['attempts']} attempt(s), {x['created_at']}\n"
        f"  {sampling}\n"
        f"  prompt template {x['prompt_sha256'][:16]}, key {x['key'][:16]}"
    )


def _cut(text: str | None) -> str:
    flat = " ".join((text or "(its text is not in the lake)").split())
    return flat if len(flat) <= LINE else f"{flat[:LINE]} …"


def _reach_values(reach: Any) -> dict[str, Any]:
    return {
        "selector": asdict(reach.selector),
        **{name: getattr(reach, name).to_dicts() for name in ("rows", "releases", "models", "scores")},
    }


def _show_reach(reach: Any) -> None:
    from rankmill.tables import show_rows

    ids = reach.rows["row_id"].n_unique()
    typer.echo(f"{reach.selector} reached {ids:,} rows in {reach.releases.height} releases, "
               f"{reach.models.height} models and {reach.scores.height} lines of the leaderboard")  # fmt: skip
    if reach.releases.height:
        left = {"release": "left", "made": "left", "rows": "right", "of them taken back": "right"}
        show_rows("releases", left, reach.releases.select(
            _short("release"), "created_at", "rows", "taken").iter_rows())  # fmt: skip
        rows = reach.rows.unique("row_id", maintain_order=True).head(ROWS)
        show_rows("rows", dict.fromkeys(("row", "query", "split"), "left"),
                  [(row, f"{domain}/{qid}", split) for row, domain, qid, split in
                   rows.select("row_id", "domain", "qid", "split").iter_rows()])  # fmt: skip
        if ids > ROWS:
            typer.echo(f"{ROWS} of {ids:,} rows shown; --json lists all\n")
    if reach.models.height:
        columns = dict.fromkeys(("model", "recipe", "stage", "trained on release", "made"), "left")
        models = reach.models.select(_short("model"), "recipe", "stage", _short("release"), "created_at")
        show_rows("models", columns, models.iter_rows())
    if reach.scores.height:
        columns = {"model": "left", "recipe": "left", "stage": "left", "domain": "left", "queries": "right"}
        scores = [
            (row["model"][:12], row["recipe"], row["stage"], row["domain"], row["queries"],
             f"{json.loads(row['measures'])['nDCG@10']:.4f}")
            for row in reach.scores.iter_rows(named=True)
        ]  # fmt: skip
        show_rows("scores", {**columns, "nDCG@10": "right"}, scores)


def _short(column: str) -> Any:
    import polars as pl

    return pl.col(column).str.slice(0, 12)


def _done(done: Any, reach: Any) -> str:
    if done.successor is not None:
        old = reach.releases["release"][0][:12]
        new = f"release {done.successor[:12]} with {done.rows:,} rows stands in place of {old}"
    elif reach.releases.height:
        new = "nothing of the newest release would be left, so no release stands in its place"
    else:
        new = "no release held it"
    return (
        f"retraction {done.retraction} at snapshot {done.snapshot}: {new}. What it reached is marked; "
        "`rankmill run` leaves it out from now on and trains anew on what is left."
    )
