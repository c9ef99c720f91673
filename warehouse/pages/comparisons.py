"""Charts of systems beside one another as inline SVG: quality against cost, bars with intervals, reliability.

    pareto([Point("sft", cost=1431, value=.43, low=.36, high=.52, kind="sft")], "tokens a query")
    bars([Bar("sft", .43, .36, .52, "sft")], label="coding")
    reliability(bins)                      # rows of ranking.statistics.Calibration.bins
    weights(tried, "sft+rrf")              # rows of table fusion_weights

`kind` is the class that colours a mark; the page's style says how. Deliberately absent: which of them is best.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from warehouse.pages.charts import svg

LINE = 13  # least distance of two labels, one above the other
LETTER = 6.5  # about the width of a letter of a label
_GAP = 13  # between a mark and its label
_LEFT, _RIGHT, _TOP, _FOOT = 34, 8, 12, 34  # margins of a chart with two axes


@dataclass(frozen=True)
class Point:
    """A system: what it costs a query, and its mean with the interval."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    kind: str
    champion: bool = False


@dataclass(frozen=True)
class Bar:
    """A mean with its interval."""

    label: str
    value: float
    low: float
    high: float
    kind: str
    champion: bool = False


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is better than at the same cost or less, cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    return kept


def pareto(points: Sequence[Point], label: str, width: int = 380) -> str:
    """Quality over cost, the front drawn. Cost is logarithmic; what costs nothing stands at the left edge."""
    if not points:
        return ""
    costs = sorted(point.cost for point in points if point.cost > 0)
    low, high = min(p.low for p in points), max(p.high for p in points)
    bottom, top = max(0.0, low - 0.02), min(1.0, high + 0.02)
    tall = max(250, LINE * len(points) + _TOP + _FOOT)
    right, foot = width - _RIGHT, tall - _FOOT
    begin = _LEFT + 24 if any(point.cost <= 0 for point in points) else _LEFT

    def across(cost: float) -> float:
        if cost <= 0:
            return _LEFT + 8
        ends = math.log(costs[0] / 1.6), math.log(costs[-1] * 1.6)
        return begin + (math.log(cost) - ends[0]) / (ends[1] - ends[0]) * (right - begin)

    def up(value: float) -> float:
        return foot - (value - bottom) / max(1e-9, top - bottom) * (foot - _TOP)

    parts = _axes(width, tall, [(across(c), _short(c)) for c in _ends(costs)], label)
    if begin > _LEFT:
        parts.append(f'<text class="tick" x="{_LEFT + 8}" y="{foot + 13}" text-anchor="middle">0</text>')
    parts += [_tick(up(v), f"{v:.2f}") for v in (bottom, (bottom + top) / 2, top)]
    best = front(points)
    steps = " ".join(f"H{across(p.cost):.1f} V{up(p.value):.1f}" for p in best[1:])
    parts.append(
        f'<path class="front" d="M{across(best[0].cost):.1f},{up(best[0].value):.1f} {steps} H{right}" fill="none"/>'
    )
    spans = [_span(across(point.cost), _named(point), right) for point in points]
    places = _spread([up(point.value) for point in points], spans, _TOP, foot)
    for point, span, place in zip(points, spans, places, strict=True):
        x, y = across(point.cost), up(point.value)
        told = f"{point.label}: {point.value:.4f} ({point.low:.3f} to {point.high:.3f}) at {_short(point.cost)} {label}"
        side = -1 if span[0] < x else 1
        parts.append(
            f'<g class="{escape(point.kind)}"><title>{escape(told)}</title>'
            f'<line class="whisker" x1="{x:.1f}" y1="{up(point.low):.1f}" x2="{x:.1f}" y2="{up(point.high):.1f}"/>'
            f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{x + side * (_GAP - 2):.1f}" y2="{place:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if point in best else 3.5}"/>'
            f'<text class="tick" x="{x + side * _GAP:.1f}" y="{place + 4:.1f}"'
            f' text-anchor="{"start" if side > 0 else "end"}">{_named(point)}</text></g>'
        )
    told = f"nDCG@10 against {label}; not surpassed: {', '.join(point.label for point in best)}"
    return svg("pareto", width, tall, told, parts)


def bars(rows: Sequence[Bar], label: str, width: int = 380) -> str:
    """One bar a row from 0 to 1, with its interval and its value."""
    left, right = 92, width - 46
    parts = []
    for number, row in enumerate(rows):
        y = number * 20

        def at(value: float) -> float:
            return left + value * (right - left)

        parts.append(
            f'<g class="{escape(row.kind)}"><title>{escape(row.label)}: {row.value:.4f} ({row.low:.3f} to '
            f'{row.high:.3f})</title><text class="tick" x="{left - 6}" y="{y + 14}" text-anchor="end">{_named(row)}'
            f'</text><rect x="{left}" y="{y + 4}" width="{max(0.5, at(row.value) - left):.1f}" height="13"/>'
            f'<line class="whisker" x1="{at(row.low):.1f}" y1="{y + 10.5}" x2="{at(row.high):.1f}" y2="{y + 10.5}"/>'
            f'<text class="tick" x="{width - 2}" y="{y + 14}" text-anchor="end">{row.value:.3f}</text></g>'
        )
    told = f"nDCG@10, {label}: " + ", ".join(f"{row.label} {row.value:.3f}" for row in rows)
    return svg("bars", width, len(rows) * 20 + 4, told, parts)


