"""Where stage processes run: a profile's `processes` section.

    processes: {where: ray, address: "http://head:8265", stages: {sft: {gpus: 8}, rl: {gpus: 8}, rerank: {gpus: 1}}}

A stage (`sft`, `rl`, `rerank`, `label`) that is named under `stages` runs there and gets what stands beside it; every
other stage is a process of this machine. All places do the same job file with the same module, and the home lies on a
disk that they see under the same path. Deliberately absent: how a process is started there (assets.places), and
secrets, which a place has in its own environment.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, field_validator

Stage = Literal["sft", "rl", "rerank", "label"]


class Needs(BaseModel):
    """What a stage's process gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int = Field(1, ge=1, description="Processor cores.")
    gpus: int = Field(0, ge=0, description="Accelerators.")
    memory_gb: float | None = Field(None, gt=0, description="Memory in GB; null asks for no amount.")


class RayNeeds(Needs):
    """What it gets of a Ray cluster."""

    resources: dict[str, float] = Field(
        {}, description="Resources of your own naming, as in {home: 1} for nodes started with --resources."
    )


class PodNeeds(Needs):
    """What it gets of a Kubernetes cluster."""

    pod: dict[str, Any] = Field({}, description="Laid over the place's `pod`, as in {nodeSelector: {…}}.")


class SlurmNeeds(Needs):
    """What it gets of a Slurm cluster."""

    options: tuple[str, ...] = Field((), description="Laid behind the place's `options`, as in [--partition=a100].")


AnyNeeds = TypeVar("AnyNeeds", bound=Needs)


class Elsewhere(BaseModel, Generic[AnyNeeds]):
    """What every place but this machine has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str = Field("python", description="The interpreter there that has rankmill: its path, or a name on PATH.")
    stages: dict[Stage, AnyNeeds] = Field(description="Stages that run there, and what each gets; others run here.")

    @field_validator("stages")
    @classmethod
    def _something_runs_there(cls, stages: dict[Stage, AnyNeeds]) -> dict[Stage, AnyNeeds]:
        if not stages:
            raise ValueError("no stage runs there; name some, as in {sft: {gpus: 1}}, or set where to local")
        return stages


class Local(BaseModel):
    """This machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: Literal["local"] = "local"


class Ray(Elsewhere[RayNeeds]):
    """A Ray cluster, through dagster-ray: each process is a Ray job on one node."""

    where: Literal["ray"]
    address: str = Field(
        pattern="^https?://", description="The cluster's dashboard, where jobs are submitted: http://head:8265."
    )


class Kubernetes(Elsewhere[PodNeeds]):
    """A Kubernetes cluster, through dagster-k8s: each process is a pod."""

    where: Literal["kubernetes"]
    image: str = Field(description="The image that has rankmill (deploy/Containerfile).")
    namespace: str = Field("default", description="Namespace of the pods.")
    kubeconfig: str | None = Field(
        None, description="Path of a kubeconfig; null takes the cluster's own inside one, else the usual file."
    )
    gpu: str = Field("nvidia.com/gpu", description="What the cluster calls an accelerator.")
    pod: dict[str, Any] = Field(
        {}, description="Fields of a pod's spec as Kubernetes names them: volumes, serviceAccountName, tolerations."
    )
    container: dict[str, Any] = Field(
        {}, description="Fields of its container: volumeMounts (the home, under its own path), envFrom (secrets)."
    )
    poll_seconds: float = Field(10.0, gt=0, description="Seconds between two looks at the pod.")

    @field_validator("pod")
    @classmethod
    def _one_container(cls, pod: dict[str, Any]) -> dict[str, Any]:
        if "containers" in pod:
            raise ValueError("a stage's pod has one container; its fields belong into `container`")
        return pod


class Slurm(Elsewhere[SlurmNeeds]):
    """A Slurm cluster whose `sbatch` is on this machine's PATH: each process is a batch job on one node."""

    where: Literal["slurm"]
    options: tuple[str, ...] = Field(
        (), description="Options of sbatch: [--account=search, --partition=gpu, --time=24:00:00]."
    )
    setup: str = Field("", description="Shell lines before the command, as in `module load cuda/12.8`.")


Places = Annotated[Local | Ray | Kubernetes | Slurm, Discriminator("where")]
