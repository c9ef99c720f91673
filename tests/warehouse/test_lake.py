"""The lake: commits that are whole or absent, also when killed or raced; reading the past; SQL that cannot write."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from small_lake import candidates, message

from warehouse.catalog import extension_path
from warehouse.lake import (
    Append,
    Lake,
    LakeError,
    Replace,
    Stream,
    content_sha256,
    opened,
)
from warehouse.migrations import migrate, migrations, table_columns

RACERS, COMMITS = 4, 5
RACER = """
import sys, pathlib, small_lake
from warehouse.lake import Append, Lake
lake, name = Lake.at(pathlib.Path(sys.argv[1])), sys.argv[2]
for number in range(int(sys.argv[3])):
    rows = small_lake.candidates(name, 3, score=float(number))
    print(lake.commit([Append("candidates", rows)], small_lake.message(name, f"run-{number}")))
"""
# Two tables in one commit, each row carrying the number of the commit that wrote it.
WRITER = """
import sys, pathlib, small_lake, polars as pl
from warehouse.lake import Lake, Replace
lake, number = Lake.at(pathlib.Path(sys.argv[1])), 0
while True:
    number += 1
    rows = small_lake.candidates("math", 4000, score=float(number))
    kept = pl.DataFrame({"domain": ["math"], "alpha": [float(number)]})
    lake.commit([Replace("candidates", rows, {"domain": "math"}), Replace("consistent_rankings", kept)],
                small_lake.message("writer", f"run-{number}"))
    print(number, flush=True)
