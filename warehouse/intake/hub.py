"""Sources on the Hugging Face hub: MS MARCO, MATH, Stack Exchange with answers, and ReasonRank's released 13k rows.

Each data set has a loader, which fetches through `datasets` and keeps a stable sample of queries, and a mapping from
the published rows to raw rows for the door. The mappings are plain functions over dicts, so they are tested without a
network. The hub is asked once, with a short timeout, before anything is downloaded: where it cannot be reached, with
no filled cache, `HubUnreachable` says so within seconds and names the ways to work offline.

Deliberately absent: any first stage over the hub's full corpora (MS MARCO's 8.8 million passages); the passages of a
source are those its rows bring.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from warehouse.formats import reasonrank
from warehouse.formats.files import FormatError
from warehouse.intake.door import RawSource, raw_source
from warehouse.intake.packages import split_of

HubName = Literal["ms_marco", "math", "stackexchange", "reasonrank"]
Options = Mapping[str, str | int]
Row = Mapping[str, Any]
PROBE_SECONDS = 5.0

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
NO_ANSWER = "No Answer Present."
LINK = re.compile(r"""<a\s[^>]*href\s*=\s*["']https?://""", re.IGNORECASE)


class UnknownHubSource(ValueError):
    """No such hub source, or no such option of one; the message names those there are."""


class HubUnreachable(ConnectionError):
    """The hub does not answer and the data set is not in the local cache."""

    def __init__(self, repository: str, cause: str) -> None:
        super().__init__(
            f"the Hugging Face hub cannot be reached for {repository} ({cause}). Two ways work offline: save the data "
            "set as a folder with queries.jsonl, passages.jsonl and qrels.tsv and name that (`rankmill run --sources "
            "DIR` to train on it, `rankmill benchmark run DIR --as NAME` to measure on it, never both), or fill a "
            "cache on a machine with network, copy it here, and set HF_HOME to it with HF_HUB_OFFLINE=1."
        )
        self.repository = repository


@dataclass(frozen=True)
class HubDataset:
    """Where a data set lives, its options with their defaults, and how its rows become raw rows."""

    repository: str
    defaults: Options
    load: Callable[[str, str, Options], RawSource]


def read_hub(name: HubName, domain: str, options: Options) -> RawSource:
    """The named data set's rows. Raises HubUnreachable, or ValueError for an option the data set does not have."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    dataset, settled = _settled(name, options)
    probe(dataset.repository)
    try:
        return dataset.load(dataset.repository, domain, settled)
    except (ConnectionError, LocalEntryNotFoundError) as error:
        raise HubUnreachable(dataset.repository, _cause(error)) from error


def hub_fingerprint(name: HubName, options: Options) -> str:
    """Hash of the data set's name and options; the hub's own revision is not asked, so that it works offline."""
    dataset, settled = _settled(name, options)
    return hashlib.sha256(json.dumps([dataset.repository, dict(sorted(settled.items()))]).encode()).hexdigest()


def _settled(name: HubName, options: Options) -> tuple[HubDataset, Options]:
    if name not in DATASETS:
        raise UnknownHubSource(f"no hub source named {name!r}: choose one of {', '.join(get_args(HubName))}.")
    dataset = DATASETS[name]
    if unknown := set(options) - set(dataset.defaults):
        raise UnknownHubSource(
            f"hub source {name} has no option {min(unknown)!r}; options: {', '.join(dataset.defaults)}."
        )
    return dataset, {**dataset.defaults, **options}


def probe(repository: str) -> None:
    """One question with a short timeout: `datasets` would try for half a minute before it gives up."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        HfApi().dataset_info(repository, timeout=PROBE_SECONDS)
    except OfflineModeIsEnabled:
        return
    except Exception as error:  # which HTTP client fails depends on the hub library
        raise HubUnreachable(repository, _cause(error)) from error


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


# -- loaders: what is fetched


