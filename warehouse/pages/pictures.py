"""Plots as PNG bytes: the same picture goes into Dagster's metadata and into the HTML reports."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

BLUE, ORANGE, GREY = "#2f6f9f", "#d9822b", "#9aa5b1"
STAGE_COLOURS = {"bm25": GREY, "teacher": "#6b4f9e", "base": "#c9b458", "sft": BLUE, "rl": ORANGE}


def histogram(values: Sequence[float], threshold: float, label: str) -> bytes:
    """Counts of values from 0 to 1 in 20 bins, with the threshold marked."""
    figure, axes = _figure(6.4, 3.0)
    axes.hist(values, bins=20, range=(0, 1), color=BLUE)
    axes.axvline(threshold, color=ORANGE, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_xlabel(label)
    axes.set_ylabel("rankings")
    axes.legend(frameon=False)
    return _png(figure)


def positions(picked: pl.DataFrame) -> bytes:
    """Where top picks stood in the shown lists, beside what chance gives: `picked` has position, lists, expected."""
    figure, axes = _figure(6.4, 2.4)
    axes.bar(picked["position"], picked["lists"], color=BLUE)
    axes.plot(picked["position"], picked["expected"], color=ORANGE, linestyle="--", label="by chance")
    axes.set_xlabel("place of the top pick in the shown list")
    axes.set_ylabel("rankings")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return _png(figure)


def alpha_sweep(scored: pl.DataFrame, sweep: pl.DataFrame, alpha: float) -> bytes:
    """How consistent rankings are, and what share of them each alpha keeps: `alpha` marked in both.

    `scored` has consistency, `sweep` has domain, alpha and share (audit/teacher.py).
    """
    figure, (above, below) = _figure(6.4, 5.0, rows=2)
    above.hist(scored["consistency"], bins=20, range=(0, 1), color=BLUE)
    above.set_xlabel("NDCG@10 of the ranking against the judgements")
    above.set_ylabel("rankings")
    for domain in sweep["domain"].unique(maintain_order=True):
        line = sweep.filter(pl.col("domain") == domain)
        whole = domain == "all"
        below.plot(line["alpha"], line["share"], label=domain, marker=".", linewidth=2.4 if whole else 1.2,
                   color="black" if whole else None)  # fmt: skip
    below.set_xlabel("alpha")
    below.set_ylabel("share kept")
    below.set_ylim(0, 1.02)
    for axes in (above, below):
        axes.axvline(alpha, color=ORANGE, linestyle="--", label=f"alpha {alpha:g}")
        axes.legend(frameon=False)
    return _png(figure)


def curves(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> bytes:
    """One panel a name that stands in the history, over the step."""
    drawn = [name for name in names if any(name in entry for entry in history)]
    figure, panels = _figure(6.4, 1.9 * max(1, len(drawn)), rows=max(1, len(drawn)))
    for axes, name in zip(panels if len(drawn) > 1 else [panels], drawn, strict=False):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        axes.plot(*zip(*points, strict=True), color=BLUE, marker="." if len(points) < 40 else None)
        axes.set_ylabel(name)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _png(figure)


def leaderboard_bars(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """NDCG@10 by domain, one bar a stage, with its interval. Rows hold domain, stage, value, low, high."""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    stages = [stage for stage in STAGE_COLOURS if any(row["stage"] == stage for row in rows)]
    figure, axes = _figure(max(6.4, 1.5 * len(domains)), 3.4)
    width = 0.8 / max(1, len(stages))
    for number, stage in enumerate(stages):
        for place, domain in enumerate(domains):
            for row in rows:
                if row["domain"] == domain and row["stage"] == stage:
                    at = place + (number - (len(stages) - 1) / 2) * width
                    error = [[max(0.0, row["value"] - row["low"])], [max(0.0, row["high"] - row["value"])]]
                    axes.bar(at, row["value"], width * 0.92, color=STAGE_COLOURS[stage], yerr=error, ecolor="#52606d",
                             capsize=2, label=stage if place == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(domains)), domains)
    axes.set_ylabel("nDCG@10")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, ncols=len(stages), loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return _png(figure)


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1)
    for each in axes if rows > 1 else [axes]:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
