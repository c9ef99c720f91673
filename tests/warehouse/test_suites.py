"""Quality suites: every planted fault is named with its row and a remedy, and nothing is validated twice."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import small_lake
from small_lake import DOMAINS, message, release

from warehouse.audit import suites
from warehouse.audit.suites import DATA_DOCS, EVALUATION, RELEASE, Question, ValidationFailed, assets_of, examine
from warehouse.lake import Append, Lake, Replace
from warehouse.migrations import table_columns


def hashed(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts with the hash that the door gives them."""
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in frame["text"]]
    return frame.with_columns(text_sha256=pl.Series(digests, dtype=pl.String))


def exchanges() -> pl.DataFrame:
    ranked = small_lake.rankings()
    return pl.DataFrame(
        [
            {
                "domain": row["domain"], "purpose": "rank", "key": row["exchange_key"], "served_model": "m",
                "prompt_sha256": "p", "prompt_tokens": 9, "completion_tokens": 9, "usd": 0.0, "latency_s": 0.1,
                "created_at": "2026-01-01T00:00:00+00:00",
            }
            for row in ranked.iter_rows(named=True)
        ]
    )  # fmt: skip


def judgement(qid: str, docid: str, grade: int = 1, origin: str = "human", key: str | None = None) -> dict[str, object]:
    return {"domain": "math", "qid": qid, "docid": docid, "grade": grade, "origin": origin, "exchange_key": key}


SOUND = {
    "queries": hashed(small_lake.queries()),
    "passages": hashed(small_lake.passages()),
    "exchanges": exchanges(),
    "judgements": pl.DataFrame([judgement("train0", "d1")], schema_overrides={"exchange_key": pl.String}),
    "candidates": small_lake.candidates("math", 6),
}


def faulty() -> dict[str, pl.DataFrame]:
    """One fault of each kind beside the sound rows."""
    asked, texts = SOUND["queries"], SOUND["passages"]
    odd = hashed(asked.head(1).with_columns(qid=pl.lit("empty"), text=pl.lit(" "), split=pl.lit("spare")))
    bare = asked.head(1).with_columns(qid=pl.lit("altered"), text=pl.lit("Another?"), license=None, source=None)
    empty = texts.head(1).with_columns(docid=pl.lit("e"), text=pl.lit(""))
    paid = SOUND["exchanges"]
    ranked = small_lake.rankings()
    first = ranked.head(1)
    double = pl.lit(["d4", "d4"])
    return {
        "queries": pl.concat([asked, asked.head(1), odd, bare]),
        "passages": pl.concat([texts, texts.head(1), hashed(empty)]),
        "exchanges": pl.concat([paid, paid.head(1).with_columns(key=pl.lit("odd"), usd=-1.0, prompt_sha256=None)]),
        "judgements": pl.DataFrame(
            [
                judgement("twice", "d1"), judgement("twice", "d1"), judgement("nowhere", "gone"),
                judgement("low", "d1", -1), judgement("oracle", "d1", origin="oracle"),
                judgement("unpaid", "d1", origin="teacher"),
            ],
            schema_overrides={"exchange_key": pl.String},
        ),
        "candidates": SOUND["candidates"].with_columns(rank=pl.col("rank") + 1, docid=pl.lit("d0")),
        "rankings": pl.concat(
            [
                ranked,
                first,
                first.with_columns(ranking_id=pl.lit("short"), final_list=pl.lit(["d4"])),
                first.with_columns(ranking_id=pl.lit("double"), initial_list=double, final_list=double),
                first.with_columns(ranking_id=pl.lit("outside"), relevant_docids=pl.lit(["d9"])),
                first.with_columns(ranking_id=pl.lit("silent"), reasoning=pl.lit(" ")),
                first.with_columns(ranking_id=pl.lit("unpaid"), exchange_key=pl.lit("no such call")),
            ]
        ),
        "consistent_rankings": pl.concat(
            [
                small_lake.consistent(),
                small_lake.consistent().head(1).with_columns(ranking_id=pl.lit("low"), consistency=0.1),
                small_lake.consistent().head(1).with_columns(ranking_id=pl.lit("wild"), consistency=1.5),
            ]
        ),
    }  # fmt: skip


