"""Where a student may come from: safetensors, and models that transformers itself knows; nothing that runs code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.jobs import ModelRef, weights_sha256
from training.student import StudentError, load_student, load_tokenizer, save_student


@pytest.fixture
def folder(words: ModelRef, tmp_path: Path) -> Path:
    """A model of one's own, to be changed."""
    return Path(shutil.copytree(words.path, tmp_path / "student"))


def configured(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Change a configuration, and put code beside it that leaves a trace when it runs."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "own.py").write_text(f"open({str(folder / 'trace')!r}, 'w').close()")


def test_of_a_models_own_generation_settings_only_its_special_tokens_are_kept(folder: Path, tmp_path: Path) -> None:
    settings = folder / "generation_config.json"
    tokens = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    settings.write_text(json.dumps({**tokens, "repetition_penalty": 1.05, "top_k": 20, "min_new_tokens": 4}))
    student, tokenizer = load_student(folder), load_tokenizer(folder)
    save_student(student, tokenizer, tmp_path / "saved")
    for kept in (student.generation_config, load_student(tmp_path / "saved").generation_config):
        assert {name: value for name, value in kept.to_diff_dict().items() if name != "transformers_version"} == tokens


def test_pickled_weights_are_refused_by_name_and_never_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert load_student(folder) is not None  # beside safetensors nobody reads them
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudentError, match=r"weights are pickled \(pytorch_model.bin\).*Only safetensors are read"):
        load_student(folder)
    with pytest.raises(FileNotFoundError, match="other weights are not read"):
        weights_sha256(folder)


def test_a_model_that_wants_code_of_its_own_is_refused_and_the_code_never_run(folder: Path) -> None:
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    configured(folder, model_type="one_of_its_own", auto_map=classes)
    with pytest.raises(StudentError, match=r"brings code of its own \(auto_map"):
        load_student(folder)
    assert not (folder / "trace").exists()


def test_a_tokenizer_that_wants_code_of_its_own_is_refused_and_the_code_never_run(folder: Path) -> None:
    configured(
        folder, "tokenizer_config.json", tokenizer_class="OneOfItsOwn", auto_map={"AutoTokenizer": [None, "own.Own"]}
    )
    configured(folder, model_type="one_of_its_own")
    with pytest.raises(StudentError, match=r"brings code of its own \(auto_map"):
        load_tokenizer(folder)
    assert not (folder / "trace").exists()


def test_code_beside_a_model_that_transformers_knows_is_left_unread(folder: Path) -> None:
    configured(folder, auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    assert type(load_student(folder)).__module__.startswith("transformers.")
    assert not (folder / "trace").exists()
