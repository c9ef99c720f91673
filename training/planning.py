"""What a recipe would take on given accelerators, from the release's own rows, before anything is started.

    plan = plan_of(recipe, rows, tokenizer, shape, ACCELERATORS["h100"], count=8)
    plan.stages                        # one a stage: rows, tokens, steps, memory of a device in bytes, hours

Counted: rows that fit, tokens of prompts and responses (what the prompts of a group share once), steps. Reckoned from
the model's shape: memory and hours, by the rules below, which the plan carries along in words. Rules of memory a
device, everything sharded over all of them (ZeRO-3, FSDP) or whole on each (DDP): 16 bytes a trained weight (fp32
master, two AdamW moments, bf16 copy and gradient), 4 a frozen one (2 under ZeRO-3), one layer gathered whole;
activations with gradient checkpointing: 2 bytes x tokens x hidden x layers, one layer's 34 x tokens x hidden
(Korthikanti et al. 2022, table 2, flash attention; what groups of prompts that share a beginning add to it is little,
and not reckoned), and fp32 logits of 4,096 tokens at a time. Rules of time: 6 operations a weight and token (8 with
checkpointing, 2 for a forward pass alone) at MFU of the device's peak; a written token reads all weights and the cache
once, for all rollouts of a device together. vLLM beside the policy takes its share of the memory, in place of the
activations where it sleeps while the policy learns, and reads a part of the weights where GPUs share them; a server of
its own takes none here, and writes as fast as one device would. Adapters that are sharded are merged for vLLM with all
weights at once on each device. What writes without vLLM, and what ranks dev rows on the way (on the first device), is a
copy of all weights in bf16, its cache and one layer's activations; the time of ranking them is not reckoned, nor is
what is reranked after the stages.

Deliberately absent: pipeline and tensor parallelism, and measured figures (those are in docs/results.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.chat import prompt_ids
from training.examples import pair_groups, prompt_length, rl_prompts, sft_examples, whole_length
from training.prefix_sharing import packed
from training.recipes import Recipe
from training.running import Running
from training.seams import SoftmaxCrossEntropy

MFU = 0.4
LOGITS_AT_ONCE = 4_096
GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """A device: memory in bytes, dense bf16 operations a second, bytes read a second (vendors' data sheets)."""

    name: str
    memory: float
    flops: float
    bandwidth: float


ACCELERATORS = {
    "a100": Accelerator("A100 80 GB", 80e9, 312e12, 2.0e12),
    "h100": Accelerator("H100 SXM", 80e9, 989e12, 3.35e12),
    "h200": Accelerator("H200 SXM", 141e9, 989e12, 4.8e12),
}


@dataclass(frozen=True)
class Devices:
    """Some devices of a kind, and how the processes on them run."""

    kind: Accelerator
    count: int
    running: Running

    @property
    def shards(self) -> int:
        """In how many parts the weights lie."""
        return self.count if self.running.sharded else 1

    @property
    def frozen(self) -> int:
        """Bytes of a weight that does not learn."""
        return 2 if self.running.zero3 else 4

    def hours(self, operations: float) -> float:
        """Hours of so many operations on all of them."""
        return operations / (self.count * self.kind.flops * MFU) / 3_600


@dataclass(frozen=True)
class Shape:
    """What of a model its memory and time depend on."""

    parameters: float
    layers: int
    hidden: int
    vocabulary: int
    cache: int  # bytes of the key-value cache a token, bf16

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape that a transformers config describes: a decoder with gated feed-forward layers."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = config.num_key_value_heads
        attention = config.hidden_size * width * (2 * heads + 2 * keys)
        layer = attention + 3 * config.hidden_size * config.intermediate_size
        embedded = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
        return cls(
            float(config.num_hidden_layers * layer + embedded),
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.num_hidden_layers * keys * width * 2 * 2,
        )


# Configurations that are published with the models, for where the hub is out of reach.
KNOWN = {
    "Qwen/Qwen2.5-7B-Instruct": Shape(7.62e9, 28, 3_584, 152_064, 28 * 4 * 128 * 2 * 2),
    "Qwen/Qwen2.5-32B-Instruct": Shape(32.8e9, 64, 5_120, 152_064, 64 * 8 * 128 * 2 * 2),
}


@dataclass(frozen=True)
class StagePlan:
    """One stage: what was counted, and what is reckoned from it; memory in bytes.

    `longest` is the longest sequence, in tokens.

    No steps are planned where the rows do not suffice for one: the stage would stop with an error.
    """

    stage: str
    rows: int
    left_out: int
    examples: int
    longest: int
    tokens: float
    steps: int
    memory: float
    hours: float

    def fits(self, device: Accelerator) -> bool:
        """Whether a device holds it, with a tenth of its memory kept free."""
        return self.memory <= 0.9 * device.memory


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe on `count` devices."""

    recipe: str
    base: str
    device: Accelerator
    count: int
    stages: tuple[StagePlan, ...]


def plan_of(
    recipe: Recipe,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    tokenizer: Any,
    shape: Shape,
    device: Accelerator,
    count: int,
    seed: int = 0,
    running: Running = Running(),
) -> Plan:
    """The plan over the rows of each split (sft, rl); `running` says what is sharded and who writes the rollouts."""
    planned: dict[str, Callable[..., StagePlan]] = {"sft": _supervised, "rl": _reinforced}
    devices = Devices(device, count, running)
    stages = tuple(planned[stage](recipe, rows[stage], tokenizer, shape, devices, seed) for stage in recipe.stages)
    return Plan(recipe.name, recipe.model.base, device, count, stages)


def _supervised(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], tokenizer: Any, shape: Shape, devices: Devices, seed: int
) -> StagePlan:
    objective = recipe.supervised
    if isinstance(objective, SoftmaxCrossEntropy):
        groups, left_out = pair_groups(rows, recipe, tokenizer, seed)
        think = recipe.contract.think
        texts = [[prompt_ids(tokenizer, prompt, think) for prompt in group.prompts] for group in groups]
        lengths = [[len(one) for one in packed(group, objective.max_tokens)] for group in texts]
    else:
        examples, left_out = sft_examples(rows, recipe, tokenizer, seed)
        lengths = [[whole_length(tokenizer, recipe, example)] for example in examples]
    together = objective.batch * objective.accumulation * devices.count
    steps = math.ceil(len(lengths) * objective.epochs / together)
    steps = min(steps, objective.max_steps or steps)
    tokens = steps * together * sum(map(sum, lengths)) / max(1, len(lengths))
    longest = max((max(one) for one in lengths), default=0)
    at_once = objective.batch * max((max(one) * len(one) for one in lengths), default=0)
    work = tokens * shape.parameters * _operations(recipe)
    return StagePlan(
        "sft",
        len(rows) - len(left_out),
        len(left_out),
        len(lengths),
        longest,
        tokens,
        steps,
        _model_states(recipe, shape, devices)
        + _activations(recipe, shape, at_once)
        + _twin(recipe, shape, "sft", longest),
        devices.hours(work),
    )


def _reinforced(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], tokenizer: Any, shape: Shape, devices: Devices, seed: int
) -> StagePlan:
    sampling, vllm = recipe.grpo, devices.running.vllm
    examples, left_out = rl_prompts(rows, recipe, tokenizer, seed)
    prompts = [prompt_length(tokenizer, recipe, example.prompt) for example in examples]
    longest = max(prompts, default=0) + sampling.max_completion_tokens
    mean = sum(prompts) / max(1, len(prompts)) + sampling.max_completion_tokens
    steps = sampling.max_steps if len(examples) >= sampling.prompts else 0
    draws = math.ceil(steps / sampling.updates)
    rollouts = sampling.prompts * sampling.rollouts
    tokens = draws * rollouts * mean
    # The old policy and, for the KL term, the reference read every rollout once; each update learns its share of them.
    forward = 2 * (1 + (sampling.kl > 0))
    work = tokens * shape.parameters * (forward + _operations(recipe))
    writers = 1 if vllm is not None and vllm.mode == "server" else devices.count
    mine = max(1, rollouts // writers)
    shared = 1 if vllm is None else vllm.tensor_parallel
    read = 2 * shape.parameters / shared + mine * mean * shape.cache
    writing = draws * sampling.max_completion_tokens * read / devices.kind.bandwidth
    states = _model_states(recipe, shape, devices)
    if sampling.kl > 0 and recipe.model.tuning == "full":
        states += devices.frozen * shape.parameters / devices.shards
    learning = _activations(recipe, shape, sampling.batch * longest)
    return StagePlan(
        "rl",
        len({example.row_id for example in examples}),
        len(left_out),
        len(examples),
        longest,
        tokens,
        steps,
        states + _beside(recipe, shape, devices, learning, mine, longest),
        devices.hours(work) + writing / 3_600,
    )


def _beside(recipe: Recipe, shape: Shape, devices: Devices, learning: float, rollouts: int, longest: int) -> float:
    """Bytes beside a device's share of the policy: `learning`, what writes its rollouts, and what ranks dev rows."""
    vllm, whole = devices.running.vllm, 2 * shape.parameters
    copy = _twin(recipe, shape, "rl", longest)
    if vllm is None and devices.shards == 1:  # a copy of the policy, for both
        return max(copy, whole + max(learning, _generating(shape, min(rollouts, recipe.grpo.batch) * longest)))
    if vllm is None:  # the policy itself, its weights handed together
        return copy + max(learning, whole + _generating(shape, rollouts * longest))
    merged = whole if recipe.model.tuning == "lora" and devices.shards > 1 else 0.0
    taken = vllm.memory * devices.kind.memory if vllm.mode == "colocate" else 0.0
    return copy + (max(learning, taken + merged) if vllm.sleep else taken + max(learning, merged))


def _operations(recipe: Recipe) -> int:
    """Operations a weight and token of a learning step; frozen weights pass gradients on and get none themselves."""
    passes = 4 if recipe.model.tuning == "lora" else 6
    return passes + 2 * recipe.model.gradient_checkpointing


def _twin(recipe: Recipe, shape: Shape, stage: str, longest: int) -> float:
    """Bytes of the copy that ranks dev rows on the way, and of its calls, where a stage chooses its best step."""
    if recipe.selecting(stage) is None:
        return 0.0
    return 2 * shape.parameters + _generating(shape, recipe.decoding.batch * longest)


def _generating(shape: Shape, tokens: int) -> float:
    """Bytes of reading so many tokens at once and writing on: the cache, and one layer's activations."""
    return (shape.cache + 34 * shape.hidden) * float(tokens)


def _model_states(recipe: Recipe, shape: Shape, devices: Devices) -> float:
    """Bytes of a device's share of the policy, its gradients and its optimizer."""
    model = recipe.model
    if model.tuning == "full":
        return 16 * shape.parameters / devices.shards
    adapters = 2 * model.rank * shape.hidden * 7 * shape.layers
    return (devices.frozen * shape.parameters + 16 * adapters) / devices.shards


def _activations(recipe: Recipe, shape: Shape, tokens: int) -> float:
    """Bytes that a device takes while it learns from `tokens` tokens at once: activations, a whole layer, logits."""
    gathered = 2 * shape.parameters / shape.layers
    kept = 34 * tokens * shape.hidden * (1 if recipe.model.gradient_checkpointing else shape.layers)
    kept += 2 * tokens * shape.hidden * shape.layers
    return gathered + kept + 2 * 4 * min(tokens, LOGITS_AT_ONCE) * shape.vocabulary


def shape_and_tokenizer(recipe: Recipe, cache: Any) -> tuple[Shape, Any, str]:
    """The base model's shape, a tokenizer, and whose it is: its own where it is at hand, else SmolLM2's.

    Raises LookupError where neither the model nor its published shape is known.
    """
    from transformers import AutoConfig

    from training.jobs import BASE_WHEELS, ModelRef, base_model
    from training.student import load_tokenizer, resolve

    (spare,) = BASE_WHEELS
    base = recipe.model.base
    try:
        source = resolve(base_model(recipe), cache)
        return Shape.of(AutoConfig.from_pretrained(source)), load_tokenizer(source), base
    except OSError:
        if base not in KNOWN:
            raise LookupError(
                f"{base}: no such model here, the hub gave none, and its shape is not among {', '.join(KNOWN)}. "
                f"Set model.base to a local folder."
            ) from None
        return KNOWN[base], load_tokenizer(resolve(ModelRef(path=spare, sha256="wheel"), cache)), spare
