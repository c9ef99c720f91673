"""The registry benchmarks/*.yaml: where a benchmark's texts come from, how it is run, and what was published for it.

    benchmark = find(registered(folder), "BRIGHT/biology")

Texts stand on the Hugging Face hub, in the catalogue of ir_datasets, or in a folder that somebody brings. `{set}` in a
place's names stands for the set. A published row keeps its setting: numbers of "the same" baseline in two settings lie
points apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ranking.metrics import DEFAULT_MEASURES

AVERAGE = "average"


class BenchmarkError(ValueError):
    """A benchmark that does not exist, or whose files cannot be read; the message names file, line and remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubQueries(_Strict):
    """Queries on the hub; judgements too, where they stand in the query's row."""

    config: str | None = Field(None, description="Configuration of the data set.")
    split: str = Field(description="Split that holds them.")
    id: str = Field("id", description="Field of the id.")
    text: str = Field("query", description="Field of the text.")
    relevant: str | None = Field(None, description="Field with the ids of what is relevant (grade 1).")
    excluded: str | None = Field(None, description="Field with the ids that leave the query's candidates.")


class HubDocuments(_Strict):
    """Documents on the hub."""

    config: str | None = Field(None, description="Configuration of the data set.")
    split: str = Field(description="Split that holds them.")
    id: str = Field("id", description="Field of the id.")
    text: str = Field("text", description="Field of the text.")
    title: str | None = Field(None, description="Field of the title.")


class HubJudgements(_Strict):
    """Graded judgements on the hub, a row a query and document."""

    dataset: str | None = Field(None, description="Data set, where it is another than the queries'.")
    config: str | None = Field(None, description="Configuration of the data set.")
    split: str = Field(description="Split that holds them.")
    query: str = Field("query-id", description="Field of the query's id.")
    document: str = Field("corpus-id", description="Field of the document's id.")
    grade: str = Field("score", description="Field of the grade.")


class Hub(_Strict):
    """A benchmark on the Hugging Face hub."""

    dataset: str = Field(description="Data set, such as xlangai/BRIGHT.")
    queries: HubQueries = Field(description="What the reranker reads.")
    retrieval: HubQueries | None = Field(None, description="Rewritten queries for the first stage; else the same.")
    documents: HubDocuments = Field(description="What is ranked.")
    judgements: HubJudgements | None = Field(None, description="Judgements, where the queries' rows hold none.")

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if (self.judgements is None) == (self.queries.relevant is None):
            raise ValueError(
                "judgements stand in `judgements` or in the queries' field `relevant`. Give one of the two."
            )
        return self


class Published(_Strict):
    """What a paper reports of one system: percent, by set, and the average over all sets."""

    system: str = Field(description="The system and its size.")
    setting: str = Field(description="First stage, depth and window, as far as published.")
    fusion: str = Field("none told", description="How it was fused with the first stage, as far as published.")
    source: str = Field(description="Where it stands: paper and table.")
    measure: str = Field("nDCG@10", description="What is reported, by ir-measures' name.")
    scores: Mapping[str, float] = Field(description=f"Percent by set; `{AVERAGE}` is the mean over all.")


class Benchmark(_Strict):
    """One file of benchmarks/."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Name in tables, reports and folders.")
    description: str = Field(description="What it measures, and where it is published.")
    license: str = Field(description="SPDX id of the texts, or what is said of them.")
    sets: tuple[str, ...] = Field((), description="Its sets; none where it is one.")
    hub: Hub | None = Field(None, description="Where it stands on the hub.")
    ir_datasets: str | None = Field(None, description="Its id in ir_datasets, which holds documents too.")
    bring: str | None = Field(None, description="Where a person finds it, where no library fetches it.")
    first_stage: str | None = Field(
        None,
        description="TREC run that is reranked, `{set}` for the set, from the file's folder; null is the run that a "
        "part's folder holds, else own BM25.",
    )
    passage_tokens: int = Field(ge=1, description="Tokens of a passage that a reranker is shown.")
    top: int = Field(100, ge=1, description="Candidates of the first stage that are reranked.")
    guards_passages: bool = Field(
        False,
        description="Whether training rows are kept away from its passages too, and not from its queries alone: a "
        "corpus of millions that many sets share says nothing of a leak.",
    )
    measures: tuple[str, ...] = Field(DEFAULT_MEASURES, description="What is measured; the first stands in tables.")
    published: tuple[Published, ...] = Field((), description="What others report.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(place is not None for place in (self.hub, self.ir_datasets, self.bring)) != 1:
            raise ValueError("texts have one place: give one of `hub`, `ir_datasets` and `bring`.")
        known = {*self.sets, AVERAGE, self.name}
        for row in self.published:
            if unknown := sorted(set(row.scores) - known):
                raise ValueError(f"{row.system} has a score for {unknown[0]!r}. Sets: {', '.join(sorted(known))}.")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is measured on its own: the sets, or the benchmark."""
        return tuple(f"{self.name}/{one}" for one in self.sets) or (self.name,)

    def run_of(self, part: str) -> Path | None:
        """The run that stands for a part's first stage, where the file names one."""
        return None if self.first_stage is None else Path(at(self.first_stage, part.rpartition("/")[2]))

    def reported(self, part: str) -> dict[str, tuple[Published, float]]:
        """By system, what is published for a part, from 0 to 1."""
        one = part.rpartition("/")[2]
        return {row.system: (row, row.scores[one] / 100) for row in self.published if one in row.scores}


def load_benchmark(path: Path) -> Benchmark:
    """One file of benchmarks/, the run that it names with its folder. Raises BenchmarkError."""
    try:
        read = Benchmark.model_validate(yaml.safe_load(path.read_text("utf-8")))
        run = None if read.first_stage is None else str(path.parent / read.first_stage)
        return read.model_copy(update={"first_stage": run})
    except (ValidationError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path} is not a valid benchmark: {error}") from None


def registered(folder: Path) -> list[Benchmark]:
    """Every benchmark of a registry, by name. Raises BenchmarkError."""
    return sorted((load_benchmark(path) for path in folder.glob("*.yaml")), key=lambda one: one.name)


def find(benchmarks: Sequence[Benchmark], part: str) -> Benchmark:
    """The benchmark that has this part, such as BRIGHT/biology or TREC-DL19. Raises BenchmarkError."""
    for benchmark in benchmarks:
        if part in benchmark.parts:
            return benchmark
        if part == benchmark.name:
            raise BenchmarkError(f"{part} has sets: name one of {', '.join(benchmark.parts)}.")
    known = ", ".join(name for one in benchmarks for name in one.parts)
    raise BenchmarkError(f"no benchmark is named {part!r}. Known: {known}; or give a folder.")


def at(template: str, one: str) -> str:
    """A name with its set in it."""
    return template.replace("{set}", one)
