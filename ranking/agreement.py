"""How far a teacher is to be trusted: its agreement with people, and the pull of the order in which it is shown a list.

`agreement` is over the pairs that both could judge. `position_bias` needs no judgements at all: lists are shown in
random order, so an unbiased teacher's top pick stands anywhere in it with equal chance, whatever the passages are.
"""

import math

import numpy as np
import polars as pl

from ranking.statistics import cohen_kappa


def agreement(teacher: pl.DataFrame, human: pl.DataFrame, shown: pl.DataFrame) -> dict[str, float]:
    """Precision, recall and Cohen's kappa of the teacher's positives against people's (grade >= 1).

    All three hold qid and docid; `shown` are the pairs that the teacher saw, `teacher` and `human` carry a grade. Only
    queries with a human positive count; an unlisted pair is not relevant, as in qrels. Empty where nothing overlaps.
    """
    pairs = ["qid", "docid"]
    positives = human.filter(pl.col("grade") >= 1).select(pairs).unique()
    both = shown.unique().join(positives.select("qid").unique(), on="qid", how="semi")
    if both.is_empty():
        return {}
    picked = teacher.filter(pl.col("grade") >= 1).select(*pairs, picked=pl.lit(True)).unique()
    marked = both.join(picked, on=pairs, how="left").join(
        positives.with_columns(relevant=pl.lit(True)), on=pairs, how="left"
    )
    says = marked["picked"].fill_null(False).to_numpy()
    truth = marked["relevant"].fill_null(False).to_numpy()
    hits = float(np.logical_and(says, truth).sum())
    return {
        "teacher_precision": hits / max(1.0, float(says.sum())),
        "teacher_recall": hits / max(1.0, float(truth.sum())),
        "teacher_kappa": cohen_kappa(says, truth),
        "teacher_pairs": float(len(says)),
    }


def position_bias(rankings: pl.DataFrame) -> dict[str, float]:
    """Whether the teacher's order follows the order shown: `initial_list` against `final_list`, a row a ranking.

    - shown_first_picked_first: share of lists whose top pick was shown first; chance_first: what chance gives, mean 1/n
    - top_pick_position: mean place of the top pick in the shown order, from 0 (first) to 1 (last); unbiased 0.5
    - order_correlation: mean Spearman rho between the shown and the given order; unbiased 0
    - bias_p_value: two-sided z-test of top_pick_position. Shown orders being independent and random, a list of n has
      mean 1/2 and variance (n + 1) / (12 (n - 1)) exactly; the normal shape is an approximation, rough below ten lists.
      It sees a pull to one end. One to both ends, or to the middle, shows in `positions_of_top_pick` alone.
    - lists: the lists counted; lists_too_short: those of fewer than two passages, which are left out of all the above

    Empty where no list has two passages. Raises ValueError where a final_list is not a permutation of its initial_list.
    """
    picks = _top_picks(rankings)
    if picks.is_empty():
        return {}
    size, place = pl.col("size"), pl.col("shown")
    found = picks.select(
        shown_first_picked_first=(place == 0).mean(),
        chance_first=(1 / size).mean(),
        top_pick_position=(place / (size - 1)).mean(),
        order_correlation=pl.col("rho").mean(),
        variance=((size + 1) / (12 * (size - 1))).sum(),
    ).row(0, named=True)
    z = (found["top_pick_position"] - 0.5) * picks.height / math.sqrt(found.pop("variance"))
    return {
        **found,
        "bias_p_value": math.erfc(abs(z) / math.sqrt(2)),
        "lists": float(picks.height),
        "lists_too_short": float(rankings.height - picks.height),
    }


def positions_of_top_pick(rankings: pl.DataFrame) -> pl.DataFrame:
    """Where the top picks were shown: position (1 = first), lists, expected; a row for each up to the longest list.

    `expected` is the number of lists that chance would give: not level where lists differ in length, for a short list
    has no late positions. Lists of fewer than two passages are left out; errors as in `position_bias`.
    """
    picks = _top_picks(rankings)
    lists = picks.group_by(position=pl.col("shown") + 1).agg(lists=pl.len().cast(pl.Int64))
    return (
        picks.select(position=pl.int_ranges(1, pl.col("size") + 1), chance=1 / pl.col("size"))
        .explode("position")
        .group_by("position")
        .agg(expected=pl.col("chance").sum())
        .join(lists, on="position", how="left")
        .select("position", pl.col("lists").fill_null(0), "expected")
        .sort("position")
    )


def _top_picks(rankings: pl.DataFrame) -> pl.DataFrame:
    """One row for each list of two or more: size, shown (the top pick's place, 0 = first), rho (shown, given order)."""
    initial, final = pl.col("initial_list"), pl.col("final_list")
    lists = rankings.select(pl.col("initial_list", "final_list").cast(pl.List(pl.String))).with_row_index("row")
    broken = lists.filter(
        initial.is_null()
        | initial.list.sort().ne_missing(final.list.sort())
        | (initial.list.drop_nulls().list.n_unique() != initial.list.len())
    )
    if broken.height:
        row, shown, given = broken.row(0)
        raise ValueError(
            f"row {row}: final_list {given} is not a permutation of initial_list {shown}, each passage once. "
            f"Recover or reject malformed answers before they are measured ({broken.height} of {lists.height} rows)."
        )
    sized = lists.with_columns(size=initial.list.len().cast(pl.Int64)).filter(pl.col("size") > 1)
    shown = sized.select("row", "size", docid=initial, shown=pl.int_ranges("size")).explode("docid", "shown")
    given = sized.select("row", docid=final, given=pl.int_ranges("size")).explode("docid", "given")
    size, distance = pl.col("size").first(), pl.col("shown") - pl.col("given")
    return (
        shown.join(given, on=["row", "docid"])
        .group_by("row")
        .agg(
            size,
            shown=pl.col("shown").filter(pl.col("given") == 0).first(),
            rho=1 - 6 * (distance**2).sum() / (size * (size**2 - 1)),
        )
        .sort("row")  # groups come in any order, and the same lists must give the same sums to the last bit
        .drop("row")
    )
