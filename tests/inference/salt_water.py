"""A small ranking task for the stand-in, and a price table that makes budgets easy to read."""

from __future__ import annotations

from inference.prices import Price, Prices

PASSAGES = (
    "Boil the salted water before the pasta goes in.",
    "Salt water dries out a cell, since osmosis draws water through its membrane to the saltier side.",
    "A cell is the smallest unit of life.",
    "Sailors carry casks of fresh water.",
)
# A dollar a token makes budgets easy to read.
DEAR = Prices.load().with_price("stand-in-teacher", Price(input=1e6, cached=1e6, output=1e6, source="test"))


def ranking_prompt(query: str, answer: str | None = None, task: str = "rank the passages") -> str:
    shown = f"Answer: {answer}\n" if answer is not None else ""
    listing = "\n".join(f"[{i}] {text}" for i, text in enumerate(PASSAGES, 1))
    return f"You compare passages.\nQuery: {query}\n{shown}Passages:\n{listing}\nTask: {task} from best to worst."
