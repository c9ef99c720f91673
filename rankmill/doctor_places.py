"""What `rankmill doctor` looks at where the profile sends stages to a cluster: its library here, and its answer."""

import importlib.util
import json
import shutil
import urllib.request
from collections.abc import Iterator

from rankmill.finding import Finding

TIMEOUT_S = 5
WHAT = "processes"
LIBRARIES = {"ray": "dagster_ray", "kubernetes": "dagster_k8s"}


def processes() -> Iterator[Finding]:
    """Where stages run, and whether that place can be used from here."""
    from rankmill.places import Local, Ray, Slurm
    from rankmill.settings import Settings, SettingsError

    try:
        place = Settings.load().profile_that_buys_nothing.processes
    except SettingsError:
        return  # the profile's own finding says what is wrong
    if isinstance(place, Local):
        yield Finding(WHAT, True, "every stage runs on this machine")
        return
    there = f"{', '.join(place.stages)} on {place.where}"
    library = LIBRARIES.get(place.where)
    if library is not None and importlib.util.find_spec(library) is None:
        remedy = f"pip install -c constraints.txt -e '.[{place.where}]'"
        yield Finding(WHAT, False, f"{there}, and {library} is not installed", remedy)
    elif isinstance(place, Slurm):
        found = shutil.which("sbatch")
        detail = f"{there} ({found})" if found else f"{there}, and there is no sbatch on PATH"
        yield Finding(WHAT, found is not None, detail, "run Dagster on a login node, or put Slurm's programs on PATH")
    elif isinstance(place, Ray):
        yield _answer_of(place.address, there)
    else:
        yield Finding(WHAT, True, f"{there}, namespace {place.namespace}; try it: kubectl get pods")


def _answer_of(address: str, there: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=TIMEOUT_S) as answer:
            version = json.load(answer).get("ray_version", "of an unknown version")
        return Finding(WHAT, True, f"{there}: Ray {version} at {address}")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        return Finding(
            WHAT, False, f"{there}, and {address} does not answer ({why})", "ray status, on the cluster's head"
        )
