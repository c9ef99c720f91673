"""What a stage's examples lost to the recipe's budgets: lists, passages, queries and chains, each out of how many.

    told = Shortened.of(examples)
    told.words()                     # lists 2 of 10, passages 31 of 200, queries 0 of 10, chains 4 of 10

Every example carries its own account (`example.shortened`); a row that makes several examples is one list and one
query. Deliberately absent: rows that make no example at all, which are left out by name and reason.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

Share = tuple[int, int]
NONE: Share = (0, 0)


class Counted(Protocol):
    """An example that says of which row it is, and what it lost."""

    @property
    def row_id(self) -> str:
        """The row of the release."""

    @property
    def shortened(self) -> "Shortened":
        """What this example lost."""


class Shortened(BaseModel):
    """How many were shortened, and of how many."""

    model_config = ConfigDict(frozen=True)

    lists: Share = Field(NONE, description="Rows that show fewer passages than their list has.")
    passages: Share = Field(NONE, description="Passages shown that were cut to units.passage_tokens.")
    queries: Share = Field(NONE, description="Rows whose query was cut to units.query_tokens.")
    chains: Share = Field(NONE, description="Chains that lost sentences: to contract.chain_tokens, or with a passage.")

    def __add__(self, other: "Shortened") -> "Shortened":
        """Both together."""
        return Shortened(**{name: _sum(getattr(self, name), getattr(other, name)) for name in Shortened.model_fields})

    def words(self) -> str:
        """One line."""
        return ", ".join(f"{name} {cut} of {all_}" for name, (cut, all_) in self)

    @classmethod
    def of(cls, examples: Iterable[Counted]) -> "Shortened":
        """The account of a stage's examples."""
        rows: dict[str, Shortened] = {}
        for example in examples:
            rows[example.row_id] = rows.get(example.row_id, cls()) + example.shortened
        return sum((told._as_one_row() for told in rows.values()), cls())

    def _as_one_row(self) -> "Shortened":
        lists, queries = (tuple(min(count, 1) for count in share) for share in (self.lists, self.queries))
        return self.model_copy(update={"lists": lists, "queries": queries})


WHOLE = Shortened()


def share(short: Sequence[str], whole: Sequence[str]) -> Share:
    """Of some texts, those that are not whole any more."""
    return sum(ours != theirs for ours, theirs in zip(short, whole, strict=True)), len(whole)


def _sum(one: Share, other: Share) -> Share:
    return one[0] + other[0], one[1] + other[1]
