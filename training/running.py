"""How a training process runs on a machine: how often it saves, how many processes it is, who writes its rollouts.

A profile's `training` section, and a part of every training job. What becomes of a recipe should not depend on it, and
where it does (the number of processes multiplies what an optimizer step of the supervised stage reads; vLLM rounds
differently) the job's hash says so. Deliberately absent: choices of a recipe, and torch (profiles must load fast).
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "profiles" / "accelerate"


class Vllm(BaseModel):
    """Rollouts of reinforcement by vLLM, in the training processes or on a server of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["colocate", "server"] = Field(
        "colocate", description="On the policy's own GPUs, or on a server of its own (docs/recipes.md has its command)."
    )
    memory: float = Field(
        0.3, gt=0, lt=1, description="Share of a GPU's memory that vLLM takes, weights and cache (colocate)."
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one copy of the weights (colocate).")
    sleep: bool = Field(False, description="Give the memory back while the policy learns (colocate).")
    url: str | None = Field(None, description="Address of the server: http://host:port (server).")
    timeout_seconds: float = Field(240.0, gt=0, description="How long the server is waited for (server).")

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> "Vllm":
        if (self.mode == "server") != (self.url is not None):
            raise ValueError("url belongs to mode: server, and a server has one, as in url: http://127.0.0.1:8000")
        return self

    def arguments(self) -> dict[str, Any]:
        """What TRL's GRPOConfig is given."""
        where: dict[str, Any] = {
            "vllm_gpu_memory_utilization": self.memory,
            "vllm_tensor_parallel_size": self.tensor_parallel,
            "vllm_enable_sleep_mode": self.sleep,
        }
        if self.mode == "server":
            where = {"vllm_server_base_url": self.url, "vllm_server_timeout": self.timeout_seconds}
        # Weighted token by token: over a whole chain the product of what rounding does would pass TRL's bound, and
        # whole rollouts would fall out.
        return {
            "use_vllm": True,
            "vllm_mode": self.mode,
            "vllm_importance_sampling_mode": "token_truncate",
            **where,
        }


def _configuration(value: object) -> object:
    """The path of an accelerate configuration, by its name or its own path; it says how many processes it starts."""
    if value is None:
        return None
    path = Path(str(value))
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIGURATIONS / f"{value}.yaml"
    path = path.absolute()
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGURATIONS.glob("*.yaml")))
        raise ValueError(f"{value}: no such accelerate configuration; known: {known}, or the path of a .yaml file")
    _processes(path)
    return str(path)


def _processes(path: Path) -> int:
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    number = stated.get("num_processes") if isinstance(stated, dict) else None
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{path}: num_processes is {number!r}; say how many processes are started, over all machines")
    return number


class Running(BaseModel):
    """How training processes run here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_seconds: float = Field(
        300.0, ge=0, description="Seconds after which a checkpoint is kept to go on from; the newest one stays."
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Keep one after so many optimizer steps instead; null goes by the clock."
    )
    launch: Annotated[Path | None, BeforeValidator(_configuration)] = Field(
        None,
        description="Configuration that `accelerate launch` starts the stage with: a name in profiles/accelerate, or "
        "the path of a .yaml file; null is one process, which takes the first GPU it sees.",
    )
    vllm: Vllm | None = Field(None, description="Rollouts by vLLM; null writes them with transformers.")

    @cached_property
    def processes(self) -> int:
        """How many processes a stage is."""
        return int(self._stated.get("num_processes", 1))

    def shaping(self, stage: str) -> dict[str, Any]:
        """What of it a stage's result depends on; nothing, for one process that writes with transformers."""
        shapes: dict[str, Any] = {} if self.processes == 1 else {"processes": self.processes}
        return shapes if self.vllm is None or stage != "rl" else {**shapes, "rollouts": "vllm"}

    @property
    def sharded(self) -> bool:
        """Whether the processes share the weights out; so it is taken to be where no configuration says otherwise."""
        return self.launch is None or self.zero3 or self._stated.get("distributed_type") == "FSDP"

    @property
    def zero3(self) -> bool:
        """Whether DeepSpeed shares them out, in bf16 where they are frozen."""
        return self._stated.get("deepspeed_config", {}).get("zero_stage") == 3

    @cached_property
    def _stated(self) -> dict[str, Any]:
        stated: dict[str, Any] = {} if self.launch is None else yaml.safe_load(self.launch.read_text(encoding="utf-8"))
        return stated
