"""A mill over two small folders, asked of a teacher that the test serves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.campaign import Home
from flows.questions import LabelSettings
from flows.resynthesis import Mill
from flows.teacher import TeacherSettings
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.store import ExchangeStore
from warehouse.intake.registry import Active
from warehouse.lake import Lake

TOPICS = ("salt", "rust", "tides", "yeast", "copper", "snow", "glass", "honey")


def write_folder(folder: Path, queries: int) -> Path:
    """A source of `queries` questions, each with one passage that answers it and three that share its words."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, passages, judged = [], [], []
    for n in range(queries):
        topic = TOPICS[n % len(TOPICS)]
        split = "dev" if n % 8 == 7 else "train"
        text = f"Why does {topic} number {n} change when water reaches it?"
        answer = f"Water reaches {topic} number {n} and osmosis draws it through the membrane."
        asked.append({"qid": f"q{n}", "text": text, "split": split, "gold_answer": answer, "license": "CC0-1.0"})
        for m, words in enumerate(
            (
                f"osmosis draws water through the membrane of {topic} number {n} until both sides are even",
                f"{topic} number {n} was painted on the wall of a museum in the harbour",
                f"water bottle number {n} was sold beside {topic} at the market on a rainy day",
                f"a song about {topic} and number {n} that children sing when they change shoes",
            )
        ):
            passages.append({"docid": f"d{n}-{m}", "title": "", "text": words, "license": "CC0-1.0"})
        judged.append(f"q{n} 0 d{n}-0 1")
    _lines(folder / "queries.jsonl", asked)
    _lines(folder / "passages.jsonl", passages)
    (folder / "qrels.tsv").write_text("\n".join(judged) + "\n", "utf-8")
    return folder


def mill(folder: Path, sources: dict[str, int], base_url: str, **given: Any) -> Mill:
    """A mill with its home in `folder`; `given` overrides labels and teacher settings by their names."""
    labels = {"judgements": {"sea": "human"}, "list_size": 4, **given.pop("labels", {})}
    teacher = {"max_tokens": 400, "pace": PaceSettings(max_in_flight=8, backoff_base_s=0.01), **given}
    active = [
        Active(domain, "folder", str(write_folder(folder / "sources" / domain, count)))
        for domain, count in sorted(sources.items())
    ]
    return Mill(
        lake=Lake.at(folder / "lake"),
        active=active,
        labels=LabelSettings(**labels),
        teacher=TeacherSettings(base_url=base_url, **teacher),
        home=Home(folder / "exchanges.sqlite", folder / "logs"),
        candidates=10,
        alpha=0.4,
        seed=0,
        reports=folder / "reports",
    )


def spend(store: ExchangeStore, at: datetime, usd: float) -> None:
    """Book an answer that was bought at a moment."""
    request = Request(f"at {at}", ({"role": "user", "content": str(at)},), Sampling("m", 0.0, 1.0, 16))
    stamp = at.astimezone(UTC).isoformat(timespec="milliseconds")
    answer = Exchange(request.id, request.key, "m", "m", "a", "", "stop", 1, 1, 0, usd, 0.1, 1, stamp)
    store.put([(request, answer)], "all")


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
