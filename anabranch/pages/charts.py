"""Small charts as SVG, drawn on the server. Colours come from the style sheet."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from anabranch.pages.formats import plain

_WIDTH, _HEIGHT, _FOOT, _GAP = 640, 170, 26, 2
_LINE_WIDTH, _LINE_HEIGHT = 160, 32
_ROW, _NAMES, _NUMBERS = 24, 200, 70
_SVG = Markup(
    '<svg viewBox="0 0 {} {}" class="{}" role="img" aria-label="{title}"><title>{title}</title>{}</svg>'
)
_BAR = Markup(
    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"><title>{} to {}: {:,}</title></rect>'
)

_PART = Markup(
    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"><title>{}: {:,}</title></rect>'
)


def bins(values: Sequence[float], count: int) -> tuple[list[float], list[int]]:
    """Edges (`count` + 1) and counts of equal bins: 0 to 1 for probabilities, else least to largest."""
    low, high = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (min(values), max(values))
    step = (high - low) / count or 1.0
    counts = [0] * count
    for value in values:
        counts[min(int((value - low) / step), count - 1)] += 1
    return [low + step * at for at in range(count + 1)], counts


def histogram(values: Sequence[float], title: str, count: int = 20) -> Markup:
    """The distribution of finite numbers as bars; empty markup without numbers."""
    if not values:
        return Markup("")
    edges, counts = bins(values, count)
    most, width = max(counts), _WIDTH / count
    parts = [
        Markup('<line x1="0" x2="{}" y1="{}" y2="{}" class="axis"></line>').format(
            _WIDTH, _HEIGHT - _FOOT, _HEIGHT - _FOOT
        ),
        Markup('<text x="0" y="13">{:,}</text><g class="bars">').format(most),
    ]
    for at, (rows, (low, high)) in enumerate(zip(counts, pairwise(edges), strict=True)):
        height = (_HEIGHT - _FOOT - 17) * rows / most
        left, top = at * width + _GAP / 2, _HEIGHT - _FOOT - height
        parts.append(_BAR.format(left, top, width - _GAP, height, plain(low, 3), plain(high, 3), rows))
    parts.append(Markup("</g>"))
    for at in range(0, count + 1, max(1, count // 5)):
        anchor = {0: "start", count: "end"}.get(at, "middle")
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                at * width, _HEIGHT - 8, anchor, plain(edges[at], 3)
            )
        )
    return _SVG.format(_WIDTH, _HEIGHT, "histogram", Markup("").join(parts), title=title)


def beside(
    names: Sequence[str], before: Sequence[int] | None, after: Sequence[int] | None, title: str
) -> Markup:
    """Two distributions over the same bins or values, as bars side by side; None for a side without one."""
    sides = [(kind, side) for kind, side in (("bars earlier", before), ("bars", after)) if side is not None]
    most = max((one for _, side in sides for one in side), default=0)
    if not most:
        return Markup("")
    width = _WIDTH / len(names)
    bar = (width - 2 * _GAP) / len(sides)
    parts = [
        Markup('<line x1="0" x2="{}" y1="{}" y2="{}" class="axis"></line>').format(
            _WIDTH, _HEIGHT - _FOOT, _HEIGHT - _FOOT
        ),
        Markup('<text x="0" y="13">{:,}</text>').format(most),
    ]
    for place, (kind, side) in enumerate(sides):
        drawn = []
        for at, (name, count) in enumerate(zip(names, side, strict=True)):
            height = (_HEIGHT - _FOOT - 17) * count / most
            left, top = at * width + _GAP + place * bar, _HEIGHT - _FOOT - height
            drawn.append(_PART.format(left, top, bar, height, name, count))
        parts.append(Markup('<g class="{}">{}</g>').format(kind, Markup("").join(drawn)))
    parts += [
        Markup('<text x="{:.1f}" y="{}">{}</text>').format(at * width, _HEIGHT - 8, _short(names[at]))
        for at in range(0, len(names), max(1, len(names) // 6))
    ]
    return _SVG.format(_WIDTH, _HEIGHT, "histogram", Markup("").join(parts), title=title)


def _short(text: str) -> str:
    return text if len(text) <= 12 else f"{text[:11]}…"


def contributions(values: Mapping[str, float], title: str, most: int = 12) -> Markup:
    """Bars to both sides of 0, the longest first; further than `most` are added up. Empty without values."""
    if not values:
        return Markup("")
    ordered = sorted(values.items(), key=lambda item: -abs(item[1]))
    rest = ordered[most:]
    shown = [*ordered[:most], *([(f"{len(rest)} others", sum(value for _, value in rest))] if rest else [])]
    left, right = min(0.0, *(value for _, value in shown)), max(0.0, *(value for _, value in shown))
    scale = (_WIDTH - _NAMES - _NUMBERS) / ((right - left) or 1.0)
    zero, height = _NAMES - left * scale, _ROW * len(shown)
    parts = [
        Markup('<line x1="{:.1f}" x2="{:.1f}" y1="0" y2="{}" class="axis"></line>').format(zero, zero, height)
    ]
    for row, (name, value) in enumerate(shown):
        start, width = zero + min(value, 0.0) * scale, max(abs(value) * scale, 0.5)
        parts.append(
            Markup(
                '<text x="0" y="{}">{}</text><rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" rx="2" '
                'class="{}"><title>{}: {:+.4g}</title></rect>'
                '<text x="{}" y="{}" text-anchor="end">{:+.3g}</text>'
            ).format(
                *(_ROW * row + 16, name if len(name) <= 26 else f"{name[:25]}…"),
                *(start, _ROW * row + 4, width, _ROW - 8, "raised" if value >= 0 else "lowered"),
                *(name, value, _WIDTH, _ROW * row + 16, value),
            )
        )
    return _SVG.format(_WIDTH, height, "contributions", Markup("").join(parts), title=title)


def sparkline(points: Sequence[tuple[float, float]], title: str) -> Markup:
    """A line through (time, value) points in order of time, the last one marked; empty without points."""
    if not points:
        return Markup("")
    places = [
        f"{2 + (_LINE_WIDTH - 4) * x:.1f},{_LINE_HEIGHT - 3 - (_LINE_HEIGHT - 6) * y:.1f}"
        for x, y in _scaled(points)
    ]
    line = Markup('<polyline points="{}" class="line"></polyline>').format(" ".join(places))
    last = Markup('<circle cx="{}" cy="{}" r="2.5"></circle>').format(*places[-1].split(","))
    drawn = line + last if len(places) > 1 else last
    return _SVG.format(_LINE_WIDTH, _LINE_HEIGHT, "sparkline", drawn, title=title)


def curve(points: Sequence[tuple[float, float]], limit: float, mark: float, title: str, unit: str) -> Markup:
    """A line through (x, y) points, its goal as a level line at `limit`, and `mark` on the x axis.

    What is higher than three times the limit is cut off. Empty without points.
    """
    if not points:
        return Markup("")
    top, right = 3 * limit, max(x for x, _ in points)
    height = _HEIGHT - _FOOT

    def place(x: float, y: float) -> tuple[float, float]:
        return _WIDTH * x / right, height - (height - 17) * min(y, top) / top

    shown = [point for point, before in zip(points, [points[0], *points], strict=False) if before[1] <= top]
    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in shown)
    level, at = place(0, limit)[1], place(mark, 0)[0]
    parts = [
        Markup('<line x1="0" x2="{}" y1="{}" y2="{}" class="axis"></line>').format(_WIDTH, height, height),
        Markup('<line x1="0" x2="{}" y1="{:.1f}" y2="{:.1f}" class="goal"></line>').format(
            _WIDTH, level, level
        ),
        Markup('<text x="0" y="{:.1f}">{} {}</text>').format(level - 4, plain(limit, 3), unit),
        Markup('<line x1="{:.1f}" x2="{:.1f}" y1="17" y2="{}" class="goal"></line>').format(at, at, height),
        Markup('<polyline points="{}" class="line"></polyline>').format(line),
    ]
    for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                _WIDTH * share, _HEIGHT - 8, anchor, plain(right * share, 3)
            )
        )
    return _SVG.format(_WIDTH, _HEIGHT, "curve", Markup("").join(parts), title=title)


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points within the unit square; a value that never changes lies in its middle."""
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    wide, tall = last - first, high - low
    return [
        ((x - first) / wide if wide else 1.0, (y - low) / tall if tall and math.isfinite(tall) else 0.5)
        for x, y in points
    ]
