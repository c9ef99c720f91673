"""Charts of the data-quality report as inline SVG: they follow the page's colours, light or dark, and stay sharp.

    sankey(stages, width=380)          # Stage(title, count, lost=[(reason, count), …]), from the first to the last
    histogram(values, bins, label)     # counts of values in bins, a threshold marked

Every function returns one <svg> without a script, a font or a request. Pictures for places that take no SVG are in
pictures.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LABELS = 3  # reasons that a branch names; the others are summed up
_ROW = 18
_BAR = 12


@dataclass(frozen=True)
class Stage:
    """A step of the factory: what came through it, and what it lost on the way to the next, by reason."""

    title: str
    count: int
    lost: Sequence[tuple[str, int]] = ()


def sankey(stages: Sequence[Stage], width: int = 380) -> str:
    """Rows from step to step, top to bottom; what is left out branches off to its reasons. `width` in user units."""
    most = max((stage.count for stage in stages), default=0) or 1
    edge = round(width * 0.48)  # where the branches end and their reasons begin
    parts, top = [], 0.0
    for number, stage in enumerate(stages):
        wide = _wide(stage.count, most, edge)
        parts.append(
            f'<text x="0" y="{top + 14:.0f}"><tspan class="count">{stage.count:,}</tspan> {escape(stage.title)}</text>'
        )
        foot = top + 20 + _BAR
        parts.append(f'<rect class="bar" x="0" y="{top + 20:.0f}" width="{wide:.1f}" height="{_BAR}" rx="1"/>')
        if number == len(stages) - 1:
            top = foot + 4
            break
        after = _wide(stages[number + 1].count, most, edge)
        named = _named(stage.lost)
        tall = 20 + max(1, len(named)) * _ROW
        parts.append(f'<rect class="flow" x="0" y="{foot:.0f}" width="{min(wide, after):.1f}" height="{tall}"/>')
        if wide > after and named:
            parts.append(_branch(after, wide, foot, edge))
        for line, (reason, count) in enumerate(named):
            parts.append(
                f'<text class="lost" x="{edge + 8}" y="{foot + 26 + line * _ROW:.0f}">'
                f'<tspan class="count">−{count:,}</tspan> {escape(reason)}</text>'
            )
        top = foot + tall + 4
    told = "; ".join(f"{stage.count} {stage.title}" for stage in stages)
    return svg("sankey", width, top, f"Rows from sourced to released: {told}", parts)


def histogram(
    counts: Sequence[int], ends: tuple[float, float], label: str, threshold: float | None = None, width: int = 380
) -> str:
    """Bars of `counts` in bins of equal width between `ends`."""
    tall, left, foot = 150, 34, 118
    span = (width - left - 8) / max(1, len(counts))
    most = max(counts, default=0) or 1
    parts = [f'<line class="axis" x1="{left}" y1="{foot}" x2="{width - 8}" y2="{foot}"/>']
    parts += [
        f'<rect class="bar" x="{left + place * span + 0.5:.1f}" y="{foot - 100 * count / most:.1f}" '
        f'width="{max(0.5, span - 1):.1f}" height="{100 * count / most:.1f}"><title>{_bin(place, len(counts), ends)}: '
        f"{count:,}</title></rect>"
        for place, count in enumerate(counts)
        if count
    ]
    parts.append(f'<text class="tick" x="{left - 5}" y="22" text-anchor="end">{most:,}</text>')
    for place, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = left + place * (width - left - 8)
        value = ends[0] + place * (ends[1] - ends[0])
        parts.append(f'<text class="tick" x="{at:.0f}" y="{foot + 14}" text-anchor="{anchor}">{value:g}</text>')
    if threshold is not None and ends[1] > ends[0]:
        at = left + (threshold - ends[0]) / (ends[1] - ends[0]) * (width - left - 8)
        parts.append(f'<line class="threshold" x1="{at:.1f}" y1="10" x2="{at:.1f}" y2="{foot}"/>')
        parts.append(f'<text class="tick" x="{at + 4:.1f}" y="14">{threshold:g}</text>')
    parts.append(f'<text class="tick" x="{width / 2:.0f}" y="{tall - 2}" text-anchor="middle">{escape(label)}</text>')
    return svg("histogram", width, tall, label, parts)


def _wide(count: int, most: int, edge: int) -> float:
    return max(2.0 if count else 0.0, (edge - 24) * count / most)


def _named(lost: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    ordered = sorted(lost, key=lambda pair: -pair[1])
    rest = ordered[LABELS:]
    return [*ordered[:LABELS], *([(f"{len(rest)} other reasons", sum(n for _, n in rest))] if rest else [])]


def _branch(after: float, wide: float, foot: float, edge: int) -> str:
    """The band between `after` and `wide` that bends from the bar's foot to the right."""
    thick = min(30.0, wide - after)
    high = foot + 14
    return (
        f'<path class="branch" d="M{wide:.1f},{foot:.1f} Q{wide:.1f},{high:.1f} {edge},{high:.1f} '
        f'V{high + thick:.1f} Q{after:.1f},{high + thick:.1f} {after:.1f},{foot:.1f} Z"/>'
    )


def _bin(place: int, bins: int, ends: tuple[float, float]) -> str:
    width = (ends[1] - ends[0]) / bins
    return f"{ends[0] + place * width:.4g} to {ends[0] + (place + 1) * width:.4g}"


def svg(name: str, width: int, height: float, told: str, parts: Sequence[str]) -> str:
    """One <svg> of class `name`, as wide as its place; `told` is what a screen reader says of it."""
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(told)}">'
        f"{''.join(parts)}</svg>"
    )
