"""Places under the stand-in for Slurm."""

import sys
from pathlib import Path
from typing import Any

from assets.places import Processes
from rankmill.places import Slurm


def under_slurm(home: Path, **values: Any) -> Processes:
    place = {"where": "slurm", "python": sys.executable, "stages": {"sft": {"cpus": 1}}, **values}
    return Processes(Slurm.model_validate(place), home)
