"""Where the factory runs and with what: the only place that reads the environment.

    settings = Settings.load()            # RANKMILL_PROFILE, RANKMILL_HOME, OPENAI_BASE_URL, OPENAI_API_KEY, …
    settings.profile.labels.list_size

A profile (profiles/<name>.yaml) says where the graph runs; a recipe (recipes/<name>.yaml) says which system is built.
Secrets come from the environment alone and are held as SecretStr.
"""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.campaign import Home
from flows.nights import NightBudgets
from flows.questions import LabelSettings
from flows.teacher import STAND_IN, VLLM, TeacherSettings
from rankmill.misspelt import faults
from rankmill.places import Local, Places
from training.recipes import Recipe, load_recipe, merge
from training.running import Running
from warehouse.audit.drift import DriftBounds
from warehouse.catalog import Bucket, Place
from warehouse.curation.curate import ReleaseSettings
from warehouse.intake.registry import Registry
from warehouse.lake import Lake
from warehouse.promotion import PromotionSettings

ROOT = Path(__file__).resolve().parent.parent
QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}


class SettingsError(ValueError):
    """A profile, a recipe or an environment variable that cannot be used; the message says which and the remedy."""


class EvaluationSettings(BaseModel):
    """What is measured, on which queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries_per_domain: int | None = Field(
        None, ge=1, description="Most held-out queries a domain, chosen by hash; null takes all."
    )
    resamples: int = Field(10_000, ge=100, description="Bootstrap resamples behind each interval.")
    seed: int = Field(0, description="Seed of the choice and of the bootstrap.")
    probe_positions: bool = Field(
        False, description="Ask the last window of each query again, turned round: does the order shown decide?"
    )
    think_twins: bool = Field(
        False, description="Ask every student of a listwise recipe the other way, too: without its chain, or with one."
    )
    teacher: bool = Field(
        False,
        description="Have the teacher rerank the held-out queries, too, asked as the recipe's students are: a stage of "
        "the board, with what it costs. Its endpoint must tell log-probabilities where a recipe reads them.",
    )


class Profile(BaseModel):
    """Where the graph runs, and how much of everything that place can bear."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(description="One sentence for people.")
    teacher: TeacherSettings = Field(TeacherSettings(), description="The teacher and its limits.")
    candidates: int = Field(100, ge=1, description="First-stage candidates a query.")
    labels: LabelSettings = Field(LabelSettings(), description="Mining and lists.")
    alpha: float = Field(0.4, ge=0, le=1, description="Least NDCG@10 of a ranking against the judgements (paper: 0.4).")
    release: ReleaseSettings = Field(ReleaseSettings(), description="Deduplication and split.")
    drift: DriftBounds = Field(DriftBounds(), description="How far a release may move from the one before it.")
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="Held-out queries and statistics.")
    promotion: PromotionSettings = Field(
        PromotionSettings(), description="When a new model takes the champion's place."
    )
    hub: bool = Field(True, description="Whether benchmarks may be fetched from the Hugging Face hub.")
    seed: int = Field(0, ge=0, description="Seed of sampling in training.")
    training: Running = Field(Running(), description="How training processes run here.")
    processes: Places = Field(Local(), description="Where processes of the stages run: here, or on a cluster.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Values that replace those of every recipe here.")
    recipes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="The same for one recipe, by its name; laid over `recipe`."
    )
    nightly: tuple[str, ...] = Field(
        ("reasonrank",), description="Recipes that are trained and evaluated when a night has made a release."
    )
    budgets: NightBudgets = Field(NightBudgets(), description="What unattended runs may spend in a night, in a month.")
    owners: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Who answers for the assets of a group: addresses, or team:NAME."
    )
    watch: Path | None = Field(
        None,
        description="Folder (its whole path) whose source folders become domains while the sensor `arrivals` is on.",
    )

    @field_validator("recipes")
    @classmethod
    def _recipes_are_there(cls, recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        known = recipe_names()
        if unknown := sorted(recipes.keys() - set(known)):
            raise ValueError(f"there is no recipe {', '.join(map(repr, unknown))}. Recipes: {', '.join(known)}")
        return recipes

    @field_validator("watch")
    @classmethod
    def _watch_is_a_whole_path(cls, watch: Path | None) -> Path | None:
        if watch is not None and not watch.is_absolute():
            raise ValueError(f"{watch} is no whole path, and a daemon has a working folder of its own. Begin with /.")
        return watch


class Settings(BaseSettings):
    """The environment, read once."""

    model_config = SettingsConfigDict(env_prefix="RANKMILL_", frozen=True, extra="ignore", env_ignore_empty=True)

    profile_name: str = Field("offline", validation_alias="RANKMILL_PROFILE", description="Name or path of a profile.")
    home: Path = Field(
        Path(".rankmill"), description="Folder of lake, exchange store, models, reports and run history."
    )
    instance: Literal["machine", "team", "given"] = Field(
        "machine",
        description="Where Dagster keeps runs: in the home, in a team's PostgreSQL (dagster-team.yaml), or as the "
        "dagster.yaml that is already in DAGSTER_HOME says (a Helm chart's).",
    )
    given_home: Path | None = Field(
        None, validation_alias="DAGSTER_HOME", description="Dagster's home where instance is given."
    )
    teacher_model: str | None = Field(None, description="Model name for --profile api.")
    budget_usd: float | None = Field(None, description="Hard limit in USD; --profile api refuses to start without one.")
    budget_tokens: int | None = Field(None, description="Hard limit in tokens.")
    base_url: str | None = Field(
        None, validation_alias="OPENAI_BASE_URL", description="The teacher's address up to /v1."
    )
    api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY", description="The teacher's key.")
    serve_key: SecretStr | None = Field(
        None, validation_alias="RANKMILL_API_KEY", description="The key that `rankmill serve` asks its callers for."
    )
    alert_webhook: SecretStr | None = Field(None, description="Address that gets {text: …} when something is wrong.")
    alert_smtp: SecretStr | None = Field(
        None, description="Mail server for alerts: smtps://user:password@host:465, or smtp://host:25."
    )
    alert_mail_to: str | None = Field(None, description="Who gets alerts by e-mail; several separated by commas.")
    alert_mail_from: str | None = Field(None, description="Sender of alerts by e-mail.")
    ui_url: str | None = Field(None, description="Where people open the web UI: the links in alerts begin with it.")
    prefect_api_url: str | None = Field(
        None, validation_alias="PREFECT_API_URL", description="A Prefect server that shows campaigns."
    )

    release: str | None = Field(
        None, description="A past release to train on in place of the newest: its hash or a beginning of it."
    )
    lake_catalog: str | None = Field(
        None, description="A PostgreSQL catalog in place of the home's own: postgres:dbname=… host=… user=…."
    )
    lake_data: str | None = Field(
        None, description="Where the lake's Parquet files lie in place of the home: s3://bucket/prefix/ or a folder."
    )
    s3_key_id: str | None = Field(None, validation_alias="AWS_ACCESS_KEY_ID", description="Of the lake's bucket.")
    s3_secret: SecretStr | None = Field(None, validation_alias="AWS_SECRET_ACCESS_KEY", description="Of the bucket.")
    s3_session_token: SecretStr | None = Field(None, validation_alias="AWS_SESSION_TOKEN", description="Of the bucket.")
    s3_region: str = Field(
        "us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"), description="Of the bucket."
    )
    s3_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        description="Address of an S3-compatible server that is not Amazon's.",
    )

    @classmethod
    def load(cls) -> "Settings":
        """Settings from the environment; analytics of every library are switched off on the way."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            loaded = cls()
        except ValidationError as error:
            raise SettingsError(f"an environment variable cannot be used: {error}") from None
        return loaded.model_copy(update={"home": loaded.home.absolute()})

    def environment(self) -> dict[str, str]:
        """The variables that hand these settings (no secrets) and Dagster's home to a child process."""
        chosen = {"RANKMILL_PROFILE": self.profile_name, "RANKMILL_HOME": str(self.home)}
        for name, value in (("BUDGET_USD", self.budget_usd), ("BUDGET_TOKENS", self.budget_tokens)):
            if value is not None:
                chosen[f"RANKMILL_{name}"] = str(value)
        if self.release is not None:
            chosen["RANKMILL_RELEASE"] = self.release
        return {**chosen, "DAGSTER_HOME": str(self.dagster_home)}

    @property
    def dagster_home(self) -> Path:
        """Where Dagster keeps runs and events. Raises SettingsError."""
        if self.instance != "given":
            return self.home / "dagster"
        if self.given_home is None or not (self.given_home / "dagster.yaml").is_file():
            raise SettingsError(
                f"RANKMILL_INSTANCE is given, and there is no dagster.yaml in DAGSTER_HOME ({self.given_home}). "
                f"Set DAGSTER_HOME to the folder that has one, or RANKMILL_INSTANCE to machine or team."
            )
        return self.given_home

    @property
    def instance_file(self) -> Path | None:
        """The dagster.yaml that this instance gets; None where it has one."""
        if self.instance == "given":
            return None
        return ROOT / ("dagster.yaml" if self.instance == "machine" else "dagster-team.yaml")

    @property
    def lake_place(self) -> Place:
        """Where the lake is: in the home, or where the environment says. Raises SettingsError."""
        embedded = Lake.place_in(self.home / "lake")
        if self.lake_catalog is None and self.lake_data is None:
            return embedded
        if self.lake_catalog is None or not self.lake_catalog.startswith("postgres:"):
            raise SettingsError(
                "a lake that is not in the home needs a catalog that many machines can reach: set "
                "RANKMILL_LAKE_CATALOG to postgres:dbname=… host=… user=… (the password goes into PGPASSWORD)."
            )
        if re.search(r"password\s*=|://[^/@\s]*:[^/@\s]*@", self.lake_catalog):
            raise SettingsError(
                "RANKMILL_LAKE_CATALOG holds a password, and an address is quoted in errors. Put it into PGPASSWORD."
            )
        data = self.lake_data or embedded.data_path
        if not data.startswith("s3://"):
            return Place(self.lake_catalog, f"{Path(data).absolute()}/")
        if self.s3_key_id is None or self.s3_secret is None:
            raise SettingsError(f"{data} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment.")
        bucket = Bucket(self.s3_key_id, self.s3_secret, self.s3_session_token, self.s3_region, self.s3_endpoint)
        return Place(self.lake_catalog, f"{data.rstrip('/')}/", bucket)

    @property
    def has_lake(self) -> bool:
        """Whether there is a lake to look into; one that many machines share is taken to exist."""
        return self.lake_catalog is not None or self.lake_data is not None or (self.home / "lake").is_dir()

    def lake(self) -> Lake:
        """The lake of this home (made at its first use)."""
        return Lake(self.lake_place)

    @property
    def store_path(self) -> Path:
        """The exchange store: every answer that was paid for."""
        return self.home / "exchanges.sqlite"

    @property
    def registry(self) -> Registry:
        """The sources of this home."""
        return Registry(self.home / "sources.yaml", ROOT / "seed")

    @property
    def campaign_home(self) -> Home:
        """Where label campaigns keep answers, logs, and Prefect's results where a server is named."""
        return Home(self.store_path, self.home / "logs", self.home / "prefect" if self.prefect_api_url else None)

    @property
    def models(self) -> Path:
        """Where checkpoints and reranking runs are written."""
        return self.home / "models"

    @property
    def reports(self) -> Path:
        """Where HTML reports are written."""
        return self.home / "reports"

    @cached_property
    def profile(self) -> Profile:
        """The profile, with what the environment adds to its teacher. Raises SettingsError where key or budget lack."""
        chosen = self.profile_that_buys_nothing
        teacher = chosen.teacher
        if teacher.base_url in (STAND_IN, VLLM):
            return chosen
        missing = []
        if self.api_key is None:
            missing.append("OPENAI_API_KEY (the endpoint's key; any word for a server of your own)")
        if teacher.budget_usd is None and teacher.budget_tokens is None:
            missing.append("RANKMILL_BUDGET_USD or --budget-usd (a hard limit; 0 is allowed for a server of your own)")
        if missing:
            raise SettingsError(
                f"profile {self.profile_name!r} asks {teacher.model} at {teacher.base_url} and will not start "
                f"without: {'; '.join(missing)}."
            )
        return chosen

    @cached_property
    def profile_that_buys_nothing(self) -> Profile:
        """The profile for an estimate, which needs neither key nor budget."""
        return self._with_environment(load_profile(self.profile_name))

    def recipes(self) -> list[str]:
        """Names of all recipes."""
        return recipe_names()

    def recipe(self, name: str) -> Recipe:
        """A recipe with this profile's values in it."""
        profile = self.profile_that_buys_nothing
        return load_recipe(ROOT / "recipes" / f"{name}.yaml", profile.recipe, profile.recipes.get(name, {}))

    def _with_environment(self, profile: Profile) -> Profile:
        teacher = profile.teacher
        if teacher.base_url in (STAND_IN, VLLM):  # both are what the profile says, and need no key
            return profile
        given = {
            "base_url": self.base_url or teacher.base_url,
            "model": self.teacher_model or teacher.model,
            "api_key": self.api_key or teacher.api_key,
            "budget_usd": teacher.budget_usd if self.budget_usd is None else self.budget_usd,
            "budget_tokens": teacher.budget_tokens if self.budget_tokens is None else self.budget_tokens,
        }
        return profile.model_copy(update={"teacher": teacher.model_copy(update=given)})


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """profiles/<name>.yaml, or the file at the path `name`; `extends: other` takes over another's values.

    Raises SettingsError.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if not path.is_file():
        if name.endswith((".yaml", ".yml")):
            raise SettingsError(f"there is no file {path}, which was to be a profile.")
        known = ", ".join(sorted(file.stem for file in (ROOT / "profiles").glob("*.yaml")))
        raise SettingsError(f"there is no profile {name!r}. Profiles: {known}; or give the path of a .yaml file.")
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
        if (extended := values.pop("extends", None)) is not None:
            try:
                base = load_profile(extended)
            except SettingsError as error:
                raise SettingsError(f"{path} extends {extended}: {error}") from None
            values = merge(base.model_dump(exclude_defaults=True), values)
        return Profile.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{path} is not a valid profile:\n{faults(error, Profile)}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
