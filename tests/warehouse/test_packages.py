"""The seed's math and coding: read from the installed packages, complete, short enough, and the same every time."""

from __future__ import annotations

import ast

import polars as pl
import pytest

from warehouse.intake.packages import cut, reference_code, related_tasks, split_of, task_prose
from warehouse.intake.source_tables import SourceTables, gold_passages
from warehouse.intake.sources import PackageSource, read_source, seed_sources


@pytest.fixture(scope="module")
def math() -> SourceTables:
    return read_source(PackageSource("math"))


@pytest.fixture(scope="module")
def coding() -> SourceTables:
    return read_source(PackageSource("coding"))


def test_champ_gives_its_annotated_problems_concepts_and_solutions(math: SourceTables) -> None:
    assert math.queries.height == 223
    assert dict(math.passages["source"].value_counts().iter_rows()) == {"champ-concept": 88, "champ-solution": 270}
    grades = math.judgements.filter(pl.col("qid") == "champ-Inequality_23").select("docid", "grade")
    assert dict(grades.filter(pl.col("grade") == 2).iter_rows()) == {"champ-C_AMGM2": 2}
    related = set(grades.filter(pl.col("grade") == 1)["docid"])
    assert {"champ-C_AMGMn", "champ-C_self_inverse_sum"} <= related


def test_a_problems_own_solution_is_excluded_and_never_judged(math: SourceTables) -> None:
    own = math.queries.select("qid", pl.col("excluded_docids").alias("docid")).explode("docid")
    assert own.height == math.queries.height
    assert own.join(math.passages, on="docid", how="semi").height == own.height
    assert own.join(math.judgements, on=["qid", "docid"], how="semi").height == 0


def test_humaneval_gives_every_task_with_its_own_function_as_grade_two(coding: SourceTables) -> None:
    assert coding.queries.height == coding.passages.height == 164
    best = coding.judgements.filter(pl.col("grade") == 2)
    assert best.height == 164
    assert all(
        docid == qid.replace("humaneval-", "humaneval-code-") for qid, docid in best.select("qid", "docid").rows()
    )
    found = gold_passages(coding.queries, coding.passages)
    assert best.join(found, on=["qid", "docid"], how="semi").height >= 150


def test_related_tasks_are_mutual(coding: SourceTables) -> None:
    related = coding.judgements.filter(pl.col("grade") == 1)
    pairs = {
        (qid, docid.replace("humaneval-code-", "humaneval-")) for qid, docid in related.select("qid", "docid").rows()
    }
    assert pairs
    assert all((other, qid) in pairs for qid, other in pairs)
    assert ("humaneval-56", "humaneval-61") in pairs


def test_no_task_shows_its_examples_or_code(coding: SourceTables) -> None:
    assert not coding.queries["text"].str.contains(r">>>|➞|\bdef \w+\(").any()
    assert not coding.passages["text"].str.contains('"""', literal=True).any()


@pytest.mark.parametrize("domain", ["math", "coding"])
def test_passages_are_short_rows_carry_a_licence_and_all_splits_are_filled(
    domain: str, request: pytest.FixtureRequest
) -> None:
    tables: SourceTables = request.getfixturevalue(domain)
    assert tables.passages["text"].str.len_chars().max() <= 900
    assert set(tables.queries["license"]) == set(tables.passages["license"]) == {"MIT"}
    shares = dict(tables.queries["split"].value_counts(normalize=True).iter_rows())
    assert shares["train"] == pytest.approx(0.60, abs=0.08)
    assert shares["dev"] == pytest.approx(0.15, abs=0.06)
    assert shares["test"] == pytest.approx(0.25, abs=0.08)
    assert tables.rejections.height == 0
    assert tables.passages["text_sha256"].n_unique() == tables.passages.height


def test_reading_a_package_twice_gives_the_same_rows(math: SourceTables) -> None:
    assert read_source(PackageSource("math")).content_sha256 == math.content_sha256


def test_a_task_is_its_prose_up_to_the_examples_without_its_own_name() -> None:
    tree = ast.parse(
        'def add_all(xs):\n    """ add_all adds the\n    numbers up.\n\n    Example:\n    add_all([1]) == 1\n    """\n'
        "    # a remark\n    return sum(xs)\n"
    )
    assert task_prose(tree, "add_all") == "The function adds the numbers up."
    assert reference_code(tree) == "def add_all(xs):\n    return sum(xs)"


def test_a_definition_by_calls_is_kept_as_part_of_the_task() -> None:
    tree = ast.parse(
        'def f3(n):\n    """The f3 sequence is defined as follows:\n    f3(0) -> 0\n    f3(n) -> f3(n-1)\n'
        '    Return its n-th term.\n    >>> f3(5)\n    4\n    """\n    return 0\n'
    )
    assert task_prose(tree, "f3").endswith("f3(0) -> 0 f3(n) -> f3(n-1) Return its n-th term.")


def test_tasks_of_one_idea_are_related() -> None:
    prose = {"a": "Is it a prime?", "b": "Count the primes.", "c": "Primer on colours.", "d": "A palindrome."}
    assert related_tasks(prose) == {"a": ["b"], "b": ["a"], "c": [], "d": []}


def test_a_long_text_is_cut_at_a_boundary() -> None:
    assert cut("One. Two. Three.", r"(?<=[.]) ", 10) == "One. Two."
    assert cut("One. Two.", r"(?<=[.]) ", 10) == "One. Two."
    assert cut("abcdefghijkl", r"(?<=[.]) ", 10) == "abcdefghij"


def test_a_split_depends_on_the_id_alone() -> None:
    assert [split_of(f"q{i}") for i in range(6)] == [split_of(f"q{i}") for i in range(6)]
    assert {split_of(f"q{i}") for i in range(50)} == {"train", "dev", "test"}


def test_the_seed_has_four_domains(tmp_path: pytest.TempPathFactory) -> None:
    from pathlib import Path

    assert [source.domain for source in seed_sources(Path("seed"))] == ["complex_qa", "coding", "math", "web_search"]
