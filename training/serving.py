"""The model behind `rankmill serve` and `rankmill rerank`: a process that orders lists for whoever holds its pipes.

    python -m training.serving '{"recipe": …, "model": …, "cache": …}'       # JSON lines in, JSON lines out

    in   {"id": 7, "query": "…", "documents": ["…", …]}         a list to order; {"cancel": 7} gives it up
    out  {"ready": {…}}                                         once, when the weights are loaded
         {"id": 7, "order": [2, 0, 1], "calls": 1, "malformed": {"tags": 1}, "input_tokens": …, "output_tokens": …}
         {"id": 7, "refused": "why the model cannot read this list"}

The open windows of all lists are written together, the oldest lists first, so that lists of many callers share a
batch; between two batches new lists come in. A malformed answer keeps what can be recovered of the window's order and
is counted by kind. The process ends with its input, however the other side died. Deliberately absent: HTTP (that is
inference.server, which knows no torch) and anything on disk.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ranking.decoding.calls import Order, Reply, Steps
from ranking.decoding.listwise import sliding_window
from ranking.parsing import parse_answer, recover_order
from training.examples import prompt_length, ranking_prompt
from training.host import settle
from training.jobs import ModelRef
from training.recipes import Recipe

Messages = list[dict[str, str]]


class ServingJob(BaseModel):
    """Which model answers, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe = Field(description="Prompt, grammar and decoding; its batch is how many windows share one.")
    model: ModelRef = Field(description="The weights that are asked.")
    cache: Path = Field(description="Folder of converted base models.")
    top: int | None = Field(None, ge=2, description="Documents of a list that are reranked; null is all of them.")
    exact: bool = Field(False, description="fp32, and words that do not depend on the batch (training.ties).")

    def command(self) -> list[str]:
        """The command that starts the process."""
        return [sys.executable, "-m", "training.serving", self.model_dump_json()]


class WindowWriter(Protocol):
    """What a scheduler asks of a model."""

    def prompt(self, query: str, documents: Sequence[str]) -> Messages:
        """The messages that show one window."""

    def misfit(self, query: str, documents: Sequence[str]) -> str | None:
        """Why some window of this list is too long for the model, or None."""

    def write(
        self, prompts: Sequence[Messages], abandoned: Callable[[int], bool]
    ) -> Iterable[tuple[int, str, int, int]]:
        """(prompt number, text, prompt tokens, written tokens) of each prompt."""


@dataclass
class OpenList:
    """A list that is being ordered: its decoder, and the window that waits for an answer."""

    id: int
    query: str
    documents: list[str]
    decoder: Steps
    window: Order = ()
    order: Order | None = None
    calls: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0

    def advance(self, answer: Sequence[int] | None) -> None:
        """Hand the window's new order to the decoder; afterwards either `window` is open or `order` is final."""
        try:
            # A sliding window asks one call at a time.
            (call,) = next(self.decoder) if answer is None else self.decoder.send((Reply(tuple(answer)),))
            self.window = call.positions
        except StopIteration as finished:
            self.order = finished.value.order

    def line(self) -> dict[str, Any]:
        """The answer that goes out. Documents that were not looked at follow in the order they came in."""
        head = self.order or ()
        return {
            "id": self.id,
            "order": [*head, *range(len(head), len(self.documents))],
            "calls": self.calls,
            "malformed": dict(self.malformed),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }


class Scheduler:
    """Open lists, and the batches of windows that are made from them."""

    def __init__(
        self, job: ServingJob, writer: WindowWriter, emit: Callable[[dict[str, Any]], None], cancelled: set[int]
    ) -> None:
        """`cancelled` is filled from outside, at any time, with lists that came before; it is emptied here."""
        self.job = job
        self.writer = writer
        self.emit = emit
        self.cancelled = cancelled
        self.open: dict[int, OpenList] = {}

    def accept(self, message: dict[str, Any]) -> None:
        """A list to order."""
        number, query, documents = message["id"], message["query"], message["documents"]
        count = len(documents) if self.job.top is None else min(self.job.top, len(documents))
        if (reason := self.writer.misfit(query, documents[:count])) is not None:
            self.emit({"id": number, "refused": reason})
            return
        decoding = self.job.recipe.decoding
        entry = OpenList(number, query, documents, sliding_window(decoding.window, decoding.step)(count))
        entry.advance(None)
        self._keep(entry)

    def work(self) -> None:
        """One batch: the windows of the oldest lists, each of which has one open."""
        self._forget_cancelled()
        batch = list(self.open.values())[: self.job.recipe.decoding.batch]
        if not batch:
            return
        prompts = [self.writer.prompt(e.query, [e.documents[place] for place in e.window]) for e in batch]
        for number, text, read, written in self.writer.write(prompts, lambda n: batch[n].id in self.cancelled):
            entry = batch[number]
            if entry.id in self.cancelled:
                continue
            answer = parse_answer(text, len(entry.window), self.job.recipe.contract.think)
            if answer.fault is not None:
                entry.malformed[str(answer.fault)] += 1
            order = recover_order(text, len(entry.window)) if answer.order is None else answer.order
            entry.calls += 1
            entry.input_tokens += read
            entry.output_tokens += written
            entry.advance([entry.window[place] for place in order])
            self._keep(entry)

    def _keep(self, entry: OpenList) -> None:
        if entry.order is None:
            self.open[entry.id] = entry
            return
        self.open.pop(entry.id, None)
        self.emit(entry.line())

    def _forget_cancelled(self) -> None:
        while self.cancelled:
            self.open.pop(self.cancelled.pop(), None)


