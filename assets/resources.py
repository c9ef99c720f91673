"""The factory as Dagster sees it: one resource that knows the profile, the home, and the lake in it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from flows.nights import Allowance, Night, NightBudgets, allowance
from flows.paid import bring_back
from flows.plan import Asking, ask_again
from flows.steps import Campaign, campaign_of
from inference.store import ExchangeStore
from rankmill.notify import Alert
from rankmill.outbox import Outbox
from rankmill.settings import Settings
from warehouse.catalog import Place
from warehouse.intake.registry import Active, Registry
from warehouse.lake import Lake
from warehouse.ledger import book
from warehouse.production import Shop


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
        return _lake_at(self.settings.lake_place)

    @property
    def releases(self) -> Path:
        """Where releases are written for training processes, each with its card."""
        return self.settings.home / "releases"

    @property
    def registry(self) -> Registry:
        """The active sources of this home."""
        return self.settings.registry

    def teacher_identity(self) -> dict[str, Any]:
        """What shapes the teacher's answers, and nothing that does not: no key, no address, no budget."""
        return self.settings.profile.teacher.sampling.parameters

    def campaign(self, domain: str, tell: Callable[[str], None], left: Allowance | None = None) -> Campaign:
        """A domain's questions to this home's teacher, who stops where an allowance ends."""
        profile = self.settings.profile
        teacher = profile.teacher if left is None else left.bounding(profile.teacher)
        return campaign_of(domain, profile.labels, teacher, self.lake, self.settings.campaign_home, tell)

    def allowance(self, night: Night) -> Allowance | None:
        """What a night may still spend; None where the profile sets no budget."""
        budgets = self.settings.profile_that_buys_nothing.budgets
        if budgets == NightBudgets():
            return None
        bring_back(self.lake, self.settings.store_path)  # what was spent is part of it
        with ExchangeStore(self.settings.store_path) as store:
            return allowance(store, night, budgets)

    def ask_again(self, domain: str, asset: Asking, night: Night, left: Allowance | None) -> int:
        """Have what was rejected or inconsistent before this night asked once more; gives how many questions."""
        lake = self.lake
        shop = Shop(lake, domain, lake.snapshot(), self.active_domains())
        campaign = self.campaign(domain, lambda _: None)
        usd = None if left is None else left.left_usd
        with ExchangeStore(self.settings.store_path) as store:
            return ask_again(campaign, asset, shop, store, night.began, usd)

    @property
    def outbox(self) -> Outbox:
        """The alerts of this home that wait."""
        return Outbox(self.settings.home / "alerts")

    def tell(self, alert: Alert) -> list[str]:
        """Tell a person by whatever ways the environment names; gives the ways. Raises AlertFailed where it waits."""
        return self.outbox.tell(self.settings, alert)

    def page(self, path: str) -> str | None:
        """The address of a page of the web UI; None where nobody has said where it is."""
        base = self.settings.ui_url
        return None if base is None else f"{base.rstrip('/')}/{path}"

    def active_domains(self) -> list[str]:
        """Domains of the active sources, but for those that wait to be labelled while others are."""
        waiting = self.never_labelled()
        return [active.domain for active in self.registry.active() if active.domain not in waiting]

    def never_labelled(self) -> list[str]:
        """Active domains that have never come to consistent rankings; none where no other one has either."""
        active = [active.domain for active in self.registry.active()]
        labelled = {key for asset, key in book(self.lake) if asset == "consistent_rankings"}
        return [domain for domain in active if domain not in labelled] if labelled.intersection(active) else []

    def active(self, domain: str) -> Active:
        """The active source of a domain."""
        return self.registry.domain(domain)


@cache
def _lake_at(place: Place) -> Lake:
    """One lake a process and place: Dagster copies resources for every run, and connecting costs a quarter second."""
    return Lake(place)
