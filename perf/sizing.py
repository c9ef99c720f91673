"""What a number of queries takes: calls, tokens, USD, GPU-hours, sizes and hours, from the unit costs of a real home.

    python perf/growth.py --json growth.json
    python perf/sizing.py --home .rankmill --growth growth.json

Prints Markdown: unit costs, what 13,000 to 10,000,000 training queries take by them, and where a machine ends. Behind
each figure stands what it rests on: H measured in the home (unit_costs.py), G by growth.py, P named in perf/README.md,
A assumed, since nothing here can measure it. docs/sizing.md is made from it.

Absent on purpose: a teacher's or a GPU's own figures, and money for machines.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made_up import texts
from unit_costs import Asked, Growth, Home, plan, read_home

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inference.pace import ASSUMED_TOKENS_PER_S  # noqa: E402
from inference.prices import Prices  # noqa: E402
from rankmill.settings import load_profile  # noqa: E402
from training.planning import Plan  # noqa: E402
from training.recipes import Recipe  # noqa: E402

SIZES = (13_000, 100_000, 1_000_000, 10_000_000)
TEACHER, DEVICE, DEVICES = "deepseek-reasoner", "h100", 8
GIB = 2**30
# Tables of the lake whose bytes grow with queries; exchanges and training rows are reckoned by their text.
GROWS = (
    "queries", "passages", "judgements", "candidates", "rankings", "ranking_samples", "consistent_rankings",
    "rejections", "decisions",
)  # fmt: skip

# P: perf/README.md, 2026-11-24, two cores of an AMD EPYC.
ENGINE_CPU_S = 0.25e-3  # engine.py, 2026-11-28: an answer bought, 50 ms x 64
CURATION_S, CURATION_GIB = {100_000: 29.4, 1_000_000: 302.5}, {100_000: 1.61, 1_000_000: 4.17}  # warehouse.py
CHAIN_WORDS, PASSAGE_WORDS, PASSAGES_A_LIST = 40, 60, 2 / 5  # of its texts: N / 5 passages in each of two domains

# A: assumed.
ANSWER_TOKENS = 3_072  # the paper's cut-off of a response: longer chains are no training rows
ANSWER_COPIES = 3  # of a domain's answers in memory: the outcome, its row, and the row on its way to the lake
BATCH_SHARE = 0.5  # inference/prices.yaml: of providers that have a batch price; TEACHER has none
IN_FLIGHT = (64, 256)  # teacher.pace of profiles/api.yaml and gpu.yaml
BENCHMARK_QUERIES, S_A_QUERY = 1_384, 1.8  # all of BRIGHT; the paper's latency of the 7B model


@dataclass(frozen=True)
class Model:
    """How each figure follows from the unit costs."""

    home: Home
    asked: Asked
    growth: Growth
    planned: Plan
    recipe: Recipe

    def calls(self, queries: float) -> float:
        return queries * self.asked.calls

    def input_tokens(self, queries: float) -> float:
        return queries * self.asked.prompt_bytes / self.home.token_bytes

    def output_tokens(self, queries: float) -> float:
        return self.calls(queries) * ANSWER_TOKENS

    def text(self, queries: float) -> float:
        """Bytes of prompts and answers."""
        return queries * self.asked.prompt_bytes + self.output_tokens(queries) * self.home.token_bytes

    def usd(self, queries: float, cached: float = 0.0) -> float:
        price = Prices.load().of(TEACHER)
        paid = self.input_tokens(queries) * ((1 - cached) * price.input + cached * price.cached)
        return (paid + self.output_tokens(queries) * price.output) / 1e6

    def days(self, queries: float, in_flight: int) -> float:
        return self.calls(queries) * ANSWER_TOKENS / ASSUMED_TOKENS_PER_S / in_flight / 86_400

    def lists(self, queries: float) -> float:
        """Consistent lists: what curation is given."""
        return queries * self.home.ranked * self.home.consistent

    def rows(self, queries: float) -> float:
        return self.lists(queries) * self.home.released

    def row_bytes(self) -> float:
        """Bytes of text of a released row: its passages, all of them, and the chain."""
        passages = self.home.row_passage_bytes * self.asked.list_length / self.home.list_length
        return passages + ANSWER_TOKENS * self.home.token_bytes

    def release(self, queries: float) -> float:
        """Bytes of a release's rows.parquet."""
        return self.rows(queries) * self.row_bytes() * self.home.release_ratio

    def lake(self, queries: float) -> float:
        """Bytes of Parquet after a first pass and a release."""
        light = sum(size for name, (_, size) in self.home.tables.items() if name in GROWS)
        released = self.rows(queries) * self.row_bytes() * self.home.row_ratio
        return queries * light / self.home.train + self.text(queries) * self.home.exchange_ratio + released

    def passages_a_domain(self, queries: float) -> float:
        return queries * self.home.passages / self.home.train / self.home.domains

    def _longer(self) -> float:
        """How much longer the home's passages are than those of growth.py."""
        return self.home.passage_bytes / words_bytes(PASSAGE_WORDS)

    def first_stage_h(self, queries: float) -> float:
        """Processor-hours: texts are indexed once, and each query looks at every passage of its domain."""
        index = self.growth.further("first-stage", "index s") * self._longer() * self.home.domains
        search = self.growth.further("first-stage", "search ms a query") / 1e3 * queries
        return self.passages_a_domain(queries) * (index + search) / 3_600

    def first_stage_gib(self, queries: float) -> float:
        """Of one domain: its texts as a frame and as a list, the index while it is made, and all hits together."""
        passages = self.passages_a_domain(queries)
        index = self.growth.further("first-stage", "MiB to index") * self._longer() * passages
        hits = self.growth.further("search", "MiB to search") * queries / self.home.domains
        return 2 * passages * self.home.passage_bytes / GIB + (index + hits) / 1_024

    def label_gib(self, queries: float) -> float:
        """Of one domain: its texts, pools and answers; of its prompts no more than are on their way."""
        return self.label_fixed() + self.label_a_query() * queries / self.home.domains

    def label_fixed(self) -> float:
        """GiB of labelling next to nothing."""
        return self.growth.values("label", "unchanged MiB")[0] / 1_024

    def label_a_query(self) -> float:
        """GiB a query, as growth.py labels texts of the home's length and number, and the answers of a real teacher.

        The first stage is in it.
        """
        answers = ANSWER_COPIES * self.calls(1) * ANSWER_TOKENS * self.home.token_bytes
        return self.growth.further("label", "stored MiB") / 1_024 + answers / GIB

    def domains(self, queries: float, gib: float) -> int:
        """Into how many domains the queries go, so that each is labelled in so much memory."""
        return math.ceil(self.label_a_query() * queries / (gib - self.label_fixed()))

    def extra(self, queries: float) -> tuple[float, float]:
        """MiB of chains and of distinct passages that curation holds beyond those of warehouse.py."""
        chain = ANSWER_TOKENS * self.home.token_bytes - words_bytes(CHAIN_WORDS)
        held = self.home.list_passage_bytes * self.asked.list_length / self.home.list_length
        passage = held - PASSAGES_A_LIST * words_bytes(PASSAGE_WORDS)
        return self.lists(queries) * chain / 2**20, self.lists(queries) * passage / 2**20

    def curation_h(self, queries: float) -> float:
        chains, passages = self.extra(queries)
        more = chains * self.growth.further("chains", "s", "MiB of text")
        more += passages * self.growth.further("passages", "s", "MiB of text")
        return (line(CURATION_S, self.lists(queries)) + more) / 3_600

    def curation_gib(self, queries: float) -> float:
        chains, passages = self.extra(queries)
        more = chains * self.growth.further("chains", "MiB", "MiB of text")
        more += passages * self.growth.further("passages", "MiB", "MiB of text")
        return line(CURATION_GIB, self.lists(queries)) + more / 1_024

    def sft_gpu_h(self, queries: float) -> float:
        stage = self.planned.stages[0]
        seen = stage.steps * self.recipe.supervised.batch * self.recipe.supervised.accumulation * DEVICES
        return self.rows(queries) * self.home.sft * self.recipe.supervised.epochs * stage.hours * DEVICES / seen

    def rl_gpu_h(self, _: float) -> float:
        return self.planned.stages[1].hours * DEVICES

    def pass_h(self, turn: str, queries: float) -> float:
        """Processor-hours of labelling over stored answers (`stored`), or where nothing has changed (`unchanged`)."""
        return self.growth.further("label", f"{turn} s", "prompt bytes") * self.text(queries) / 3_600


