"""A walk through the web UI in a headless Chromium, clicking as a person does: graph, run, checks, figures, reports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

from mills import write_folder
from ui_visitor import Visitor, chromium, running_ui, visitor
from word_model import make_word_model

from assets.columns import TABLES
from assets.definitions import defs
from assets.meanings import meaning
from rankmill.settings import ROOT, Settings
from warehouse.lake import Lake, opened
from warehouse.ledger import latest
from warehouse.migrations import column_types

RECIPE = "direct-point"  # the one with the fewest processes
TINY = """
extends: offline
description: A student of a few thousand weights, a step, and two queries to measure it on.
evaluation: {{queries_per_domain: 2, resamples: 200}}
recipe:
  objective: {{softmax_cross_entropy: {{batch: 2, max_steps: 1}}}}
  decoding: {{pointwise_logits: {{top: 4}}}}
  model: {{base: {base}}}
"""
GRAPH = defs.resolve_asset_graph()
CHECKS = {key: GRAPH.get_check_spec(key) for key in GRAPH.asset_check_keys}
STEPS = 6  # of label_domain


@pytest.fixture(scope="module")
def program() -> str:
    """The browser."""
    return chromium()


@pytest.fixture(scope="module")
def home(program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after `rankmill run` on one domain, with another one that is registered and not labelled yet."""
    folder = tmp_path_factory.mktemp("walk")
    make_word_model(folder / "base", [])
    (folder / "tiny.yaml").write_text(TINY.format(base=folder / "base"), "utf-8")
    home = folder / "home"
    words = ["--profile", str(folder / "tiny.yaml"), "--home", str(home), "--recipe", RECIPE]
    sources = ["--sources", str(ROOT / "seed" / "complex_qa"), "--limit", "24"]
    made = subprocess.run(
        [sys.executable, "-m", "rankmill.cli", "run", *words, *sources],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-4000:]
    registry = Settings.load().model_copy(update={"home": home}).registry
    rivers = registry.choose([str(write_folder(folder / "rivers", 16))], None)
    registry.keep([*registry.active(), *rivers])
    return home


@pytest.fixture(scope="module")
def person(home: Path, program: str) -> Iterator[Visitor]:
    """Somebody who has opened the UI for the first time."""
    with (
        running_ui(home, home.parent / "tiny.yaml", home.parent / "ui.log") as address,
        visitor(address, program) as person,
    ):
        person.open("/")
        yield person


@pytest.fixture(autouse=True)
def nothing_to_complain_of(person: Visitor) -> Iterator[None]:
    """The browser's console is quiet during each of these tests."""
    yield
    said, person.complaints[:] = list(person.complaints), []
    assert said == []


@pytest.fixture(scope="module")
def labelled(person: Visitor) -> str:
    """A domain that was labelled by clicking: the address of its run's page, which was open until it ended."""
    page = person.page
    person.open("/")
    person.turn_to("Jobs")
    page.get_by_role("link", name="label_domain").click()
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition or create one").click()
    page.locator("label").filter(has_text="rivers").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_role("link", name="View", exact=True).click()
    # The panel beside the bars follows the run's log, which comes by itself.
    person.sees(f"Succeeded ({STEPS})")
    person.sees(re.compile("^Success$"))
    return str(page.url)


def test_nobody_is_asked_for_a_mail_address_at_the_first_visit(person: Visitor) -> None:
    person.open("/")
    person.turn_to("Lineage")
    person.sees("Global asset lineage")
    assert not person.page.get_by_role("button", name="Skip").is_visible()


def test_the_graph_shows_every_asset_in_its_group(person: Visitor) -> None:
    page = person.page
    person.open("/")
    person.turn_to("Lineage")
    nodes = page.locator("foreignObject")
    groups = {str(spec.group_name) for spec in defs.resolve_all_asset_specs()}
    for group in sorted(groups):
        nodes.get_by_text(group, exact=True).first.wait_for()
    canvas = page.locator("svg").filter(has=nodes).first.bounding_box()
    page.mouse.click(canvas["x"] + 20, canvas["y"] + 20, button="right")
    page.get_by_role("menuitem", name="Expand all groups").click()
    for key in GRAPH.get_all_asset_keys():
        name = key.to_user_string()
        # A long name is cut in its middle.
        nodes.get_by_text(re.compile(f"^({name}|{name[:4]}.*….*{name[-4:]})$")).first.wait_for()


