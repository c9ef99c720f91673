"""A reranking that was killed is gone on with from its answered batches, to the run of one that was not."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from training_toys import Lines
from word_stages import Died, make_words, rerank_job

from ranking.decoding.calls import Call
from training import rerank
from training.jobs import ModelRef, RerankJob
from training.rankers import Answered, Messages, Ranker, ranker_for

QIDS = [f"q{n}" for n in range(8)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return make_words(tmp_path_factory.mktemp("words"))


class Watched:
    """A ranker that counts the batches it answers, and dies when it has answered so many."""

    def __init__(self, ranker: Ranker, dies_after: int | None) -> None:
        self.ranker, self.model, self.tokenizer = ranker, ranker.model, ranker.tokenizer
        self.dies_after = dies_after
        self.batches = 0

    def answer(
        self, prompts: Sequence[Messages], calls: Sequence[Call], _: Any = None
    ) -> Iterator[tuple[int, Answered]]:
        if self.batches == self.dies_after:
            raise Died
        self.batches += 1
        yield from self.ranker.answer(prompts, calls)


@pytest.fixture
def reranked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Lines]]:
    def do(job: RerankJob, dies_after: int | None = None) -> tuple[int, Lines]:
        """How many batches the model answered, and what was told."""
        reporter, made = Lines(), list[Watched]()

        def watched(*given: Any) -> Watched:
            made.append(Watched(ranker_for(*given), dies_after))
            return made[0]

        with monkeypatch.context() as patch:
            patch.setattr(rerank, "ranker_for", watched)
            with nullcontext() if dies_after is None else pytest.raises(Died):
                rerank.run(job, reporter)
        return made[0].batches, reporter

    return do


def frames(job: RerankJob) -> list[pl.DataFrame]:
    calls = pl.read_parquet(job.folder / "calls.parquet").drop("seconds")
    return [pl.read_parquet(job.folder / "run.parquet"), calls]


@pytest.mark.parametrize("name", ["direct-point", "rank-r1", "erank"])
def test_a_killed_reranking_comes_to_the_same_run_and_asks_no_batch_twice(
    name: str, words: ModelRef, reranked: Callable[..., tuple[int, Lines]], tmp_path: Path
) -> None:
    whole, job = (rerank_job(words, tmp_path / folder, QIDS, name) for folder in ("whole", "killed"))
    batches, _ = reranked(whole)
    assert batches > 3 and not whole.answers.exists()
    for answered in (2, 1):  # killed, gone on with, and killed again
        assert reranked(job, answered)[0] == answered
    os.truncate(job.answers, job.answers.stat().st_size - 9)  # the third batch was not written to its end
    rest, told = reranked(job)
    assert rest == batches - 2
    assert "rerank base: 2 batches were answered before, by a killed process" in told.notes
    for one, other in zip(frames(job), frames(whole), strict=True):
        assert one.equals(other)
    assert sorted(job.output.glob(".*")) == []
