"""How far a teacher's judgements agree with people's, over the pairs that both could judge."""

import numpy as np
import polars as pl

from ranking.metrics import cohen_kappa


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