# What must be found, by table: the beginning of the sentence, and a key that stands among the offending rows.
PLANTED = [
    ("queries", "A qid stands for one query", "math / train0"), ("queries", "Every query has a text", "math / empty"),
    ("queries", "Every query is for training", "math / empty"), ("queries", "Every query's licence", "math / altered"),
    ("queries", "Every query says where", "math / altered"),
    ("queries", "Every query's text is the one", "math / altered"),
    ("passages", "A docid stands for one", "math / d0"), ("passages", "Every passage has a text", "math / e"),
    ("exchanges", "No call costs less", "math / rank / odd"),
    ("exchanges", "Every call names its", "math / rank / odd"),
    ("judgements", "A passage is judged once", "math / twice / human"),
    ("judgements", "Every judged passage", "math / nowhere / human"), ("judgements", "No grade", "math / low / human"),
    ("judgements", "A judgement is", "math / oracle / oracle"),
    ("judgements", "Every judgement of a teacher", "math / unpaid / teacher"),
    ("candidates", "A passage is a candidate", "math / q"), ("candidates", "Ranks begin at 1", "math / q"),
    ("candidates", "Ranks have no gap", "math / q"),
    ("rankings", "A ranking id stands", "math / train0 / math-0"),
    ("rankings", "A ranking is a perm", "math / train0 / short"),
    ("rankings", "No passage stands twice", "math / train0 / double"),
    ("rankings", "Every relevant passage", "math / train0 / outside"),
    ("rankings", "Every ranking comes", "math / train0 / silent"),
    ("rankings", "Every ranking can be", "math / train0 / unpaid"),
    ("consistent_rankings", "No ranking below", "math / train0 / low"),
    ("consistent_rankings", "NDCG@10 lies", "math / train0 / wild"),
    ("consistent_rankings", "Every ranking that passed", "math / train0 / wild"),
    ("training_rows", "No text stands in a list under", "bad / math / bad"),
    ("training_rows", "The order", "bad / math / bad"),
    ("training_rows", "Every row has a chain", "bad / math / bad"),
    ("training_rows", "Every row's licence", "bad / math / bad"),
    ("training_rows", "Every row belongs", "bad / math / bad"),
    ("training_rows", "Lists hold 2", "bad / math / lone"),
    ("training_rows", "Every list has a passage that", "bad / math / lone"),
    ("releases", "The lake holds as many rows", "NAME"),
]  # fmt: skip


def examined(lake: Lake, name: str, folder: Path, group: str = RELEASE) -> pl.DataFrame:
    return examine(lake, Question(DOMAINS, name, assets_of(group)), folder / DATA_DOCS, "run-1")


def write(lake: Lake, frames: dict[str, pl.DataFrame]) -> None:
    behind = Replace("campaign_exchanges", frames["exchanges"].select("domain", "purpose", "key"))
    lake.commit([*(Replace(table, frame) for table, frame in frames.items()), behind], message("test"))


