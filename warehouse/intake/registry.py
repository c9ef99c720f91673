"""Which sources are active in a home: one small YAML file, so that the command line, the UI and schedules agree.

Without a file the shipped seed is active. `rankmill run --sources DIR` replaces the list; the lake keeps the history.
Folders of benchmarks stand in the same file, so that no later run forgets what it must keep away from.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from warehouse.intake.hub import HubName
from warehouse.intake.sources import FolderSource, HubSource, PackageSource, Source, folder_sources, seed_sources

SEED = "seed"


class UnknownDomain(LookupError):
    """No active source has this domain."""


class SourcesConflict(ValueError):
    """Two sources would become one domain."""


@dataclass(frozen=True)
class Active:
    """One active source: a domain's name, where its rows come from, and how many queries are taken at most."""

    domain: str
    kind: Literal["folder", "package", "hub"]
    location: str
    limit: int | None = None

    def source(self) -> Source:
        """The source itself."""
        if self.kind == "folder":
            return FolderSource(Path(self.location), self.domain)
        if self.kind == "package":
            return PackageSource(self.domain)  # type: ignore[arg-type]
        name: HubName = self.location  # type: ignore[assignment]
        return HubSource(name, self.domain)


class Registry:
    """The active sources of a home, kept in `path`."""

    def __init__(self, path: Path, seed: Path) -> None:
        """`path` is the YAML file, `seed` the folder of the shipped seed."""
        self.path = path
        self.seed = seed

    def active(self) -> list[Active]:
        """The active sources in the order of their domains."""
        kept = self._kept().get("sources")
        if kept is None:
            return self._seed(None)
        return sorted((Active(**entry) for entry in kept), key=lambda active: active.domain)

    def benchmarks(self) -> list[Path]:
        """Folders of benchmark queries that no training row may overlap, beside the registered benchmarks."""
        return [Path(folder) for folder in self._kept().get("benchmarks", [])]

    def domain(self, domain: str) -> Active:
        """The active source of a domain. Raises UnknownDomain naming those there are."""
        for active in self.active():
            if active.domain == domain:
                return active
        known = ", ".join(active.domain for active in self.active())
        raise UnknownDomain(f"no active source has the domain {domain!r}. Active: {known}. Add one with --sources DIR.")

    def choose(self, sources: list[str] | None, limit: int | None) -> list[Active]:
        """What `sources` (folders, `seed`, or `hf:<name>`) mean; None takes the active ones, with `limit` if given.

        Nothing is read and nothing is kept yet. Raises SourceError, SourcesConflict.
        """
        if sources is None:
            return [active if limit is None else replace(active, limit=limit) for active in self.active()]
        chosen: dict[str, Active] = {}
        for given in sources:
            if given == SEED:
                found = self._seed(limit)
            elif given.startswith("hf:"):
                name = given.removeprefix("hf:")
                found = [Active(name, "hub", name, limit)]
                found[0].source().fingerprint()  # an unknown name is refused here, before anything is kept
            else:
                found = [Active(s.domain, "folder", str(s.path), limit) for s in folder_sources([Path(given)])]
            for active in found:
                if active.domain in chosen and chosen[active.domain] != active:
                    raise SourcesConflict(
                        f"two sources are named {active.domain!r}: {chosen[active.domain].location} and "
                        f"{active.location}. Rename one folder: each becomes a domain of its own name."
                    )
                chosen[active.domain] = active
        return sorted(chosen.values(), key=lambda active: active.domain)

    def keep(self, sources: list[Active], benchmarks: list[Path] | None = None) -> None:
        """Make `sources` the active ones and, where given, `benchmarks` the folders to keep away from."""
        folders = self.benchmarks() if benchmarks is None else benchmarks
        kept = {"sources": [asdict(active) for active in sources], "benchmarks": [str(f.absolute()) for f in folders]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(yaml.safe_dump(kept), "utf-8")
        part.replace(self.path)

    def add(self, source: Active) -> None:
        """Make `source` active beside what is; one of the same domain gives way to it."""
        others = [active for active in self.active() if active.domain != source.domain]
        if source not in self.active():
            self.keep([*others, source])

    def _kept(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        kept = yaml.safe_load(self.path.read_text("utf-8"))
        if not isinstance(kept, dict) or not {"sources", "benchmarks"} >= kept.keys():
            raise SourcesConflict(f"{self.path} is not a list of sources. Remove it and name them with --sources.")
        return kept

    def _seed(self, limit: int | None) -> list[Active]:
        found = []
        for source in seed_sources(self.seed):
            if isinstance(source, FolderSource):
                found.append(Active(source.domain, "folder", str(source.path), limit))
            else:
                found.append(Active(source.domain, "package", source.domain, limit))
        return sorted(found, key=lambda active: active.domain)
