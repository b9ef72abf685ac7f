"""Small charts as SVG made on the server: colours come from the style sheet, and every figure can also be read as text."""

import math
from collections.abc import Sequence
from itertools import pairwise

from serving.site.markup import Markup, tag

_WIDTH, _HEIGHT, _FOOT, _GAP = 640, 170, 26, 2
_LINE_WIDTH, _LINE_HEIGHT = 160, 32


def bins(values: Sequence[float], count: int) -> tuple[list[float], list[int]]:
    """Edges (count + 1) and counts of equal bins; 0 to 1 for probabilities, else from the smallest to the largest value."""
    low, high = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (min(values), max(values))
    step = (high - low) / count or 1.0
    counts = [0] * count
    for value in values:
        counts[min(int((value - low) / step), count - 1)] += 1
    return [low + step * at for at in range(count + 1)], counts


def histogram(values: Sequence[float], *, title: str, count: int = 20) -> Markup:
    """How finite numbers are distributed; empty markup when there are none."""
    if not values:
        return Markup("")
    edges, counts = bins(values, count)
    most, width = max(counts), _WIDTH / count
    bars = []
    for at, (number, (low, high)) in enumerate(zip(counts, pairwise(edges), strict=True)):
        height = (_HEIGHT - _FOOT - 14) * number / most
        said = tag("title", f"{low:.3g} to {high:.3g}: {number:,}")
        bars.append(
            tag(
                "rect",
                said,
                x=f"{at * width + _GAP / 2:.1f}",
                y=f"{_HEIGHT - _FOOT - height:.1f}",
                width=f"{width - _GAP:.1f}",
                height=f"{height:.1f}",
                rx=2,
            )
        )
    axis = [
        tag("text", f"{edges[at]:.3g}", x=f"{at * width:.1f}", y=_HEIGHT - 8, text_anchor={0: "start", count: "end"}.get(at, "middle"))
        for at in range(0, count + 1, max(1, count // 5))
    ]  # fmt: skip
    base = tag("line", x1=0, x2=_WIDTH, y1=_HEIGHT - _FOOT, y2=_HEIGHT - _FOOT, class_="axis")
    top = tag("text", f"{most:,}", x=0, y=10)
    return tag("svg", tag("title", title), base, top, tag("g", bars, class_="bars"), axis,
               viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="histogram", role="img", aria_label=title)  # fmt: skip


def sparkline(points: Sequence[tuple[float, float]], *, title: str) -> Markup:
    """A line through (time, value) points in order of time, its last point marked."""
    if not points:
        return Markup("")
    places = [
        (f"{2 + (_LINE_WIDTH - 4) * x:.1f}", f"{_LINE_HEIGHT - 3 - (_LINE_HEIGHT - 6) * y:.1f}")
        for x, y in _scaled(points)
    ]
    line = (
        tag("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="line")
        if len(places) > 1
        else None
    )
    last = tag("circle", cx=places[-1][0], cy=places[-1][1], r="2.5")
    return tag(
        "svg",
        tag("title", title),
        line,
        last,
        viewBox=f"0 0 {_LINE_WIDTH} {_LINE_HEIGHT}",
        class_="sparkline",
        role="img",
        aria_label=title,
    )


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points within the unit square; a value that never changes lies in its middle."""
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    wide, tall = last - first, high - low
    return [
        ((x - first) / wide if wide else 1.0, (y - low) / tall if tall and math.isfinite(tall) else 0.5)
        for x, y in points
    ]
