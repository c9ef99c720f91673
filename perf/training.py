"""Supervised training, side by side: our SFT, bare TRL with the same settings, and TRL without grouping by length.

    python perf/training.py --rows ROWS.parquet [--passages 3] [--passage-tokens 64] [--batch 4] [--examples 64]
                            [--rounds 1] [--only NAMES] [--json FILE]

SmolLM2-135M learns real lists (the `sft` rows of a release): prompt, passages, chain and answer as
`recipes/reasonrank.yaml` makes them. Each contestant runs in a process of its own, once through the same examples (see
`learning.py`); its figure is the tokens that are no padding by the seconds that they took. A figure is the median over
the rounds, a ratio the median of the ratios within a round. Exits with 1 where ours is slower than bare TRL, or not at
least 1.3 times as quick as TRL without grouping. Absent on purpose: packing, under which the passages of one list would
see another's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from contest import Contestant

PERF = Path(__file__).resolve().parent
sys.path.insert(0, str(PERF.parent))  # `training` is the room, not this file
BARE, PLAIN = "TRL", "TRL, no grouping"
LEAST_RATIOS = {BARE: 1.0, PLAIN: 1.3}


@dataclass(frozen=True)
class Learned:
    """What a contestant took in one round."""

    contestant: str
    round: int
    seconds: float
    tokens: int
    padding: float
    losses: list[float]

    @property
    def rate(self) -> float:
        """Non-padding tokens a second."""
        return self.tokens / self.seconds


def entries() -> list[Contestant]:
    """Everybody, in the order in which they run."""
    here, pip = Path(sys.executable), "pip install -e ."
    return [
        Contestant("ours", "our_training", "rankmill", here, pip),
        Contestant(BARE, "peers.trl_sft", "trl", here, pip),
        Contestant(PLAIN, "peers.trl_sft", "trl", here, pip),
    ]


def write_task(
    folder: Path, rows: Path, count: int, passages: int, passage_tokens: int, batch: int
) -> tuple[list[str], str]:
    """The job and `count` of its examples; the arguments that name them, and what they are in words."""
    from training.checkpoints import read_rows
    from training.examples import sft_examples, whole_length
    from training.jobs import SftJob, base_model, write_job
    from training.recipes import load_recipe
    from training.student import load_tokenizer, resolve

    changes: dict[str, Any] = {
        "units": {"max_passages": passages, "passage_tokens": passage_tokens, "query_tokens": None},
        "contract": {"chain_tokens": 64},
        "objective": {"lr": 2e-5, "epochs": 1, "batch": batch, "accumulation": 1, "max_tokens": 8192},
        "model": {"base": "smollm2", "gradient_checkpointing": False},
    }
    recipe = load_recipe(PERF.parent / "recipes" / "reasonrank.yaml", changes)
    job = SftJob(recipe=recipe, release="perf", rows=rows, model=base_model(recipe), output=folder)
    model = resolve(job.model, folder)
    tokenizer = load_tokenizer(model)
    examples, left_out = sft_examples(read_rows(rows, "sft"), recipe, tokenizer, 0)
    examples = random.Random(0).sample(examples, min(count, len(examples)))
    lengths = [whole_length(tokenizer, recipe, example) for example in examples]
    lines = [json.dumps({"row_id": e.row_id, "prompt": e.prompt, "completion": e.completion}) for e in examples]
    path = folder / "examples.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    told = f"{len(lengths)} lists of {min(lengths)} to {max(lengths)} tokens, {median(lengths):.0f} in the middle"
    arguments = ["--job", str(write_job(job)), "--model", str(model), "--examples", str(path), "--batch", str(batch)]
    return arguments, f"{told}; {len(left_out)} left out"


def learn(entry: Contestant, arguments: list[str], folder: Path, number: int) -> Learned:
    """One round of one contestant; raises CalledProcessError where it fails."""
    report = folder / "report.json"
    command = [str(entry.python), "-m", entry.module, *arguments, "--report", str(report)]
    command += ["--shuffled"] if entry.name == PLAIN else []
    subprocess.run(command, cwd=PERF, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Learned(entry.name, number, **json.loads(report.read_text(encoding="utf-8")))


def ratio(found: list[Learned], name: str) -> float | None:
    """Ours to a contestant, in the middle of the rounds; None where one of both did not run."""
    ours = {one.round: one.rate for one in found if one.contestant == "ours"}
    ratios = [ours[one.round] / one.rate for one in found if one.contestant == name and one.round in ours]
    return median(ratios) if ratios else None


def short_of(found: list[Learned]) -> list[str]:
    """The ratios that are less than they have to be, in words."""
    ratios = {name: ratio(found, name) for name in LEAST_RATIOS}
    return [
        f"{value:.2f} to {name}, where {LEAST_RATIOS[name]} is the least"
        for name, value in ratios.items()
        if value is not None and value < LEAST_RATIOS[name]
    ]


def table(found: list[Learned], names: list[str]) -> str:
    """Tokens a second, ratios and padding, a row a contestant."""
    lines = ["| contestant | tokens/s | ours to it | padding | tokens |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in names:
        mine = [one for one in found if one.contestant == name]
        value = ratio(found, name)
        to_it = "-" if value is None else f"{value:.2f}"
        rate = median(one.rate for one in mine)
        lines.append(f"| {name} | {rate:,.1f} | {to_it} | {mine[0].padding:.1%} | {mine[0].tokens:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Supervised training, side by side with TRL.")
    parser.add_argument("--rows", type=Path, required=True, help="rows.parquet of a release")
    parser.add_argument("--passages", type=int, default=3, help="in a list")
    parser.add_argument("--passage-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--examples", type=int, default=64, help="how many lists are learned")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", help="contestants, separated by semicolons")
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()

    everybody = [entry for entry in entries() if given.only is None or entry.name in given.only.split(";")]
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    found: list[Learned] = []
    with TemporaryDirectory(prefix="perf-") as name:
        folder = Path(name)
        arguments, told = write_task(
            folder, given.rows.absolute(), given.examples, given.passages, given.passage_tokens, given.batch
        )
        print(f"{told}.\n{machine}, load {os.getloadavg()[0]:.1f} at the start.\n")
        for entry in everybody:
            print(f"- {entry.name}: {entry.package} {entry.version()}")
        for number in range(1, given.rounds + 1):
            for entry in everybody:
                found.append(learn(entry, arguments, folder, number))
    print("\n" + table(found, [entry.name for entry in everybody]))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "found": [asdict(one) for one in found]}, indent=1))
    if short := short_of(found):
        sys.exit(f"Not as it has to be: {'; '.join(short)}.")


if __name__ == "__main__":
    main()
