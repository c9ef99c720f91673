"""Seams of what is read and answered: units, labels and the contract.

A contract says in `fits` which choices of the other seams it works with. Deliberately absent: prompts and targets
themselves (training.examples).
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from training.seams.choice import Choice

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
        "decoding": ("sliding_window", "random_groups", "elimination"),
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
