"""The stages end to end on a tiny random model: what is learned, what is written, what is counted."""

import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from safetensors import safe_open
from training_toys import RECIPE, SMALL, Lines, row

from assets.training import _figures
from ranking.parsing import format_order
from training import rerank, rl, sft
from training.checkpoints import TrainingDataError, code_version, read_rows
from training.jobs import ModelRef, RerankJob, RlJob, SftJob, finished
from training.recipes import Recipe, load_recipe, merge
from warehouse.models import model_row


def sft_job(recipe: Recipe, rows: Path, model: ModelRef, output: Path, **changes: Any) -> SftJob:
    return SftJob(recipe=recipe, release="toy", rows=rows, model=model, output=output, seed=1, **changes)


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        return {str(weights.get_tensor(name).dtype) for name in weights.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def trained(recipe: Recipe, rows_path: Path, tiny: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> SftJob:
    """A tiny student, overfitted on four rows."""
    steps = merge(SMALL, {"objective": {"max_steps": 40, "epochs": 40, "scheduler": "constant"}})
    job = sft_job(load_recipe(RECIPE, steps), rows_path, tiny, tmp_path_factory.mktemp("models"))
    sft.run(job, Lines())
    return job


def test_supervised_training_overfits_a_few_rows(trained: SftJob) -> None:
    result = finished(trained)
    assert result is not None and result.steps == 40 and result.rows_used == 4
    first, last = result.history[0]["loss"], result.history[-1]["loss"]
    assert first > 8 and last < first / 4
    assert len(result.rows_seen) == 4
    assert result.tokens > 0 and result.step_seconds > 0


def test_a_checkpoint_is_fp32_safetensors_with_tokenizer_template_and_card(trained: SftJob) -> None:
    result = finished(trained)
    assert result is not None and dtypes(trained.folder) == {"torch.float32"}
    names = {path.name for path in trained.folder.iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "prompt_template.yaml", "README.md", "result.json"} <= names
    assert not any(path.suffix in {".bin", ".pt", ".pkl"} for path in trained.folder.rglob("*"))
    assert yaml.safe_load((trained.folder / "prompt_template.yaml").read_text())["method"] == "singleturn_listwise"
    card = (trained.folder / "README.md").read_text()
    facts = ["toy", trained.recipe.sha256, result.weights_sha256, "| seed | 1 |", "CC0-1.0", result.versions["trl"]]
    assert all(fact in card for fact in [*facts, f"| rankmill version | {code_version()} |"])


def test_what_was_shortened_is_told_in_the_output_the_result_the_card_and_the_ui(
    rows_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    tight = {"units": {"max_passages": 2, "query_tokens": 4}, "objective": {"max_steps": 1}}
    job = sft_job(load_recipe(RECIPE, merge(SMALL, tight)), rows_path, tiny, tmp_path)
    result = sft.run(job, reporter)
    assert result.shortened.lists == result.shortened.queries == (4, 4)
    words = result.shortened.words()
    assert words.startswith("lists 4 of 4, passages ") and any(words in note for note in reporter.notes)
    assert finished(job) == result and words in (job.folder / "README.md").read_text()
    assert _figures(result)["shortened"] == words


def test_a_row_of_models_says_what_a_checkpoint_was_made_from_by_what_and_at_what_cost(trained: SftJob) -> None:
    result = finished(trained)
    assert result is not None
    made = model_row(result.model_dump(mode="json"), recipe=trained.recipe.name, path="models/x")
    assert (made["release"], made["recipe_sha256"], made["seed"]) == ("toy", trained.recipe.sha256, 1)
    assert made["parent"] == trained.model.sha256 and made["tokens"] == result.tokens > 0 < made["seconds"]
    by = json.loads(made["versions"])
    assert by["hardware"].endswith(("float32", "bfloat16"))
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{12}", by["rankmill"])
    assert {"python", "torch", "transformers", "trl", "peft", "accelerate"} < by.keys()


def test_the_loss_is_taken_on_the_completion_only(
    tokenizer: Any, tiny: ModelRef, recipe: Recipe, rows_path: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import SFTTrainer

    from training.examples import sft_examples
    from training.student import load_student

    examples, _ = sft_examples([row(0), row(1)], recipe, tokenizer, seed=1)
    trainer = SFTTrainer(
        model=load_student(Path(tiny.path)),
        args=sft._config(recipe.objective, recipe.model, tmp_path, 1),
        train_dataset=Dataset.from_list([{"prompt": e.prompt, "completion": e.completion} for e in examples]),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    for example, labels, ids in zip(examples, batch["labels"], batch["input_ids"], strict=True):
        learned = tokenizer.decode(labels[labels != -100])
        assert learned.rstrip() == example.completion[0]["content"] + tokenizer.eos_token
        assert "Rank all" in tokenizer.decode(ids) and "Rank all" not in learned


def test_finished_work_is_not_done_again(trained: SftJob, reporter: Lines) -> None:
    before = (trained.folder / "model.safetensors").stat().st_mtime_ns
    assert sft.run(trained, reporter) == finished(trained)
    assert (trained.folder / "model.safetensors").stat().st_mtime_ns == before
    assert reporter.steps == [] and "nothing to do" in reporter.notes[0]


def test_the_same_job_makes_the_same_weights(
    recipe: Recipe, rows_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    jobs = [sft_job(recipe, rows_path, tiny, tmp_path / name) for name in "ab"]
    first, second = (sft.run(job, reporter).weights_sha256 for job in jobs)
    assert first == second != tiny.sha256


def test_only_rows_that_a_step_drew_count_as_trained_on(
    tiny: ModelRef, recipe: Recipe, rows_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    once = {"max_steps": 1, "batch": 1, "accumulation": 1}
    recipe = recipe.model_copy(update={"objective": recipe.objective.model_copy(update=once)})
    job = SftJob(recipe=recipe, release="toy", rows=rows_path, model=tiny, output=tmp_path, seed=1)
    result = sft.run(job, reporter)
    assert result.rows_used == 4 and len(result.rows_seen) == 1
    assert set(result.rows_seen) < {row["row_id"] for row in read_rows(rows_path, "sft")}


def test_each_step_is_reported_with_its_loss(
    recipe: Recipe, rows_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    sft.run(sft_job(recipe, rows_path, tiny, tmp_path), reporter)
    assert [(stage, step, total) for stage, step, total, _ in reporter.steps] == [("sft", n, 4) for n in (1, 2, 3, 4)]
    assert all(math.isfinite(metrics["loss"]) for *_, metrics in reporter.steps)


def test_adapters_are_merged_into_a_plain_checkpoint(
    rows_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    recipe = load_recipe(RECIPE, merge(SMALL, {"model": {"tuning": "lora", "rank": 4}, "sampling": {"max_steps": 1}}))
    job = sft_job(recipe, rows_path, tiny, tmp_path)
    result = sft.run(job, reporter)
    with safe_open(job.folder / "model.safetensors", framework="pt") as weights:
        assert not any("lora" in name for name in weights.keys())  # noqa: SIM118
    start = ModelRef(path=str(job.folder), sha256=result.weights_sha256)
    assert rl.run(RlJob(**(job.model_dump() | {"model": start})), reporter).steps == 1


def test_rows_that_all_fall_out_are_an_error_that_says_why(
    rows_path: Path, tiny: ModelRef, tmp_path: Path, reporter: Lines
) -> None:
    recipe = load_recipe(RECIPE, merge(SMALL, {"objective": {"max_tokens": 64}}))
    with pytest.raises(TrainingDataError, match=r"none of 4 sft rows .*objective.max_tokens is 64"):
        sft.run(sft_job(recipe, rows_path, tiny, tmp_path), reporter)
    assert list(tmp_path.glob("sft-*")) == []


def test_reinforcement_runs_and_reports_reward_by_term(
    trained: SftJob, recipe: Recipe, rows_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    start = finished(trained)
    assert start is not None
    model = ModelRef(path=str(trained.folder), sha256=start.weights_sha256)
    job = RlJob(recipe=recipe, release="toy", rows=rows_path, model=model, output=tmp_path, seed=1)
    result = rl.run(job, reporter)
    assert result.steps == 2 and result.rows_used == 4 and dtypes(job.folder) == {"torch.float32"}
    for entry in result.history:
        assert {"reward", "ndcg", "recall", "rbo", "malformed_rate", "kl", "loss"} <= entry.keys()
        assert 0 <= entry["malformed_rate"] <= 1 and -1 <= entry["reward"] <= 1.3
    assert [stage for stage, *_ in reporter.steps] == ["rl", "rl"]
    assert 1 <= len(result.rows_seen) <= 2 * recipe.sampling.prompts
    assert set(result.rows_seen) <= {row["row_id"] for row in read_rows(rows_path, "rl")}


def test_the_reward_tells_right_wrong_and_broken_answers_apart(recipe: Recipe) -> None:
    logged: dict[str, float] = {}
    answers = [
        *(f"<think> x </think> <answer> {format_order(order)} </answer>" for order in [(1, 2, 0), (0, 2, 1)]),
        "<think> x </think> <answer> [1] > [1] > [2] </answer>",
        "[2] > [3] > [1]",
    ]
    best, worst, bad_list, bad_tags = rl.reward_function(recipe)(
        completions=[[{"role": "assistant", "content": text}] for text in answers],
        relevant=[[1]] * 4,
        teacher_order=[[1, 2, 0]] * 4,
        log_metric=logged.__setitem__,
    )
    assert best == pytest.approx(1.3) and best > worst > bad_list == 0 > bad_tags == -1  # type: ignore[operator]
    assert (logged["malformed_rate"], logged["malformed_tags"], logged["malformed_list"]) == (0.5, 0.25, 0.25)


def rerank_job(recipe: Recipe, model: ModelRef, candidates: Path, output: Path) -> RerankJob:
    return RerankJob(
        recipe=recipe,
        release="toy",
        model=model,
        candidates=candidates,
        candidates_sha256="toy",
        student="base",
        output=output,
    )


def test_a_student_that_writes_nonsense_is_counted_and_keeps_the_first_stages_order(
    recipe: Recipe, tiny: ModelRef, candidates_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    job = rerank_job(recipe, tiny, candidates_path, tmp_path)
    result = rerank.run(job, reporter)
    # Four queries, four of six candidates in windows of three by two: two calls each.
    assert (result.queries, result.calls, result.malformed) == (4, 8, {"tags": 8})
    assert result.malformed_rate == 1.0
    assert reporter.steps[-1] == ("rerank base", 4, 4, {"calls": 8.0, "malformed_rate": 1.0})
    run, calls = pl.read_parquet(job.folder / "run.parquet"), pl.read_parquet(job.folder / "calls.parquet")
    assert run.height == 24
    for (domain, qid), rows in run.group_by("domain", "qid"):
        assert rows.sort("rank")["docid"].to_list() == [f"{domain}-d{str(qid)[1:]}-{n}" for n in range(1, 7)]
        assert rows.sort("rank")["score"].is_sorted(descending=True) and rows["score"].n_unique() == 6
    assert calls.height == 8 and set(calls["fault"]) == {"tags"}
    assert calls.sort("domain", "qid", "round")["round"].to_list() == [1, 2] * 4
    assert calls["prompt_tokens"].sum() == result.prompt_tokens and calls["seconds"].min() > 0  # type: ignore[operator]
    assert calls["completion_tokens"].sum() == result.completion_tokens
    assert rerank.run(job, reporter) == result


def test_answers_reorder_the_window_and_malformed_ones_give_what_can_be_recovered(
    recipe: Recipe, tiny: ModelRef, candidates_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    from training.generate import Completion

    class Scripted:
        """A writer that turns the first round's windows round, and names one passage in the second."""

        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer
            self.texts = iter(["<think> a </think> <answer> [3] > [2] > [1] </answer>", "<answer> [2] and so on"])

        model = None

        def write(self, prompts: list[Any], *_: Any) -> Any:
            text = next(self.texts)
            return [(i, Completion((1, 2), (3,), text, 0.1)) for i in range(len(prompts))]

    from ranking.decoding.desk import Desk
    from ranking.decoding.listwise import sliding_window
    from training.generate import Decoding
    from training.rankers import Words
    from training.student import load_tokenizer

    queries = rerank.read_queries(candidates_path)
    job = rerank_job(recipe, tiny, candidates_path, tmp_path)
    words = Words(recipe, Scripted(load_tokenizer(tiny.path)), Decoding(max_new_tokens=8))  # type: ignore[arg-type]
    recorder = rerank.Recorder(job, words, queries, reporter)
    recorder.order(desk := Desk([4] * 4, sliding_window(3, 2)))
    # The 2nd to 4th turned round make 1 4 3 2; then the front window holds 1 4, and the 4th is named first.
    assert [made.order for made in desk.ranked] == [(3, 0, 2, 1)] * 4
    assert [call["fault"] for call in recorder.calls] == [None, "tags"] * 4
    assert recorder.calls[0]["docids"] == [queries[0].docids[n] for n in (1, 2, 3)]


@pytest.mark.parametrize(("kind", "tau"), [("copies the order shown", -1.0), ("reads", 1.0), ("babbles", None)])
def test_a_window_turned_round_tells_a_reader_from_one_that_copies_the_order_shown(
    kind: str, tau: float | None, recipe: Recipe, tiny: ModelRef, candidates_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    from ranking.decoding.desk import Desk
    from ranking.decoding.listwise import sliding_window
    from training.generate import Completion, Decoding
    from training.rankers import Words
    from training.student import load_tokenizer

    queries = rerank.read_queries(candidates_path)
    texts = {passage: docid for query in queries for passage, docid in zip(query.passages, query.docids, strict=True)}

    class Scripted:
        """Orders a prompt's passages by their ids, by where they stand, or says nothing."""

        model = None
        tokenizer = load_tokenizer(tiny.path)

        def write(self, prompts: list[Any], *_: Any) -> Any:
            for number, prompt in enumerate(prompts):
                said = " ".join(message["content"] for message in prompt)
                shown = sorted((said.index(text), docid) for text, docid in texts.items() if text in said)
                places = [place for place, _ in enumerate(shown, start=1)]
                if kind == "reads":
                    places.sort(key=lambda place: shown[place - 1][1])
                order = " > ".join(f"[{place}]" for place in places)
                text = "hm" if kind == "babbles" else f"<think> a </think> <answer> {order} </answer>"
                yield number, Completion((1, 2), (3,), text, 0.1)

    job = rerank_job(recipe, tiny, candidates_path, tmp_path)
    words = Words(recipe, Scripted(), Decoding(max_new_tokens=8))  # type: ignore[arg-type]
    recorder = rerank.Recorder(job, words, queries, reporter)
    recorder.order(Desk([4] * 4, sliding_window(3, 2)))
    asked = len(recorder.calls)
    probes = recorder.probe()
    assert probes.schema == rerank.PROBE_SCHEMA and probes.height == 4
    assert probes["tau"].to_list() == [tau] * 4
    assert probes["fault"].to_list() == ["tags" if tau is None else None] * 4
    windows = {(call["domain"], call["qid"]): call["docids"] for call in recorder.calls}
    for probe in probes.iter_rows(named=True):
        assert probe["shown"] == windows[probe["domain"], probe["qid"]]
        if tau is not None:
            assert probe["turned"] == (probe["shown"] if tau < 0 else probe["ordered"])[:: -1 if tau < 0 else 1]
    # What was asked to probe is no part of what the reranking cost.
    assert len(recorder.calls) == asked


def test_probing_is_work_of_its_own_and_leaves_other_jobs_alone(
    recipe: Recipe, tiny: ModelRef, candidates_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    plain = rerank_job(recipe, tiny, candidates_path, tmp_path)
    probed = plain.model_copy(update={"probe_positions": True})
    assert probed.sha256 != plain.sha256
    assert "probe" not in plain.content
    result = rerank.run(probed, reporter)
    probes = pl.read_parquet(probed.folder / "probes.parquet")
    # A student that writes nonsense has no order to compare.
    assert probes["fault"].to_list() == ["tags"] * 4 and result.calls == 8


def test_a_query_too_long_for_the_model_keeps_its_order_and_is_named(
    recipe: Recipe, tiny: ModelRef, tokenizer: Any, candidates_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    from training.student import load_student, save_student

    model = load_student(Path(tiny.path))
    model.config.max_position_embeddings = 40
    short = ModelRef(path=str(tmp_path / "short"), sha256=save_student(model, tokenizer, tmp_path / "short"))
    result = rerank.run(rerank_job(recipe, short, candidates_path, tmp_path), reporter)
    assert result.calls == 0 and len(result.rows_left_out) == result.queries == 4
    assert "the model holds 40" in result.rows_left_out[0].reason


def test_candidates_without_a_column_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "candidates.parquet"
    pl.DataFrame({"domain": ["a"], "qid": ["q"], "docid": ["d"]}).write_parquet(path)
    with pytest.raises(rerank.CandidatesError, match="no column query, rank, text"):
        rerank.read_queries(path)


def test_batched_greedy_writing_does_not_depend_on_the_batch(tiny: ModelRef) -> None:
    from training.generate import Decoding, Writer
    from training.student import load_student, load_tokenizer

    writer = Writer(load_student(Path(tiny.path)), load_tokenizer(Path(tiny.path)))
    prompts = [[{"role": "user", "content": "word " * n}] for n in (1, 30, 7)]
    together = dict(writer.write(prompts, Decoding(max_new_tokens=8, batch=3)))
    alone = dict(writer.write(prompts, Decoding(max_new_tokens=8, batch=1)))
    assert {i: c.ids for i, c in together.items()} == {i: c.ids for i, c in alone.items()}
    assert len(together[1].prompt_ids) > len(together[2].prompt_ids) > len(together[0].prompt_ids)


def test_a_sequence_is_done_once_its_answer_is_closed(tokenizer: Any) -> None:
    from training.generate import _AnswerWritten

    texts = ["<answer> [1] </answer>", "still thinking, at length"]
    ids = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    assert _AnswerWritten(tokenizer, 0)(ids, None).tolist() == [True, False]
    assert _AnswerWritten(tokenizer, ids.shape[1])(ids, None).tolist() == [False, False]


def test_the_base_model_of_the_wheel_learns_a_row_in_a_few_steps(
    base_folder: Path, rows_path: Path, tmp_path: Path, reporter: Lines
) -> None:
    steps = {"objective": {"lr": 2e-4, "epochs": 8, "batch": 2, "max_steps": 8}}
    rows = tmp_path / "two.parquet"
    pl.read_parquet(rows_path).head(2).write_parquet(rows)
    model = ModelRef(path=str(base_folder), sha256="wheel")
    result = sft.run(sft_job(load_recipe(RECIPE, merge(SMALL, steps)), rows, model, tmp_path), reporter)
    assert result.history[-1]["loss"] < 0.3 * result.history[0]["loss"]
    assert json.loads((tmp_path / f"sft-{result.job[:12]}" / "result.json").read_text())["steps"] == 8
