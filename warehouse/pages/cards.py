"""The dataset card that travels with a release, as Hugging Face reads one: YAML header, then Markdown.

    values = card_values(facts_of(lake, domains), sampling)
    write_report(folder / "README.md", "dataset_card.md.j2", values)

The header follows the hub's schema (licence, task, size, configs), so the folder can be pushed as it is. Deliberately
absent: the hub itself, and every figure that the report shows better.
"""

import json
from typing import Any

import polars as pl
import yaml

from warehouse.curation import licences
from warehouse.curation.releases import SPLITS, licenses_of
from warehouse.pages.facts import Facts
from warehouse.pages.marks import on_card
from warehouse.pages.reports import reasons_of

ROWS_FILE = "rows.parquet"
# The hub's own ids of licences (https://huggingface.co/docs/hub/repositories-licenses); it knows no others.
HUB_LICENCES = {
    name: name.lower()
    for name in (
        "Apache-2.0", "MIT", "CC0-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0",
        "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "PDDL",
        "CDLA-Permissive-2.0",
    )
} | {"ODC-By-1.0": "odc-by", "PDDL-1.0": "pddl"}  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip


def card_values(known: Facts, sampling: dict[str, Any]) -> dict[str, Any]:
    """What dataset_card.md.j2 shows of a release; `sampling` are the teacher's settings."""
    under = licenses_of(known.rows)
    overlaps = known.overlaps
    vetted = overlaps.filter(pl.col("exception").is_not_null())
    left_out = overlaps.filter(pl.col("exception").is_null()).select("domain", "ranking_id").n_unique()
    return {
        "header": header(known, under),
        "release": known.name,
        "marks": on_card(known.name, known.marks),
        "created_at": known.release["created_at"],
        "read_snapshot": known.release["read_snapshot"],
        "rows": known.rows.height,
        "domains": [
            {
                "domain": domain,
                **{split: part.filter(split=split).height for split in SPLITS},
                "licenses": licenses_of(part),
                "sources": sorted(part["source"].drop_nulls().unique()),
            }
            for domain in known.domains
            for part in [known.rows.filter(domain=domain)]
        ],
        "stages": known.stages(),
        "reasons": reasons_of(known.rejections),
        "teachers": sorted(known.rows["judge"].drop_nulls().unique()),
        "served": sorted(known.calls["served_model"].drop_nulls().unique()),
        "sampling": json.dumps(sampling, sort_keys=True),
        "prompts": sorted(known.rows["prompt_sha256"].drop_nulls().unique()),
        "stand_in": known.stand_in,
        "cost": known.cost,
        "licences": under,
        "hindrances": licences.hindrances(known.decisions, known.rows["ranking_id"]).to_dicts(),
        "compared_with": known.compared_with,
        "not_read": known.not_read,
        "left_out": left_out,
        "by_test": overlaps.group_by("test").len("found").sort("test").to_dicts(),
        "vetted": vetted.to_dicts(),
        "masked": _masked(known),
        "settings": json.loads(known.release["settings"]),
    }


def header(known: Facts, under: list[str]) -> str:
    """The card's YAML header."""
    hub = [HUB_LICENCES[name] for name in under if name in HUB_LICENCES]
    whole = bool(under) and len(hub) == len(under)
    licence: dict[str, Any] = {"license": sorted(set(hub))} if whole else {"license": "other", "license_name": "mixed"}
    if not whole:
        licence["license_link"] = "README.md#licences"
    return yaml.safe_dump(
        {
            "pretty_name": f"rankmill training set {known.name[:12]}",
            "language": _languages(known),
            "task_categories": ["text-ranking"],
            **licence,
            "size_categories": [size_of(known.rows.height)],
            "tags": ["reranking", "reasoning", "rankmill"],
            "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": ROWS_FILE}]}],
        },
        sort_keys=False,
    )


def size_of(rows: int) -> str:
    """The hub's size category of a number of rows."""
    return next((name for most, name in SIZES if rows < most), "100M<n<1B")


def _languages(known: Facts) -> list[str]:
    settings = json.loads(known.release["settings"])
    return list(settings.get("contents", {}).get("languages", ["en"]))


def _masked(known: Facts) -> list[dict[str, Any]]:
    """Rows of the release in which something was masked, by what it was."""
    told = known.decisions.filter(outcome="masked").filter(
        pl.col("ranking_id").is_in(known.rows["ranking_id"].implode())
    )
    return told.group_by("reason").agg(rows=pl.col("ranking_id").n_unique()).sort("reason").to_dicts()
