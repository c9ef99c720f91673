"""The registry: the seed where nothing was chosen, what --sources chose where something was, and nothing in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from warehouse.intake.door import SourceError
from warehouse.intake.registry import Active, Registry

REPOSITORY = Path(__file__).resolve().parents[2]
SEED_DOMAINS = ["coding", "complex_qa", "math", "web_search"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home" / "sources.yaml", REPOSITORY / "seed")


def folder(path: Path) -> str:
    path.mkdir(parents=True)
    return str(path)


def keep(registry: Registry, sources: list[str], limit: int | None = None) -> list[Active]:
    registry.keep(registry.choose(sources, limit))
    return registry.active()


def test_the_seed_is_active_where_nothing_was_chosen(registry: Registry) -> None:
    assert [active.domain for active in registry.active()] == SEED_DOMAINS
    assert not registry.path.exists()
    assert all(active.source().fingerprint() for active in registry.active())


def test_chosen_sources_replace_the_list_and_are_read_back_by_another_process(
    registry: Registry, tmp_path: Path
) -> None:
    given = [folder(tmp_path / "physics"), folder(tmp_path / "law")]
    chosen = keep(registry, given, 200)
    assert chosen == Registry(registry.path, registry.seed).active()
    assert [(active.domain, active.kind, active.limit) for active in chosen] == [
        ("law", "folder", 200),
        ("physics", "folder", 200),
    ]
    assert registry.domain("law").source().domain == "law"
    assert [active.domain for active in keep(registry, ["seed"])] == SEED_DOMAINS
    assert [file.name for file in registry.path.parent.iterdir()] == ["sources.yaml"]


def test_the_seed_a_folder_and_the_hub_can_be_active_together(registry: Registry, tmp_path: Path) -> None:
    chosen = keep(registry, ["seed", folder(tmp_path / "law"), "hf:ms_marco"], 5)
    assert {active.kind for active in chosen} == {"folder", "package", "hub"}
    assert len(chosen) == 6
    assert {active.limit for active in chosen} == {5}


def test_two_sources_of_one_name_are_refused_and_the_list_stays(registry: Registry, tmp_path: Path) -> None:
    before = keep(registry, [folder(tmp_path / "law")])
    with pytest.raises(ValueError, match="two sources are named 'math'"):
        registry.choose(["seed", folder(tmp_path / "math")], None)
    with pytest.raises(ValueError, match="Rename one folder"):
        registry.choose([folder(tmp_path / "a" / "law"), folder(tmp_path / "b" / "law")], None)
    with pytest.raises(ValueError, match="no hub source named 'msmarco': choose one of ms_marco"):
        registry.choose(["hf:msmarco"], None)
    with pytest.raises(SourceError, match="there is no such folder"):
        registry.choose([str(tmp_path / "missing")], None)
    assert registry.active() == before


def test_the_same_source_given_twice_is_one_source(registry: Registry, tmp_path: Path) -> None:
    given = folder(tmp_path / "law")
    assert registry.choose([given, f"{given}/"], None) == [Active("law", "folder", given)]


def test_a_limit_alone_keeps_the_sources_that_are_active(registry: Registry, tmp_path: Path) -> None:
    given = folder(tmp_path / "law")
    keep(registry, [given])
    assert registry.choose(None, 7) == [Active("law", "folder", given, 7)]
    assert registry.choose(None, None) == registry.active()


def test_benchmark_folders_are_remembered_when_the_sources_change(registry: Registry, tmp_path: Path) -> None:
    registry.keep(registry.choose(["seed"], None), [tmp_path / "bright"])
    keep(registry, [folder(tmp_path / "law")])
    assert Registry(registry.path, registry.seed).benchmarks() == [tmp_path / "bright"]
    registry.keep(registry.active(), [])
    assert registry.benchmarks() == []


def test_a_file_that_is_no_list_of_sources_is_named(registry: Registry) -> None:
    registry.path.parent.mkdir(parents=True)
    registry.path.write_text("- something else\n", "utf-8")
    with pytest.raises(ValueError, match=r"sources\.yaml is not a list of sources"):
        registry.active()


def test_an_unknown_domain_is_answered_with_those_there_are(registry: Registry) -> None:
    with pytest.raises(LookupError, match=r"has the domain 'law'\. Active: coding, complex_qa, math"):
        registry.domain("law")
