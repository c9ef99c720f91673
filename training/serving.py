"""The model behind `rankmill serve` and `rankmill rerank`: a process that orders lists for whoever holds its pipes.

    python -m training.serving '{"recipe": …, "model": …, "cache": …}'       # JSON lines in, JSON lines out

    in   {"id": 7, "query": "…", "documents": ["…", …]}         a list to order; {"cancel": 7} gives it up
    out  {"ready": {…}}                                         once, when the weights are loaded
         {"id": 7, "order": [2, 0, 1], "scores": null, "calls": 1, "rounds": 1, "malformed": {"tags": 1},
          "input_tokens": …, "output_tokens": …, "seconds": …}
         {"id": 7, "refused": "why the model cannot read this list"}

The open calls of all lists are answered together, the oldest lists first, so that lists of many callers share a
batch; between two batches new lists come in. A malformed answer keeps what can be recovered of the window's order and
is counted by kind. `scores` are a pointwise model's, laid from 0 to 1; `rounds` wait for one another; `seconds` are the
list's share of its batches. The process ends with its input, however the other side died. Deliberately absent: HTTP
(that is inference.server, which knows no torch) and anything on disk.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ranking.decoding.calls import Call, Ranked, Reply, Steps
from training.host import settle
from training.jobs import ModelRef
from training.rankers import Answered, call_prompt, misfit, ranker_for
from training.readings import highest_score
from training.recipes import Recipe

Messages = list[dict[str, str]]


class ServingJob(BaseModel):
    """Which model answers, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe = Field(description="Prompt, grammar and decoding; its batch is how many calls share one.")
    model: ModelRef = Field(description="The weights that are asked.")
    cache: Path = Field(description="Folder of converted base models.")
    top: int | None = Field(None, ge=2, description="Documents of a list that are reranked; null is all of them.")
    exact: bool = Field(False, description="fp32, and answers that do not depend on the batch (training.ties).")

    def command(self) -> list[str]:
        """The command that starts the process."""
        return [sys.executable, "-m", "training.serving", self.model_dump_json()]


class Answers(Protocol):
    """What a scheduler asks of a model."""

    def prompt(self, query: str, documents: Sequence[str]) -> Messages:
        """The messages of one call."""

    def misfit(self, query: str, documents: Sequence[str]) -> str | None:
        """Why some call on this list is too long for the model, or None."""

    def answer(
        self, prompts: Sequence[Messages], calls: Sequence[Call], abandoned: Callable[[int], bool]
    ) -> Iterable[tuple[int, Answered]]:
        """(number, answer) of each call."""


@dataclass
class OpenList:
    """A list that is being ordered: its decoder, the calls it has open, and the replies that are in."""

    id: int
    query: str
    documents: list[str]
    decoder: Steps
    calls: tuple[Call, ...] = ()
    replies: dict[int, Reply] = field(default_factory=dict)
    made: Ranked | None = None
    asked: int = 0
    rounds: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    @property
    def waiting(self) -> list[int]:
        """Numbers of the calls that have no reply yet."""
        return [place for place in range(len(self.calls)) if place not in self.replies]

    def put(self, place: int, answer: Answered) -> None:
        """Take an answer in; with the last one of its round the decoder goes on."""
        if answer.reply.fault is not None:
            self.malformed[str(answer.reply.fault)] += 1
        self.asked += 1
        self.input_tokens += answer.prompt_tokens
        self.output_tokens += answer.completion_tokens
        self.seconds += answer.seconds
        self.replies[place] = answer.reply
        if not self.waiting:
            self.advance()

    def advance(self) -> None:
        """Hand the replies to the decoder; afterwards either `calls` are open or `made` is final."""
        replies = [self.replies[place] for place in range(len(self.calls))]
        try:
            self.calls = self.decoder.send(replies) if self.calls else next(self.decoder)
            while not self.calls:
                self.calls = self.decoder.send([])
            self.rounds += 1
        except StopIteration as finished:
            self.made = finished.value
        self.replies = {}

    def line(self, highest: float | None) -> dict[str, Any]:
        """The answer that goes out. Documents that were not looked at follow in the order they came in.

        `highest` is the top of the scale that passages are scored on; None: the model gives no scores.
        """
        made = self.made or Ranked(())
        order = [*made.order, *range(len(made.order), len(self.documents))]
        scores = None
        if highest is not None and made.scores:  # what was not looked at has the lowest, as in training.rerank
            scores = [score / highest for score in (*made.scores, *[made.scores[-1]] * (len(order) - len(made.order)))]
        return {
            "id": self.id,
            "order": order,
            "scores": scores,
            "calls": self.asked,
            "rounds": self.rounds,
            "malformed": dict(self.malformed),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "seconds": self.seconds,
        }