def reliability(bins: Sequence[Mapping[str, Any]], label: str, width: int = 240) -> str:
    """Share relevant over mean score, a mark a bin whose area is its count; the diagonal is what would be right."""
    tall = width
    right, foot = width - _RIGHT, tall - _FOOT
    most = max((part["count"] for part in bins), default=0) or 1

    def across(value: float) -> float:
        return _LEFT + value * (right - _LEFT)

    def up(value: float) -> float:
        return foot - value * (foot - _TOP)

    parts = _axes(width, tall, [(across(v), f"{v:g}") for v in (0, 0.5, 1)], "mean score")
    parts += [_tick(up(v), f"{v:g}") for v in (0, 0.5, 1)]
    parts.append(f'<line class="threshold" x1="{_LEFT}" y1="{foot}" x2="{right}" y2="{_TOP}"/>')
    parts += [
        f'<circle class="bin" cx="{across(part["confidence"]):.1f}" cy="{up(part["accuracy"]):.1f}" '
        f'r="{2 + 8 * math.sqrt(part["count"] / most):.1f}"><title>{part["count"]:,} passages of mean score '
        f"{part['confidence']:.2f}: {100 * part['accuracy']:.0f} % relevant</title></circle>"
        for part in bins
        if part["count"]
    ]
    return svg("reliability", width, tall, f"Share relevant over mean score, {label}", parts)


def weights(tried: Sequence[Mapping[str, Any]], label: str, width: int = 240) -> str:
    """Mean over the queries that chose, by the student's share: a line a fold, the chosen weight marked."""
    tall = 170
    right, foot = width - _RIGHT, tall - _FOOT
    low, high = min(row["value"] for row in tried), max(row["value"] for row in tried)

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        up = (row["value"] - low) / max(1e-9, high - low)
        return _LEFT + 6 + row["weight"] * (right - _LEFT - 12), foot - 6 - up * (foot - _TOP - 12)

    parts = _axes(width, tall, [(_LEFT + 6, "0"), (right - 6, "1")], "the student's share")
    parts += [_tick(foot - 6, f"{low:.2f}"), _tick(_TOP + 6, f"{high:.2f}")]
    for fold in dict.fromkeys(row["fold"] for row in tried):
        own = sorted((row for row in tried if row["fold"] == fold), key=lambda row: row["weight"])
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, own))
        parts.append(f'<polyline class="curve" fill="none" points="{line}"/>')
        parts += [
            f'<circle class="bin" cx="{place(row)[0]:.1f}" cy="{place(row)[1]:.1f}" r="4"><title>{escape(fold)}: '
            f"{row['weight']:g}, mean {row['value']:.4f} of {row['queries']} other dev queries</title></circle>"
            for row in own
            if row["chosen"]
        ]
    return svg("weights", width, tall, f"nDCG@10 on dev by the student's share, {label}", parts)


def _axes(width: int, tall: int, ticks: Sequence[tuple[float, str]], label: str) -> list[str]:
    right, foot = width - _RIGHT, tall - _FOOT
    return [
        f'<line class="axis" x1="{_LEFT}" y1="{foot}" x2="{right}" y2="{foot}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{foot}"/>',
        *(f'<text class="tick" x="{x:.1f}" y="{foot + 13}" text-anchor="middle">{text}</text>' for x, text in ticks),
        f'<text class="tick" x="{(_LEFT + right) / 2:.0f}" y="{tall - 4}" text-anchor="middle">{escape(label)}</text>',
    ]


def _tick(y: float, text: str) -> str:
    return f'<text class="tick" x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _ends(costs: Sequence[float]) -> list[float]:
    """The least and the largest cost, where they are far enough apart to be told beside each other."""
    if not costs:
        return []
    return [costs[0], costs[-1]] if costs[-1] > 1.5 * costs[0] else [costs[-1]]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _named(row: Point | Bar) -> str:
    return f"★ {escape(row.label)}" if row.champion else escape(row.label)


def _span(x: float, label: str, right: float) -> tuple[float, float]:
    """From where to where the label of a mark at `x` runs: right of it where there is room, else left."""
    long = LETTER * len(label)
    return (x + _GAP, x + _GAP + long) if x + _GAP + long <= right else (x - _GAP - long, x - _GAP)


def _spread(places: Sequence[float], spans: Sequence[tuple[float, float]], top: float, foot: float) -> list[float]:
    """The places moved downwards, and back where the foot is reached, until no two labels cover one another.

    Labels side by side may stand at one height, so that a label stays near its own mark.
    """
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = [max(top, place) for place in places]
    for step, numbers in ((LINE, order), (-LINE, None)):
        stand: list[int] = []
        for number in numbers or sorted(order, key=lambda number: -moved[number]):
            if step < 0:
                moved[number] = min(moved[number], foot)
            beside = [o for o in stand if spans[o][0] < spans[number][1] and spans[number][0] < spans[o][1]]
            while near := [moved[o] for o in beside if abs(moved[o] - moved[number]) < LINE - 1e-6]:
                moved[number] = (max(near) if step > 0 else min(near)) + step
            stand.append(number)
    return moved
