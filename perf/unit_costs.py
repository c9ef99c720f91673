"""Unit costs for `sizing.py`: what a real home holds and asks, what training takes, and what `growth.py` found.

    home, asked = read_home(Path(".rankmill"), load_profile("api"))
    made, recipe = plan(Path(".rankmill"), asked, answer_tokens=3072, device="h100", devices=8)

The home is only read: its catalog is copied and attached read-only. Prompts are not those that the home's teacher was
shown, but those that the profile would show, made anew from the lake's rows; which lists are ranked is known once
judgements are mined, so each query's best candidates stand in for them, as in `rankmill estimate`.

Absent on purpose: a lake in PostgreSQL, and anything that a teacher or a GPU would have to be asked for.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"  # the 7B model's shape is a published one; nothing is fetched for a plan

from flows.questions import Question, mining_questions, pools_of, provisional_rankings  # noqa: E402
from ranking.prompts import titled  # noqa: E402
from rankmill.settings import Profile, load_profile  # noqa: E402
from training.planning import ACCELERATORS, Plan, plan_of, shape_and_tokenizer  # noqa: E402
from training.recipes import Recipe, load_recipe  # noqa: E402
from warehouse.catalog import Place  # noqa: E402

PLANNED = 50
POOLS = (
    "queries WHERE domain = ? AND split = 'train'", "candidates WHERE domain = ?",
    "judgements WHERE domain = ? AND origin = 'human'",
)  # fmt: skip


@dataclass(frozen=True)
class Home:
    """What a home says: counts, bytes by table, and bytes of text (chains, passages, prompts) behind them."""

    domains: int
    train: int
    passages: int
    passage_bytes: float
    calls: int
    store_ratio: float  # bytes of the exchange store a byte of prompts, chains and answers
    token_bytes: float  # bytes of a prompt a token, as the home's teacher counted
    tables: dict[str, tuple[int, int]]  # rows and bytes of Parquet
    exchange_ratio: float  # bytes of Parquet a byte of text
    row_ratio: float
    release_ratio: float
    list_length: float
    list_passage_bytes: float  # of distinct passages, a list
    row_passage_bytes: float  # of all passages, a list
    ranked: float  # of the training queries
    consistent: float  # of those ranked
    released: float  # of those consistent
    sft: float  # of those released


@dataclass(frozen=True)
class Asked:
    """What the teacher would be asked in the profile, a training query of the home."""

    calls: float
    prompt_bytes: float
    shared: float  # of the prompts' bytes: beginnings that another prompt has as well
    list_length: float
    lists: list[dict[str, Any]]  # lists as training rows, for a plan


def read_home(home: Path, profile: Profile) -> tuple[Home, Asked]:
    """Measure a home whose lake is its own."""
    with TemporaryDirectory() as folder:
        for file in (home / "lake").glob("meta.sqlite*"):
            shutil.copy(file, folder)
        connection = Place(f"sqlite:{Path(folder) / 'meta.sqlite'}", f"{home / 'lake' / 'data'}/").attach(True)
        try:
            measured = measure(connection, home)
            return measured, what_is_asked(connection, profile, measured.ranked)
        finally:
            connection.close()


def measure(connection: duckdb.DuckDBPyConnection, home: Path) -> Home:
    """The home's figures."""

    def one(sql: str, *values: str) -> Any:
        row = connection.execute(sql, values).fetchone()
        assert row is not None
        return row if len(row) > 1 else row[0]

    sizes = connection.execute("SELECT table_name, file_size_bytes FROM ducklake_table_info('lake')").fetchall()
    tables = {name: (int(one(f"SELECT count(*) FROM lake.{name}")), int(size)) for name, size in sizes if size}
    train = one("SELECT count(*) FROM lake.queries WHERE split = 'train'")
    calls, prompts, text, tokens = one(
        "SELECT count(*), sum(strlen(messages)), sum(strlen(messages) + strlen(content) + strlen(reasoning)), "
        "sum(prompt_tokens) FROM lake.exchanges"
    )
    held_bytes = one(
        "SELECT sum(strlen(text)) FROM lake.passages SEMI JOIN (SELECT domain, unnest(initial_list) AS docid "
        "FROM lake.rankings SEMI JOIN lake.consistent_rankings USING (domain, ranking_id)) USING (domain, docid)"
    )
    newest = one("SELECT arg_max(release, created_at) FROM lake.releases")
    rows, sft, length, passages, whole = one(
        "SELECT count(*), count(*) FILTER (split = 'sft'), avg(len(docids)), "
        "sum(list_sum(list_transform(passages, lambda p: strlen(p)))), sum(strlen(query) + strlen(reasoning)) "
        "FROM lake.training_rows WHERE release = ?",
        newest,
    )
    all_rows = tables["training_rows"][0]
    export = (home / "releases" / newest[:12] / "rows.parquet").stat().st_size
    ranked, consistent = tables["rankings"][0], tables["consistent_rankings"][0]
    return Home(
        domains=one("SELECT count(DISTINCT domain) FROM lake.queries"), train=train,
        passages=tables["passages"][0], passage_bytes=one("SELECT avg(strlen(text)) FROM lake.passages"), calls=calls,
        store_ratio=(home / "exchanges.sqlite").stat().st_size / text, token_bytes=prompts / tokens, tables=tables,
        exchange_ratio=tables["exchanges"][1] / text,
        row_ratio=tables["training_rows"][1] * rows / all_rows / (passages + whole),
        release_ratio=export / (passages + whole), list_length=length, list_passage_bytes=held_bytes / consistent,
        row_passage_bytes=passages / rows, ranked=ranked / train, consistent=consistent / ranked,
        released=rows / consistent, sft=sft / rows,
    )  # fmt: skip


