"""What holds for every test: properties have no deadline, and processes that a test starts can be interrupted.

And the base model of the wheel, converted once for all of them: it takes half a gigabyte of disk.
"""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Speed is measured in perf/ and not here.
settings.register_profile("rankmill", deadline=None)
settings.load_profile("rankmill")
# A run that was started in the background ignores SIGINT, and whatever it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def base_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of converted base models, which every process of this session shares; what `Job.cache` takes."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "base_models"
