"""The model's process: lists share batches, a list does not depend on its neighbours, and nobody waits in vain."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from training_toys import RECIPE, SMALL, TOPICS

from ranking.decoding.calls import Call, Reply, Task
from ranking.decoding.replies import read_order
from training.jobs import ModelRef
from training.rankers import Answered
from training.recipes import Recipe, load_recipe, merge
from training.serving import Messages, Scheduler, ServingJob

HOLDER = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(600)
"""


class TurnsRound:
    """A writer that answers every window in reverse, or what is in `texts`; `batches` holds how many it was given."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts = list(texts)
        self.batches: list[int] = []
        self.during: Callable[[], None] = lambda: None

    def prompt(self, query: str, documents: Sequence[str]) -> Messages:
        return [{"role": "user", "content": " | ".join(documents)}]

    def misfit(self, query: str, documents: Sequence[str]) -> str | None:
        return "too long" if query == "long" else None

    def answer(
        self, prompts: Sequence[Messages], calls: Sequence[Call], abandoned: Callable[[int], bool]
    ) -> Iterable[tuple[int, Answered]]:
        self.batches.append(len(prompts))
        self.during()
        for number, call in enumerate(calls):
            order = " > ".join(f"[{place}]" for place in range(len(call.positions), 0, -1))
            text = self.texts.pop(0) if self.texts else f"<think> x </think> <answer> {order} </answer>"
            reply = Reply(call.positions, call.positions[0] / 8) if call.task is Task.SCORE else read_order(call, text)
            yield number, Answered(reply, text, 10, 3, 0.25)


def scheduler_of(
    writer: TurnsRound, recipe: Recipe | None = None, **changes: Any
) -> tuple[Scheduler, list[dict[str, Any]], set[int]]:
    recipe = recipe or load_recipe(RECIPE, SMALL)
    job = ServingJob(recipe=recipe, model=ModelRef(path="x", sha256="x"), cache=Path("x"), **changes)
    said: list[dict[str, Any]] = []
    cancelled: set[int] = set()
    return Scheduler(job, writer, said.append, cancelled), said, cancelled


def asked(number: int, count: int, query: str = "why") -> dict[str, Any]:
    return {"id": number, "query": query, "documents": [f"d{place}" for place in range(count)]}


def test_windows_of_many_lists_share_batches_oldest_first() -> None:
    scheduler, said, _ = scheduler_of(writer := TurnsRound())
    for number in range(6):
        scheduler.accept(asked(number, 3))
    while scheduler.open:
        scheduler.work()
    assert writer.batches == [4, 2]  # the recipe's batch is four
    assert [answer["id"] for answer in said] == list(range(6))
    assert all(answer["order"] == [2, 1, 0] and answer["calls"] == 1 for answer in said)


def test_a_long_list_slides_and_only_its_top_is_looked_at() -> None:
    scheduler, said, _ = scheduler_of(TurnsRound(), top=4)
    scheduler.accept(asked(1, 6))
    scheduler.work()
    scheduler.work()
    # Windows of three by two: 1 2 3 turned round, then 0 3 in front.
    assert said == [
        {"id": 1, "order": [3, 0, 2, 1, 4, 5], "scores": None, "calls": 2, "rounds": 2, "malformed": {},
         "input_tokens": 20, "output_tokens": 6, "seconds": 0.5}
    ]  # fmt: skip


def test_a_malformed_answer_keeps_what_it_does_not_say_and_is_counted_by_kind() -> None:
    texts = ["nonsense", "<think> x </think> <answer> [3] </answer>"]
    scheduler, said, _ = scheduler_of(TurnsRound(texts))
    scheduler.accept(asked(1, 3))
    scheduler.accept(asked(2, 3))
    scheduler.work()
    assert [(answer["order"], answer["malformed"]) for answer in said] == [
        ([0, 1, 2], {"tags": 1}),
        ([2, 0, 1], {"list": 1}),
    ]


def test_calls_of_one_list_that_do_not_wait_for_each_other_share_a_batch() -> None:
    recipe = load_recipe(RECIPE.with_name("direct-point.yaml"), {"decoding": {"batch": 4}})
    scheduler, said, _ = scheduler_of(writer := TurnsRound(), recipe)
    scheduler.accept(asked(1, 6))
    while scheduler.open:
        scheduler.work()
    assert writer.batches == [4, 2]
    assert said[0]["order"] == [5, 4, 3, 2, 1, 0] and (said[0]["calls"], said[0]["rounds"]) == (6, 1)
    assert said[0]["scores"] == [0.625, 0.5, 0.375, 0.25, 0.125, 0.0]


def test_a_said_score_is_laid_on_its_scale_and_what_was_not_looked_at_has_the_lowest() -> None:
    recipe = load_recipe(RECIPE.with_name("erank.yaml"), {"labels": {"highest": 2}})
    scheduler, said, _ = scheduler_of(TurnsRound(), recipe, top=3)
    scheduler.accept(asked(1, 5))
    scheduler.work()
    assert (said[0]["order"], said[0]["scores"]) == ([2, 1, 0, 3, 4], [0.125, 0.0625, 0.0, 0.0, 0.0])


def test_a_single_document_needs_no_call_and_a_list_that_does_not_fit_is_refused() -> None:
    scheduler, said, _ = scheduler_of(writer := TurnsRound())
    scheduler.accept(asked(1, 1))
    scheduler.accept(asked(2, 3, "long"))
    scheduler.work()
    assert said[0]["order"] == [0] and said[1] == {"id": 2, "refused": "too long"} and writer.batches == []


def test_a_cancelled_list_is_asked_no_further_and_leaves_nothing() -> None:
    scheduler, said, cancelled = scheduler_of(writer := TurnsRound())
    scheduler.accept(asked(1, 9))
    scheduler.accept(asked(2, 3))
    writer.during = lambda: cancelled.add(1)
    scheduler.work()
    writer.during = lambda: None
    cancelled.add(77)  # answered long ago
    while scheduler.open:
        scheduler.work()
    scheduler.work()
    assert [answer["id"] for answer in said] == [2] and writer.batches == [2] and not cancelled


@pytest.fixture(scope="module")
def small(tiny: ModelRef) -> Recipe:
    """Longer answers of the random student, so that there is much to differ in."""
    return load_recipe(RECIPE, merge(SMALL, {"decoding": {"max_new_tokens": 24}}))


def prompts() -> list[Messages]:
    texts = ["Why?", "Why do rivers matter?", "How many planets are there, and which of them have rings " * 3]
    return [[{"role": "user", "content": f"{text} {topic}"}] for text in texts for topic in TOPICS]


def test_what_is_written_to_a_prompt_does_not_depend_on_its_batch(tiny: ModelRef) -> None:
    import torch

    from training.generate import Decoding, Writer
    from training.student import load_student, load_tokenizer

    writer = Writer(load_student(tiny.path), load_tokenizer(tiny.path))
    torch.manual_seed(0)
    words = writer.model.get_output_embeddings().weight.data
    # Every token has a twin whose logit differs by less than rounding: which of the two is written is chance.
    words[1::2] = words[0::2] * (1 + 1e-7 * torch.randn_like(words[0::2]))

    def written(batch: int, exact: bool) -> list[tuple[int, ...]]:
        how = Decoding(max_new_tokens=24, batch=batch, exact=exact)
        return [completion.ids for _, completion in sorted(writer.write(prompts(), how), key=lambda pair: pair[0])]

    assert written(1, exact=False) != written(12, exact=False)
    alone = written(1, exact=True)
    assert all(written(batch, exact=True) == alone for batch in (2, 5, 12))


def test_a_near_tie_is_decided_alone_and_a_clear_case_is_left_as_it_is(tiny: ModelRef) -> None:
    import torch

    from training.student import load_student, load_tokenizer
    from training.ties import NearTies

    model, tokenizer = load_student(tiny.path), load_tokenizer(tiny.path)
    ids = tokenizer("Why do rivers matter?")["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        first, second = logits.topk(2).indices.tolist()
        ties = NearTies(model, [1, 0, 1], len(ids) + 1, {tokenizer.pad_token_id})
        tied = logits.clone()
        tied[second] = logits[first] + 1e-5  # rounding has turned it
        clear = torch.zeros_like(logits)
        clear[second] = 1.0
        padded = torch.tensor([[tokenizer.pad_token_id, *ids], [0, *ids], [tokenizer.pad_token_id, *ids]])
        chosen = ties(padded, torch.stack([tied, clear, tied])).argmax(-1).tolist()
    assert chosen == [first, second, first] and ties.decided == 2


@pytest.fixture
def process(small: Recipe, tiny: ModelRef, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    job = ServingJob(recipe=small, model=tiny, cache=tmp_path, exact=True)
    with subprocess.Popen(job.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        yield started
        if started.poll() is None:
            os.kill(started.pid, signal.SIGKILL)


def test_the_process_answers_on_its_pipes_and_ends_with_its_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    for number in (1, 2):
        process.stdin.write(json.dumps(asked(number, 5)).encode() + b"\n")
    process.stdin.flush()
    ready, *answers = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert "ready" in ready
    assert [(answer["id"], answer["order"], answer["calls"]) for answer in answers] == [
        (number, [0, 1, 2, 3, 4], 2) for number in (1, 2)
    ]
    assert all(answer["malformed"] == {"tags": 2} and answer["output_tokens"] > 0 for answer in answers)
    process.stdin.write(json.dumps(asked(3, 500)).encode() + b"\n")
    process.stdin.close()
    assert process.wait(10) == 0  # in the midst of it


def test_the_process_ends_when_the_other_side_is_killed(small: Recipe, tiny: ModelRef, tmp_path: Path) -> None:
    job = ServingJob(recipe=small, model=tiny, cache=tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", HOLDER, *job.command()], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "the model's process outlives whoever asked it"
        time.sleep(0.1)
