"""A release as Croissant describes data sets (https://docs.mlcommons.org/croissant): files with hashes, fields, types.

    write_json(folder / "croissant.json", croissant(known, folder / "rows.parquet"))

Plain JSON-LD of version 1.0; `mlcroissant` reads it in the tests and is needed nowhere else. Deliberately absent: an
address to download from, which a release does not have until somebody publishes it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.curation.releases import licenses_of
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.pages.facts import Facts

_CR = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _CR},
}  # fmt: skip
TYPES = {pl.String: "sc:Text", pl.Int64: "sc:Integer", pl.Float64: "sc:Float"}
DESCRIPTIONS = {
    "release": "Name of the release: sha256 over its rows.",
    "row_id": "Names this row and no other.",
    "domain": "Domain of the query.",
    "qid": "The query's id within its domain.",
    "split": "sft, rl or dev.",
    "query": "What the passages are ranked for.",
    "docids": "Ids of the passages, in the order in which the teacher saw them.",
    "passages": "Their texts, title and body in one.",
    "final_order": "The teacher's ranking: positions in `passages` from 0, best first.",
    "relevant": "Positions of the relevant passages, from 0.",
    "reasoning": "The teacher's chain.",
    "ranking_id": "The ranking that the row was made of.",
    "exchange_key": "The exchange with the teacher behind it.",
    "prompt_sha256": "Hash of the prompt's template.",
    "judge": "The teacher.",
    "consistency": "NDCG@10 of the ranking against the judgements.",
    "source": "Where the query comes from.",
    "license": "SPDX id of the query's licence.",
    "passage_licenses": "SPDX ids of the passages' licences.",
    "url": "Address of the query, where known.",
    "agreement": "Kendall's W over several rankings of the list; null where it was ranked once.",
}


def croissant(known: Facts, rows: Path) -> dict[str, Any]:
    """JSON-LD of a release whose rows lie in the Parquet file `rows`."""
    schema = pl.read_parquet_schema(rows)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"rankmill-training-set-{known.name[:12]}",
        "description": f"{known.rows.height} lists of passages with a teacher's ranking and reasoning chain, kept "
        f"where the ranking agrees with the judgements. Domains: {', '.join(known.domains)}. "
        f"Content hash {known.name}.",
        "version": f"1.0.0+{known.name[:12]}",  # the hash names a release; a loader wants a semantic version
        "datePublished": known.release["created_at"],
        "license": [_licence(name) for name in licenses_of(known.rows)],
        "creator": {"@type": "sc:Organization", "name": "rankmill"},
        "url": f"urn:rankmill:release:{known.name}",
        "citeAs": f"rankmill training set, release {known.name}",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": rows.name,
                "name": rows.name,
                "contentUrl": rows.name,
                "contentSize": f"{rows.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": file_sha256(rows),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "One list a row.",
                "key": {"@id": "rows/row_id"},
                "field": [_field(name, kind, rows.name) for name, kind in schema.items() if name in ROW_SCHEMA],
            }
        ],
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """A JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)
    return path


def _field(name: str, kind: Any, file: str) -> dict[str, Any]:
    listed = isinstance(kind, pl.List)
    inner = kind.inner if isinstance(kind, pl.List) else kind
    return {
        "@type": "cr:Field",
        "@id": f"rows/{name}",
        "name": name,
        "description": DESCRIPTIONS[name],
        "dataType": next(told for of, told in TYPES.items() if inner == of),
        **({"repeated": True} if listed else {}),
        "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
    }


def _licence(name: str) -> str:
    """The page of an SPDX id; what SPDX does not list stands as it is written."""
    listed = name.replace("-", "").replace(".", "").isalnum() and not name.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{name}.html" if listed and name != "NOASSERTION" else name
