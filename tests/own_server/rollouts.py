"""Does a reinforcement job whose rollouts vLLM writes in the same process, in an interpreter that has vLLM.

    VLLM_PYTHON tests/own_server/rollouts.py JOB.json SITE_PACKAGES fresh|stale

SITE_PACKAGES holds the training libraries; vLLM's own stand before them. On a CPU vLLM packs its weights as it loads
them and drops the plain ones, which TRL writes into before every step: packing is left out. In the way `stale` nothing
is written: what is checked of the rollouts must then be seen to be wrong.
"""

import sys
from pathlib import Path

job_path, packages, way = sys.argv[1:]
sys.path += [packages, str(Path(__file__).resolve().parents[2])]

from training import host  # noqa: E402

host.settle()

import torch  # noqa: E402
import vllm.model_executor.layers.utils as layers  # noqa: E402
from trl.generation.vllm_generation import VLLMGeneration  # noqa: E402

from training import rl  # noqa: E402
from training.jobs import RlJob  # noqa: E402
from training.reporting import LineReporter  # noqa: E402


def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
    """A layer's arithmetic over the weights as they are."""
    layer.cpu_linear = torch.nn.functional.linear


layers.dispatch_cpu_unquantized_gemm = plain
if way == "stale":
    VLLMGeneration.sync_weights = lambda self: None
rl.run(RlJob.model_validate_json(Path(job_path).read_bytes()), LineReporter())
