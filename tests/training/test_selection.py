"""The best step on the dev rows is what is published: not the last one, and not a worse one than the start."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_systems import eight_rows, system
from training_toys import RECIPE, Lines
from word_stages import Died, Mortal, figures, make_words, rl_job, run, sft_job, write_rows

from ranking.decoding.calls import Reply
from training.checkpoints import TrainingDataError
from training.jobs import ModelRef, RlJob, SftJob, TrainResult, weights_sha256
from training.rankers import Answered, ranker_for
from training.recipes import RecipeError, load_recipe
from training.selection import DevList, dev_lists, dev_ndcg
from training.student import load_tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return make_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows to learn, and the same to be measured on, so that what is learned shows there."""
    return write_rows(tmp_path_factory.mktemp("rows"), "sft", "rl", "dev")


def job_of(words: ModelRef, rows: Path, output: Path, name: str = "direct-point", **objective: Any) -> SftJob:
    usual = {"batch": 4, "max_steps": 60, "scheduler": "constant", "evaluate_every": 10}
    return sft_job(words, rows, output, name, usual | objective)


def measured(result: TrainResult) -> dict[int, float]:
    return {int(entry["step"]): entry["dev_ndcg"] for entry in result.history if "dev_ndcg" in entry}


@pytest.mark.parametrize("name", ["direct-point", "first", "reasonrank-direct"])
def test_the_dev_figure_stands_in_the_curve_and_the_best_step_is_published(
    name: str, words: ModelRef, rows: Path, tmp_path: Path
) -> None:
    from training.student import load_student

    job = job_of(words, rows, tmp_path, name)
    result = run(job)
    found = measured(result)
    assert list(found) == [0, 10, 20, 30, 40, 50, 60] and result.steps == 60
    assert result.dev_ndcg == max(found.values()) > found[0]
    assert result.chosen_step == min(step for step, figure in found.items() if figure == result.dev_ndcg)
    # What was published ranks the dev rows as the curve says.
    ranker = ranker_for(job.recipe, load_student(job.folder), load_tokenizer(job.folder))
    how = job.recipe.selecting("sft")
    assert how is not None
    lists, _ = dev_lists(pl.read_parquet(rows).head(8).to_dicts(), how, job.recipe, ranker, 1)
    assert dev_ndcg(job.recipe, ranker, lists) == pytest.approx(result.dev_ndcg)
    assert f"| step whose weights these are | {result.chosen_step}, NDCG@10" in (job.folder / "README.md").read_text()