class Scheduler:
    """Open lists, and the batches of calls that are made from them."""

    def __init__(
        self, job: ServingJob, answers: Answers, emit: Callable[[dict[str, Any]], None], cancelled: set[int]
    ) -> None:
        """`cancelled` is filled from outside, at any time, with lists that came before; it is emptied here."""
        self.job = job
        self.answers = answers
        self.emit = emit
        self.cancelled = cancelled
        self.highest = highest_score(job.recipe)
        self.open: dict[int, OpenList] = {}

    def accept(self, message: dict[str, Any]) -> None:
        """A list to order."""
        number, query, documents = message["id"], message["query"], message["documents"]
        count = len(documents) if self.job.top is None else min(self.job.top, len(documents))
        if (reason := self.answers.misfit(query, documents[:count])) is not None:
            self.emit({"id": number, "refused": reason})
            return
        entry = OpenList(number, query, documents, self.job.recipe.decoding.decoder()(count))
        entry.advance()
        self._keep(entry)

    def work(self) -> None:
        """One batch of open calls, those of the oldest lists."""
        self._forget_cancelled()
        open_calls = ((entry, place) for entry in self.open.values() for place in entry.waiting)
        batch = list(islice(open_calls, self.job.recipe.decoding.batch))
        if not batch:
            return
        calls = [entry.calls[place] for entry, place in batch]
        prompts = [
            self.answers.prompt(entry.query, [entry.documents[position] for position in call.positions])
            for (entry, _), call in zip(batch, calls, strict=True)
        ]
        for number, answer in self.answers.answer(prompts, calls, lambda n: batch[n][0].id in self.cancelled):
            entry, place = batch[number]
            if entry.id not in self.cancelled:
                entry.put(place, answer)
                self._keep(entry)

    def _keep(self, entry: OpenList) -> None:
        if entry.made is None:
            self.open[entry.id] = entry
            return
        self.open.pop(entry.id, None)
        self.emit(entry.line(self.highest))

    def _forget_cancelled(self) -> None:
        while self.cancelled:
            self.open.pop(self.cancelled.pop(), None)


class Student:
    """The model as the one who answers."""

    def __init__(self, job: ServingJob) -> None:
        from training.student import load_student, load_tokenizer, resolve

        self.recipe = job.recipe
        source = resolve(job.model, job.cache)
        dtype = "float32" if job.exact else job.recipe.model.inference_dtype
        student = load_student(source, dtype=dtype)
        self.ranker = ranker_for(job.recipe, student, load_tokenizer(source), job.exact)

    def prompt(self, query: str, documents: Sequence[str]) -> Messages:
        """The recipe's prompt, its texts cut to the recipe's budgets."""
        return call_prompt(self.recipe, self.ranker.tokenizer, query, documents)

    def misfit(self, query: str, documents: Sequence[str]) -> str | None:
        """Compares the longest call that can occur with what the model holds."""
        return misfit(self.recipe, self.ranker, query, documents)

    def answer(
        self, prompts: Sequence[Messages], calls: Sequence[Call], abandoned: Callable[[int], bool]
    ) -> Iterable[tuple[int, Answered]]:
        """One batch."""
        return self.ranker.answer(prompts, calls, abandoned)


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
    from training.ranks import best_device

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
