"""What `rankmill doctor` looks at outside Python: stores, the teacher, the GPU, Dagster and its daemon, alerts.

Deliberately absent: packages, settings and room on this machine (doctor.py).
"""

import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rankmill.finding import Finding

if TYPE_CHECKING:
    from rankmill.settings import Settings

TIMEOUT_S = 5
LOCKED_S = 2.0
HEARTBEAT_S = 300
PG = ("DAGSTER_PG_HOST", "DAGSTER_PG_PORT", "DAGSTER_PG_DB", "DAGSTER_PG_USERNAME", "DAGSTER_PG_PASSWORD")


def store() -> Iterator[Finding]:
    """The exchange store: whole, and free to be written."""
    from rankmill.settings import Settings

    settings = Settings.load()
    path, held = settings.store_path, _held_by_the_lake(settings)
    if not path.is_file():
        yield _lost(path, held) if held else Finding("answers", True, "none yet")
        return
    try:
        with closing(sqlite3.connect(path, timeout=LOCKED_S, isolation_level=None)) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            answers = {key for (key,) in connection.execute("SELECT key FROM exchanges")}
            spent = connection.execute("SELECT coalesce(sum(usd), 0) FROM totals").fetchone()[0]
            if said != "ok":
                detail, remedy = f"{path} is damaged ({said})", "move it away, then: rankmill lake rebuild-store"
                yield Finding("answers", False, detail, remedy)
                return
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        if lost := held - answers:
            yield _lost(path, lost)
        else:
            yield Finding("answers", True, f"{len(answers):,} kept, ${spent:,.2f} spent in this home")
    except sqlite3.OperationalError as error:
        who = f"fuser -v {path}"
        yield Finding("answers", False, f"{path}: {error}", f"see who holds it ({who}), let it end or end it")
    except sqlite3.DatabaseError as error:
        yield Finding("answers", False, f"{path}: {error}", "move it away, then: rankmill lake rebuild-store")


def _held_by_the_lake(settings: "Settings") -> set[str]:
    """Keys of the lake's exchanges; none where it cannot be read, which is a finding of its own."""
    from warehouse.catalog import LakeError

    if not settings.has_lake:
        return set()
    try:
        return set(settings.lake().read("exchanges", columns=["key"])["key"])
    except LakeError:
        return set()


def _lost(path: Path, lost: set[str]) -> Finding:
    detail = f"{len(lost):,} answers of the lake are not in {path}; the next campaign puts them back before it asks"
    return Finding("answers", False, detail, "now: rankmill lake rebuild-store")


def teacher() -> Iterator[Finding]:
    """Whether the endpoint answers, and takes the key; nothing is asked and nothing is paid."""
    from flows.teacher import STAND_IN, VLLM
    from rankmill.settings import Settings, SettingsError

    try:
        asked = Settings.load().profile.teacher
    except SettingsError:
        return  # the profile's own finding says what is missing
    if asked.base_url == STAND_IN:
        yield Finding("teacher", True, "the stand-in that ships; started by a run on loopback")
        return
    if asked.base_url == VLLM:
        assert asked.vllm is not None  # validated
        python = asked.vllm.python
        there = python is None or shutil.which(str(python)) is not None
        yield Finding("teacher", there, f"vLLM by {python or 'this Python'}", "name vLLM's interpreter: vllm.python")
        return
    address = f"{asked.base_url.rstrip('/')}/models"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {asked.api_key.get_secret_value()}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            yield Finding("teacher", True, f"{asked.model} at {asked.base_url} ({answer.status})")
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        told = "refuses the key" if refused else f"answers {error.code} to /models; it may still answer questions"
        yield Finding("teacher", not refused, f"{asked.base_url} {told}", "export OPENAI_API_KEY=… with the right key")
    except OSError as error:
        why = getattr(error, "reason", error)
        yield Finding("teacher", False, f"{asked.base_url} does not answer ({why})", f"try: curl -I {asked.base_url}")


def accelerator() -> Iterator[Finding]:
    """The GPU, whether this torch can use it, and whether the profile's stages want one here."""
    if shutil.which("nvidia-smi") is None:
        wanted = _wants_a_gpu()
        detail = f"none, and the profile {wanted}" if wanted else "none; the profile's stages do without"
        yield Finding("accelerator", not wanted, detail, "rankmill run --profile offline, or a machine with a GPU")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.free,driver_version", "--format=csv,noheader"]
    seen = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    if seen.returncode:
        yield Finding("accelerator", False, seen.stdout.strip() or "nvidia-smi fails", "mend the driver: nvidia-smi")
        return
    cards = "; ".join(seen.stdout.strip().splitlines())
    # In a process of its own: torch is the training's alone, and takes seconds to import.
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    usable = said.endswith("True")
    detail = cards if usable else f"{cards}; torch {said.partition(' ')[0] or '(not installed)'} cannot use it"
    yield Finding("accelerator", usable, detail, "pip install torch for this driver's CUDA (see pytorch.org)")


