"""Reinforcement learning on the recipe's reward (METHOD.md section 4), a process of its own.

    python -m training.rl JOB.json

Starts from the SFT checkpoint, or from the base model where the recipe has no supervised stage, and trains on the `rl`
rows of a release with TRL's GRPOTrainer. Rollouts come from `training.generate`, the same code that reranks, or from
vLLM where the profile says so; the reward from `ranking.rewards`; what becomes of groups whose rollouts are all worth
the same is in `training.groups`. Reward by term and the rate of malformed rollouts are reported each step. Deliberately
absent: a learned reward model.
"""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ranking.parsing import Fault
from ranking.rewards import MultiViewReward, RewardBatch, exact_label, query_reciprocal_rank
from training.chat import switches
from training.checkpoints import TrainingDataError
from training.curves import Tally
from training.examples import RankingExample, rl_prompts
from training.faults import TrainingStopped, attempted
from training.host import settle
from training.jobs import RlJob, TrainResult
from training.ranks import count, sharded
from training.recipes import Recipe, RecipeError
from training.reporting import Reporter, open_reporter
from training.seams import ExactLabel, MultiView, QueryReciprocalRank, TeacherScore
from training.stages import PLAIN, Bench, Data, carry_out, common, lora

# Names of TRL's log entries, and what they are called here; the terms of the recipe's reward stand beside them.
METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "malformed_rate": "malformed_rate",
    "malformed_tags": "malformed_tags",
    "malformed_list": "malformed_list",
    "groups_without_variance": "groups_without_variance",
    "groups_redrawn": "groups_redrawn",
    "groups_dropped": "groups_dropped",
    "groups_replayed": "groups_replayed",
    "loss": "loss",
    "kl": "kl",
    "entropy": "entropy",
    "sampling/sampling_logp_difference/mean": "vllm_difference",
    "completions/mean_length": "completion_tokens",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
}


def run(job: RlJob, reporter: Reporter) -> TrainResult:
    """Do the job, or return its stored result. Raises TrainingDataError and TrainingStopped."""
    return carry_out(job, metrics(job.recipe), _prepare, reporter)


def metrics(recipe: Recipe) -> dict[str, str]:
    """METRICS with the terms of a recipe's reward, which a batch of no rollouts tells."""
    return METRICS | {term: term for term in _judge(recipe)([], [], [], []).terms}