def what_is_asked(connection: duckdb.DuckDBPyConnection, profile: Profile, share_ranked: float) -> Asked:
    """Every question of the profile to the home's training queries; lists are ranked as they are before mining."""
    sampling, labels = profile.teacher.sampling, profile.labels
    mining: list[Question] = []
    ranking: list[Question] = []
    lists: list[dict[str, Any]] = []
    train = 0
    for (domain,) in connection.execute("SELECT DISTINCT domain FROM lake.queries ORDER BY 1").fetchall():
        passages = connection.execute("SELECT docid, title, text FROM lake.passages WHERE domain = ?", [domain])
        read = {docid: titled(title, text) for docid, title, text in passages.fetchall()}
        queries, found, people = (connection.execute(f"SELECT * FROM lake.{of}", [domain]).pl() for of in POOLS)
        pools = pools_of(queries, found, people, read, labels.mining_depth)
        train += len(pools)
        if labels.judged_by(domain) != "human":
            mining += mining_questions(pools, labels, sampling)
        ranked = provisional_rankings(pools, labels, sampling)
        ranking += ranked
        query = {pool.qid: pool.query for pool in pools}
        lists += [
            {"row_id": question.id, "query": query[question.qid], "relevant": [0], "reasoning": "",
             "passages": [read[docid] for docid in question.docids], "final_order": list(range(len(question.docids)))}
            for question in ranked
        ]  # fmt: skip
    prompts = sorted(question.request.messages_json for question in (*mining, *ranking))
    shared = sum(starting_alike(*pair) for pair in pairwise(prompts)) / sum(map(len, prompts))
    # Not every query comes to be ranked: as many as did in the home.
    share = share_ranked * train / len(ranking)
    mined, shown = (sum(len(q.request.messages_json) for q in asked) for asked in (mining, ranking))
    length = sum(len(row["passages"]) for row in lists) / len(lists)
    return Asked((len(mining) + share * len(ranking)) / train, (mined + share * shown) / train, shared, length, lists)


def starting_alike(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike. Over sorted texts the sum is all that a cache of beginnings saves."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def plan(home: Path, asked: Asked, answer_tokens: int, device: str, devices: int) -> tuple[Plan, Recipe]:
    """What training takes by training/planning.py, on some of the lists and with chains of so many tokens."""
    from training.curves import quiet

    quiet()
    profile = load_profile("gpu")
    recipe = load_recipe(ROOT / "recipes" / "reasonrank.yaml", profile.recipe, profile.recipes.get("reasonrank", {}))
    rows = asked.lists[:: max(1, len(asked.lists) // PLANNED)]
    base = home / "models" / "base"
    with TemporaryDirectory() as folder:
        # A tokenizer is unpacked where the home has none.
        shape, tokenizer, _ = shape_and_tokenizer(recipe, base if base.is_dir() else Path(folder))
        rows = [{**row, "reasoning": _words(tokenizer, answer_tokens)} for row in rows]
        made = plan_of(
            recipe, {"sft": rows, "rl": rows}, tokenizer, shape, ACCELERATORS[device], devices,
            running=profile.training,
        )  # fmt: skip
    return made, recipe


def _words(tokenizer: Any, tokens: int) -> str:
    """A text of about so many tokens."""
    each = len(tokenizer("because " * 100, add_special_tokens=False)["input_ids"]) / 100
    return "because " * int(tokens / each)


class Growth:
    """What growth.py found."""

    def __init__(self, path: Path) -> None:
        self.told: dict[str, Any] = json.loads(path.read_text("utf-8"))

    def sizes(self, what: str) -> list[int]:
        return list(self.told[what]["sizes"])

    def values(self, what: str, name: str) -> list[float]:
        return [found[name] for found in self.told[what]["found"]]

    def further(self, what: str, name: str, by: str | None = None) -> float:
        """What each further unit of the size, or of the figure `by`, adds between the last two sizes."""
        values = self.values(what, name)
        along = self.sizes(what) if by is None else self.values(what, by)
        return (values[-1] - values[-2]) / (along[-1] - along[-2])

    def exponent(self, what: str, name: str) -> float:
        """By which power of the size a figure grew from the first size to the last."""
        values, sizes = self.values(what, name), self.sizes(what)
        return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])