def sample(keys: Sequence[str], limit: int) -> list[int]:
    """Positions of the `limit` keys with the smallest hashes, in order: stable when rows are added."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.blake2b(str(keys[i]).encode(), digest_size=16).digest())
    return sorted(order[:limit])


def _load_ms_marco(repository: str, domain: str, options: Options) -> RawSource:
    import datasets

    version, limit = str(options["version"]), int(options["queries"])
    rows: list[Row] = []
    for split in ("train", "validation"):
        data = datasets.load_dataset(repository, version, split=split)
        share = limit * 9 // 10 if split == "train" else limit - limit * 9 // 10
        chosen = data.select(sample([str(key) for key in data["query_id"]], share))
        rows += [{**row, "split": split} for row in chosen]
    return map_ms_marco(rows, domain, f"{repository} {version}")


def _load_math(repository: str, domain: str, options: Options) -> RawSource:
    import datasets

    rows: list[Row] = []
    for subject in MATH_SUBJECTS:
        for split in ("train", "test"):
            data = datasets.load_dataset(repository, subject, split=split)
            rows += [{**row, "subject": subject, "split": split} for row in data]
    return map_math(rows, domain, repository, int(options["queries"]))


def _load_stackexchange(repository: str, domain: str, options: Options) -> RawSource:
    import datasets

    site, limit = str(options["site"]), int(options["queries"])
    data = datasets.load_dataset(repository, data_dir=f"data/{site}", split="train")
    return map_stackexchange(
        data.select(sample([str(key) for key in data["qid"]], limit)), domain, f"{repository} {site}", site
    )


def _load_reasonrank(repository: str, domain: str, options: Options) -> RawSource:
    from huggingface_hub import snapshot_download

    wanted = ["training_data_all.jsonl", "id_query/*.json", "id_doc/*.json", "README.md"]
    folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
    return read_reasonrank(folder, domain, str(options["dataset"]), repository)


# -- mappings: what the rows become


def map_ms_marco(rows: Iterable[Row], domain: str, place: str) -> RawSource:
    """Rows of MS MARCO's question answering layout (v1.1, v2.1): the passages people selected have grade 1."""
    queries, judgements = [], []
    passages: dict[str, dict[str, Any]] = {}
    for row in rows:
        qid = f"msmarco-{row['query_id']}"
        answers = [answer for answer in row["answers"] if answer and answer != NO_ANSWER]
        queries.append(
            {
                "qid": qid,
                "text": row["query"],
                "source": "ms-marco",
                "split": "dev" if row.get("split") == "validation" else "train",
                "gold_answer": answers[0] if answers else None,
                "license": "LicenseRef-MS-MARCO-non-commercial",
            }
        )
        found = row["passages"]
        grades: dict[str, int] = {}
        for text, url, selected in zip(found["passage_text"], found["url"], found["is_selected"], strict=True):
            docid = f"msmarco-p-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
            passages.setdefault(docid, _passage(docid, text, "ms-marco", "LicenseRef-MS-MARCO-non-commercial", url))
            if selected:
                grades[docid] = 1
        judgements += [(qid, docid, grade) for docid, grade in grades.items()]
    return raw_source(domain, place, queries, passages.values(), judgements, {"hub": place})


def map_math(rows: Iterable[Row], domain: str, place: str, limit: int) -> RawSource:
    """MATH (Hendrycks et al.): problems without relevance labels; passages are all solved problems of both splits."""
    queries: dict[str, dict[str, Any]] = {}
    passages = []
    for row in rows:
        name = hashlib.sha256(row["problem"].encode()).hexdigest()[:16]
        qid, docid = f"math-{name}", f"math-sol-{name}"
        if qid in queries:
            continue
        held_out = row["split"] == "test"
        queries[qid] = {
            "qid": qid,
            "text": row["problem"],
            "source": f"math-{row['subject']}",
            "split": "test" if held_out else "dev" if split_of(qid) == "dev" else "train",
            "gold_answer": row["solution"],
            "excluded_docids": [docid],
            "license": "MIT",
        }
        passages.append(_passage(docid, f"Problem: {row['problem']}\nSolution: {row['solution']}", "math", "MIT"))
    names = list(queries)
    chosen = [queries[names[i]] for i in sample(names, limit)]
    return raw_source(domain, place, chosen, passages, [], {"hub": place})


def map_stackexchange(rows: Iterable[Row], domain: str, place: str, site: str) -> RawSource:
    """Questions whose best answer holds a link, as in ReasonRank; grade 2 accepted, 1 another with score 2 or more.

    The published score is log2(1 + upvotes), rounded, so that 2 means about three upvotes.
    """
    queries, judgements = [], []
    passages: dict[str, dict[str, Any]] = {}
    linked = 0
    for row in rows:
        qid = f"{site}-q{row['qid']}"
        best = max(row["answers"], key=lambda answer: (answer["selected"], answer["pm_score"]))
        has_link = bool(LINK.search(best["text"]))
        linked += has_link
        url = next((link for link in row.get("metadata") or () if "/questions/" in link), None)
        for answer in row["answers"]:
            docid = f"{site}-a{answer['answer_id']}"
            passages[docid] = _passage(docid, plain_text(answer["text"]), site, "CC-BY-SA-4.0", url)
            grade = 2 if answer["selected"] else 1 if answer["pm_score"] >= 2 else None
            if has_link and grade is not None:
                judgements.append((qid, docid, grade))
        if has_link:
            queries.append(
                {
                    "qid": qid,
                    "text": plain_text(row["question"]),
                    "source": site,
                    "split": split_of(qid),
                    "gold_answer": plain_text(best["text"]),
                    "license": "CC-BY-SA-4.0",
                    "url": url,
                }
            )
    return raw_source(domain, place, queries, passages.values(), judgements, {"hub": place, "with_link": linked})