def test_a_stage_that_only_makes_it_worse_publishes_its_start(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    taught = run(job_of(words, rows, tmp_path))
    start = ModelRef(path=str(tmp_path / f"sft-{taught.job[:12]}"), sha256=taught.weights_sha256)
    # Learned anew with the relevant passage last: every step is worse than the start.
    turned = [one | {"split": "sft", "relevant": one["final_order"][-1:]} for one in eight_rows()]
    path = tmp_path / "turned.parquet"
    pl.DataFrame([*turned, *(one | {"split": "dev"} for one in eight_rows())]).write_parquet(path)
    reporter = Lines()
    result = run(job_of(start, path, tmp_path, evaluate_every=20, max_steps=40), reporter)
    found = measured(result)
    assert found[0] == taught.dev_ndcg and found[40] < found[0]
    assert result.chosen_step == 0 and result.weights_sha256 == start.sha256
    assert [step for _, step, _, metrics in reporter.steps if "dev_ndcg" in metrics] == [0, 20, 40]


def test_patience_stops_a_stage_that_gets_no_better(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    result = run(job_of(words, rows, tmp_path, max_steps=400, evaluate_every=20, patience=3))
    found = measured(result)
    assert result.chosen_step is not None
    assert result.steps == result.chosen_step + 60 < 400 and max(found) == result.steps
    assert len([entry for entry in result.history if "loss" in entry]) == result.steps


def test_the_chosen_step_survives_a_death(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    whole = run(job_of(words, rows, tmp_path / "whole", max_steps=40, patience=2))
    job = job_of(words, rows, tmp_path / "killed", max_steps=40, patience=2)
    job = job.model_copy(update={"checkpoint_steps": 7})
    for step in (9, 24):
        with pytest.raises(Died):
            run(job, Mortal(step))
    kept = sorted(path.name for path in job.resume.glob("best-*"))
    assert len(kept) <= 2 and all(name.endswith(".safetensors") for name in kept)
    result = run(job)
    assert (result.weights_sha256, result.chosen_step) == (whole.weights_sha256, whole.chosen_step)
    assert figures(result) == figures(whole) and len(result.went_on_at) == 2
    assert not job.resume.exists()


@pytest.mark.parametrize("student", [{}, {"tuning": "lora"}])
def test_measuring_changes_no_step(student: dict[str, str], words: ModelRef, rows: Path, tmp_path: Path) -> None:
    plain, often = (
        run(sft_job(words, rows, tmp_path, "reasonrank-direct", {"max_steps": 8, "evaluate_every": every}, student))
        for every in (None, 1)
    )
    losses = [[entry["loss"] for entry in one.history if "loss" in entry] for one in (plain, often)]
    assert losses[0] == losses[1] and plain.chosen_step is None
    assert plain.job != often.job


@pytest.mark.parametrize(("asked", "told"), [(5, "5 dev lists"), (9, "8 dev lists (9 asked for)")])
def test_reinforcement_chooses_its_step_too(asked: int, told: str, words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = rl_job(words, rows, tmp_path, sampling={"max_steps": 2, "evaluate_every": 1, "dev_rows": asked})
    reporter = Lines()
    result = run(job, reporter)
    assert list(measured(result)) == [0, 1, 2] and result.chosen_step in (0, 1, 2)
    assert f"rl: {told} every 1 steps, 0 left out" in reporter.notes
    if result.chosen_step == 0:
        assert weights_sha256(job.folder) == words.sha256


def test_adapters_are_chosen_too(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    job = job_of(words, rows, tmp_path, max_steps=4, evaluate_every=2, lr=1e-2)
    model = job.recipe.model.model_copy(update={"tuning": "lora", "rank": 4})
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"model": model})})
    result = run(job)
    assert list(measured(result)) == [0, 2, 4]
    assert (result.weights_sha256 == words.sha256) == (result.chosen_step == 0)


def test_without_dev_rows_a_stage_that_wants_them_does_not_begin(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "no_dev.parquet"
    pl.read_parquet(rows).filter(pl.col("split") != "dev").write_parquet(path)
    with pytest.raises(TrainingDataError, match=r"evaluate_every is 10 and there is nothing to evaluate on.*'dev'"):
        run(job_of(words, path, tmp_path))


def test_dev_rows_that_make_no_list_are_named(words: ModelRef, tmp_path: Path) -> None:
    from training.student import load_student

    recipe = system("direct-point", objective={"evaluate_every": 5})
    how = recipe.selecting("sft")
    assert how is not None
    ranker = ranker_for(recipe, load_student(Path(words.path)), load_tokenizer(Path(words.path)))
    rows = [eight_rows()[0], eight_rows()[1] | {"relevant": []}]
    lists, (left,) = dev_lists(rows, how, recipe, ranker, 1)
    assert [one.query for one in lists] == ["question0"] and (left.row_id, left.reason) == (
        "toy/1",
        "no relevant passage in the list",
    )


def test_what_the_decoding_does_not_reach_counts_at_its_place(words: ModelRef) -> None:
    from training.student import load_student

    recipe = system("direct-point", decoding={"top": 2})
    ranker = ranker_for(recipe, load_student(Path(words.path)), load_tokenizer(Path(words.path)))
    far = DevList("question0", ("text0a", "text0b", "text0c", "text0a"), frozenset({3}))
    assert dev_ndcg(recipe, ranker, [far]) == pytest.approx(0.4307, abs=1e-4)  # 1 / log2(5)


def test_what_is_off_changes_no_hash_and_what_is_on_reads_the_decoding() -> None:
    def hashes(*overrides: dict[str, Any]) -> tuple[str, str, str]:
        recipe = load_recipe(RECIPE, *overrides)
        given = {"recipe": recipe, "release": "r", "rows": Path("r"), "model": ModelRef(path="m", sha256="m")}
        jobs = [kind(**given, output=Path("o")) for kind in (SftJob, RlJob)]
        return recipe.sha256, jobs[0].sha256, jobs[1].sha256

    null = {"evaluate_every": None, "patience": None, "dev_rows": None}
    assert hashes() == hashes({"objective": null, "sampling": null})
    wide = {"decoding": {"top": 50}}
    assert hashes()[1:] == hashes(wide)[1:]
    every = {"objective": {"evaluate_every": 5}}
    assert hashes(every)[1] != hashes(every, wide)[1] and hashes(every)[2] == hashes(every, wide)[2] == hashes()[2]


def test_patience_without_evaluations_is_refused() -> None:
    with pytest.raises(RecipeError, match="evaluate_every is null: set it, too"):
        load_recipe(RECIPE, {"objective": {"patience": 2}})


def test_a_malformed_answer_counts_nothing(words: ModelRef, rows: Path, tmp_path: Path) -> None:
    """What it leaves is the order shown, which may well be a good one."""
    job = job_of(words, rows, tmp_path, "reasonrank-direct")
    answers: list[str | None] = []

    class Says:
        """A ranker that keeps the order shown, and says of some of its answers that they are malformed."""

        tokenizer = load_tokenizer(Path(words.path))

        def answer(self, prompts: Any, calls: Any, abandoned: Any = None) -> Any:
            for number, call in enumerate(calls):
                fault = answers[number % len(answers)]
                yield number, Answered(Reply(call.positions, fault=fault), "", 1, 1, 0.0)

    best_first = [DevList("q", ("a", "b", "c"), frozenset({0})) for _ in range(4)]
    for said, figure in (([None], 1.0), (["tags"], 0.0), ([None, "tags"], 0.5)):
        answers[:] = said
        assert dev_ndcg(job.recipe, Says(), best_first) == figure  # type: ignore[arg-type]
