"""The training set at a million rows: filters, copies, decontamination and a release into a real lake.

    python perf/warehouse.py [--rows 100000,1000000] [--benchmark-items 20000] [--length 20] [--chain-words 40]
                             [--passage-words 60] [--folder DIR] [--time-limit 3600] [--json FILE]
    python perf/warehouse.py --only decontamination | near-copies

The lists are made by rule from a Zipf vocabulary: N queries of 30 words, N / 5 passages of 60 words, 20 to a list,
with planted copies: of queries, of passages under opposite labels, and of benchmark items. Each size runs in a process
of its own (its peak memory is its own) against a lake of its own, and the last size is compared with the first. What
was planted must come back, and nothing else, or the run fails.

Beside it, on the same texts in the same process: 13-gram decontamination against plain Python sets of strings, which
must find the same pairs; and near copies against exact all-pairs on 5,000 texts.

Absent on purpose: making labels, and reading a release back (training reads it once).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from made_up import texts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from warehouse.curation.benchmark_index import DISTINCT, ITEMS, NGRAM, BenchmarkIndex  # noqa: E402
from warehouse.curation.curate import Curated, ReleaseSettings, curate, pipeline  # noqa: E402
from warehouse.curation.filters import PASSAGES, ROWS, Lists  # noqa: E402
from warehouse.curation.releases import release_writes, stored_digests  # noqa: E402
from warehouse.curation.rows import release_sha256  # noqa: E402
from warehouse.curation.sketches import near_pairs  # noqa: E402
from warehouse.curation.words import normalised  # noqa: E402
from warehouse.lake import CommitMessage, Lake, opened  # noqa: E402

QUERY_WORDS, PASSAGE_WORDS, CHAIN_WORDS = 30, 60, 40
SHARE = 0.01  # of lists that get each kind of planted fault
BETWEEN = "split, ids and digests"
MINUTES, GIBIBYTES, GROWTH, FASTER = 10.0, 8.0, 12.0, 5.0


@dataclass(frozen=True)
class Size:
    """How many lists of how many passages, how many benchmark items, and how long the texts are, in words."""

    rows: int
    length: int
    items: int
    passage_words: int
    chain_words: int


def source(size: Size, seed: int) -> tuple[Lists, pl.DataFrame, dict[str, set[str]]]:
    """Lists, benchmark items, and the ranking ids of what was planted, by reason."""
    rows, length, items = size.rows, size.length, size.items
    draw = np.random.default_rng(seed)
    pool = max(length + 1, rows // 5)
    queries, passages = texts(rows, QUERY_WORDS, draw), texts(pool, size.passage_words, draw)
    benchmark = pl.concat([texts(items // 2, QUERY_WORDS, draw), texts(items - items // 2, PASSAGE_WORDS, draw)])
    count = max(1, min(int(rows * SHARE), items // 2))
    chosen = draw.permutation(rows)[: 4 * count].reshape(4, count)
    exact, near, dirty, opposite = chosen
    copied = np.isin(np.arange(rows), chosen[:2])  # they come last in (domain, qid) order, so that the originals stay
    originals = np.setdiff1d(np.arange(rows), chosen.reshape(-1))[: 2 * count]
    words = queries.to_frame("text").with_row_index("place")
    changed = {
        **dict(zip(exact.tolist(), queries.gather(originals[:count]).str.to_uppercase(), strict=True)),
        **dict(zip(near.tolist(), queries.gather(originals[count:]) + " indeed", strict=True)),
        **dict(zip(dirty.tolist(), "So, " + benchmark.gather(draw.permutation(items // 2)[:count]) + "!", strict=True)),
    }
    queries = words.with_columns(
        text=pl.col("place").replace_strict(changed, default=pl.col("text"), return_dtype=pl.String)
    )["text"]
    passages = pl.concat([passages[: pool - 1], passages[:1].str.to_uppercase()])  # the last is a copy of the first
    # Sorted and stepped: no list holds a passage twice, and none but the planted ones the first or the last.
    held = np.sort(draw.integers(1, pool - length, (rows, length)), axis=1) + np.arange(length)
    held[opposite, 0], held[opposite, 1] = 0, pool - 1
    order = np.tile(np.arange(length), (rows, 1))
    ids = pl.Series(np.arange(rows)).cast(pl.String)
    frame = pl.DataFrame(
        {
            "ranking_id": "r" + ids, "domain": pl.Series(["coding", "math"]).gather((np.arange(rows) % 2) | copied),
            "qid": pl.Series(["q", "z"]).gather(copied.astype(int)) + ids, "query": queries,
            "final_order": pl.Series(order[:, ::-1].copy()).arr.to_list(),
            "relevant": pl.Series(order[:, :1].copy()).arr.to_list(),
            "reasoning": texts(rows, size.chain_words, draw), "exchange_key": "k" + ids,
            "consistency": draw.random(rows), "agreement": draw.random(rows),
        }
    )  # fmt: skip
    names = "d" + pl.Series(np.arange(pool)).cast(pl.String)
    docids = names.gather(held.reshape(-1)).reshape((rows, length)).arr.to_list()
    said = {
        "prompt_sha256": "p",
        "judge": "synthetic",
        "source": "perf",
        "license": "CC0-1.0",
        "url": None,
        "gold_answer": None,
    }
    constants = [pl.lit(value, pl.String).alias(name) for name, value in said.items()]
    lists = Lists(
        frame.with_columns(docids, *constants).rename({docids.name: "docids"}).select(list(ROWS)).cast(ROWS),
        pl.concat(
            [
                pl.DataFrame({"docid": names, "text": passages}).with_columns(
                    domain=pl.lit(domain), source=pl.lit("perf"), license=pl.lit("CC0-1.0")
                )
                for domain in ("coding", "math")
            ]
        ).select(list(PASSAGES)),
    )  # fmt: skip
    never = pl.DataFrame(
        {
            "benchmark": ["bench"] * items, "item": [f"b{n}" for n in range(items)],
            "unit": ["query"] * (items // 2) + ["passage"] * (items - items // 2), "text": benchmark,
            "held_out": [False] * items,
        }
    ).select(list(ITEMS))  # fmt: skip
    planted = {
        "duplicate_query": exact, "near_duplicate_query": near, "contaminated": dirty, "opposite_labels": opposite,
    }  # fmt: skip
    return lists, never, {reason: {f"r{n}" for n in places.tolist()} for reason, places in planted.items()}


def one_size(size: Size, folder: Path) -> dict[str, Any]:
    """Seconds and peak memory of each phase, and whether what was planted came back."""
    lists, never, planted = source(size, seed=size.rows)
    text = sum(int(held.str.len_bytes().sum()) for held in (lists.rows["reasoning"], lists.passages["text"]))
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    peaks = {"source": _peak_since()}
    settings = ReleaseSettings()

    between: list[float] = []

    def timed(phase: str, work: Callable[[], Any]) -> Any:
        _peak_since()
        started, busy = time.perf_counter(), time.process_time()
        done = work()
        seconds[phase], processor[phase] = time.perf_counter() - started, time.process_time() - busy
        peaks[phase] = _peak_since()
        return done

    def filtered(name: str, work: Callable[[], Any]) -> Any:
        between.append(_peak_since())
        return timed(name, work)

    # Phase by phase as curate does it, so that each can be told apart.
    made: Curated = timed("curate", lambda: curate(lists, never, settings, watch=filtered))
    for clock in (seconds, processor):
        clock[BETWEEN] = clock.pop("curate") - sum(s for name, s in clock.items() if name != "curate")
    peaks[BETWEEN] = max(*between, peaks.pop("curate"))
    with TemporaryDirectory(dir=folder) as place, opened(Lake.at(Path(place))) as lake:
        lake.snapshot()
        name, writes = timed(
            "release: name",
            lambda: release_writes(
                lake, made, domains=["coding", "math"], read_snapshot=0, settings=settings.model_dump(mode="json"),
                code_version="perf",
            ),
        )  # fmt: skip
        timed("release: write and commit", lambda: lake.commit(writes, CommitMessage("training_set", "perf", "perf")))
        stored = sum(file.stat().st_size for file in Path(place).rglob("*.parquet"))
        verified = timed("verify from the stored texts", lambda: release_sha256(stored_digests(lake, name)) == name)
    fallen = dict(made.rejections().select("key", "reason").iter_rows())
    missed = {reason: len([key for key in keys if fallen.get(key) != reason]) for reason, keys in planted.items()}
    every = set().union(*planted.values())
    return {
        "rows": size.rows, "kept": made.rows.height, "seconds": seconds, "processor": processor,
        "total": sum(seconds.values()),
        "peak_gib": max(peaks.values()), "peaks": peaks, "stored_gib": stored / 2**30, "verified": verified,
        "text_mib": text / 2**20,
        "planted": {reason: len(keys) for reason, keys in planted.items()}, "missed": missed,
        "clean_rejected": len([key for key in fallen if key not in every]),
        "reasons": made.rejections()["reason"].value_counts().rows(),
        "filters": [name for name, _ in pipeline(settings, never)], "release": name,
    }  # fmt: skip


def decontamination(count: int, items: int) -> dict[str, Any]:
    """Our 13-gram test beside a set of strings for every item's 13-grams, on the same texts."""
    draw = np.random.default_rng(7)
    benchmark = texts(items, PASSAGE_WORDS, draw)
    training = texts(count, PASSAGE_WORDS, draw)
    planted = draw.integers(0, items, count // 100)
    pieces = benchmark.gather(planted).str.split(" ").list.slice(20, 15).list.join(" ")
    training = pl.concat([training[: count - len(pieces)], "Well, " + pieces.str.to_titlecase() + "; so?"])
    never = pl.DataFrame(
        {"benchmark": "bench", "item": pl.Series(range(items)).cast(pl.String), "unit": "passage", "text": benchmark,
         "held_out": False}
    ).select(list(ITEMS))  # fmt: skip
    started = time.perf_counter()
    index = BenchmarkIndex(never)
    found = index.find(training, near=None)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    theirs_found = with_sets(training.to_list(), benchmark.to_list())
    theirs = time.perf_counter() - started
    mine = set(found.select("text", "item").rows())
    return {"texts": count, "items": items, "ours_s": ours, "sets_s": theirs, "faster": theirs / ours,
            "found": len(mine), "same": mine == theirs_found}  # fmt: skip


def with_sets(training: list[str], benchmark: list[str]) -> set[tuple[int, int]]:
    """What anybody would write: a dictionary from 13-gram to the items that hold it."""
    word = re.compile(r"[^\W_]+")
    grams: dict[str, set[int]] = {}
    for number, text in enumerate(benchmark):
        words = word.findall(text.lower())
        for start in range(len(words) - NGRAM + 1):
            run = words[start : start + NGRAM]
            if len(set(run)) >= DISTINCT:
                grams.setdefault(" ".join(run), set()).add(number)
    known, found = set(grams), set[tuple[int, int]]()
    for number, text in enumerate(training):
        words = word.findall(text.lower())
        mine = {" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}
        for gram in mine & known:
            found.update((number, item) for item in grams[gram])
    return found


def near_copies(count: int) -> dict[str, Any]:
    """Near copies among `count` texts against exact all-pairs."""
    draw = np.random.default_rng(11)
    base = texts(count * 4 // 5, PASSAGE_WORDS, draw).to_list()
    copies = []
    for text in base[: count - len(base)]:
        words = text.split()
        for place in draw.choice(len(words), draw.integers(0, 10), replace=False):
            words[place] = f"new{draw.integers(10**9)}"
        copies.append(" ".join(words))
    every = [*base, *copies]
    sets = [set(zip(w, w[1:], w[2:], strict=False)) for w in normalised(pl.Series(every)).str.split(" ")]
    started = time.perf_counter()
    exact = {}
    for left, right in combinations(range(len(every)), 2):
        shared = len(sets[left] & sets[right])
        if shared:
            exact[left, right] = shared / (len(sets[left]) + len(sets[right]) - shared)
    all_pairs = time.perf_counter() - started
    figures: dict[str, Any] = {"texts": len(every), "all_pairs_s": all_pairs}
    for threshold in (0.9, 0.7):
        started = time.perf_counter()
        found = set(near_pairs(pl.Series(every), threshold).select("left", "right").rows())
        expected = {pair for pair, similar in exact.items() if similar >= threshold}
        figures[f"at {threshold}"] = {
            "seconds": time.perf_counter() - started, "pairs": len(expected), "missed": len(expected - found),
            "false": len(found - expected),
        }  # fmt: skip
    return figures


def _peak_since() -> float:
    """GiB of this process at its largest since the last call; Linux alone tells and forgets it."""
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    return int(told[1]) / 2**20 if told else 0.0


def _show_size(told: dict[str, Any]) -> None:
    print(f"\n{told['rows']:,} lists, filters: {', '.join(told['filters'])}; source {told['peaks']['source']:.2f} GiB")
    for phase, seconds in told["seconds"].items():
        print(f"  {phase:<32} {seconds:8.1f} s {told['processor'][phase]:8.1f} s of a processor, "
              f"peak {told['peaks'][phase]:5.2f} GiB")  # fmt: skip
    print(f"  {'together':<32} {told['total']:8.1f} s {sum(told['processor'].values()):8.1f} s of a processor, "
          f"peak {told['peak_gib']:5.2f} GiB; {told['stored_gib']:.2f} GiB stored; {told['kept']:,} kept")  # fmt: skip
    print(f"  planted {told['planted']}, missed {told['missed']}, clean lists rejected: {told['clean_rejected']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--benchmark-items", type=int, default=20_000)
    parser.add_argument("--chain-words", type=int, default=CHAIN_WORDS, help="A teacher that reasons writes thousands.")
    parser.add_argument("--passage-words", type=int, default=PASSAGE_WORDS)
    parser.add_argument("--only", choices=["size", "decontamination", "near-copies"])
    parser.add_argument("--folder", type=Path, default=None, help="Where the lake is made; a real disk.")
    parser.add_argument("--time-limit", type=float, default=3600)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    sizes = [int(size) for size in chosen.rows.split(",")]
    if chosen.only == "size":
        size = Size(sizes[0], chosen.length, chosen.benchmark_items, chosen.passage_words, chosen.chain_words)
        with TemporaryDirectory(dir=chosen.folder) as place:
            print(json.dumps(one_size(size, Path(place))))
        return
    told: dict[str, Any] = {}
    faults = []
    if chosen.only is None:
        folder = chosen.folder or Path.cwd()
        print(f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB free in {folder}")
        ran = []
        for rows in sizes:
            call = [sys.executable, __file__, "--only", "size", "--rows", str(rows), "--length", str(chosen.length),
                    "--benchmark-items", str(chosen.benchmark_items), "--chain-words", str(chosen.chain_words),
                    "--passage-words", str(chosen.passage_words), "--folder", str(folder)]  # fmt: skip
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, timeout=chosen.time_limit, check=True)
            ran.append(json.loads(done.stdout.splitlines()[-1]))
            _show_size(ran[-1])
            faults += [f"{rows:,} lists: {n} {why} missed" for why, n in ran[-1]["missed"].items() if n]
            faults += [f"{rows:,} lists: {ran[-1]['clean_rejected']} clean ones rejected"] * bool(
                ran[-1]["clean_rejected"]
            )
            faults += [] if ran[-1]["verified"] else [f"{rows:,} lists: the release does not hash to its name"]
        last, ratio = ran[-1], ran[-1]["total"] / ran[0]["total"]
        print(f"\ngrowth {ratio:.1f}x for {last['rows'] / ran[0]['rows']:.0f}x the lists")
        if last["total"] > MINUTES * 60:
            faults.append(f"{last['total'] / 60:.1f} minutes, more than {MINUTES:g}")
        if last["peak_gib"] > GIBIBYTES:
            faults.append(f"{last['peak_gib']:.1f} GiB, more than {GIBIBYTES:g}")
        if ratio > GROWTH * last["rows"] / ran[0]["rows"] / 10:
            faults.append(f"growth of {ratio:.1f}x")
        told |= {"sizes": ran, "growth": ratio}
    if chosen.only in (None, "decontamination"):
        told["decontamination"] = figures = decontamination(100_000, 2_000)
        print(f"\n13-grams of {figures['texts']:,} texts against {figures['items']:,} items: ours "
              f"{figures['ours_s']:.1f} s, "
              f"Python sets {figures['sets_s']:.1f} s: {figures['faster']:.1f}x; same {figures['found']:,} findings: "
              f"{figures['same']}")  # fmt: skip
        faults += [] if figures["same"] else ["findings differ from those of Python sets"]
        faults += [] if figures["faster"] >= FASTER else [f"only {figures['faster']:.1f}x Python sets"]
    if chosen.only in (None, "near-copies"):
        told["near_copies"] = near = near_copies(5_000)
        print(f"\nnear copies among {near['texts']:,} texts (all pairs: {near['all_pairs_s']:.0f} s): "
              f"at 0.9 {near['at 0.9']}, at 0.7 {near['at 0.7']}")  # fmt: skip
        faults += [f"{near['at 0.9']['missed']} pairs of 0.9 missed"] * bool(near["at 0.9"]["missed"])
        faults += ["more than 1 % false at 0.7"] * (near["at 0.7"]["false"] > 0.01 * near["at 0.7"]["pairs"])
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1))
    if faults:
        sys.exit("falls short: " + "; ".join(faults))


if __name__ == "__main__":
    main()
