"""A small factory with one row's whole history: exchanges with a repair, judgements, decisions, models, scores."""

from __future__ import annotations

import json

import polars as pl
from later_releases import change, here, put, release_now
from small_lake import message

from warehouse.lake import Append, Lake
from warehouse.models import model_rows

OURS = here("math", "train7")


def exchange(key: str, purpose: str, **values: object) -> dict[str, object]:
    return {
        "domain": "math", "purpose": purpose, "key": key, "request_id": f"math/train7/{purpose}/0",
        "model": "teacher-1", "served_model": "teacher-1-0528",
        "messages": json.dumps([{"role": "user", "content": f"Rank for {key}."}]),
        "sampling": json.dumps({"temperature": 0.6, "top_p": 0.95}), "generation": 0, "content": "[5] > [1]",
        "reasoning": f"Chain of {key}.", "finish_reason": "stop", "fault": None, "prompt_tokens": 900,
        "completion_tokens": 80, "cached_tokens": 10, "usd": 0.002, "latency_s": 1.25, "attempts": 1,
        "created_at": f"2026-01-0{len(key)}", "prompt_sha256": "prompt", "repair_of": None, **values,
    }  # fmt: skip


def tell(lake: Lake) -> str:
    """Fill a factory lake with the history of math/train7 and release it; the release's hash."""
    asked = pl.DataFrame(
        [
            exchange("key7", "rank_teacher", repair_of="first"),
            exchange("first", "rank_teacher", fault="missing [3]"),
            exchange("mine", "mine_positives"),
            exchange("another", "rank_teacher"),
        ],
        infer_schema_length=None,
    )
    judged = pl.DataFrame(
        [
            {"domain": "math", "qid": "train7", "docid": "d4", "grade": 1, "origin": "teacher", "role": "positive",
             "judge": "teacher-1", "exchange_key": "mine", "prompt_sha256": "mining"},
            {"domain": "math", "qid": "train7", "docid": "d0", "grade": 0, "origin": "human", "role": "qrels",
             "judge": "people", "exchange_key": None, "prompt_sha256": None},
            {"domain": "math", "qid": "train7", "docid": "d99", "grade": 1, "origin": "human", "role": "qrels",
             "judge": "people", "exchange_key": None, "prompt_sha256": None},
        ]
    )  # fmt: skip
    lake.commit([Append("exchanges", asked), Append("judgements", judged)], message("labels"))
    change(lake, "queries", put("url", "https://example.org/q7", OURS))
    name = release_now(lake)
    split = lake.read("training_rows", {"release": name}).filter(OURS)["split"][0]
    models = pl.DataFrame(
        [
            {"model": "first-model", "recipe": "reasonrank", "stage": split, "release": name, "parent": "base",
             "weights_sha256": "w1", "seed": 0, "steps": 5, "path": "models/a", "created_at": "2026-02-01"},
            {"model": "next-model", "recipe": "reasonrank", "stage": "later", "release": name, "parent": "w1",
             "weights_sha256": "w2", "seed": 0, "steps": 5, "path": "models/b", "created_at": "2026-02-02"},
        ]
    )  # fmt: skip
    board = pl.DataFrame(
        [{"recipe": "reasonrank", "domain": "math", "stage": split, "model": "first-model", "release": name,
          "split": "test", "queries": 40, "measures": json.dumps({"nDCG@10": 0.5}), "low": 0.4, "high": 0.6,
          "versus_bm25": 0.1}]
    )  # fmt: skip
    row_ids = lake.read("training_rows", {"release": name}).filter(OURS)["row_id"].to_list()
    drawn = model_rows("first-model", row_ids)
    lake.commit(
        [Append("models", models), Append("model_rows", drawn), Append("leaderboard", board)], message("models")
    )
    return name
