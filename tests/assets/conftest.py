"""A home with the small factory's lake: two domains, labelled, and nothing released yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "warehouse"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "rankmill"))

from small_lake import DOMAINS, fill
from webhooks import Webhook, webhook

from assets.resources import Factory
from warehouse.intake.registry import Active
from warehouse.lake import Lake, opened


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home, to be copied by whoever changes it; its two domains are active sources."""
    home = tmp_path_factory.mktemp("filled") / "home"
    with opened(Lake.at(home / "lake")) as lake:
        fill(lake)
    Factory(profile="offline", home=str(home)).registry.keep([Active(name, "folder", name) for name in DOMAINS])
    return home


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """The webhook that alerts go to, and a page of the UI that they link to."""
    with webhook() as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        monkeypatch.setenv("RANKMILL_UI_URL", "http://mill:3000/")
        yield server
