"""Drift: each measure moves alone, is told at its bound, and chance alone raises no alarm."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import ks_2samp
from small_lake import message

from warehouse.audit.drift import DRIFT, Bound, DriftBounds, drift, kolmogorov_smirnov
from warehouse.curation.releases import UnknownRelease
from warehouse.curation.rows import ROW_SCHEMA
from warehouse.lake import Append, Lake, Replace

BOUNDS = DriftBounds()
ROWS = 400
MEASURES = ["domain_mix", "list_length", "positives", "consistency", "chain_length", "sample_agreement"]


def rows(**columns: Any) -> pl.DataFrame:
    """A release's rows with lists of 10 passages, 1 to 4 of them relevant; `columns` replace a value or all values."""
    plain = {
        "row_id": [f"r{n:04}" for n in range(ROWS)],
        "domain": ["math" if n % 2 else "coding" for n in range(ROWS)],
        "docids": [[f"d{place}" for place in range(10)]] * ROWS,
        "relevant": [list(range(1 + n % 4)) for n in range(ROWS)],
        "consistency": [0.4 + 0.6 * (n * 37 % ROWS) / ROWS for n in range(ROWS)],
        "reasoning": ["word " * (40 + n * 13 % 30) for n in range(ROWS)],
        "agreement": [0.5 + 0.5 * (n * 7 % ROWS) / ROWS for n in range(ROWS)],
    }
    return pl.DataFrame({**plain, **columns}, schema_overrides={"agreement": pl.Float64})


def store(lake: Lake, release: str, frame: pl.DataFrame, kappa: float = 0.6) -> None:
    figures = f'{{"teacher_kappa": {kappa}, "teacher_pairs": 100.0}}'
    made = pl.DataFrame({"asset": ["mined_judgements"], "partition_key": ["math"], "figures": [figures]})
    at = lake.commit([Replace("materializations", made)], message("mined_judgements"))
    entry = pl.DataFrame({"release": [release], "domains": [["math", "coding"]], "read_snapshot": [at]})
    whole = frame.with_columns(release=pl.lit(release))
    held = whole.with_columns(pl.lit(None, kind).alias(n) for n, kind in ROW_SCHEMA.items() if n not in whole.columns)
    lake.commit([Append("training_rows", held.select(list(ROW_SCHEMA))), Append("releases", entry)], message("release"))


def levels(lake: Lake, before: pl.DataFrame, after: pl.DataFrame, kappa: float = 0.6) -> dict[str, str]:
    store(lake, "aaaa", before)
    store(lake, "bbbb", after, kappa)
    told = drift(lake, "aa", "bb", BOUNDS)
    assert told.schema == DRIFT
    return dict(told.select("measure", "level").iter_rows())


def test_a_release_has_not_drifted_from_itself(lake: Lake) -> None:
    store(lake, "aaaa", rows())
    told = drift(lake, "aaaa", "aaaa", BOUNDS)
    assert told["measure"].to_list() == [*MEASURES, "teacher_kappa"]
    assert told["distance"].to_list() == [0.0] * 7
    assert set(told["level"]) == {"ok"}


MOVED: dict[str, dict[str, Any]] = {
    "domain_mix": {"domain": ["math"] * 380 + ["coding"] * 20},
    "list_length": {"docids": [["d"] * 20] * ROWS},
    "positives": {"relevant": [[0]] * ROWS},
    "consistency": {"consistency": [0.41] * ROWS},
    "chain_length": {"reasoning": ["word " * 400] * ROWS},
    "sample_agreement": {"agreement": [0.5] * ROWS},
}


@pytest.mark.parametrize("measure", MOVED)
def test_a_measure_that_moved_far_is_an_error_and_the_others_are_not(lake: Lake, measure: str) -> None:
    told = levels(lake, rows(), rows(**MOVED[measure]))
    assert told == {name: "error" if name == measure else "ok" for name in [*MEASURES, "teacher_kappa"]}


def test_a_measure_between_its_bounds_is_a_warning_with_the_bound_it_passed(lake: Lake) -> None:
    store(lake, "aaaa", rows())
    store(lake, "bbbb", rows(domain=["math"] * 280 + ["coding"] * 120))
    told = drift(lake, "a", "b", BOUNDS).filter(pl.col("measure") == "domain_mix").row(0, named=True)
    assert (told["level"], told["bound"]) == ("warning", BOUNDS.domain_mix.warning)
    assert told["distance"] == pytest.approx(0.2)
    assert (told["before"], told["after"]) == (0.5, 0.3)
    assert "share of coding" in told["detail"]


@pytest.mark.parametrize(("kappa", "level"), [(0.65, "ok"), (0.45, "warning"), (0.2, "error")])
def test_the_teachers_agreement_with_people_is_compared_as_it_was_then(lake: Lake, kappa: float, level: str) -> None:
    assert levels(lake, rows(), rows(), kappa)["teacher_kappa"] == level


def test_few_rows_differ_by_chance_and_are_told_so(lake: Lake) -> None:
    store(lake, "aaaa", rows().head(6))
    store(lake, "bbbb", rows().tail(6).with_columns(consistency=pl.lit(0.5)))
    told = drift(lake, "a", "b", BOUNDS).filter(pl.col("measure") == "consistency").row(0, named=True)
    assert told["distance"] > BOUNDS.consistency.error
    assert told["level"] == "ok" and "by chance" in told["detail"]


def test_what_a_release_has_not_is_left_out(lake: Lake) -> None:
    told = levels(lake, rows(agreement=[None] * ROWS), rows())
    assert "sample_agreement" not in told


def test_a_domain_that_came_new_counts_as_moved(lake: Lake) -> None:
    told = levels(lake, rows(domain=["math"] * ROWS), rows(domain=["law"] * ROWS))
    assert told["domain_mix"] == "error"


def test_an_unknown_release_and_bounds_in_the_wrong_order_are_refused(lake: Lake) -> None:
    with pytest.raises(UnknownRelease):
        drift(lake, "nowhere", "nowhere", BOUNDS)
    with pytest.raises(ValidationError, match="Swap them"):
        Bound(warning=0.5, error=0.1)


VALUES = st.lists(st.integers(-5, 5).map(float) | st.floats(-1, 1), min_size=1, max_size=40)


@pytest.mark.filterwarnings("ignore:divide by zero")  # scipy's, in the p-value of samples of one
@given(VALUES, VALUES)
def test_the_distance_is_scipys(left: list[float], right: list[float]) -> None:
    ours = kolmogorov_smirnov(pl.Series(left), pl.Series(right))
    assert ours == pytest.approx(ks_2samp(left, right, method="asymp").statistic)