def words_bytes(words: int) -> float:
    """Bytes of a text by rule."""
    return float(texts(1_000, words, np.random.default_rng(1)).str.len_bytes().mean())  # type: ignore[arg-type]


def line(points: dict[int, float], size: float) -> float:
    """The straight line through two measured sizes."""
    (low, at_low), (high, at_high) = points.items()
    return at_low + (at_high - at_low) * (size - low) / (high - low)


def unit_costs(model: Model) -> list[Sequence[str]]:
    """What, how much, what it rests on."""
    home, asked, growth = model.home, model.asked, model.growth
    sft, rl = model.planned.stages
    grpo = model.recipe.grpo
    table = home.tables
    a_row = {name: f"{size / rows:,.0f} B" for name, (rows, size) in table.items() if name in GROWS and rows}
    return [
        ("calls a training query", f"{asked.calls:.2f}", "H: prompts of the profile; ranked as often as in the home"),
        ("prompt a call", f"{asked.prompt_bytes / asked.calls:,.0f} B", "H: the same prompts"),
        ("a prompt's token", f"{home.token_bytes:.2f} B", "H: as the home's teacher counted"),
        ("of the prompts, beginnings that another has too", percent(asked.shared), "H: what a cache can save"),
        ("an answer, chain included", f"{ANSWER_TOKENS:,} tokens", "A: the paper's cut-off of a response"),
        ("an answer's time", f"{ANSWER_TOKENS / ASSUMED_TOKENS_PER_S:.0f} s",
         f"A: {ASSUMED_TOKENS_PER_S} tokens/s (inference/pace.py)"),
        ("price a million tokens", price_line(), f"A: inference/prices.yaml of {Prices.load().dated}"),
        ("training queries ranked, consistent, released",
         " x ".join(percent(s) for s in (home.ranked, home.consistent, home.released)), "H: of its teacher, no other"),
        ("exchange store", f"{home.store_ratio:.2f} B a byte of prompts and answers", "H: file by text"),
        ("lake: exchanges", f"{home.exchange_ratio:.2f} B a byte of them", "H: Parquet by DuckLake's catalog"),
        ("lake: a row of", ", ".join(f"{name} {size}" for name, size in a_row.items()), "H: the same"),
        ("lake: a released row", f"{model.row_bytes() * home.row_ratio / 1e3:,.1f} kB",
         f"H: {home.row_ratio:.2f} B a byte; lists of {asked.list_length:.1f}; A: the chain"),
        ("release as a file, a row", f"{model.release(1) / model.rows(1) / 1e3:,.1f} kB", "H: the same"),
        ("passages a training query", f"{home.passages / home.train:.0f} of {home.passage_bytes:,.0f} B", "H"),
        ("engine, an answer bought", f"{1e3 * ENGINE_CPU_S:.2f} ms of a processor", "P: engine.py"),
        ("BM25, indexing 1,000 passages of 60 words", growth_of(growth, "first-stage", "index s", "s"), "G"),
        ("BM25, a query over 1,000 passages", growth_of(growth, "first-stage", "search ms a query", "ms"), "G"),
        ("BM25, memory of 1,000 passages", growth_of(growth, "first-stage", "MiB to index", "MiB"), "G"),
        ("BM25, memory of 1,000 queries' hits", growth_of(growth, "search", "MiB to search", "MiB"), "G"),
        ("lake, a commit of 1,000 exchanges of 9 kB", growth_of(growth, "commit", "s", "s of a processor"), "G"),
        ("labelling, a further GB of prompts", label_of(growth), "G: label, over stored answers; nothing changed"),
        ("labelling, memory of 1,000 queries without their answers", growth_of(growth, "label", "stored MiB", "MiB"),
         "G: over stored answers"),
        ("labelling, memory of answers", f"{ANSWER_COPIES} B a byte", "A: outcome, row, row on its way to the lake"),
        ("curation of 100,000 and 1,000,000 short lists", "29.4 s, 1.61 GiB; 302.5 s, 4.17 GiB", "P: warehouse.py"),
        ("curation, a further GiB of chains", curation_of(growth, "chains"), "G"),
        ("curation, a further GiB of passages", curation_of(growth, "passages"), "G"),
        (f"SFT, a row ({DEVICES} x {DEVICE})", f"{3_600 * model.sft_gpu_h(1) / model.rows(1) / home.sft:.1f} GPU-s",
         f"A: training/planning.py, 7B, 5 epochs, {sft.tokens / examples(model):,.0f} tokens a row"),
        (f"RL, {rl.steps} steps", f"{rl.hours * DEVICES:.0f} GPU-h",
         f"A: training/planning.py; reads {rl.steps // grpo.updates * grpo.prompts:,} prompts"),
        ("reranking a query, 7B, served by vLLM", f"{S_A_QUERY} s", "A: the paper's latency"),
    ]  # fmt: skip


