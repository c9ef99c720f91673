"""From a benchmark's place to its texts: the hub through `datasets`, or ir_datasets' catalogue.

    texts = load(benchmark, "BRIGHT/biology")     # texts.queries, texts.passages, texts.judgements

Where a place cannot be reached the error names the way to work offline. Absent on purpose: corpora of millions of
passages, of which ir_datasets hands out only the documents that were judged or that a first stage named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from warehouse.benchmarks.registry import Benchmark, BenchmarkError, Hub, HubQueries, at
from warehouse.intake.hub import probe

QUERIES = pl.Schema(
    {"qid": pl.String(), "text": pl.String(), "retrieval_text": pl.String(), "excluded_docids": pl.List(pl.String())}
)
PASSAGES = pl.Schema({"docid": pl.String(), "title": pl.String(), "text": pl.String()})
JUDGEMENTS = pl.Schema({"qid": pl.String(), "docid": pl.String(), "grade": pl.Int64()})


@dataclass(frozen=True)
class Texts:
    """One part of a benchmark: QUERIES, PASSAGES, JUDGEMENTS, and its run of a first stage and that run's file."""

    name: str
    queries: pl.DataFrame
    passages: pl.DataFrame
    judgements: pl.DataFrame
    first_stage: pl.DataFrame | None = None
    run: Path | None = None


def load(benchmark: Benchmark, part: str, wanted: Sequence[str] = ()) -> Texts:
    """A part's texts from its place; `wanted` are ids of documents that are needed beside the judged ones.

    Raises BenchmarkError where it has no place that a library reaches, HubUnreachable where the hub does not answer.
    """
    one = part.rpartition("/")[2]
    if benchmark.hub is not None:
        return _from_hub(benchmark.hub, part, one)
    with _ir_datasets(benchmark, part) as held:
        judged = [(judgement.query_id, judgement.doc_id, int(judgement.relevance)) for judgement in held.qrels_iter()]
        ids = list(dict.fromkeys([*(docid for _, docid, _ in judged), *wanted]))
        found = held.docs_store().get_many(ids)
        documents = [(i, getattr(found[i], "title", None), found[i].default_text()) for i in ids if i in found]
        return texts(part, _asked(held), documents, judged)


def load_queries(benchmark: Benchmark, part: str) -> list[tuple[str, str]]:
    """A part's queries alone: (qid, text). Raises as `load`."""
    if benchmark.hub is not None:
        where, one = benchmark.hub.queries, part.rpartition("/")[2]
        rows = _hub_rows(at(benchmark.hub.dataset, one), where.config, where.split, one)
        return [(str(row[where.id]), str(row[where.text])) for row in rows]
    with _ir_datasets(benchmark, part) as held:
        return [(qid, text) for qid, text, *_ in _asked(held)]


def _from_hub(hub: Hub, part: str, one: str) -> Texts:
    dataset = at(hub.dataset, one)
    asked = list(_hub_rows(dataset, hub.queries.config, hub.queries.split, one))
    rewritten = {}
    if hub.retrieval is not None:
        again = _hub_rows(dataset, hub.retrieval.config, hub.retrieval.split, one)
        rewritten = {str(row[hub.retrieval.id]): str(row[hub.retrieval.text]) for row in again}
    where = hub.documents
    documents = [
        (str(row[where.id]), str(row[where.title] or "") if where.title else None, str(row[where.text]))
        for row in _hub_rows(dataset, where.config, where.split, one)
    ]
    if hub.judgements is None:
        named = str(hub.queries.relevant)
        judged = [(str(row[hub.queries.id]), str(docid), 1) for row in asked for docid in row[named]]
    else:
        place = hub.judgements
        judged = [
            (str(row[place.query]), str(row[place.document]), int(row[place.grade]))
            for row in _hub_rows(at(place.dataset or hub.dataset, one), place.config, place.split, one)
        ]
    return texts(part, _queries(asked, hub.queries, rewritten), documents, judged)


def _hub_rows(dataset: str, config: str | None, split: str, one: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    probe(dataset)  # fails at once where datasets would retry for half a minute
    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(dataset, config and at(config, one), split=at(split, one))
    return rows


def _queries(rows: Iterable[Mapping[str, Any]], where: HubQueries, rewritten: Mapping[str, str]) -> list[tuple]:
    found = []
    for row in rows:
        qid = str(row[where.id])
        # BRIGHT writes ["N/A"] where nothing is excluded.
        excluded = [str(docid) for docid in row[where.excluded] if docid != "N/A"] if where.excluded else []
        found.append((qid, str(row[where.text]), rewritten.get(qid), excluded))
    return found


@contextmanager
def _ir_datasets(benchmark: Benchmark, part: str) -> Iterator[Any]:
    """A part as ir_datasets holds it; whatever it cannot read inside becomes BenchmarkError with a way without it."""
    if benchmark.ir_datasets is None:
        raise BenchmarkError(f"{part} is fetched by no library: {benchmark.bring}")
    import ir_datasets

    name = at(benchmark.ir_datasets, part.rpartition("/")[2])
    try:
        yield ir_datasets.load(name)
    except (OSError, RuntimeError, KeyError) as error:
        raise BenchmarkError(
            f"{part}: ir_datasets cannot read {name} ({type(error).__name__}: {str(error).splitlines()[0]}). Fetch it "
            "where there is a network and copy its folder here (IR_DATASETS_HOME), or bring a folder with "
            "queries.jsonl, passages.jsonl and qrels.tsv."
        ) from None


def _asked(held: Any) -> list[tuple]:
    return [(query.query_id, query.default_text(), None, []) for query in held.queries_iter()]


def texts(
    part: str, queries: Iterable[tuple], passages: Iterable[tuple], judged: Iterable[tuple[str, str, int]]
) -> Texts:
    """Texts from rows. Raises BenchmarkError for an id that stands twice, and judgements of a query without text."""
    made = Texts(
        part,
        pl.DataFrame(list(queries), schema=QUERIES, orient="row"),
        pl.DataFrame(list(passages), schema=PASSAGES, orient="row"),
        pl.DataFrame(list(judged), schema=JUDGEMENTS, orient="row"),
    )
    for frame, key, what in ((made.queries, ["qid"], "query"), (made.passages, ["docid"], "passage")):
        if (twice := frame.filter(frame.select(key).is_duplicated())).height:
            raise BenchmarkError(f"{part}: the {what} {twice[key[0]][0]!r} stands more than once.")
    strangers = made.judgements.join(made.queries, on="qid", how="anti")
    if strangers.height:
        raise BenchmarkError(
            f"{part}: {strangers.height} judgements are of queries without text, such as {strangers['qid'][0]!r}."
        )
    return made