@pytest.fixture(scope="module")
def history(filled_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A sound lake examined twice, then one with a fault of each kind: results by name, and their folder."""
    folder = tmp_path_factory.mktemp("suites")
    shutil.copytree(filled_lake, folder / "lake")
    lake = Lake.at(folder / "lake")
    write(lake, SOUND)
    name = release(lake)
    sound = examined(lake, name, folder)
    before = lake.snapshot()
    again = examined(lake, name, folder)
    unchanged = lake.snapshot() == before
    row = lake.read("training_rows").head(1)
    bad = row.with_columns(
        row_id=pl.lit("bad"), qid=pl.lit("bad"), passages=pl.lit(["same", "same"]), docids=pl.lit(["a", "b"]),
        final_order=pl.lit([1, 1]), relevant=pl.lit([0]), reasoning=pl.lit(""), license=None, split=pl.lit("spare"),
    )  # fmt: skip
    lone = bad.with_columns(
        qid=pl.lit("lone"), passages=pl.lit(["x"]), docids=pl.lit(["a"]), final_order=pl.lit([0]), relevant=pl.lit([0])
    )
    write(lake, faulty())
    lake.commit([Append("training_rows", bad.with_columns(domain=pl.lit("math"))),
                 Append("training_rows", lone.with_columns(domain=pl.lit("math")))], message("test"))  # fmt: skip
    yield {"lake": lake, "folder": folder, "name": name, "sound": sound, "again": again, "unchanged": unchanged,
           "faulty": examined(lake, name, folder)}  # fmt: skip
    lake.close()


def test_a_sound_lake_meets_every_expectation(history: dict) -> None:
    assert suites.failures(history["sound"]) == []
    expected = sum(len(suite.expect) for suite in suites.suites() if suite.group == RELEASE)
    assert history["sound"].height == expected > 50


def test_calls_that_were_never_made_are_not_called_malformed(filled_lake: Path, tmp_path: Path) -> None:
    shutil.copytree(filled_lake, tmp_path / "lake")
    lake = Lake.at(tmp_path / "lake")
    write(lake, {**SOUND, "exchanges": SOUND["exchanges"].clear()})
    results = examined(lake, release(lake), tmp_path)
    lake.close()
    paid = [row for row in results.iter_rows(named=True) if row["suite"] == "exchanges"]
    assert paid and all(row["passed"] and row["rows"] == 0 for row in paid)


@pytest.mark.parametrize(("table", "says", "key"), PLANTED)
def test_a_planted_fault_is_named_with_its_row_and_a_remedy(history: dict, table: str, says: str, key: str) -> None:
    lost = [f for f in suites.failures(history["faulty"]) if f["suite"] == table and f["says"].startswith(says)]
    assert len(lost) == 1
    assert key.replace("NAME", history["name"]) in lost[0]["keys"]
    assert lost[0]["offending"] >= len(lost[0]["keys"]) >= 1
    told = suites.told(lost[0])
    assert lost[0]["remedy"] in told
    assert lost[0]["keys"][0] in told


def test_with_nothing_changed_nothing_is_validated_again(history: dict) -> None:
    assert history["unchanged"]
    assert history["again"].sort("suite", "says").equals(history["sound"].sort("suite", "says"))


def test_data_docs_keep_the_validations_of_the_past(history: dict) -> None:
    docs = history["folder"] / DATA_DOCS
    for results in (history["sound"], history["faulty"]):
        for page in results["docs"].unique():
            assert (docs / page).is_file()
    index = (docs / "index.html").read_text("utf-8")
    for page in {*history["sound"]["docs"], *history["faulty"]["docs"]}:
        assert f'href="{page}"' in index
    assert set(history["sound"]["docs"]).isdisjoint(history["faulty"]["docs"])


def test_data_docs_ask_no_other_host_and_hold_every_expectation(history: dict) -> None:
    docs = history["folder"] / DATA_DOCS
    pages = [path for path in docs.rglob("*.html") if "static" not in path.parts]
    assert len(pages) > 20
    for path in pages:
        text = path.read_text("utf-8")
        assert (
            re.findall(r"""(?:src|href)=["']?(?:https?:)?//|<script|@import|url\(['"]?http|amazonaws""", text) == []
        ), path
        assert 'name="viewport"' in text
    page = docs / history["faulty"].filter(suite="queries")["docs"][0]
    suite = next(suite for suite in suites.suites() if suite.name == "queries")
    assert page.read_text("utf-8").count("Failed") >= 1
    for column in {expected.arguments["column"] for expected in suite.expect if "column" in expected.arguments}:
        assert column in page.read_text("utf-8")


def test_the_newest_results_are_those_of_the_last_validation(history: dict) -> None:
    newest = suites.newest(history["lake"])
    assert newest.height == history["faulty"].height
    assert newest["state_sha256"].unique().to_list() == history["faulty"]["state_sha256"].unique().to_list()


def test_a_change_of_any_table_that_a_suite_reads_asks_for_another_validation(factory_lake: Lake) -> None:
    chosen = [suite for suite in suites.suites() if suite.group == RELEASE]
    question = Question(DOMAINS, "r", assets_of(RELEASE))
    before = suites._state(factory_lake, question, chosen)
    assert suites._state(factory_lake, question, chosen) == before
    factory_lake.commit([Append("scores", pl.DataFrame({"run": ["r"], "value": [0.5]}))], message())
    assert suites._state(factory_lake, question, chosen) == before
    # A call that is behind no question of a campaign is no suite's business.
    factory_lake.commit([Append("exchanges", exchanges().head(1))], message())
    assert suites._state(factory_lake, question, chosen) == before
    behind = exchanges().head(1).select("domain", "purpose", "key")
    factory_lake.commit([Append("campaign_exchanges", behind)], message())
    assert suites._state(factory_lake, question, chosen) != before
    assert suites._state(factory_lake, Question(["math"], "r", assets_of(RELEASE)), chosen) != before


def test_every_suite_reads_tables_that_exist_and_names_each_expectation_once() -> None:
    for suite in suites.suites():
        tables = suites._TABLE.findall(suite.rows)
        assert suite.name in tables
        assert set(tables) <= set(table_columns())
        assert suite.rows.count("{at}") == len(tables)
        assert len({expected.says for expected in suite.expect}) == len(suite.expect)
    assert set(assets_of(RELEASE)).isdisjoint(assets_of(EVALUATION))


def test_a_validation_that_dies_stores_nothing_and_says_so(factory_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / DATA_DOCS).write_text("in the way")
    with pytest.raises(ValidationFailed, match="Nothing was stored"):
        examined(factory_lake, "r", tmp_path)
    assert factory_lake.read("quality_results").is_empty()


def test_great_expectations_is_not_imported_where_suites_are_asked() -> None:
    assert "great_expectations" not in sys.modules
