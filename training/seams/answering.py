"""Seams of how answers become an order: decoding, and fusion with the first stage.

Deliberately absent: the decoders themselves (ranking.decoding) and how weights are chosen (warehouse.fusing).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ranking.decoding.calls import Decoder, Task
from ranking.decoding.listwise import random_groups, sliding_window
from ranking.decoding.pointwise import pointwise
from ranking.decoding.setwise import elimination, heapsort
from ranking.fusion import Method
from training.seams.choice import Choice


def _is_one(value: object) -> bool:
    """What is left out of a choice's hash, so that a recipe that does without it keeps the one that it had."""
    return value == 1


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
    passes: int = Field(1, ge=1, exclude_if=_is_one, description="Times the windows go over the whole list.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.window

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return sliding_window(self.window, self.step, self.passes)


class Elimination(Written):
    """A pool is ordered, its last put aside, and the next passage let in, until one is left (IRanker's decoding)."""

    name: Literal["elimination"] = Field("elimination", description="Registry name of this choice.")
    window: int = Field(20, ge=2, description="Passages in the pool.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.window

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return elimination(self.window, Task.ORDER)


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
    passes: int = Field(1, ge=1, exclude_if=_is_one, description="Times the windows go over the whole list.")

    @property
    def widest(self) -> int:
        """Most passages that one call shows."""
        return self.window

    def decoder(self) -> Decoder:
        """The state machine that asks (ranking.decoding)."""
        return sliding_window(self.window, self.step, self.passes, Task.FIRST_TOKEN)


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
