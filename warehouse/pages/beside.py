"""All that is written beside a release's rows: card, Croissant metadata and OpenLineage event.

files = write_beside(facts_of(lake, domains), releases, sampling)    # {"card": Path, "croissant": Path, …}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warehouse.audit.openlineage import release_event
from warehouse.curation.releases import export_rows
from warehouse.pages.cards import card_values
from warehouse.pages.croissant import croissant, write_json
from warehouse.pages.facts import Facts
from warehouse.pages.reports import write_report


def write_beside(known: Facts, releases: Path, sampling: dict[str, Any]) -> Mapping[str, Path]:
    """Write <releases>/<hash12>/ of a release, each file whole or not at all; the rows are exported where missing."""
    rows = export_rows(known.lake, known.name, releases)
    folder = rows.parent
    return {
        "rows": rows,
        "card": write_report(folder / "README.md", "dataset_card.md.j2", card_values(known, sampling)),
        "croissant": write_json(folder / "croissant.json", croissant(known, rows)),
        "openlineage": write_json(folder / "openlineage.json", release_event(known, rows)),
    }
