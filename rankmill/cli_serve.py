"""`rankmill rerank` and `rankmill serve`: a trained model used on files, and over HTTP."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rankmill.options import Home, ProfileName, environment, plain_errors

_LINE_S = 5.0  # seconds between two lines of progress where there is no terminal

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A model of this home (`champion`, its id, or recipe/stage such as reasonrank/rl), a checkpoint folder, "
        "`base`, or `teacher`: the profile's endpoint, within its budget.",
    ),
]
Then = Annotated[
    str | None,
    typer.Option("--then", help="A second model, which orders anew what the first has put in front (a cascade)."),
]
ThenRecipe = Annotated[
    str | None, typer.Option("--then-recipe", help="Recipe that the second model is asked by. [default: its own]")
]
Keep = Annotated[int, typer.Option("--keep", min=2, help="Passages of a list that go on to the second model.")]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="Recipe whose prompt and decoding are used. [default: the model's own, or reasonrank]"
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Windows that the model is asked together. [default: the recipe's]")
]


def rerank(
    model: Model,
    run: Annotated[Path, typer.Option("--run", help="TREC run with the first stage's candidates.")],
    queries: Annotated[Path, typer.Option("--queries", help="queries.jsonl with qid and text.")],
    passages: Annotated[Path, typer.Option("--passages", help="passages.jsonl with docid and text (and title).")],
    out: Annotated[Path, typer.Option("--out", help="TREC run to write.")],
    recipe: RecipeName = None,
    then: Then = None,
    then_recipe: ThenRecipe = None,
    keep: Keep = 20,
    batch: Batch = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact/--fast",
            help="fp32 and the same file whatever the batch, or the recipe's arithmetic and near ties left to chance.",
        ),
    ] = True,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Rerank a TREC run with a trained model. Can be stopped at any time; the same command goes on."""
    with plain_errors():
        environment(profile, home)
        from rich.console import Console

        from ranking.trec import write_run
        from rankmill.cascade import rerank as reranked
        from rankmill.chosen_model import choose_models, tag
        from rankmill.rerank_lists import read_lists
        from rankmill.settings import Settings

        settings = Settings.load()
        chosen = choose_models(settings, (model, recipe), (then, then_recipe))
        lists = read_lists(run, queries, passages)
        with Watching(Console(stderr=True)) as watch:
            made = reranked(settings, chosen, keep, lists, batch, exact, watch)
        write_run(out, made.run, tag(chosen))
        kept = f", {made.from_journal} of them kept from before" if made.from_journal else ""
        typer.echo(
            f"{out}: {len(lists)} queries{kept}, {made.calls} calls, {100 * made.malformed_rate:.1f} % malformed, "
            f"{made.seconds:.1f} s{bill(made)}"
        )
        for qid, reason in made.refused[:5]:
            typer.echo(f"query {qid} keeps the first stage's order: {reason}", err=True)
        if len(made.refused) > 5:
            typer.echo(f"so do {len(made.refused) - 5} others", err=True)


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback asks for a key in RANKMILL_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    recipe: RecipeName = None,
    batch: Batch = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact/--fast",
            help="fp32 and the same answer whatever else is asked, or the recipe's arithmetic and near ties left to "
            "chance.",
        ),
    ] = False,
    most_documents: Annotated[int, typer.Option(min=1, help="Documents that one request may hold.")] = 1000,
    most_requests: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; more are told to come later.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that the model may take for a request.")] = 300,
    profile: ProfileName = None,
    home: Home = None,
) -> None:
    """Serve a trained model over HTTP: /v1/rerank and /v2/rerank as Cohere's and Jina's clients call them."""
    with plain_errors():
        environment(profile, home)
        import asyncio

        from inference.server.app import RerankServer, ServerSettings
        from inference.server.running import is_loopback, run_server
        from rankmill.chosen_model import choose_model
        from rankmill.settings import Settings, SettingsError
        from training.serving import ServingJob

        settings = Settings.load()
        key = settings.serve_key if settings.serve_key and settings.serve_key.get_secret_value() else None
        if key is None and not is_loopback(host):
            raise SettingsError(
                f"{host} can be reached from other machines. Set RANKMILL_API_KEY to the key that callers must send "
                f"(Authorization: Bearer …), or serve on 127.0.0.1."
            )
        chosen = choose_model(settings, model, recipe)
        if chosen.is_teacher:
            raise SettingsError(
                "the teacher is served by its own endpoint. Give a model of this home, or a checkpoint."
            )
        wanted = chosen.recipe
        if batch is not None:
            wanted = wanted.model_copy(update={"decoding": wanted.decoding.model_copy(update={"batch": batch})})
        job = ServingJob(recipe=wanted, model=chosen.reference, cache=settings.models / "base", exact=exact)
        limits = ServerSettings(
            names=chosen.names,
            api_key=key,
            most_documents=most_documents,
            most_requests=most_requests,
            answer_s=timeout,
        )

        async def until_stopped() -> None:
            stop = _stop_signal()

            def on_address(url: str, server: RerankServer) -> None:
                named = ", ".join(dict.fromkeys((chosen.names[0], chosen.names[-1])))  # typed; of `models`
                typer.echo(f"{url} loads {named} (weights {job.model.sha256[:12]}); Ctrl-C ends it")
                waiting.append(asyncio.create_task(tell_when_ready(url, server)))

            async def tell_when_ready(url: str, server: RerankServer) -> None:
                await server.ranker.until_ready()
                typer.echo(f"{url}/v1/rerank is ready")

            waiting: list[asyncio.Task[None]] = []
            await run_server(limits, job.command(), host, port, stop, on_address)

        asyncio.run(until_stopped())


def bill(made: Any) -> str:
    """What the answers of an endpoint cost, behind a line; nothing where a model of one's own gave them."""
    usd, cached = (made.costs[name].drop_nulls() for name in ("usd", "cached_tokens"))
    if usd.is_empty():
        return ""
    told = f", {cached.sum():,} tokens of prompts cached" if cached.len() else ""
    return f"; the answers cost ${usd.sum():,.4f}{told}"


def _stop_signal() -> Any:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    import asyncio
    import signal

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask, number)
    return stop


class Watching:
    """Shows progress, of lists or of an endpoint's answers: a bar on a terminal, else a line every few seconds."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.status: Any = None
        self.told = time.monotonic()

    def __enter__(self) -> Callable[[Any], None]:
        if self.console.is_terminal:
            self.status = self.console.status("loading the model")
            self.status.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if self.status is not None:
            self.status.stop()

    def show(self, progress: Any) -> None:
        text = progress.line
        if self.status is not None:
            self.status.update(text)
        elif time.monotonic() - self.told >= _LINE_S or progress.done == progress.total:
            self.told = time.monotonic()
            self.console.print(text, highlight=False, soft_wrap=True)
