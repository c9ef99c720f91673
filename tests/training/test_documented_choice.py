"""The worked example of docs/recipes.md: its lines are put into a copy of the code, and a stage trains with them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from word_stages import make_words, write_rows

ROOT = Path(__file__).parents[2]
# Runs in the copy: a reinforcement stage by the recipe of the documentation, and what it tells.
TRAIN = """
import json, sys
from pathlib import Path
from training import host
host.settle()
from training import rl
from training.jobs import ModelRef, RlJob
from training.recipes import load_recipe
from test_systems import TINY
from training_toys import Lines

assert Path(rl.__file__).is_relative_to(Path.cwd()), rl.__file__
recipe = load_recipe(Path("recipes/reasonrank-precise.yaml"), TINY)
model, rows = json.loads(sys.argv[1]), Path(sys.argv[2])
job = RlJob(recipe=recipe, release="toy", rows=rows, model=ModelRef(**model), output=Path("models"), seed=1)
result = rl.run(job, Lines())
answer = "<think> so </think> <answer> [2] > [1] > [3] </answer>"
(worth,) = rl.reward_function(recipe)([[{"content": answer}]], [[0, 1]], [[0, 1, 2]])
print(json.dumps([recipe.name, recipe.reward.k, worth, list(result.history[0])]))
"""


def followed(text: str, folder: Path) -> list[str]:
    """Put the blocks of changes into the files that are named before them; the files."""
    changed = []
    name = ""
    for named, block in re.findall(r"`(\w+/[\w/]+\.py)`|```diff\n(.*?)```", text, re.DOTALL):
        if named:
            name = named
            continue
        lines = [line.removeprefix("   ") for line in block.rstrip(" ").splitlines()]
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
        path = folder / name
        code = path.read_text("utf-8")
        assert code.count(before) == 1, f"{name} holds {code.count(before)} times:\n{before}"
        path.write_text(code.replace(before, after), "utf-8")
        changed.append(name)
    return changed


def test_the_documented_choice_trains_when_its_lines_are_followed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8").split("## A choice of your own, with code")[1]
    for room in ("training", "ranking", "recipes", "profiles"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    rooms = {"training/seams/learning.py", "training/seams/__init__.py", "training/seams/material.py"}
    assert {*followed(text, tmp_path)} == rooms | {"ranking/rewards.py", "training/rl.py"}
    (written,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "recipes" / "reasonrank-precise.yaml").write_text(written, "utf-8")
    assert yaml.safe_load(written).keys() == {"extends", "reward"}

    words, rows = make_words(tmp_path / "words"), write_rows(tmp_path, "rl")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, words.model_dump_json(), str(rows)],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, k, worth, told = json.loads(done.stdout.splitlines()[-1])
    assert (name, k) == ("reasonrank-precise", 3) and abs(worth - 2 / 3) < 1e-9
    assert {"reward", "precision", "malformed_rate"} <= {*told}
    # And it is code as the rest of the house is; imports cannot be sorted where not all rooms are.
    lint = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    subprocess.run([*lint, "--extend-ignore", "I001", "training", "ranking"], check=True, cwd=tmp_path)