def read_reasonrank(folder: Path, domain: str, dataset: str = "all", place: str | None = None) -> RawSource:
    """A folder in ReasonRank's layout as a source; every data set of it, or one. Raises FormatError, ValueError."""
    rows = list(reasonrank.read_rows(folder))
    names = sorted({row["dataset"] for row in rows})
    if dataset != "all":
        if dataset not in names:
            raise ValueError(f"ReasonRank has no data set {dataset!r}: choose all or one of {', '.join(names)}.")
        names = [dataset]
    chosen = (row for row in rows if row["dataset"] in names)
    licensed = reasonrank.stated_license(folder)
    return map_reasonrank(chosen, *reasonrank.read_texts(folder, names), domain, place or str(folder), licensed)


def map_reasonrank(
    rows: Iterable[Row],
    query_texts: Mapping[str, Row],
    doc_texts: Mapping[str, Row],
    domain: str,
    place: str,
    license_id: str | None,
) -> RawSource:
    """ReasonRank's rows: the passages its teacher mined have grade 1; ids get their data set's name before them."""
    queries: dict[str, dict[str, Any]] = {}
    passages: dict[str, dict[str, Any]] = {}
    judgements: dict[tuple[str, str], int] = {}
    repeated = 0
    for row in rows:
        name = row["dataset"]
        qid = _joined(name, row["qid"])
        repeated += qid in queries
        queries[qid] = {
            "qid": qid,
            "text": _given(query_texts[name], row["qid"], f"id_query/{name}.json", row["place"], "query"),
            "source": f"reasonrank-{name}",
            "split": split_of(qid) if split_of(qid) != "test" else "train",
            "license": license_id,
        }
        for docid in row["initial_list"]:
            joined = _joined(name, docid)
            text = _given(doc_texts[name], docid, f"id_doc/{name}.json", row["place"], "passage")
            passages.setdefault(joined, _passage(joined, text, f"reasonrank-{name}", license_id))
        for docid in row["relevant_docids"]:
            judgements[(qid, _joined(name, docid))] = 1
    notes = {"rows_of_a_known_query": repeated, "judgements_from": "the teacher that mined the set"}
    pairs = ((qid, docid, grade) for (qid, docid), grade in judgements.items())
    return raw_source(domain, place, queries.values(), passages.values(), pairs, notes)


def _joined(dataset: str, name: str) -> str:
    """An id that is unique over the data sets and holds no white space (some Stack Overflow ids do)."""
    return re.sub(r"\s", "%20", f"{dataset}/{name}")


def _given(texts: Row, name: str, file: str, place: str, noun: str) -> str:
    """The text of an id. Raises FormatError where the layout's file has none."""
    if name not in texts:
        raise FormatError(f"{file}: has no text for the {noun} {name!r} that {place} names. Add it, or drop that row.")
    return str(texts[name])


def _passage(docid: str, text: str, source: str, license_id: str | None, url: str | None = None) -> dict[str, Any]:
    return {"docid": docid, "title": "", "text": text, "source": source, "license": license_id, "url": url}


def plain_text(markup: str) -> str:
    """The words of a post: paragraphs and line breaks stay, other tags go, entities become characters."""
    text = re.sub(r"(?i)</(p|div|li|pre|blockquote|h[1-6])>|<br\s*/?>", "\n", markup)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


DATASETS: Mapping[str, HubDataset] = {
    "ms_marco": HubDataset("microsoft/ms_marco", {"version": "v2.1", "queries": 4000}, _load_ms_marco),
    "math": HubDataset("EleutherAI/hendrycks_math", {"queries": 4000}, _load_math),
    "stackexchange": HubDataset(
        "HuggingFaceH4/stack-exchange-preferences",
        {"site": "biology.stackexchange.com", "queries": 4000},
        _load_stackexchange,
    ),
    "reasonrank": HubDataset("liuwenhan/reasonrank_data_13k", {"dataset": "all"}, _load_reasonrank),
}
