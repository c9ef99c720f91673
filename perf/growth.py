"""How the steps between the sources and a release grow: first stage, labelling, the unchanged pass, commits.

    TMPDIR=/var/tmp python perf/growth.py              # all of it, about fifteen minutes on two cores
    python perf/growth.py --only first-stage --first-stage 10000,30000
    python perf/growth.py --json growth.json           # what `sizing.py --growth` reads

Each size runs in a process of its own, on texts by rule: passages of 30 to 90 words; to be labelled 63 of 65 to 195
words a query, as in the home of docs/sizing.md. Compared are
seconds of a processor, which other work on the machine spoils less than the clock, and peak memory. The exponent is
log(last / first) of a figure by log(last / first) of the size: 1 is linear, 2 quadratic, 0 constant. Where a fixed part
(imports, a first commit) hides what grows, *each further thousand* tells it: between the last two sizes.

*Labelling* is `rankmill label` in the offline profile, three times: `bought` asks the stand-in teacher (a thread of the
same process, so that its time is in it), `stored` goes over the same answers into a new lake, as after a kill, and
`unchanged` finds everything made. *Chains* and *passages* are curation and release by `warehouse.py`, with texts longer
than its own. Absent on purpose: how curation grows with lists (`warehouse.py`), and the engine alone (`engine.py`,
`resume.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from made_up import texts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from warehouse.lake import Append, CommitMessage, Lake, opened  # noqa: E402

PASSAGE_WORDS, QUERY_WORDS = 60, 30
LABEL_WORDS, PASSAGES_A_QUERY = 130, 63
PROMPT_WORDS, CHAIN_WORDS = 20 * PASSAGE_WORDS, 400
SEARCHES, DEPTH = 500, 100
UNITS = {
    "first-stage": "passages", "search": "queries", "commit": "exchanges", "label": "queries",
    "chains": "words of a chain", "passages": "words of a passage",
}  # fmt: skip
LISTS = 20_000  # of the two parts that are of curation
NO_CURATION = ("source", "release", "verify from the stored texts")  # phases of warehouse.py
Figures = dict[str, float]


def first_stage_of(passages: int, queries: int = SEARCHES) -> Figures:
    """Indexing so many passages and searching them; memory is what the process takes beyond its texts."""
    from ranking.retrieval import Bm25

    draw = np.random.default_rng(1)
    held, asked = passages_of(passages, draw).to_list(), texts(queries, QUERY_WORDS, draw).to_list()
    Bm25(["d"], ["warm up"])
    before, busy = forget_peak(), time.process_time()
    retriever = Bm25([f"d{number}" for number in range(passages)], held)
    indexed, index = time.process_time() - busy, status_mib("VmHWM") - before
    before, busy = forget_peak(), time.process_time()
    found = retriever.search(asked, DEPTH, [()] * queries)
    searched = time.process_time() - busy
    assert found["query"].n_unique() == queries  # each shares a frequent word with some passage
    return {
        "index s": indexed, "search ms a query": 1e3 * searched / queries,
        "MiB to index": index, "MiB to search": status_mib("VmHWM") - before,
    }  # fmt: skip


def passages_of(count: int, draw: np.random.Generator, words: int = PASSAGE_WORDS) -> pl.Series:
    """Passages of half as many words to half as many more, in a random order: of one length, many had one score."""
    lengths = range(words // 2, words * 3 // 2 + 1)
    each = -(-count // len(lengths))
    made = pl.concat([texts(each, words, draw) for words in lengths])
    return made.gather(draw.permutation(len(made))[:count])


def commit_of(exchanges: int, folder: Path) -> Figures:
    """One commit of so many label rows, prompts and chains in them, into a new lake."""
    draw = np.random.default_rng(2)
    keys = pl.Series(np.arange(exchanges)).cast(pl.String)
    frame = pl.DataFrame(
        {
            "domain": ["made_up"] * exchanges, "purpose": ["rank_teacher"] * exchanges, "key": "k" + keys,
            "request_id": "made_up/q" + keys, "messages": texts(exchanges, PROMPT_WORDS, draw),
            "reasoning": texts(exchanges, CHAIN_WORDS, draw), "content": ["[1] > [2]"] * exchanges,
        }
    )  # fmt: skip
    with TemporaryDirectory(dir=folder) as place, opened(Lake.at(Path(place))) as lake:
        lake.snapshot()
        busy, started = time.process_time(), time.perf_counter()
        lake.commit([Append("exchanges", frame)], CommitMessage("teacher_rankings", "perf", "perf"))
        spent, clock = time.process_time() - busy, time.perf_counter() - started
        stored = sum(file.stat().st_size for file in Path(place).rglob("*.parquet"))
    return {"s": spent, "s of the clock": clock, "bytes stored a byte of text": stored / text_bytes(frame)}


def text_bytes(frame: pl.DataFrame) -> int:
    """Bytes of the messages and chains of a frame."""
    return int(frame.select(pl.col("messages", "reasoning").str.len_bytes().sum()).sum_horizontal().item())


def label_of(queries: int, folder: Path) -> Figures:
    """`rankmill label` over so many queries: bought, from stored answers, and with everything made."""
    with TemporaryDirectory(dir=folder) as place:
        source, home = Path(place) / "made_up", Path(place) / "home"
        write_source(source, queries)
        figures: Figures = {}
        for turn in ("bought", "stored", "unchanged"):
            if turn == "stored":
                shutil.rmtree(home / "lake")
            command = [sys.executable, "-m", "rankmill.cli", "label", "--home", str(home), "--sources", str(source)]
            busy, clock, peak = measured(command, Path(place) / f"{turn}.log")
            figures |= {f"{turn} s": busy, f"{turn} s of the clock": clock, f"{turn} MiB": peak}
        figures |= stored_in(home / "exchanges.sqlite")
    return figures


def curation_of(option: str, words: int, folder: Path) -> Figures:
    """Curation of LISTS short lists (warehouse.py) whose chains or passages are so long; of its release the time alone.

    A release is written and read in pieces, whose memory is that of a piece.
    """
    command = [sys.executable, str(ROOT / "perf/warehouse.py"), "--only", "size", "--rows", str(LISTS)]
    command += ["--length", "4", "--folder", str(folder), option, str(words)]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    peak = max(gib for phase, gib in told["peaks"].items() if phase.split(":")[0] not in NO_CURATION)
    return {"s": sum(told["processor"].values()), "MiB": 1_024 * peak, "MiB of text": told["text_mib"]}


def stored_in(store: Path) -> Figures:
    """What lies in an exchange store, a call."""
    import sqlite3

    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        calls, prompts = connection.execute("SELECT count(*), sum(length(messages)) FROM exchanges").fetchone()
    return {"calls": float(calls), "prompt bytes": float(prompts), "store bytes a call": store.stat().st_size / calls}


def write_source(folder: Path, queries: int) -> None:
    """A source folder: each query is words of a passage, whose other words are its gold answer."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(3)
    passages = passages_of(queries * PASSAGES_A_QUERY, draw, LABEL_WORDS).to_list()
    with (folder / "passages.jsonl").open("w") as file:
        for number, text in enumerate(passages):
            file.write(json.dumps({"docid": f"d{number}", "text": text, "source": "perf", "license": "CC0-1.0"}) + "\n")
    held_out = max(2, queries // 100)
    with (folder / "queries.jsonl").open("w") as file, (folder / "qrels.tsv").open("w") as judged:
        for number in range(queries + held_out):
            place = number * PASSAGES_A_QUERY % len(passages)
            words = passages[place].split()
            row = {
                "qid": f"q{number}", "text": f"{number} " + " ".join(words[:QUERY_WORDS:2]),
                "gold_answer": " ".join(words[QUERY_WORDS:]), "split": "train" if number < queries else "dev",
                "source": "perf", "license": "CC0-1.0",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
            judged.write(f"q{number} 0 d{place} 1\n")


def measured(command: Sequence[str], log: Path) -> tuple[float, float, float]:
    """Seconds of a processor, seconds of the clock and peak MiB of a command. Raises CalledProcessError."""
    started = time.perf_counter()
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        print(log.read_text()[-2_000:], file=sys.stderr)
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024


def forget_peak() -> float:
    """MiB that this process holds, from where its peak is counted anew; Linux alone does that."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    return status_mib("VmRSS")


def status_mib(name: str) -> float:
    """A figure of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """By which power of the size a figure grows, from the first size to the last."""
    if len(sizes) < 2 or min(values[0], values[-1]) <= 0:
        return None
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """What each further unit adds, between the last two sizes."""
    return (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])


def short(value: float) -> str:
    """A figure in four digits, or whole."""
    return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"


def table(what: str, sizes: Sequence[int], found: Sequence[Figures]) -> str:
    """A row a figure, as Markdown."""
    head = ["figure", *(f"{size:,} {UNITS[what]}" for size in sizes), "exponent", "each further thousand"]
    lines = [f"**{what}**", "", f"| {' | '.join(head)} |", f"| --- | {' | '.join(['---:'] * (len(sizes) + 2))} |"]
    for name in found[0]:
        values = [one[name] for one in found]
        power = exponent(sizes, values)
        cells = [short(value) for value in values]
        cells += ["" if power is None else f"{power:.2f}", short(1_000 * slope(sizes, values)) if power else ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def one_size(what: str, size: int, folder: Path) -> Figures:
    """The figures of one part at one size."""
    if what == "first-stage":
        return first_stage_of(size)
    if what == "search":
        return {name: value for name, value in first_stage_of(10_000, size).items() if "search" in name}
    if what in ("chains", "passages"):
        return curation_of("--chain-words" if what == "chains" else "--passage-words", size, folder)
    return commit_of(size, folder) if what == "commit" else label_of(size, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-stage", default="30000,100000,300000", help="passages, with commas")
    parser.add_argument("--search", default="1000,10000", help="queries over 10,000 passages, with commas")
    parser.add_argument("--commit", default="3000,30000", help="exchanges in one commit, with commas")
    parser.add_argument("--label", default="500,2000", help="queries of a domain, with commas")
    parser.add_argument("--chains", default="40,1000", help="words of a chain, with commas")
    parser.add_argument("--passages", default="60,3000", help="words of a passage, with commas")
    parser.add_argument("--only", choices=list(UNITS))
    parser.add_argument("--folder", type=Path, default=None, help="Where lakes and homes are made; a real disk.")
    parser.add_argument("--json", type=Path, help="also put the figures there, beside those of other parts")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.size is not None:
        with TemporaryDirectory(dir=given.folder) as folder:
            print(json.dumps(one_size(given.only, given.size, Path(folder))))
        return
    told: dict[str, Any] = json.loads(given.json.read_text("utf-8")) if given.json and given.json.is_file() else {}
    for what in [given.only] if given.only else UNITS:
        sizes = [int(size) for size in getattr(given, what.replace("-", "_")).split(",")]
        found = []
        for size in sizes:
            call = [sys.executable, __file__, "--only", what, "--size", str(size)]
            call += ["--folder", str(given.folder)] if given.folder else []
            found.append(json.loads(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout))
        told[what] = {"sizes": sizes, "found": found}
        print(table(what, sizes, found) + "\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
