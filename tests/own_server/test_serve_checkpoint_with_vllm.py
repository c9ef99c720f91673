"""A checkpoint that a stage has published, served by vLLM as it lies there; `make test-vllm` runs it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from inference.vllm import VllmSettings, serving_vllm
from training import sft
from training.generate import Decoding, Writer
from training.jobs import ModelRef, SftJob
from training.recipes import load_recipe
from training.reporting import LineReporter
from training.student import load_student, load_tokenizer

pytestmark = pytest.mark.vllm

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "reasonrank-direct.yaml"
SHORT: dict[str, Any] = {
    "units": {"max_passages": 3, "passage_tokens": 16, "query_tokens": 16},
    "objective": {"lr": 2e-4, "epochs": 8, "batch": 4, "accumulation": 1, "max_steps": 8, "max_tokens": 400},
    "model": {"base": "smollm2", "gradient_checkpointing": False},
}
ANSWER = "<answer> [2] > [3] > [1] </answer>"


def rows() -> list[dict[str, Any]]:
    """Four lists whose second passage is always the right one, so that a few steps teach the answer."""
    return [
        {"row_id": f"toy/{n}", "domain": "toy", "qid": f"q{n}", "split": "sft", "query": f"Why do {topic} matter?"}
        | {"docids": ["a", "b", "c"], "final_order": [1, 2, 0], "relevant": [1], "license": "CC0-1.0", "source": "toy"}
        | {"passages": ["Nothing of note.", f"All about {topic}.", f"A word on {topic}."], "reasoning": "[2] is right."}
        for n, topic in enumerate(("rivers", "planets", "bridges", "violins"))
    ]


def test_vllm_serves_a_trained_checkpoint_and_writes_what_transformers_writes(
    python: str, checkpoint: Path, tmp_path: Path
) -> None:
    pl.DataFrame(rows()).write_parquet(tmp_path / "rows.parquet")
    job = SftJob(
        recipe=load_recipe(RECIPE, SHORT),
        release="toy",
        rows=tmp_path / "rows.parquet",
        model=ModelRef(path=str(checkpoint), sha256="wheel"),
        output=tmp_path,
    )
    sft.run(job, LineReporter())
    template = yaml.safe_load((job.folder / "prompt_template.yaml").read_text())
    shown = {"query": "Why do rivers matter?", "num": 3}
    passages = enumerate(rows()[0]["passages"], 1)
    body = "".join(template["body"].format(rank=number, candidate=text) for number, text in passages)
    messages = [
        {"role": "system", "content": template["system_message"]},
        {"role": "user", "content": template["prefix"].format(**shown) + body + template["suffix"].format(**shown)},
    ]
    writer = Writer(load_student(job.folder), load_tokenizer(job.folder))
    ((_, ours),) = writer.write([messages], Decoding(max_new_tokens=24))
    settings = VllmSettings(
        model=str(job.folder),
        served_name="reasonrank-direct",
        python=python,
        dtype="float32",
        max_model_len=1024,
        cpu_kv_cache_gib=1,
        start_timeout_s=400,
        extra_args=("--enforce-eager",),
    )
    with serving_vllm(settings, tmp_path / "vllm.log") as base_url:
        asked = {"model": "reasonrank-direct", "messages": messages, "temperature": 0, "max_tokens": 24}
        request = urllib.request.Request(
            f"{base_url}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            theirs = json.load(answer)["choices"][0]["message"]["content"]
    print(f"\ntransformers: {ours.text!r}\nvLLM: {theirs!r}")
    assert theirs.strip() == ours.text.strip() == ANSWER
