"""A lake that many machines share: a real PostgreSQL as catalog, an S3-compatible server for its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from later_releases import release_now
from pydantic import SecretStr
from shared_services import KEY, SECRET, bucket, postgres
from small_lake import candidates, fill, message

from rankmill.settings import Settings, SettingsError
from warehouse.audit.provenance import explain
from warehouse.audit.retraction import Selector, reach_of, retract
from warehouse.audit.verify import sweep, verify
from warehouse.catalog import Bucket, Place
from warehouse.curation.releases import read_release
from warehouse.lake import Append, Lake, LakeError, opened
from warehouse.migrations import migrations

WRITER = """
import sys, small_lake
from rankmill.settings import Settings
from warehouse.lake import Append
lake, name = Settings.load().lake(), sys.argv[1]
for number in range(int(sys.argv[2])):
    print(lake.commit([Append("candidates", small_lake.candidates(name, 3, score=float(number)))],
                      small_lake.message(name, f"run-{number}")))
"""
WRITERS, COMMITS = 3, 4


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("postgres")) as address:
        yield address


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with bucket() as address:
        yield address


@pytest.fixture
def environment(
    catalog: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> dict[str, str]:
    """What a machine that shares the lake has in its environment; each test has a database and a prefix of its own."""
    name = f"lake_{abs(hash(request.node.name)) % 10**9}"
    where = catalog.removeprefix("postgres:").replace("dbname=postgres", "")
    import duckdb

    from warehouse.catalog import extension_path, quoted

    with duckdb.connect() as connection:
        connection.execute(f"LOAD {quoted(str(extension_path('postgres_scanner')))}")
        connection.execute(f"ATTACH {quoted(catalog.removeprefix('postgres:'))} AS server (TYPE postgres)")
        connection.execute(f"CALL postgres_execute('server', 'CREATE DATABASE {name}', use_transaction => false)")
    values = {
        "RANKMILL_LAKE_CATALOG": f"postgres:dbname={name} {where}", "RANKMILL_LAKE_DATA": f"s3://lake/{name}",
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": endpoint,
    }  # fmt: skip
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    return values


def test_a_shared_lake_is_found_by_configuration_and_does_all_that_a_home_does(environment: dict[str, str]) -> None:
    with opened(Settings.load().lake()) as lake:
        assert lake.place.remote
        fill(lake)
        release = release_now(lake)
        row_id = read_release(lake, release)["row_id"][0]
        assert explain(lake, row_id).releases[0]["release"] == release
        reach = reach_of(lake, Selector("query", "math/train3"))
        done = retract(lake, reach, reason="asked to", who="auditor", code_version="1")
        assert read_release(lake, str(done.successor)).height == read_release(lake, release).height - 1
        past = lake.snapshot()
        lake.commit([Append("candidates", candidates("math", 3))], message())
        assert lake.read("candidates", snapshot=past).is_empty()
        told = verify(lake)
        assert (told.errors, told.notes, told.releases) == ((), (), 2)
        assert told.files > 10


def test_damage_in_a_bucket_is_found(environment: dict[str, str]) -> None:
    with opened(Settings.load().lake()) as lake:
        lake.commit([Append("candidates", candidates("math", 3))], message())
        lake.commit([Append("candidates", candidates("coding", 3))], message())
        assert verify(lake).errors == ()
        import boto3

        client = boto3.client(
            "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip
        prefix = environment["RANKMILL_LAKE_DATA"].removeprefix("s3://lake/") + "/main/candidates/"
        names = [found["Key"] for found in client.list_objects_v2(Bucket="lake", Prefix=prefix)["Contents"]]
        body = client.get_object(Bucket="lake", Key=names[0])["Body"].read()
        client.delete_object(Bucket="lake", Key=names[0])
        client.put_object(Bucket="lake", Key=names[1], Body=body[:-5])
        client.put_object(Bucket="lake", Key=f"{prefix}stray.parquet", Body=body)
        told = verify(lake)
        assert [wrong.kind for wrong in told.errors] == ["missing", "altered"]
        assert [note.kind for note in told.notes] == ["orphaned"]
        with pytest.raises(LakeError, match="rule of the bucket"):
            sweep(lake)


def test_processes_that_make_and_write_a_shared_lake_at_once_lose_nothing(environment: dict[str, str]) -> None:
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r})\n{WRITER}"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"domain-{n}", str(COMMITS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
        )
        for n in range(WRITERS)
    ]  # fmt: skip
    ended = [(racer.communicate(timeout=120), racer.returncode) for racer in racers]
    assert [code for _, code in ended] == [0] * WRITERS, [error[-1500:] for (_, error), _ in ended]
    told = [int(line) for (out, _), _ in ended for line in out.split()]
    assert len(set(told)) == WRITERS * COMMITS
    with opened(Settings.load().lake()) as lake:
        counted = lake.read("candidates").group_by("domain", "score").len()
        assert counted.height == WRITERS * COMMITS
        assert counted["len"].unique().to_list() == [3]
        assert lake.query("SELECT count(*) FROM schema_migrations").item() == len(migrations())
        assert verify(lake).errors == ()


def test_a_query_over_a_shared_lake_shows_no_secret_and_reads_no_other_bucket(environment: dict[str, str]) -> None:
    with opened(Settings.load().lake()) as lake:
        assert SECRET not in str(lake.query("FROM duckdb_secrets()").to_dicts())
        for sql in (
            "FROM read_blob('s3://other/file')", f"FROM read_text('{environment['AWS_ENDPOINT_URL']}/lake')",
            "SELECT * FROM postgres_query('__ducklake_metadata_lake', 'DROP TABLE ducklake_snapshot')",
            "SELECT * FROM postgres_execute('__ducklake_metadata_lake', 'DROP TABLE ducklake_snapshot')",
        ):  # fmt: skip
            with pytest.raises(LakeError):
                lake.query(sql)
        assert lake.snapshot() >= len(migrations())


def test_a_catalog_with_files_in_a_folder_needs_no_bucket(
    catalog: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKMILL_LAKE_DATA", str(tmp_path / "files"))
    with opened(Settings.load().lake()) as lake:
        lake.commit([Append("candidates", candidates("math", 3))], message())
        told = verify(lake)
    assert (told.errors, told.checksums > 0) == ((), True)
    assert list((tmp_path / "files").rglob("*.parquet"))


def test_an_address_that_cannot_be_used_is_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANKMILL_LAKE_CATALOG", "RANKMILL_LAKE_DATA", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for catalog, data, told in (
        (None, "s3://lake/x", "RANKMILL_LAKE_CATALOG to postgres:"),
        ("sqlite:meta.sqlite", "s3://lake/x", "RANKMILL_LAKE_CATALOG to postgres:"),
        ("postgres:dbname=lake password=hunter2", None, "PGPASSWORD"),
        ("postgres:postgresql://mill:hunter2@db/lake", None, "PGPASSWORD"),
        ("postgres:dbname=lake", "s3://lake/x", "AWS_ACCESS_KEY_ID"),
    ):
        with monkeypatch.context() as patch:
            for name, value in (("RANKMILL_LAKE_CATALOG", catalog), ("RANKMILL_LAKE_DATA", data)):
                if value is not None:
                    patch.setenv(name, value)
            with pytest.raises(SettingsError, match=told) as refused:
                Settings.load().lake()
            assert "hunter2" not in str(refused.value)


def test_a_catalog_that_is_not_there_is_named_without_any_secret() -> None:
    place = Place("postgres:dbname=x host=127.0.0.1 port=1", "s3://lake/x/", Bucket(KEY, SecretStr(SECRET)))
    with pytest.raises(LakeError, match=r"the lake at postgres:dbname=x .* cannot be opened") as told:
        Lake(place).snapshot()
    assert SECRET not in str(told.value)
    assert SECRET not in repr(place)
