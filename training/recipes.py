"""A recipe: which system is built, as nine named choices with parameters.

A recipe file (`recipes/<name>.yaml`) makes one choice at each of nine seams: units, labels, contract, objective,
reward, sampling, decoding, fusion and model. Every choice is a name in a registry (`training.seams`) with described
parameters, so an unknown name or parameter is an error that lists the valid ones, and so is a pair of choices that do
not work together. A file may say `extends: other` and hold what differs alone. `load_recipe(path, overrides)` merges
what the profile overrides (a laptop's short lists and few steps) over the file; the hash is taken over the merged
result.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from ranking.prompts import TEMPLATES, PromptTemplate, load_template
from training.seams import (
    SEAMS,
    Choice,
    Contract,
    Decoding,
    Grpo,
    ListUnits,
    NoObjective,
    NoReward,
    NoSampling,
    PairUnits,
    RandomGroups,
    Reward,
    Selecting,
    Student,
    Supervised,
    Units,
)

# What a prompt shows under each unit, as templates call it (`method`).
METHODS = {"list": "singleturn_listwise", "set": "singleturn_setwise", "pair": "pointwise"}


class RecipeError(ValueError):
    """A recipe that cannot be used: the file, the seam, the fault and the valid names are in the message."""


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
    units: SerializeAsAny[Annotated[Units, _seam("units")]] = Field(description="What one example and one call see.")
    labels: SerializeAsAny[Annotated[Choice, _seam("labels")]] = Field(description="Where the target comes from.")
    contract: SerializeAsAny[Annotated[Contract, _seam("contract")]] = Field(
        description="Prompt template and answer grammar."
    )
    objective: SerializeAsAny[Annotated[NoObjective | Supervised, _seam("objective")]] = Field(
        description="The supervised stage."
    )
    reward: SerializeAsAny[Annotated[Choice, _seam("reward")]] = Field(description="What a rollout is worth.")
    sampling: SerializeAsAny[Annotated[NoSampling | Grpo, _seam("sampling")]] = Field(
        description="How rollouts become updates."
    )
    decoding: SerializeAsAny[Annotated[Decoding, _seam("decoding")]] = Field(description="How a long list is ranked.")
    fusion: SerializeAsAny[Annotated[Choice, _seam("fusion")]] = Field(description="What the answer is combined with.")
    model: Annotated[Student, _seam("model")] = Field(description="What is trained.")

    @model_validator(mode="after")
    def _choices_fit(self) -> "Recipe":
        for seam, fitting in self.contract.fits.items():
            chosen = getattr(self, seam).name
            if chosen not in fitting:
                raise ValueError(
                    f"{seam}: {chosen} does not work with the contract {self.contract.name}; "
                    f"with it do: {', '.join(fitting)}"
                )
        if not _shows(template := load_template(self.contract.template), self.units):
            there = [
                path.stem for path in sorted(TEMPLATES.glob("*.yaml")) if _shows(load_template(path.stem), self.units)
            ]
            raise ValueError(
                f"contract: the template {template.name} does not show what units: {self.units.name} asks about; with "
                f"it do: {', '.join(there)}, or the path of a .yaml file with the method {METHODS[self.units.name]}"
            )
        if isinstance(self.reward, NoReward) != isinstance(self.sampling, NoSampling):
            raise ValueError(
                f"reward {self.reward.name} and sampling {self.sampling.name}: a reinforcement stage wants both, and "
                "without one both are none"
            )
        if not self.stages:
            raise ValueError("objective and reward are both none, so nothing would be trained; choose one of them")
        if self.contract.name == "letters" and isinstance(self.units, ListUnits) and self.units.max_passages > 26:
            raise ValueError(f"units: max_passages is {self.units.max_passages}, and there are 26 letters")
        if self.over_queries:
            assert isinstance(self.sampling, Grpo)  # by what stands above
            if self.sampling.prompts % self.prompts_of_a_query:
                raise ValueError(
                    f"sampling: prompts is {self.sampling.prompts}; a reward over all passages of a query wants a "
                    f"multiple of units.negatives + 1 = {self.prompts_of_a_query}"
                )
            if self.sampling.no_variance != "keep":
                raise ValueError(
                    f"sampling: no_variance: {self.sampling.no_variance} exchanges the rollouts of single prompts, and "
                    f"the reward {self.reward.name} is over all passages of a query; with it does: keep"
                )
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that train, in their order: sft, rl."""
        trains = {"sft": self.objective.name != "none", "rl": self.reward.name != "none"}
        return tuple(stage for stage, there in trains.items() if there)

    @property
    def asked(self) -> dict[str, Any]:
        """How a model is asked by it, as a score's settings tell it."""
        decoding, contract = self.decoding, self.contract
        return {
            "query_reranked": "text",
            "passage_tokens": decoding.passage_tokens or self.units.passage_tokens,
            "temperature": 0,
            "repeats": decoding.repeats if isinstance(decoding, RandomGroups) else 1,
            "think": contract.think,
            "template": contract.template,
            "prompt_sha256": load_template(contract.template).sha256,
            "recipe_sha256": self.sha256,
        }

    @property
    def over_queries(self) -> bool:
        """Whether a rollout's reward depends on the other rollouts of its query."""
        return isinstance(self.reward, Reward) and self.reward.scope == "query_group"

    @property
    def prompts_of_a_query(self) -> int:
        """Prompts that are made of a query at once: a list or set is one, pairs are a group of several."""
        return self.units.negatives + 1 if isinstance(self.units, PairUnits) else 1

    @property
    def supervised(self) -> Supervised:
        """The settings of the supervised stage. Raises RecipeError where there is none."""
        if not isinstance(self.objective, Supervised):
            raise RecipeError(f"{self.name} has no supervised stage; its objective is none")
        return self.objective

    @property
    def grpo(self) -> Grpo:
        """The settings of the reinforcement stage. Raises RecipeError where there is none."""
        if not isinstance(self.sampling, Grpo):
            raise RecipeError(f"{self.name} has no reinforcement stage; its sampling is none")
        return self.sampling

    def selecting(self, stage: str) -> Selecting | None:
        """How a stage, sft or rl, finds its best step; None where it publishes the last one, or is none."""
        how = self.objective if stage == "sft" else self.sampling
        return how if isinstance(how, Selecting) and how.evaluate_every is not None else None

    @property
    def sha256(self) -> str:
        """Hash over every choice and parameter; name and description are not part of it."""
        return self.sha256_of(*SEAMS)

    def sha256_of(self, *seams: str) -> str:
        """Hash over some seams: what a stage does not read does not make its work stale."""
        return content_hash({seam: getattr(self, seam).model_dump() for seam in seams})


