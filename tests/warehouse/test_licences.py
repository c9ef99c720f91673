"""Licences: what may be trained on, what may be published, and how a source's words become an SPDX expression."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from clean_lists import faults, judge, lists, row

from warehouse.curation.filters import Lists
from warehouse.curation.licences import (
    REASONS,
    LicencePolicy,
    LicencePolicyError,
    allowed,
    hindrances,
    licences,
    read_policy,
    spdx,
)

POLICY = read_policy()
EXCERPT = "MIT (dataset); web text (c) its publisher"


def with_license(given: Lists, docid: str, license: str | None) -> Lists:
    changed = pl.when(pl.col("docid") == docid).then(pl.lit(license, pl.String)).otherwise("license")
    return Lists(given.rows, given.passages.with_columns(license=changed))


def test_a_query_outside_train_is_rejected_with_its_licence_named() -> None:
    judged = judge(licences(POLICY), lists(row("closed", license="GPL-3.0-only")))
    assert faults(judged) == {("closed", "rejected", "licence_not_allowed")}
    assert "GPL-3.0-only of query" in judged.decisions["detail"].to_list()


def test_a_list_is_under_the_licence_of_every_passage_it_shows() -> None:
    given = with_license(lists(row("other", docids=["d1", "d2", "d4"])), "d4", "CC-BY-NC-4.0")
    judged = judge(licences(POLICY), given)
    assert faults(judged) == {("other", "rejected", "licence_not_allowed")}
    assert "CC-BY-NC-4.0 of passage d4" in judged.decisions["detail"].to_list()


@pytest.mark.parametrize("statement", ["NOASSERTION", "", "  ", None])
def test_an_unstated_licence_is_trained_on_and_not_published(statement: str | None) -> None:
    given = lists(row("silent", license=statement))
    judged = judge(licences(POLICY), given)
    assert faults(judged) == {("silent", "warned", "licence_not_stated")}
    strict = licences(POLICY.model_copy(update={"unstated": "reject"}))
    assert faults(judge(strict, given)) == {("silent", "rejected", "licence_not_stated")}


def test_excerpts_of_web_pages_are_trained_on_and_hinder_publishing() -> None:
    judged = judge(licences(POLICY), with_license(lists(row("web", docids=["d1", "d2", "d4"])), "d4", EXCERPT))
    assert faults(judged) == {("web", "warned", "licence_not_publishable")}
    found = hindrances(judged.decisions, judged.lists.rows["ranking_id"])
    assert found.select("reason", "rows").rows() == [("licence_not_publishable", 1)]
    assert EXCERPT in found["detail"][0]
    assert hindrances(judged.decisions, pl.Series(["clean"])).is_empty()


@pytest.mark.parametrize(
    ("statement", "expression"),
    [
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"), ("CC BY 4.0", "CC-BY-4.0"), ("cc by-sa 2.5", "CC-BY-SA-2.5"),
        ("CC BY-NC-SA 3.0", "CC-BY-NC-SA-3.0"), ("MIT", "MIT"), ("Apache 2.0", "Apache-2.0"), ("", "NOASSERTION"),
        (EXCERPT, "MIT AND LicenseRef-web-excerpt"),
    ],
)  # fmt: skip
def test_a_sources_words_become_an_spdx_expression(statement: str, expression: str) -> None:
    assert spdx(statement, POLICY) == expression


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True), ("mit", True), ("Apache-2.0", False), ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False), ("(MIT AND CC-BY-4.0) OR GPL-3.0-only", True),
        ("no such licence at all", False),
        ("LicenseRef-own", True), ("LicenseRef-other", False), ("MIT WITH Classpath-exception-2.0", True), ("", False),
        ("MIT AND (", False),
    ],
)  # fmt: skip
def test_one_side_of_an_or_and_every_side_of_an_and(expression: str, met: bool) -> None:
    assert allowed(expression, ["MIT", "CC-BY-4.0", "LicenseRef-own"]) is met


def test_a_policy_file_is_read_and_a_profile_may_name_it(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("train: [MIT]\npublish: []\n")
    policy = LicencePolicy.model_validate(str(path))
    assert (policy.train, policy.publish, policy.unstated) == (("MIT",), (), "warn")
    judged = judge(licences(policy), lists(row("open", license="MIT"), license="MIT"))
    assert faults(judged) == {
        ("clean", "rejected", "licence_not_allowed"), ("clean", "warned", "licence_not_publishable"),
        ("open", "warned", "licence_not_publishable"),
    }  # fmt: skip
    assert LicencePolicy.model_validate(policy.model_dump()) == policy


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("train: [MIT]\npublish: [MIT, ISC]\n", "ISC may be published but not trained on"),
        ("- MIT\n", "holds no policy"), ("train: [", "is not YAML"), ("train: [MIT]\n", "publish"),
        ("train: [MIT]\npublish: []\nelse: 1\n", "else"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_used_says_why(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(LicencePolicyError, match=told):
        read_policy(path)


def test_a_missing_file_and_an_id_that_spdx_lacks_are_named() -> None:
    with pytest.raises(LicencePolicyError, match=r"there is no file /nowhere\.yaml"):
        read_policy("/nowhere.yaml")
    with pytest.raises(LicencePolicyError, match="MITT is no SPDX id"):
        licences(LicencePolicy(train=("MITT", "LicenseRef-mine"), publish=()))


def test_every_reason_is_explained() -> None:
    assert set(REASONS) == {"licence_not_allowed", "licence_not_stated", "licence_not_publishable"}
