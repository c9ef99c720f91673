"""What a reranking process that was killed had answered already, and how the next one comes to the same run.

    kept = KeptAnswers(path)                        # reads what an earlier process left there
    for index, answer in kept.of(ranker, prompts, calls): ...
    kept.forget()                                   # once the run is published

Answers are kept and read back by whole batches, since what stands in a batch moves its logits by rounding: the run of
a process that goes on is that of one which was never killed. A line is a batch; one that was not written to its end is
passed over. Deliberately absent: answers for other jobs. Whoever asks anew has other weights, prompts or libraries.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ranking.decoding.calls import Call
from training.checkpoints import libraries
from training.rankers import Answered, Messages, Ranker
from training.recipes import content_hash

Answers = list[tuple[int, Answered]]
BATCH = TypeAdapter(tuple[str, Answers])  # by its key


class KeptAnswers:
    """The answered batches of one job, in a file beside its folder; `seconds` is what those read back had taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self._libraries = libraries()
        self._batches = _read(path)

    def __len__(self) -> int:
        """How many batches an earlier process left that were not asked for yet."""
        return len(self._batches)

    def of(self, ranker: Ranker, prompts: Sequence[Messages], calls: Sequence[Call]) -> Answers:
        """The answers to a batch, by their numbers in it; the ranker is asked where they are not kept."""
        key = content_hash({"by": self._libraries, "prompts": list(prompts), "calls": [asdict(call) for call in calls]})
        if (answers := self._batches.pop(key, None)) is not None:
            self.seconds += sum(answer.seconds for _, answer in answers)
            return answers
        answers = list(ranker.answer(prompts, calls))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"\n" + BATCH.dump_json((key, answers)))  # whatever a killed process wrote last ends here
            file.flush()
            os.fsync(file.fileno())
        return answers

    def forget(self) -> None:
        """The run is published."""
        self.path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Answers]:
    batches: dict[str, Answers] = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with suppress(ValidationError):
            batches.update([BATCH.validate_json(line)])
    return batches