def _shows(template: PromptTemplate, units: Units) -> bool:
    """Whether a template is for what a unit asks about, and hides the gold answer."""
    return template.method == METHODS[units.name] and not template.wants_answer


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


def load_recipe(path: Path, *overrides: Mapping[str, Any]) -> Recipe:
    """Read a recipe file and lay overrides over it, one after the other: the profile's for all recipes and for this.

    An override of a seam holds parameters, or names of choices with parameters each, of which that of the recipe's own
    choice counts. Raises RecipeError naming the file, the seam and what would be valid.
    """
    raw = _read(path)
    try:
        for given in overrides:
            raw = merge(raw, _of_the_choices(raw, given))
        return Recipe.model_validate(raw)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(detail)}" for detail in error.errors())
        raise RecipeError(f"{path} (with the profile's overrides):\n{faults}") from error


def _read(path: Path, *extending: Path) -> dict[str, Any]:
    """A recipe file's mapping over that of the recipe beside it which it extends; `extending` are the files before it.

    Raises RecipeError.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        wanted = f" (extended by {extending[-1].name})" if extending else ""
        raise RecipeError(f"{path}: no such recipe{wanted}; recipes in {path.parent}: {names}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys name, {', '.join(SEAMS)}")
    raw.setdefault("name", path.stem)
    if (base := raw.pop("extends", None)) is None:
        return raw
    other, files = path.with_name(f"{base}.yaml"), (*extending, path)
    if other in files:
        raise RecipeError(f"{path}: extends {base}, and so itself; write out what one of them holds")
    return merge(_read(other, *files), raw)


def _of_the_choices(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with what is given by choice narrowed to the recipe's own choices; plain parameters are laid over."""
    narrowed = dict(overrides)
    for seam, value in overrides.items():
        names = SEAMS.get(seam, {}).keys()
        if not isinstance(value, Mapping) or not value.keys() & names:
            continue
        own = raw.get(seam)
        plain = {key: given for key, given in value.items() if key not in names}
        chosen = plain.get("name") or (own.get("name") if isinstance(own, Mapping) else own)
        narrowed[seam] = merge(value.get(str(chosen)) or {}, plain)
    return narrowed


def _fault(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    seam = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "missing" and seam in SEAMS:
        return f"{where}: missing; valid names: {', '.join(SEAMS[seam])}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown; valid seams: name, description, extends, {', '.join(SEAMS)}"
    said = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
