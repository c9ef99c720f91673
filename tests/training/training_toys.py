"""Toy inputs of the training tests: a small recipe, rows, and a reporter that remembers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    def fail(self, text: str) -> None:
        self.note(text)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((stage, step, total, dict(metrics)))


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