def test_a_domain_is_labelled_by_clicking_and_its_run_is_followed_to_its_end(
    person: Visitor, labelled: str, home: Path
) -> None:
    person.open(labelled.removeprefix(person.address))
    person.sees(f"Succeeded ({STEPS})")
    with opened(Lake.at(home / "lake")) as lake:
        kept = lake.read("consistent_rankings", {"domain": "rivers"})
        made = latest(lake, "consistent_rankings", "rivers")
    assert made is not None and made.run_id in labelled
    assert kept.height > 0
    person.open_asset("consistent_rankings", "Partitions")
    person.page.get_by_text("rivers", exact=True).first.click()
    assert person.shown("rows_out").inner_text().strip() == str(kept.height)


def test_runs_of_the_command_stand_with_their_jobs(person: Visitor) -> None:
    person.open("/jobs")
    person.page.get_by_role("link", name="release_training_set").click()
    person.sees("Latest run:")


def test_every_check_of_a_release_stands_there_with_what_it_found(person: Visitor) -> None:
    person.open_asset("training_set", "Checks")
    specs = [spec for key, spec in CHECKS.items() if key.asset_key.to_user_string() == "training_set"]
    assert len(specs) > 5
    for spec in specs:
        person.page.get_by_text(spec.name, exact=True).first.click()
        person.sees(str(spec.description))
        person.sees(re.compile("^Passed$"))
    listed = person.page.locator("body").inner_text()
    assert [spec.name for spec in specs if f"{spec.name}\nSucceeded" not in listed] == []


def test_a_check_that_warns_says_what_does_not_hold_and_what_to_do(person: Visitor) -> None:
    person.open_asset("benchmarks", "Checks")
    person.page.get_by_text("benchmarks_were_read", exact=True).first.click()
    person.sees(re.compile("BRIGHT: the profile switches the hub off; give a folder with --benchmarks"))
    person.sees("Every registered benchmark was read, so training rows were compared.")


def test_an_asset_tells_its_columns_its_figures_and_its_first_rows(person: Visitor, labelled: str, home: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        known = lake.read("rankings", {"domain": "rivers"})
    person.open_asset("teacher_rankings")
    table = TABLES["teacher_rankings"]
    for column in column_types()[table]:
        person.sees(meaning(table, column))
    assert int(person.shown("rows_out").inner_text()) == known.height
    window = person.unfold("preview")
    head, rows = window.locator("th").all_inner_texts(), window.locator("tbody tr").all()
    assert len(rows) == 5
    qids = [row.locator("td").nth(head.index("qid")).inner_text() for row in rows]
    assert set(qids) <= set(known["qid"])


@pytest.mark.parametrize(
    ("asset", "plot"), [("consistent_rankings", "consistency_histogram"), ("leaderboard", "leaderboard_bars")]
)
def test_a_plot_is_a_picture_that_can_be_seen(person: Visitor, asset: str, plot: str, labelled: str) -> None:
    person.open_asset(asset)
    picture = person.unfold(plot).locator("img")
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300


def test_the_leaderboard_shows_its_figures_over_all_domains_first(person: Visitor, home: Path) -> None:
    with opened(Lake.at(home / "lake")) as lake:
        board = lake.read("leaderboard", {"domain": "all"})
    person.open_asset("leaderboard")
    rows = person.unfold("preview").locator("tbody tr")
    rows.first.wait_for()
    first = [row.split("\t") for row in rows.all_inner_texts()[: board.height]]
    assert [(row[0], row[1], row[2]) for row in first] == [(RECIPE, "all", stage) for stage in board["stage"]]


REPORTS = [
    ("data_quality_report", "Data quality", "rows released"),
    ("leaderboard", "Leaderboard", "bm25"),
    ("campaign_report", "campaign", "stand-in-teacher"),
]


@pytest.mark.parametrize(("asset", "title", "text"), REPORTS)
def test_a_report_opens_where_the_ui_says_that_it_lies(
    person: Visitor, home: Path, asset: str, title: str, text: str
) -> None:
    person.open_asset(asset)
    path = Path(person.shown("report").inner_text().strip())
    assert path.is_relative_to(home)
    person.page.goto(path.as_uri())
    assert title.lower() in person.page.title().lower()
    person.sees(re.compile(text))
