"""The factory as Dagster sees it: one resource that knows the profile, the home, and the lake in it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from flows.campaign import Label, label
from flows.labelling import Question
from rankmill.settings import ROOT, Settings
from warehouse.lake import Lake
from warehouse.registry import Active, Registry


class Factory(dg.ConfigurableResource):
    """Profile and home of a run; everything else follows from them."""

    profile: str = Field(description="Name or path of the profile: where the graph runs and how much that place bears.")
    home: str = Field(description="Folder of lake, exchange store, models, reports and run history.")
    _settings: Settings | None = PrivateAttr(default=None)

    @property
    def settings(self) -> Settings:
        """Settings of this run: the environment, with this resource's profile and home."""
        if self._settings is None:
            loaded = Settings.load()
            self._settings = loaded.model_copy(update={"profile_name": self.profile, "home": Path(self.home)})
        return self._settings

    @property
    def lake(self) -> Lake:
        """The lake of this home."""
        return _lake_at(self.settings.lake_folder)

    @property
    def releases(self) -> Path:
        """Where releases are written for training processes, each with its card."""
        return self.settings.home / "releases"

    @property
    def registry(self) -> Registry:
        """The active sources of this home."""
        return registry_of(self.settings)

    def teacher_identity(self) -> dict[str, Any]:
        """What shapes the teacher's answers, and nothing that does not: no key, no address, no budget."""
        return asdict(self.settings.profile.teacher.sampling)

    def label(self, name: str, questions: Sequence[Question], domain: str, tell: Callable[[str], None]) -> Label:
        """Put questions to this home's teacher; see flows.campaign.label."""
        teacher, store = self.settings.profile.teacher, self.settings.store_path
        return label(name, questions, teacher, store, domain, tell, flow_server=bool(self.settings.prefect_api_url))

    def active_domains(self) -> list[str]:
        """Domains of the active sources."""
        return [active.domain for active in self.registry.active()]

    def active(self, domain: str) -> Active:
        """The active source of a domain."""
        return self.registry.domain(domain)


@cache
def _lake_at(folder: Path) -> Lake:
    """One lake a process and folder: Dagster copies resources for every run, and connecting costs a quarter second."""
    return Lake.at(folder)


def registry_of(settings: Settings) -> Registry:
    """The source registry of a home."""
    return Registry(settings.home / "sources.yaml", ROOT / "seed")