def examples(model: Model) -> int:
    """Examples that the planned SFT reads, epochs and all."""
    objective = model.recipe.supervised
    return model.planned.stages[0].steps * objective.batch * objective.accumulation * DEVICES


def growth_of(growth: Growth, what: str, name: str, unit: str) -> str:
    """What a further thousand takes, and the exponent over the sizes measured."""
    sizes = growth.sizes(what)
    over = f"{sizes[0]:,} to {sizes[-1]:,}"
    return f"{1e3 * growth.further(what, name):.3g} {unit}; exponent {growth.exponent(what, name):.2f} over {over}"


def label_of(growth: Growth) -> str:
    """What a further GB of prompts takes."""
    stored, unchanged = (growth.further("label", f"{turn} s", "prompt bytes") for turn in ("stored", "unchanged"))
    return f"{1e9 * stored:,.0f} s of a processor; {1e9 * unchanged:,.0f} s"


def curation_of(growth: Growth, what: str) -> str:
    """What a further GiB of text takes."""
    seconds, memory = (growth.further(what, name, "MiB of text") for name in ("s", "MiB"))
    return f"{1_024 * seconds:,.0f} s of a processor, {memory:.1f} GiB"


def grown(model: Model, gib: float) -> list[tuple[str, Callable[[float], str], str, str]]:
    """What, how much for so many queries, how it grows, what it rests on."""
    domains = model.home.domains
    return [
        ("teacher calls", lambda n: big(model.calls(n)), "n", "H"),
        ("input tokens", lambda n: big(model.input_tokens(n)), "n", "H"),
        ("output tokens", lambda n: big(model.output_tokens(n)), "n", "H A"),
        ("USD, list price", lambda n: big(model.usd(n)), "n", "H A"),
        ("USD, every shared beginning cached", lambda n: big(model.usd(n, model.asked.shared)), "n", "H A"),
        ("USD, were there a batch price of a half", lambda n: big(BATCH_SHARE * model.usd(n)), "n", "H A"),
        *(
            (f"days of labelling, {flight} in flight", lambda n, flight=flight: big(model.days(n, flight)), "n", "H A")
            for flight in IN_FLIGHT
        ),
        ("engine, processor-hours", lambda n: big(model.calls(n) * ENGINE_CPU_S / 3_600), "n", "H P"),
        ("exchange store", lambda n: size(model.text(n) * model.home.store_ratio), "n", "H A"),
        ("lake, first pass and one release", lambda n: size(model.lake(n)), "n", "H A"),
        ("one release as a file", lambda n: size(model.release(n)), "n", "H A"),
        ("released rows", lambda n: big(model.rows(n)), "n", "H"),
        (f"first stage, processor-hours, {domains} domains", lambda n: big(model.first_stage_h(n)), "n²", "H G"),
        ("first stage, GiB a domain", lambda n: big(model.first_stage_gib(n)), "n", "H G"),
        ("labelling, GiB a domain", lambda n: big(model.label_gib(n)), "n", "H G A"),
        (f"domains, for labelling in {gib:g} GiB", lambda n: f"{model.domains(n, gib):,}", "n", "H G A"),
        ("labelling over stored answers, processor-hours", lambda n: big(model.pass_h("stored", n)), "n", "H G A"),
        ("labelling with nothing changed, processor-hours", lambda n: big(model.pass_h("unchanged", n)), "n", "H G A"),
        ("curation and release, hours", lambda n: big(model.curation_h(n)), "n^1.01", "H P G A"),
        ("curation and release, GiB", lambda n: big(model.curation_gib(n)), "n", "H P G A"),
        ("SFT, 7B, GPU-hours", lambda n: big(model.sft_gpu_h(n)), "n", "H A"),
        ("RL, 7B, GPU-hours", lambda n: big(model.rl_gpu_h(n)), "1", "A"),
        ("BRIGHT once by vLLM, GPU-hours", lambda n: big(0 * n + BENCHMARK_QUERIES * S_A_QUERY / 3_600), "1", "A"),
    ]  # fmt: skip


