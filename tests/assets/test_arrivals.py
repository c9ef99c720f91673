"""The watched folder: what is put there becomes a domain once, what is bad is told and left alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))

from mills import write_folder

from assets.arrivals import arrivals
from assets.definitions import defs
from assets.resources import Factory
from assets.tags import ARRIVED, NIGHT
from warehouse.ledger import latest


class Watched:
    """A home whose profile watches a folder, an instance, and the cursor from tick to tick."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.incoming = folder / "incoming"
        self.incoming.mkdir()
        profile = folder / "watching.yaml"
        profile.write_text(f"extends: offline\ndescription: watches\nwatch: {self.incoming}\n", "utf-8")
        self.factory = Factory(profile=str(profile), home=str(folder / "home"))
        self.factory.registry.keep([])
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(self.instance, self.cursor, resources={"factory": self.factory})
        result = arrivals(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor if result.cursor is not None else self.cursor
        for asked in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(asked.partitions_def_name, list(asked.partition_keys))
        return result

    def asked(self, ticks: int) -> list[str]:
        """Partitions of all runs that some ticks ask for."""
        return [str(run.partition_key) for _ in range(ticks) for run in self.tick().run_requests or []]

    def reason(self) -> str:
        result = self.tick()
        assert not result.run_requests
        return str(result.skip_reason and result.skip_reason.skip_message)

    @property
    def domains(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("domain"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.instance_for_test() as instance:
        yield Watched(tmp_path, instance)


def test_the_sensor_is_off_and_idle_until_the_profile_names_a_folder(tmp_path: Path) -> None:
    assert arrivals.default_status == dg.DefaultSensorStatus.STOPPED
    factory = Factory(profile="offline", home=str(tmp_path))
    result = arrivals(dg.build_sensor_context(resources={"factory": factory}))
    assert isinstance(result, dg.SensorResult) and result.skip_reason is not None
    assert "names no folder to watch" in str(result.skip_reason.skip_message)


def test_a_folder_that_is_not_there_is_told_and_what_was_seen_is_remembered(watched: Watched) -> None:
    write_folder(watched.incoming / "land", 4)
    assert watched.asked(2) == ["land"]
    watched.incoming.rename(watched.incoming.with_name("away"))
    assert "incoming is not there" in watched.reason()
    watched.incoming.with_name("away").rename(watched.incoming)
    assert watched.asked(3) == []


def test_a_new_folder_becomes_a_domain_once_it_stands_still_and_is_labelled_once(watched: Watched) -> None:
    assert watched.reason() == "nothing new in 0 folders"
    folder = write_folder(watched.incoming / "land", 8)
    assert watched.asked(1) == []
    write_folder(folder, 9)  # still being written
    assert watched.asked(1) == [] and watched.domains == []
    (request,) = watched.tick().run_requests or []
    assert (request.partition_key, watched.domains) == ("land", ["land"])
    assert ARRIVED in request.tags and NIGHT not in request.tags
    assert [active.location for active in watched.factory.registry.active()] == [str(folder)]
    assert watched.asked(3) == []


def test_an_arrival_goes_from_its_folder_to_consistent_rankings_and_a_changed_one_again(watched: Watched) -> None:
    def label(request: dg.RunRequest) -> None:
        job = defs.resolve_job_def("label_domain")
        ran = job.execute_in_process(
            instance=watched.instance, partition_key=request.partition_key, tags=dict(request.tags),
            resources={"factory": watched.factory},
        )  # fmt: skip
        assert ran.success

    write_folder(watched.incoming / "land", 8)
    watched.tick()
    (request,) = watched.tick().run_requests or []
    label(request)
    made = latest(watched.factory.lake, "consistent_rankings", "land")
    assert made is not None and made.rows_in == 7
    write_folder(watched.incoming / "land", 10)
    watched.tick()
    (again,) = watched.tick().run_requests or []
    assert again.run_key != request.run_key
    label(again)
    made = latest(watched.factory.lake, "consistent_rankings", "land")
    assert made is not None and made.rows_in == 9


def test_a_folder_that_was_only_touched_is_not_run_again_and_an_old_content_that_comes_back_is(
    watched: Watched,
) -> None:
    folder = write_folder(watched.incoming / "land", 4)
    old = (folder / "queries.jsonl").read_text("utf-8")
    keys = [run.run_key for _ in range(2) for run in watched.tick().run_requests or []]
    for file in folder.iterdir():
        file.touch()
    assert watched.asked(3) == []
    for text in (old.replace("Why", "How"), old):
        (folder / "queries.jsonl").write_text(text, "utf-8")
        keys += [run.run_key for _ in range(2) for run in watched.tick().run_requests or []]
    assert len(keys) == len(set(keys)) == 3


def test_a_bad_folder_is_told_with_its_line_and_tried_again_only_when_it_has_changed(watched: Watched) -> None:
    folder = write_folder(watched.incoming / "land", 4)
    good = (folder / "queries.jsonl").read_text("utf-8")
    (folder / "queries.jsonl").write_text(good + '{"qid": "q0", "text": "again", "split": "train"}\n', "utf-8")
    assert watched.asked(1) == []
    told = watched.reason()
    assert "land waits until it is mended" in told and "queries.jsonl:5" in told and "duplicate qid 'q0'" in told
    assert watched.domains == [] and watched.factory.registry.active() == []
    # Mended with its size and time as they were, it is not read again; that is what its stamp is for.
    queries, was = folder / "queries.jsonl", (folder / "queries.jsonl").stat()
    queries.write_text(queries.read_text("utf-8").replace('"q0", "text": "again"', '"q9", "text": "again"'), "utf-8")
    os.utime(queries, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert [watched.reason() for _ in range(2)] == [told, told]
    queries.touch()
    assert watched.asked(2) == ["land"]
    assert watched.reason() == "nothing new in 1 folders"


def test_a_domain_that_turns_bad_keeps_its_rows_and_starts_no_run(watched: Watched) -> None:
    folder = write_folder(watched.incoming / "land", 4)
    assert watched.asked(2) == ["land"]
    (folder / "passages.jsonl").unlink()
    assert watched.asked(1) == [] and "passages.jsonl: the file is missing" in watched.reason()
    assert watched.domains == ["land"]


def test_names_that_cannot_be_domains_or_are_taken_are_told_and_hidden_folders_passed_over(
    watched: Watched, tmp_path: Path
) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere" / "land", 4)
    (chosen,) = watched.factory.registry.choose([str(elsewhere)], None)
    watched.factory.registry.keep([chosen])
    for name in ("land", "with space", ".hidden"):
        write_folder(watched.incoming / name, 4)
    assert watched.asked(3) == []
    told = watched.reason()
    assert f"land waits until it is mended: the domain land is folder {elsewhere}; rename the folder" in told
    assert "'with space' cannot be a domain's name" in told and "hidden" not in told


def test_one_folder_is_read_in_a_tick_and_the_others_follow(watched: Watched) -> None:
    for name in ("c", "a", "b"):
        write_folder(watched.incoming / name, 4)
    assert [watched.asked(1) for _ in range(5)] == [[], ["a"], ["b"], ["c"], []]