def _wants_a_gpu() -> str:
    """What of the profile cannot be without a GPU on this machine; empty where nothing is."""
    from rankmill.places import Local
    from rankmill.settings import Settings, SettingsError

    try:
        profile = Settings.load().profile_that_buys_nothing
    except SettingsError:
        return ""  # the profile's own finding says what is wrong
    if not isinstance(profile.processes, Local):
        return ""
    if profile.training.vllm is not None:
        return "has vLLM write rollouts (training.vllm)"
    if profile.training.launch is not None:
        return f"shares training out by {profile.training.launch.name} (training.launch)"
    return ""


def dagster() -> Iterator[Finding]:
    """Where runs are kept, runs whose process is gone, and whether the daemon lives while something waits for it."""
    from rankmill.settings import Settings

    settings = Settings.load()
    if settings.instance == "team":
        yield from _postgres()
    if not (settings.dagster_home / "dagster.yaml").is_file():
        yield Finding("run history", True, "none yet")
        return
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    import dagster as dg

    from rankmill.dead_runs import dead_runs

    with dg.DagsterInstance.get() as instance:
        dead = [run.run_id[:8] for run in dead_runs(instance)]
        gone = f"the process of {', '.join(dead)} is gone" if dead else "no run without a process"
        yield Finding("runs", not dead, gone, "rankmill ui (or run): either marks them, and what they did is kept")
        waiting = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
        silent = datetime.now(UTC).timestamp() - max(beats) if beats else None
        lives = silent is not None and silent < HEARTBEAT_S
        on = [state.instigator_name for state in instance.all_instigator_state() if state.is_running]
        detail = "running" if lives else "not running"
        if on:
            detail += f"; switched on: {', '.join(sorted(on))}"
        if waiting:
            detail += f"; {waiting} runs are queued"
        yield Finding("daemon", lives or not (waiting or on), detail, "rankmill ui (it brings the daemon)")


def alerts() -> Iterator[Finding]:
    """Whether somebody would be told."""
    from rankmill.settings import Settings

    settings = Settings.load()
    ways = [name for name, value in (("webhook", settings.alert_webhook), ("e-mail", settings.alert_smtp)) if value]
    lost = settings.alert_smtp is not None and not (settings.alert_mail_to and settings.alert_mail_from)
    if lost:
        remedy = "export RANKMILL_ALERT_MAIL_TO=… RANKMILL_ALERT_MAIL_FROM=…"
        yield Finding("alerts", False, "a mail server is set, and nobody to write to", remedy)
        return
    told = f"{' and '.join(ways)}; try it: rankmill alert" if ways else "nobody is told of a failure"
    yield Finding("alerts", True, told)


def nights() -> Iterator[Finding]:
    """The watched folder, and what this night and month have left."""
    from flows.nights import NightBudgets, allowance, night_at
    from inference.store import ExchangeStore
    from rankmill.settings import Settings, SettingsError

    settings = Settings.load()
    try:
        profile = settings.profile_that_buys_nothing
    except SettingsError:
        return  # the profile's own finding says what is wrong
    if profile.watch is not None:
        there = profile.watch.is_dir() and os.access(profile.watch, os.R_OK | os.X_OK)
        yield Finding("watched folder", there, str(profile.watch), f"mkdir -p {profile.watch}, and let it be read")
    if profile.budgets != NightBudgets() and settings.store_path.is_file():
        with ExchangeStore(settings.store_path) as answers:
            left = allowance(answers, night_at(datetime.now(UTC)), profile.budgets)
        if left is not None:
            enough = left.pays_for_a_question(profile.teacher)
            detail = f"${max(0.0, left.left_usd):,.2f} of the {left.which}'s ${left.budget_usd:,.2f} are left"
            yield Finding("night", enough, detail, f"raise budgets.{left.which}_usd in the profile, or wait")


def _postgres() -> Iterator[Finding]:
    what = "run history"
    if importlib.util.find_spec("dagster_postgres") is None:
        yield Finding(what, False, "dagster-postgres is not installed", "pip install -c constraints.txt -e '.[team]'")
        return
    if missing := [name for name in PG if name not in os.environ]:
        yield Finding(what, False, f"not set: {', '.join(missing)}", "export them in every process's environment")
        return
    host, port = os.environ["DAGSTER_PG_HOST"], os.environ["DAGSTER_PG_PORT"]
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S):
            yield Finding(what, True, f"PostgreSQL at {host}:{port}")
    except (OSError, ValueError) as error:
        yield Finding(what, False, f"PostgreSQL at {host}:{port}: {error}", f"pg_isready -h {host} -p {port}")
