"""The contestant `rankllm`: RankLLM's client of OpenAI-compatible endpoints, windows of 20 by 10 over lists of its own.

    python -P perf/peers/rankllm.py --base-url http://127.0.0.1:PORT/v1 --model NAME --queries 10 --top 100

Its last line is JSON: version, queries, seconds from the first list to the last order. It asks a window after the
other, and a list after the other, as it comes. What its packages import first is left out (vLLM, clients of other
services), and where tiktoken is not installed, which would load its tables from the network, a word counts as a token.
Run by `decoding.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def load() -> tuple[Any, Any]:
    """RankLLM's data module and its client."""
    root = Path(str(import_module("rank_llm").__file__)).parent
    for package in ("rerank", "rerank.listwise"):
        module = ModuleType(f"rank_llm.{package}")
        module.__path__ = [str(root.joinpath(*package.split(".")))]
        sys.modules[module.__name__] = module
    if find_spec("tiktoken") is None:
        words = ModuleType("tiktoken")
        words.get_encoding = lambda _name: SimpleNamespace(encode=str.split)  # type: ignore[attr-defined]
        sys.modules["tiktoken"] = words
    return import_module("rank_llm.data"), import_module("rank_llm.rerank.listwise.rank_gpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--top", type=int, default=100)
    given = parser.parse_args()
    data, client = load()
    template = Path(str(import_module("rank_llm").__file__)).parent / "rerank/prompt_templates/rank_gpt_template.yaml"
    model = client.SafeOpenai(
        model=given.model,
        context_size=100_000,
        prompt_template_path=str(template),
        window_size=20,
        stride=10,
        keys="none",
        base_url=f"{given.base_url.rstrip('/')}/",  # the SDK joins it to a path as it stands
    )
    dice = random.Random(0)
    words = ["salt", "sea", "river", "moon", "tide", "stone", "rain", "cloud"]
    asked = [
        data.Request(
            query=data.Query(text=f"why is the sea salt ({number})", qid=number),
            candidates=[
                data.Candidate(docid=str(n), score=1.0 / (n + 1), doc={"text": " ".join(dice.choices(words, k=40))})
                for n in range(given.top)
            ],
        )
        for number in range(given.queries)
    ]
    started = time.perf_counter()
    model.rerank_batch(asked, rank_end=given.top)
    seconds = time.perf_counter() - started
    print(json.dumps({"version": metadata.version("rank-llm"), "queries": given.queries, "seconds": seconds}))


if __name__ == "__main__":
    main()
