"""The contestant `curator` (bespokelabs-curator): its OpenAI backend, which speaks aiohttp.

Rate limits out of the way, cache and telemetry off (by environment, see `engine.py`), its log kept to warnings, its
live display as it is (without one it is slower). Its constructor asks the endpoint for its rate limits once, before
the clock starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bespokelabs.curator import LLM
from contest import MAX_TOKENS, Task, compete
from datasets import Dataset

NO_LIMIT = 10**12


class Ranker(LLM):
    """One prompt in, one content out."""

    def prompt(self, row: dict[str, str]) -> str:
        """Part of curator.LLM."""
        return row["prompt"]

    def parse(self, _row: dict[str, str], response: str) -> dict[str, str]:
        """Part of curator.LLM."""
        return {"content": response}


def prepare(task: Task) -> Callable[[], list[str]]:
    """A curator LLM and its data set."""
    logging.getLogger("curator").setLevel(logging.WARNING)
    ranker = Ranker(
        model_name=task.model,
        backend="openai",
        generation_params={"temperature": 0.0, "max_tokens": MAX_TOKENS},
        backend_params={
            "base_url": task.base_url,
            "api_key": "none",
            "max_requests_per_minute": NO_LIMIT,
            "max_tokens_per_minute": NO_LIMIT,
            "max_concurrent_requests": task.in_flight,
        },
    )
    prompts = Dataset.from_dict({"prompt": task.prompts})

    def ask() -> list[str]:
        contents: list[str] = ranker(prompts, working_dir=str(task.folder)).dataset["content"][:]
        return contents

    return ask


if __name__ == "__main__":
    compete(prepare)