class Student:
    """The model as a WindowWriter."""

    def __init__(self, job: ServingJob) -> None:
        from training.generate import Decoding, Writer
        from training.student import load_student, load_tokenizer, resolve

        self.recipe = job.recipe
        source = resolve(job.model, job.cache)
        dtype = "float32" if job.exact else job.recipe.model.inference_dtype
        self.writer = Writer(load_student(source, dtype=dtype), load_tokenizer(source))
        decoding = job.recipe.decoding
        self.how = Decoding(max_new_tokens=decoding.max_new_tokens, batch=decoding.batch, exact=job.exact)

    def prompt(self, query: str, documents: Sequence[str]) -> Messages:
        """The recipe's prompt, its texts cut to the recipe's budgets."""
        return ranking_prompt(
            self.writer.tokenizer, self.recipe, query, documents, self.recipe.decoding.passage_tokens
        )[0]

    def misfit(self, query: str, documents: Sequence[str]) -> str | None:
        """Compares the longest window that can occur with what the model holds."""
        room = getattr(self.writer.model.config, "max_position_embeddings", None)
        if room is None:
            return None
        longest = sorted(documents, key=len)[-self.recipe.decoding.window :]
        length = prompt_length(self.writer.tokenizer, self.prompt(query, longest)) + self.how.max_new_tokens
        return f"a window may take {length} tokens, the model holds {room}" if length > room else None

    def write(
        self, prompts: Sequence[Messages], abandoned: Callable[[int], bool]
    ) -> Iterable[tuple[int, str, int, int]]:
        """One batch of completions."""
        for number, completion in self.writer.write(prompts, self.how, abandoned):
            yield number, completion.text, len(completion.prompt_ids), len(completion.ids)


class Inbox:
    """Lines from the other side, read by a thread of their own, so that a cancellation reaches a running batch."""

    def __init__(self, stream: BinaryIO, cancelled: set[int]) -> None:
        self._lists: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        self._cancelled = cancelled
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def take(self, wait: bool) -> list[dict[str, Any]]:
        """Lists that have come in; with `wait`, at least one."""
        with self._arrived:
            while wait and not self._lists:
                self._arrived.wait()
            taken, self._lists = self._lists, []
        return taken

    def _read(self, stream: BinaryIO) -> None:
        for line in stream:
            message = orjson.loads(line)
            with self._arrived:
                if "cancel" not in message:
                    self._lists.append(message)
                    self._arrived.notify()
                    continue
                waiting = [entry for entry in self._lists if entry["id"] != message["cancel"]]
                if len(waiting) == len(self._lists):
                    self._cancelled.add(message["cancel"])
                self._lists = waiting
        os._exit(0)  # nobody is left to read an answer, and a batch may have minutes to go


def serve(job: ServingJob, stream: BinaryIO, out: BinaryIO) -> None:
    """Load the model and order lists until the input ends (which ends the process)."""

    def emit(message: dict[str, Any]) -> None:
        out.write(orjson.dumps(message) + b"\n")
        out.flush()

    # The inbox comes first: should the other side die while the weights load, this process ends too.
    cancelled: set[int] = set()
    inbox = Inbox(stream, cancelled)
    from training.curves import quiet
    from training.student import best_device

    quiet()
    scheduler = Scheduler(job, Student(job), emit, cancelled)
    emit({"ready": {"model": job.model.sha256, "device": best_device()}})
    while True:
        for message in inbox.take(wait=not scheduler.open):
            scheduler.accept(message)
        scheduler.work()


def main(argv: Sequence[str]) -> None:
    """Serve the job given as JSON on the command line."""
    settle()
    # Whatever a library prints must not stand between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(ServingJob.model_validate_json(argv[0]), sys.stdin.buffer, out)


if __name__ == "__main__":
    main(sys.argv[1:])
