"""A new lake for each test: a copy of one that was migrated once, for a migration costs a second."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_lake

from warehouse.lake import Lake, opened


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "lake"
    with opened(Lake.at(folder)) as lake:
        lake.snapshot()
    return folder


@pytest.fixture(scope="session")
def filled_lake(empty_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "lake"
    shutil.copytree(empty_lake, folder)
    with opened(Lake.at(folder)) as lake:
        small_lake.fill(lake)
    return folder


@pytest.fixture
def new_lake(empty_lake: Path, tmp_path: Path) -> Iterator[Callable[[str], Lake]]:
    """Makes empty lakes, each in a folder of its own."""
    made = []

    def make(name: str) -> Lake:
        shutil.copytree(empty_lake, tmp_path / name)
        made.append(Lake.at(tmp_path / name))
        return made[-1]

    yield make
    for lake in made:
        lake.close()


@pytest.fixture
def lake(new_lake: Callable[[str], Lake]) -> Lake:
    return new_lake("lake")


@pytest.fixture
def factory_lake(filled_lake: Path, tmp_path: Path) -> Iterator[Lake]:
    """A lake with queries, passages, rankings and benchmarks of two domains, and no release yet."""
    shutil.copytree(filled_lake, tmp_path / "filled")
    with opened(Lake.at(tmp_path / "filled")) as lake:
        yield lake