"""
# What a writer holds in the middle of its commit; SQLite's locks do not stop the process that holds them.
HOLDER = """
import sqlite3, sys, time
catalog = sqlite3.connect(sys.argv[1], isolation_level=None)
catalog.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(120)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{code}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A lake that four processes made and wrote to at once, and the snapshot ids that they were told."""
    folder = tmp_path_factory.mktemp("raced") / "lake"
    racers = [start(RACER, str(folder), f"domain-{n}", str(COMMITS)) for n in range(RACERS)]
    ended = [(racer.communicate(timeout=60), racer.returncode) for racer in racers]
    assert [code for _, code in ended] == [0] * RACERS, [error[-2000:] for (_, error), _ in ended]
    return folder, [int(line) for (told, _), _ in ended for line in told.split()]


def test_four_processes_that_commit_at_once_lose_nothing(raced: tuple[Path, list[int]]) -> None:
    folder, told = raced
    with opened(Lake.at(folder)) as lake:
        counted = lake.read("candidates").group_by("domain", "score").len()
        assert counted.height == RACERS * COMMITS
        assert counted["len"].unique().to_list() == [3]
        snapshots = lake.snapshots().filter(pl.col("commit_message").str.starts_with("asset=domain"))
    assert len(set(told)) == RACERS * COMMITS
    by_id = dict(snapshots.select("snapshot_id", "commit_message").iter_rows())
    assert set(told) == set(by_id)
    assert sorted(by_id.values()) == sorted(
        f"asset=domain-{n} run=run-{commit} code=1" for n in range(RACERS) for commit in range(COMMITS)
    )


def test_processes_that_open_a_new_lake_at_once_migrate_it_once(raced: tuple[Path, list[int]]) -> None:
    with opened(Lake.at(raced[0])) as lake:
        recorded = lake.query("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
        tables = lake.query("SHOW TABLES")["name"].to_list()
    assert recorded.rows() == [(made.number, made.name, made.sha256) for made in migrations()]
    assert sorted(tables) == sorted([*table_columns(), "schema_migrations"])


def test_opening_a_lake_again_commits_nothing(lake: Lake, tmp_path: Path) -> None:
    before = lake.snapshot()
    with opened(Lake.at(tmp_path / "lake")) as again:
        migrate(again._connection())
        assert again.snapshot() == before
        assert again.query("SELECT count(*) FROM schema_migrations").item() == len(migrations())


def test_a_killed_writer_leaves_no_half_written_commit(tmp_path: Path, empty_lake: Path) -> None:
    shutil.copytree(empty_lake, tmp_path / "lake")
    chance, last = random.Random(), 0
    for _ in range(3):
        writer = start(WRITER, str(tmp_path / "lake"))
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        time.sleep(chance.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        told = [1, *map(int, writer.communicate()[0].split())]
        with opened(Lake.at(tmp_path / "lake")) as lake:
            rows, kept = lake.read("candidates"), lake.read("consistent_rankings")
            assert rows.height == 4000
            assert rows["score"].unique().to_list() == kept["alpha"].to_list()
            # The commit that was told stands; the one under way may stand as well, and nothing else.
            assert kept["alpha"].item() in (told[-1], told[-1] + 1)
            assert lake.commit([Append("candidates", candidates("coding", 2))], message()) > last
            last = lake.snapshot()
            assert lake.read("candidates", {"domain": "coding"}).height == 2
            lake.commit([Replace("candidates", candidates("coding", 0), {"domain": "coding"})], message())


def test_a_process_killed_while_it_makes_the_lake_leaves_one_that_opens(tmp_path: Path) -> None:
    writer = start(WRITER, str(tmp_path / "lake"))
    while not (tmp_path / "lake" / "meta.sqlite").exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.6))
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with opened(Lake.at(tmp_path / "lake")) as lake:
        assert lake.query("SELECT count(*) FROM schema_migrations").item() == len(migrations())
        lake.commit([Replace("candidates", candidates("math", 2), {"domain": "math"})], message())
        assert lake.read("candidates").height == 2


def test_a_commit_with_a_failing_write_leaves_nothing_of_itself(lake: Lake) -> None:
    lake.commit([Append("candidates", candidates("math", 3))], message())
    before = lake.snapshot()
    wrong = candidates("math", 1).with_columns(rank=pl.lit("first"))
    with pytest.raises(LakeError, match="the commit of candidates failed and nothing of it was written"):
        lake.commit([Replace("candidates", candidates("math", 9)), Append("candidates", wrong)], message())
    assert lake.read("candidates").height == 3
    assert lake.snapshot() == before
    assert lake.commit([Append("candidates", candidates("coding", 1))], message()) == before + 1


def test_a_commit_to_an_unknown_table_leaves_nothing_of_itself_and_the_lake_usable(lake: Lake) -> None:
    before, attack = lake.snapshot(), "candidates WHERE false; DROP TABLE lake.candidates; --"
    for write in (Append("no_such_table", candidates("math", 1)), Replace(attack, pl.DataFrame())):
        with pytest.raises(LakeError, match="the lake has no table"):
            lake.commit([Append("candidates", candidates("math", 3)), write], message())
        # Were the transaction still open, its rows would be seen by this connection.
        assert lake.read("candidates").is_empty()
    assert lake.snapshot() == before
    assert lake.commit([Append("candidates", candidates("math", 3))], message()) == before + 1


def test_a_stream_is_written_piece_by_piece_and_never_held_whole(lake: Lake) -> None:
    pieces, piece_mib, resident = 20, 16, []

    def told() -> Iterator[pl.DataFrame]:
        for number in range(pieces):
            resident.append(_resident_mib())
            text = f"{number:08}" * (1 << 7)
            rows = candidates("math", piece_mib << 10)
            yield rows.with_columns(qid=pl.concat_str(pl.lit(text), pl.col("docid")))

    lake.commit([Stream("candidates", told)], message())
    assert lake.query("SELECT count(*) FROM candidates").item() == pieces * (piece_mib << 10)
    # The first pieces fill what the allocators keep for themselves.
    assert resident[-1] - resident[5] < (pieces - 6) * piece_mib / 2


def _resident_mib() -> int:
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10


def test_a_commit_says_who_made_it(lake: Lake) -> None:
    made = lake.commit([Append("candidates", candidates("math", 1))], message("candidates", "run-7"))
    newest = lake.snapshots().row(0, named=True)
    assert newest["snapshot_id"] == made == lake.snapshot()
    assert newest["commit_message"] == "asset=candidates run=run-7 code=1"
    assert "inserted" in newest["changes"]


def test_the_past_is_read_at_its_snapshot(lake: Lake) -> None:
    first = lake.commit([Replace("candidates", candidates("math", 3))], message())
    second = lake.commit([Replace("candidates", candidates("math", 5))], message())
    third = lake.commit([Replace("candidates", candidates("math", 0))], message())
    heights = [lake.read("candidates", snapshot=snapshot).height for snapshot in (first, second, third, first - 1)]
    assert heights == [3, 5, 0, 0]
    assert lake.read("candidates", {"domain": "math"}, ["docid"], first)["docid"].to_list() == ["d0", "d1", "d2"]
    with pytest.raises(LakeError, match="No snapshot found"):
        lake.read("candidates", snapshot=third + 1)


def test_texts_are_read_with_offsets_that_reach_beyond_two_gibibytes(lake: Lake) -> None:
    lake.commit([Append("candidates", candidates("math", 3))], message())
    for connection in (lake.connection(), lake.place.attach(read_only=True)):
        read = connection.execute("SELECT docid FROM lake.candidates").to_arrow_table()
        assert read.schema.field("docid").type == pa.large_string()


def test_replace_touches_only_the_rows_that_it_names(lake: Lake) -> None:
    lake.commit([Append("candidates", candidates("math", 3)), Append("candidates", candidates("coding", 2))], message())
    lake.commit([Replace("candidates", candidates("math", 1, score=9.0), {"domain": "math"})], message())
    assert lake.read("candidates", {"domain": "coding"}).height == 2
    assert lake.read("candidates", {"domain": "math"})["score"].to_list() == [9.0]
    odd = "o'brien\"; DROP TABLE candidates; --"
    lake.commit([Replace("candidates", candidates(odd, 2), {"domain": odd})], message())
    assert lake.read("candidates", {"domain": odd})["domain"].to_list() == [odd, odd]


def test_a_table_that_is_not_in_the_schema_is_never_put_into_sql(lake: Lake) -> None:
    for table in ("nothing", "queries; DROP TABLE lake.queries", "queries, lake.passages", "Queries"):
        for where, columns in ((None, []), ({"domain": "math"}, []), (None, ["domain"])):
            with pytest.raises(LakeError, match=r"the lake has no table .*Tables: audits, .*candidates"):
                lake.read(table, where, columns)


def test_a_column_that_is_not_in_the_schema_is_never_put_into_sql(lake: Lake) -> None:
    for column in ("nothing", "domain; DROP TABLE lake.queries", "count(*)", "*", "DOMAIN"):
        refused = pytest.raises(LakeError, match="table queries has no column")
        with refused:
            lake.read("queries", columns=[column])
        with refused:
            lake.read("queries", {column: "math"})
        with refused:
            lake.commit([Append("queries", pl.DataFrame({column: ["math"]}))], message())
        with refused:
            lake.commit([Replace("queries", pl.DataFrame(), {column: "math"})], message())
    assert lake.read("queries").is_empty()


WRITES = [
    "INSERT INTO candidates SELECT * FROM candidates", "UPDATE candidates SET rank = 0", "DELETE FROM candidates",
    "MERGE INTO candidates USING candidates AS c ON false WHEN NOT MATCHED THEN INSERT *",
    "CREATE TABLE t AS SELECT 1", "CREATE TABLE memory.t AS SELECT 1", "CREATE VIEW v AS SELECT 1",
    "DROP TABLE candidates", "ALTER TABLE candidates ADD COLUMN x INT", "TRUNCATE candidates",
    "COPY candidates TO 'out.csv'", "COPY candidates FROM 'out.csv'", "EXPORT DATABASE 'out'",
    "ATTACH 'out.db' AS other", "DETACH lake", "USE memory", "SET threads = 1", "PRAGMA enable_profiling",
    "CALL lake.set_commit_message('a', 'b')", "INSTALL httpfs", "LOAD httpfs", "BEGIN", "COMMIT", "VACUUM",
    "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE candidates", "", ";", "-- nothing",
    "EXPLAIN ANALYZE DELETE FROM candidates", "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
    "EXPLAIN ANALYZE CREATE TABLE memory.t AS SELECT 1", "PREPARE p AS DELETE FROM candidates",
    "SELECT * FROM ducklake_expire_snapshots('lake', older_than => now())",
    "SELECT * FROM ducklake_set_option('lake', 'parquet_compression', 'zstd')",
    "SELECT * FROM ducklake_delete_orphaned_files('lake', cleanup_all => true)",
    "SELECT * FROM sqlite_query('__ducklake_metadata_lake', 'DELETE FROM ducklake_snapshot RETURNING *')",
    "SELECT * FROM query('DELETE FROM candidates')", "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/hostname')", "SELECT * FROM enable_profiling(save_location => 'out.json')",
]  # fmt: skip


def test_a_query_reads_and_no_kind_of_write_is_let_through(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    lake.commit([Append("candidates", candidates("math", 3))], message())
    before = lake.snapshot()
    for sql in WRITES:
        with pytest.raises(LakeError):
            lake.query(sql)
            pytest.fail(f"let through: {sql}")
    assert lake.query("SELECT count(*) FROM candidates WHERE domain = ?", ["math"]).item() == 3
    assert lake.query("WITH c AS (FROM candidates) SELECT max(rank) AS r FROM c")["r"].to_list() == [3]
    assert (lake.snapshot(), list(Path.cwd().iterdir())) == (before, [])


def test_a_query_with_a_mistake_is_told_which_tables_there_are(lake: Lake) -> None:
    for sql in ("SELECT * FROM candidate", "SELECT * FROM sql"):
        with pytest.raises(LakeError, match=r"Tables of the lake: audits, .*candidates"):
            lake.query(sql)
    for sql, told in (("SELEC 1", 'near "SELEC"'), ("SELECT txt FROM queries", 'Candidate bindings: "text"')):
        with pytest.raises(LakeError, match=told) as failed:
            lake.query(sql)
        assert "Tables of the lake" not in str(failed.value)


def test_a_lake_may_stand_anywhere_and_be_moved(
    new_lake: Callable[[str], Lake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(new_lake("first")) as lake:
        lake.commit([Append("candidates", candidates("math", 3))], message())
    shutil.move(tmp_path / "first", tmp_path / "it's here, überall")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "it's here, überall", Path("it's here, überall")):
        with opened(Lake.at(place)) as moved:
            moved.commit([Append("candidates", candidates("coding", 1))], message())
            assert moved.query("SELECT domain FROM candidates ORDER BY ALL")["domain"].to_list()[-3:] == ["math"] * 3
    assert list(tmp_path.iterdir()) == [tmp_path / "it's here, überall"]


def test_a_reader_does_not_wait_for_a_writer(lake: Lake, tmp_path: Path) -> None:
    lake.commit([Append("candidates", candidates("math", 3))], message())
    writer = start(HOLDER, str(tmp_path / "lake" / "meta.sqlite"))
    assert writer.stdout is not None
    assert writer.stdout.readline() == "held\n"
    assert lake.read("candidates").height == 3
    assert writer.poll() is None
    writer.kill()
    writer.communicate()


def test_a_missing_extension_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(LakeError, match=r"pip install duckdb-extension-nonsense=="):
        extension_path("nonsense")


def test_a_content_hash_sees_values_and_not_the_order_of_rows_or_columns() -> None:
    frame = candidates("math", 20)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3).select(sorted(frame.columns, reverse=True))
    digest = content_sha256(frame, ["docid"])
    assert content_sha256(shuffled, ["docid"]) == digest
    assert content_sha256(frame.head(19), ["docid"]) != digest
    changed = frame.with_columns(score=pl.when(pl.col("docid") == "d7").then(1.5).otherwise(pl.col("score")))
    assert content_sha256(changed, ["docid"]) != digest
