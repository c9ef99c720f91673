"""Ranking prompts for the benchmarks: 20 passages of the seed and a query, about 5.5 kB, each prompt another one.

The text is that of the template `rank_teacher`, filled in without its repair of broken unicode, which would take
longer than the benchmark. Absent on purpose: relevance. Nobody reads these prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from ranking.prompts import load_template, titled

SEED = Path(__file__).parent.parent / "seed" / "web_search"
PASSAGES = 20


def ranking_prompts(count: int, seed: int = 0) -> Iterator[str]:
    """`count` distinct prompts; the same ones for the same `seed`."""
    template = load_template("rank_teacher")
    dice = random.Random(seed)
    passages = [titled(row["title"], row["text"]) for row in _rows("passages")]
    queries = [row["text"] for row in _rows("queries")]
    for number in range(count):
        shown = dice.sample(passages, PASSAGES)
        query = f"{dice.choice(queries)} (question {number})"
        prefix = template.prefix.format(num=PASSAGES, query=query)
        body = "".join(template.body.format(rank=rank, candidate=text) for rank, text in enumerate(shown, start=1))
        yield f"{template.system_message}\n{prefix}{body}{template.suffix.format(num=PASSAGES, query=query)}"


def write_prompts(path: Path, count: int) -> None:
    """The prompts as contestants read them: JSONL of {"prompt": ...}."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in ranking_prompts(count))


def _rows(what: str) -> list[dict[str, str]]:
    with (SEED / f"{what}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
