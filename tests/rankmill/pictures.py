"""Make the pictures of docs/images anew from a finished home: the web UI in a headless Chromium, and the reports.

    python tests/rankmill/pictures.py --home .rankmill            # asks for Chromium (Debian: apt-get install chromium)

Absent on purpose: any check of what is seen (tests/rankmill/test_ui_walk.py).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from ui_visitor import Visitor, chromium, running_ui, visitor

from rankmill.settings import ROOT

IMAGES = ROOT / "docs" / "images"
QUIET_MS = 2500  # until what unfolds and what is drawn stands still


def keep(person: Visitor, name: str) -> None:
    """Keep what the window shows."""
    person.page.wait_for_timeout(QUIET_MS)
    person.page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


def graph(person: Visitor) -> None:
    """The whole graph, groups unfolded."""
    page = person.page
    page.set_viewport_size({"width": 2400, "height": 1500})
    person.open("/")
    person.turn_to("Lineage")
    nodes = page.locator("foreignObject")
    nodes.get_by_text("labels", exact=True).first.wait_for()
    canvas = page.locator("svg").filter(has=nodes).first.bounding_box()
    page.mouse.click(canvas["x"] + 20, canvas["y"] + 20, button="right")
    page.get_by_role("menuitem", name="Expand all groups").click()
    page.get_by_text("Hide navigation", exact=True).click()
    page.reload()  # which fits most of it into the window
    nodes.get_by_text("champion", exact=True).first.wait_for()
    page.mouse.move(1300, 1450)
    page.keyboard.down("Control")
    page.mouse.wheel(0, 40)  # further away, the foot staying where it is
    page.keyboard.up("Control")
    keep(person, "graph")
    page.set_viewport_size({"width": 1500, "height": 900})
    person.open("/")


def run(person: Visitor) -> None:
    """The newest run of a domain."""
    person.open("/runs")
    person.page.locator("a[href^='/runs/']").filter(has_text=re.compile("^[0-9a-f]{8}$")).last.click()
    person.sees(re.compile("^Success$"))
    keep(person, "run")


def checks(person: Visitor) -> None:
    """What the checks of a release found."""
    person.open_asset("training_set", "Checks")
    person.page.get_by_text("no_benchmark_overlap", exact=False).first.click()
    keep(person, "checks")


def asset(person: Visitor) -> None:
    """What an asset tells of itself."""
    person.open_asset("teacher_rankings")
    person.shown("rows_out")
    keep(person, "asset")


def report(person: Visitor, home: Path, name: str) -> None:
    """The top of an HTML report."""
    person.page.goto((home / "reports" / f"{name}.html").resolve().as_uri())
    keep(person, name)


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/images anew.")
    parser.add_argument("--home", type=Path, default=ROOT / ".rankmill", help="a home after `rankmill run`")
    home = parser.parse_args().home.resolve()
    with tempfile.TemporaryDirectory() as folder:
        address_of = running_ui(home, ROOT / "profiles" / "offline.yaml", Path(folder) / "ui.log")
        with address_of as address, visitor(address, chromium()) as person:
            person.page.set_default_timeout(60_000)
            for draw in (graph, run, checks, asset):
                draw(person)
            for name in ("data_quality", "leaderboard"):
                report(person, home, name)


if __name__ == "__main__":
    main()
