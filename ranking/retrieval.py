"""First-stage retrieval: who is worth reranking at all. BM25 here; a dense retriever needs only the same `search`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from ranking.prompts import titled


class Retriever(Protocol):
    """A first stage over a fixed set of passages."""

    name: str

    def search(self, queries: Sequence[str], k: int, excluded: Sequence[Collection[str]]) -> pl.DataFrame:
        """The k best passages of each query, without those excluded for it.

        Returns query (index into `queries`), docid, rank (from 1) and score (falling with rank). A passage that
        shares nothing with the query (score 0) is no candidate, so a query may have fewer than k, or none.
        """


@dataclass
class Bm25:
    """BM25 (Robertson) by bm25s in Lucene's form, English Snowball stems and stop words; ties by docid."""

    docids: Sequence[str]
    texts: Sequence[str]
    k1: float = 0.9
    b: float = 0.4
    _index: Any = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        import bm25s

        self.name = f"bm25(k1={self.k1},b={self.b})"
        tokens = self._tokens(self.texts)
        if tokens.vocab:  # bm25s cannot index a collection without a single word
            self._index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
            self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int, excluded: Sequence[Collection[str]]) -> pl.DataFrame:
        """See Retriever.search."""
        if self._index is None or not queries:
            return pl.DataFrame(schema={"query": pl.Int64, "docid": pl.String, "rank": pl.Int64, "score": pl.Float64})
        tokens = self._tokens(queries)
        wanted = k + max((len(docids) for docids in excluded), default=0)
        reach = min(len(self.docids), wanted + TIE_MARGIN)
        found, scores = self._index.retrieve(tokens, k=reach, show_progress=False)
        # bm25s cuts ties arbitrarily: where one runs on past the last hit, look further, so that the docid decides it.
        while reach < len(self.docids) and ((scores[:, wanted - 1] == scores[:, -1]) & (scores[:, -1] > 0)).any():
            reach = min(len(self.docids), 2 * reach)
            found, scores = self._index.retrieve(tokens, k=reach, show_progress=False)
        hits = pl.DataFrame(
            {
                "query": [query for query in range(len(queries)) for _ in range(reach)],
                "docid": [self.docids[index] for index in found.ravel()],
                "score": scores.ravel().astype("float64"),
            },
            schema={"query": pl.Int64, "docid": pl.String, "score": pl.Float64},
        )
        barred = pl.DataFrame(
            [(query, docid) for query, docids in enumerate(excluded) for docid in docids],
            schema={"query": pl.Int64, "docid": pl.String},
            orient="row",
        )
        return (
            hits.filter(pl.col("score") > 0)
            .join(barred, on=["query", "docid"], how="anti")
            .sort("query", "score", "docid", descending=[False, True, False])
            .with_columns(rank=pl.int_range(1, pl.len() + 1).over("query"))
            .filter(pl.col("rank") <= k)
            .select("query", "docid", "rank", "score")
        )

    @staticmethod
    def _tokens(texts: Sequence[str]) -> Any:
        import bm25s
        import Stemmer

        return bm25s.tokenize(list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)


TIE_MARGIN = 20  # hits asked for beyond those wanted: room for most ties at the cut


def first_stage(queries: pl.DataFrame, passages: pl.DataFrame, depth: int = 100) -> pl.DataFrame:
    """Candidates of one domain: qid, docid, rank, score, retriever. excluded_docids of a query are never among them.

    `queries` holds qid, text, excluded_docids; `passages` holds docid, title, text. Title and text are searched as one.
    """
    ordered = passages.sort("docid")
    texts = [titled(title, text) for title, text in ordered.select("title", "text").iter_rows()]
    retriever = Bm25(ordered["docid"].to_list(), texts)
    excluded = [set(docids or ()) for docids in queries["excluded_docids"].to_list()]
    hits = retriever.search(queries["text"].to_list(), depth, excluded)
    names = queries.select("qid").with_row_index("query").cast({"query": pl.Int64})
    return hits.join(names, on="query", maintain_order="left").select(
        "qid", "docid", "rank", "score", retriever=pl.lit(retriever.name)
    )