def _prepare(job: RlJob, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[Data, Callable[[Bench], Any]]:
    """The prompts of the recipe, and what makes its trainer.

    Raises TrainingDataError where there are some, and fewer than are drawn together: TRL makes no step of those.
    """
    examples, left_out = rl_prompts(rows, job.recipe, tokenizer, job.seed)
    if 0 < len(examples) < (wanted := job.recipe.grpo.prompts):
        raise TrainingDataError(
            f"{job.rows}: {len(examples)} prompts fit the recipe ({len(left_out)} rl rows left out), and "
            f"sampling.prompts draws {wanted} together, so that no step could be made. Lower sampling.prompts (and "
            f"sampling.batch with it) in the recipe or the profile, or materialize training_set with more rows."
        )
    return Data.of(examples, left_out), partial(_trainer, job, _in_groups(examples, job))


def _trainer(job: RlJob, examples: Sequence[RankingExample], bench: Bench) -> Any:
    from datasets import Dataset
    from trl import GRPOTrainer

    from training.generate import Writer
    from training.groups import Groups
    from training.student import load_student

    columns = [
        {"prompt": e.prompt, "row_id": e.row_id, "relevant": list(e.relevant), "teacher_order": list(e.teacher_order)}
        for e in examples
    ]
    arguments = _config(job, bench.desk)  # before weights: see `common`
    # What TRL writes rollouts with gathers shared-out weights; a twin would need them all.
    twin = (
        None
        if sharded() or job.vllm
        else rollout_function(job.recipe, Writer(bench.twin, bench.tokenizer, job.recipe.contract.think))
    )
    trainer = _arranging(GRPOTrainer)(
        model=load_student(bench.source),
        reward_funcs=[reward_function(job.recipe, bench.tally.seen)],
        args=arguments,
        train_dataset=Dataset.from_list(columns),
        processing_class=bench.tokenizer,
        peft_config=lora(job.recipe.model),
        rollout_func=twin,
    )
    trainer.tally = bench.tally
    trainer.groups = Groups(job.recipe.grpo, job.seed)
    if job.recipe.grpo.no_variance == "replay":
        bench.members["groups"] = trainer.groups
    return trainer


def _arranging(trainer: type) -> Any:
    """A trainer class that has `groups` arrange its rollouts, and counts in `tally` the tokens that its losses read."""

    class Arranging(trainer):
        tally: Tally
        groups: Any

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            batch = super()._generate_and_score_completions(inputs)
            return self.groups.arrange(self, batch, self._mine(len(inputs)), self._draw)

        def _calculate_rewards(self, *given: Any) -> Any:
            self._rewards = super()._calculate_rewards(*given)
            return self._rewards

        def _mine(self, rows: int) -> Any:
            """The newest rewards of this process's rows, (rows,)."""
            mine = self.accelerator.process_index
            return self._rewards[mine * rows : (mine + 1) * rows, 0]

        def _draw(self, count: int, attempt: int) -> tuple[Any, Any]:
            """Rollouts of `count` prompts of the dataset, and their rewards; the curve is left alone.

            The choice follows from the step, so that a stage that is gone on with makes it again.
            """
            size, curve = self.num_generations, self._metrics["train"]
            dice = random.Random(
                f"{self.args.seed}:{self.state.global_step}:{attempt}:{self.accelerator.process_index}"
            )
            numbers = dice.sample(range(len(self.train_dataset)), len(self.train_dataset))
            chosen = [self.train_dataset[numbers[place % len(numbers)]] for place in range(count)]
            told = {name: list(values) for name, values in curve.items()}
            batch = super()._generate_and_score_completions([row for row in chosen for _ in range(size)])
            curve.clear()
            curve.update(told)
            return batch, self._mine(count * size)

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            self.tally.count(inputs["prompt_mask"])
            self.tally.count(inputs["completion_mask"])
            return super().compute_loss(model, inputs, *rest, **named)

    return Arranging


def _in_groups(examples: Sequence[RankingExample], job: RlJob) -> list[RankingExample]:
    """Examples in the order in which they are drawn: shuffled, where a reward is over a query by whole queries."""
    if not job.recipe.over_queries:
        return list(examples)
    size = job.recipe.prompts_of_a_query
    groups = [examples[start : start + size] for start in range(0, len(examples), size)]
    random.Random(job.seed).shuffle(groups)
    return [example for group in groups for example in group]


def reward_function(recipe: Recipe, seen: set[str] | None = None) -> Callable[..., list[float | None]]:
    """The recipe's reward as TRL calls it: completions beside the dataset's columns, one number each.

    The ids of the rows whose rollouts it judged are added to `seen`.
    """
    judge = _judge(recipe)

    def reward(
        completions: Sequence[list[dict[str, str]]],
        relevant: Sequence[Sequence[int]],
        teacher_order: Sequence[Sequence[int]],
        row_id: Sequence[str] = (),
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        if seen is not None:
            seen.update(row_id)
        batch = judge([completion[0]["content"] for completion in completions], relevant, teacher_order, row_id)
        if log_metric is not None:
            tags, lists = batch.faults.count(Fault.TAGS), batch.faults.count(Fault.LIST)
            for term, values in batch.terms.items():
                log_metric(term, float(values.mean()))
            log_metric("malformed_rate", (tags + lists) / len(batch.faults))
            log_metric("malformed_tags", tags / len(batch.faults))
            log_metric("malformed_list", lists / len(batch.faults))
        return [float(value) for value in batch.total]

    reward.__name__ = recipe.reward.name
    return reward


def _judge(recipe: Recipe) -> Callable[[Any, Any, Any, Any], RewardBatch]:
    """The recipe's reward over (texts, relevant, teacher's orders, rows)."""
    choice, think = recipe.reward, recipe.contract.think
    if isinstance(choice, MultiView):
        terms = choice.model_dump(exclude={"name", "scope"})
        multi_view = MultiViewReward(**terms, think=think)
        return lambda texts, relevant, orders, _: multi_view(texts, relevant, orders)
    if isinstance(choice, ExactLabel):
        return lambda texts, relevant, orders, _: exact_label(texts, [r[0] for r in relevant], map(len, orders), think)
    assert isinstance(choice, QueryReciprocalRank) and isinstance(recipe.labels, TeacherScore)
    fault, highest = choice.fault, recipe.labels.highest
    return lambda texts, relevant, _, rows: query_reciprocal_rank(
        texts, [bool(r) for r in relevant], rows, highest, think, fault
    )


def rollout_function(recipe: Recipe, writer: Any) -> Callable[..., dict[str, Any]]:
    """Rollouts as TRL asks for them: one completion for each prompt of a batch that repeats each prompt in its group.

    The writer holds a twin of the policy in the dtype of inference, refreshed before each batch.
    """
    from training.generate import Decoding

    sampling = recipe.grpo
    # A policy that is to stop must learn to write eos itself, hence no stop at the answer.
    decoding = Decoding(
        max_new_tokens=sampling.max_completion_tokens,
        batch=sampling.batch,
        temperature=sampling.temperature,
        stop_at_answer=False,
    )

    def roll_out(prompts: Sequence[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        writer.model.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
        written = dict(writer.write(prompts, decoding))
        return {
            "prompt_ids": [list(written[i].prompt_ids) for i in range(len(prompts))],
            "completion_ids": [list(written[i].ids) for i in range(len(prompts))],
            "logprobs": None,
        }

    return roll_out


def _config(job: RlJob, part: Path) -> Any:
    from trl import GRPOConfig

    recipe, sampling = job.recipe, job.recipe.grpo
    try:
        accumulation = accumulated(recipe, count())
    except RecipeError as error:
        raise RecipeError(f"{error}, or num_processes in {job.launch}" if job.launch else str(error)) from None
    return GRPOConfig(
        learning_rate=sampling.lr,
        max_steps=sampling.max_steps,
        lr_scheduler_type=sampling.scheduler,
        per_device_train_batch_size=sampling.batch,
        gradient_accumulation_steps=accumulation,
        generation_batch_size=sampling.prompts * sampling.rollouts,
        num_generations=sampling.rollouts,
        max_completion_length=sampling.max_completion_tokens,
        temperature=sampling.temperature,
        beta=sampling.kl,
        use_bias_correction_kl=False,  # the paper's estimator as it is, not times the ratio of the policies
        epsilon=sampling.clip,
        loss_type=sampling.loss_type,
        scale_rewards=sampling.scale_rewards,
        chat_template_kwargs=switches(recipe.contract.think),
        remove_unused_columns=False,
        shuffle_dataset=not recipe.over_queries,
        **vllm_arguments(job),
        **common(recipe.model, part, job.seed),
    )


def accumulated(recipe: Recipe, processes: int) -> int:
    """Batches that each of some processes reads for an optimizer step.

    Raises RecipeError where what is drawn together cannot be shared out, a query's rollouts whole in one process.
    """
    sampling, whole = recipe.grpo, recipe.prompts_of_a_query
    drawn, together = sampling.prompts * sampling.rollouts, sampling.updates * sampling.batch * processes
    if drawn % together:
        raise RecipeError(
            f"sampling: prompts x rollouts = {drawn} completions do not divide into {sampling.updates} updates of "
            f"{processes} processes' batches of {sampling.batch}; change sampling.batch or sampling.prompts"
        )
    if sampling.prompts % (whole * processes):
        raise RecipeError(
            f"sampling: prompts is {sampling.prompts}; {processes} processes with {whole} prompts of a query each want "
            f"a multiple of {whole * processes}; change sampling.prompts"
        )
    return drawn // together


def vllm_arguments(job: RlJob) -> dict[str, Any]:
    """What TRL is told of vLLM, where it writes the rollouts. Raises TrainingStopped where it is not installed."""
    if job.vllm is None:
        return {}
    if find_spec("vllm") is None:
        raise TrainingStopped(
            "training.vllm wants rollouts by vLLM, which is not installed here. Install it beside the training "
            "libraries, on a machine with a GPU (docs/recipes.md has the command), or set training.vllm to null in the "
            "profile: transformers writes them then, more slowly"
        )
    return job.vllm.arguments()


def main(argv: Sequence[str]) -> int:
    """Run the job file named on the command line; gives the status to exit with."""
    (path,) = argv
    settle()
    job = RlJob.model_validate_json(Path(path).read_bytes())
    with open_reporter() as reporter:
        return attempted(lambda: run(job, reporter), job, reporter, PLAIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