def ends(model: Model, gib: float) -> list[Sequence[str]]:
    """At how many training queries each thing passes what one machine, or a month, holds."""
    limits: list[tuple[str, Callable[[float], float], float]] = [
        (f"labelling: a domain's texts and answers in {gib:g} GiB", model.label_gib, gib),
        (f"first stage: a domain in {gib:g} GiB", model.first_stage_gib, gib),
        (f"curation: all lists in {gib:g} GiB", model.curation_gib, gib),
        (f"training: the texts of a release in {gib:g} GiB", lambda n: model.rows(n) * model.row_bytes() / GIB, gib),
        (f"labelling in 30 days, {IN_FLIGHT[0]} in flight", lambda n: model.days(n, IN_FLIGHT[0]), 30),
        (f"labelling in 30 days, {IN_FLIGHT[1]} in flight", lambda n: model.days(n, IN_FLIGHT[1]), 30),
        ("store and lake in 1 TB", lambda n: (model.text(n) * model.home.store_ratio + model.lake(n)) / 1e12, 1),
        ("first stage in a processor-day", model.first_stage_h, 24),
        ("a budget of 1,000 USD", model.usd, 1_000),
        (f"SFT in a day of {DEVICES} GPUs", model.sft_gpu_h, 24 * DEVICES),
    ]
    found = [(what, first_over(of, limit)) for what, of, limit in limits]
    return [(what, big(queries)) for what, queries in sorted(found, key=lambda one: one[1])]


