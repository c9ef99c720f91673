"""The paid half of a campaign as a process of its own, so that a cluster can give it what a teacher of its own takes.

    path = write(folder, name, questions, teacher, home)         # here
    answer(path, api_key, tell)                                  # there: python -m rankmill.asking PATH
    bought = answered(path)                                      # here again

Questions go there as lines of JSON; answers go into the home's exchange store as they come, and what else a campaign
tells comes back in a file beside the questions. So the process runs where the home's disk is the machine's own: SQLite
shares its log through memory, which no network file system does. Deliberately absent: the key, which the process has
in its own environment, and the decision what runs where (rankmill.places).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter

from flows.campaign import Home, Label, Outcome, Tell, label
from flows.questions import Question
from flows.teacher import TeacherSettings
from inference.batch.rows import BatchElsewhere
from inference.breaker import EndpointDown, MostlyErrors
from inference.budget import BudgetExceeded
from inference.clerk import StoreUnusable
from inference.endpoint import EndpointRefused, KeyRefused, QuotaSpent, RequestRefused
from inference.exchange import Exchange, Failure, Request, Sampling
from inference.prices import Cost, UnknownPrice
from inference.progress import Progress
from inference.vllm import VllmUnusable
from ranking.prompts import load_template

ENDS: tuple[type[Exception], ...] = (
    BatchElsewhere, BudgetExceeded, EndpointDown, EndpointRefused, KeyRefused, MostlyErrors, QuotaSpent, RequestRefused,
    StoreUnusable, UnknownPrice, VllmUnusable,
)  # fmt: skip
NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3")
OUTCOMES: TypeAdapter[list[Outcome]] = TypeAdapter(list[Exchange | Failure])


class Head(BaseModel):
    """The first line of a file of questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    teacher: TeacherSettings
    store: Path
    logs: Path
    prefect: Path | None


class Came(BaseModel):
    """What came of it, but for the answers themselves, which are in the store; or the error that ended it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcomes: list[Exchange | Failure] = []
    progress: Progress | None = None
    presumed: tuple[int, Cost] = (0, Cost())
    error: str = ""
    words: str = ""


def write(folder: Path, name: str, questions: Sequence[Question], teacher: TeacherSettings, home: Home) -> Path:
    """Write the questions where the process will read them; no key is among what is written."""
    head = Head(name=name, teacher=teacher, store=home.store, logs=home.logs, prefect=home.prefect)
    path = folder / f"{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        lines.write(head.model_dump_json(exclude={"teacher": {"api_key"}}) + "\n")
        for question in questions:
            lines.write(json.dumps(_told(question), ensure_ascii=False) + "\n")
    came_of(path).unlink(missing_ok=True)
    return path


def answer(path: Path, api_key: SecretStr | None, tell: Tell) -> None:
    """Have the questions answered, and leave word of it. Raises what `label` raises, having left word of that."""
    with path.open("rb") as lines:
        head = Head.model_validate_json(lines.readline())
        questions = list(_read(path, lines))
    teacher = head.teacher if api_key is None else head.teacher.model_copy(update={"api_key": api_key})
    try:
        _own_disk(head.store)
        home = Home(head.store, head.logs, head.prefect)
        bought = label(head.name, questions, teacher, home, tell)
        came = Came(outcomes=list(bought.outcomes), progress=bought.progress, presumed=bought.presumed)
    except ENDS as error:
        came_of(path).write_text(Came(error=type(error).__name__, words=str(error)).model_dump_json(), "utf-8")
        raise
    part = path.with_suffix(".part")
    part.write_text(came.model_dump_json(), "utf-8")
    part.replace(came_of(path))


def answered(path: Path) -> Label | None:
    """What came of the questions; None where the process ended without a word. Raises what `label` would have."""
    if not came_of(path).is_file():
        return None
    came = Came.model_validate_json(came_of(path).read_bytes())
    for kind in ENDS:
        if kind.__name__ == came.error:
            raise kind(came.words)
    assert came.progress is not None  # written together with the outcomes
    return Label(outcomes=tuple(came.outcomes), progress=came.progress, presumed=came.presumed)


def came_of(path: Path) -> Path:
    """Where a process leaves word of the questions in `path`."""
    return path.with_suffix(".came.json")


def _told(question: Question) -> dict[str, Any]:
    request = question.request
    asked = {"id": request.id, "messages": request.messages, "sampling": asdict(request.sampling)}
    return {
        "request": {**asked, "generation": request.generation},
        "purpose": question.purpose,
        "qid": question.qid,
        "docids": question.docids,
        "relevant": question.relevant,
        "list_seed": question.list_seed,
    }


def _read(path: Path, lines: BinaryIO) -> Iterator[Question]:
    """The questions that follow in a file; each finds its request there again when it is asked for."""
    at = lines.tell()
    while line := lines.readline():
        told = json.loads(line)
        told["id"] = told.pop("request")["id"]
        told |= {"docids": tuple(told["docids"]), "relevant": tuple(told["relevant"])}
        yield Question(template=load_template(told["purpose"]), make=partial(_request_at, path, at), **told)
        at = lines.tell()


def _request_at(path: Path, at: int) -> Request:
    with path.open("rb") as lines:
        lines.seek(at)
        asked = json.loads(lines.readline())["request"]
    sampling = Sampling(**asked.pop("sampling"))
    return Request(messages=tuple(asked.pop("messages")), sampling=sampling, **asked)


def _own_disk(path: Path) -> None:
    """Raises StoreUnusable where a path lies on a network file system."""
    found = [(Path(point), kind) for point, kind in _mounts() if path.resolve().is_relative_to(point)]
    point, kind = max(found, key=lambda mount: len(mount[0].parts), default=(Path("/"), ""))
    if kind in NETWORK:
        raise StoreUnusable(
            f"{path} lies on {point} ({kind}), which other machines share, and SQLite's log would be damaged there. "
            f"Run this stage where the home's disk is the machine's own (a Ray resource, a node selector), or take "
            f"`label` out of processes.stages."
        )


def _mounts() -> Iterator[tuple[str, str]]:
    mounts = Path("/proc/self/mountinfo")
    for line in mounts.read_text("utf-8").splitlines() if mounts.is_file() else []:
        before, _, after = line.partition(" - ")
        yield before.split()[4].replace("\\040", " "), after.split()[0]