def first_over(of: Callable[[float], float], limit: float) -> float:
    """The queries at which a figure that grows passes a limit."""
    low, high = 0.0, 1e12
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle) > limit else (middle, high)
    return high


def big(value: float) -> str:
    """Three digits, and whole thousands in words."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.2g}"


def size(value: float) -> str:
    """Bytes in GB or TB."""
    return f"{value / 1e12:.3g} TB" if value >= 1e12 else f"{value / 1e9:.3g} GB"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def price_line() -> str:
    price = Prices.load().of(TEACHER)
    return f"{price.input}, cached {price.cached}, output {price.output} USD"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """Markdown; the columns from the second to `right` hold numbers."""
    marks = ["---:" if 0 < place <= right else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="a home with a release; it is only read")
    parser.add_argument("--growth", type=Path, required=True, help="what growth.py --json wrote")
    parser.add_argument("--profile", default="api", help="whose prompts, lists and windows are reckoned with")
    parser.add_argument("--gib", type=float, default=24, help="memory of the machine")
    given = parser.parse_args()
    home, asked = read_home(given.home, load_profile(given.profile))
    model = Model(home, asked, Growth(given.growth), *plan(given.home, asked, ANSWER_TOKENS, DEVICE, DEVICES))
    print(
        f"{home.domains} domains, {home.train:,} training queries, {home.passages:,} passages, {home.calls:,} calls\n"
    )
    print(table(("unit", "cost", "rests on"), unit_costs(model)))
    grows = [(what, *(of(n) for n in SIZES), growth, rests) for what, of, growth, rests in grown(model, given.gib)]
    print(table(("training queries", *(f"{n:,}" for n in SIZES), "grows as", "rests on"), grows, right=len(SIZES)))
    print(table(("one machine ends", "training queries"), ends(model, given.gib), right=1))


if __name__ == "__main__":
    main()
