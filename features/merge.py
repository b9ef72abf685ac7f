"""The merge: one key's batch part and tiles become the values of a view at time t. Pure numpy; see windows.py for the picture.

A batch part is stored as rows of float64 `[segment, start, state...]`; `segment` says what a row is:

    -1 - i    collapsed: events of window i from floor(cut + slack - width, hop) up to the cut   (start unused)
    hop > 0   a tail hop: events of [start, start + hop)
    0         early: events at exactly `start`, at or after the cut
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from features.blocks import Rows
from features.declaration import FeatureView
from features.layout import States
from features.schema import DataType
from features.times import floor_to, format_time, to_micros
from features.windows import Window, edges

_AS_THEY_ARE = {"DOUBLE", "BIGINT", "BOOLEAN", "STRING"}  # what arrays give as Python values is already plain
LABELS = 2  # columns before the state in a stored batch row
_NEVER = -(2**63)


@dataclass(frozen=True)
class BatchPart:
    """What a batch with `cut` and `slack` knows of one key: rows (k, 2 + width) and the extras of each row."""

    cut: int
    slack: int
    rows: Rows
    extras: Sequence[States] = ()


@dataclass(frozen=True)
class Tiles:
    """What the stream knows of one key since the cut: start of each wide tile (m,), states (m, width), extras.

    `fine` are those of the other tier, at least in the hours that tails lie within (see windows.py).
    """

    starts: NDArray[np.int64]
    rows: Rows
    extras: Sequence[States] = ()
    fine: "Tiles | None" = None


@dataclass(frozen=True)
class Merged:
    """Values by feature column; `degraded` says why they may not be exact, None when they are."""

    values: Mapping[str, object]
    degraded: str | None = None


@dataclass
class _Picked:
    rows: list[Rows] = field(default_factory=list)
    extras: list[list[bytes | None]] = field(default_factory=list)


def collapsed_from(window: Window, cut: int, slack: int) -> int:
    """Where the collapsed state of a window of finite width begins."""
    return floor_to(cut + slack - (window.width or 0), window.hop)


def merge(view: FeatureView, batch: BatchPart | None, tiles: Tiles | None, at: int) -> Merged:
    """Features of one key at time `at`: exactly the fold over its events in each window, or marked as degraded."""
    picked = _Picked()
    reasons: dict[str, None] = {}
    for position, span in enumerate(view.spans):
        rows, extras = _window(view, position, span, batch, tiles, at)
        row = view.layout.reduce(rows)
        picked.rows.append(row)
        picked.extras.append(view.layout.reduce_extras(extras))
        if view.layout.latest(row) >= at:
            reasons[f"{format_time(at)} lies before events that were already folded"] = None
        if batch is not None and span.width is not None and (span.tail(at) or 0) > collapsed_from(span, batch.cut, batch.slack):
            reasons[f"the batch of {format_time(batch.cut)} is too old for window {span.name}"] = None
    if batch is not None and at < batch.cut:
        reasons = {f"{format_time(at)} lies before the batch's cut {format_time(batch.cut)}": None}
    return Merged(_values(view, picked, at), "; ".join(reasons) or None)


def _window(view: FeatureView, position: int, span: Window, batch: BatchPart | None, tiles: Tiles | None, at: int) -> tuple[Rows, list[States]]:
    tail = span.tail(at)
    parts: list[Rows] = []
    extras: list[States] = []
    if batch is not None and len(batch.rows):
        segments, starts = batch.rows[:, 0], batch.rows[:, 1]
        inside = (segments >= 0) & (starts < at) if tail is None else (segments >= 0) & (starts >= tail) & (starts < at)
        if tail is None:
            inside &= segments == 0
        else:
            inside &= (segments == 0) | ((segments == span.hop) & (starts < collapsed_from(span, batch.cut, batch.slack)))
        inside |= segments == -1 - position
        parts.append(batch.rows[inside, LABELS:])
        extras += _chosen(view, batch.extras, inside)
    for found, until in ((tiles, at), (tiles.fine if tiles is not None else None, _edge(view, span, at))):
        if found is not None and len(found.rows):
            inside = found.starts < until if tail is None else (found.starts >= tail) & (found.starts < until)
            parts.append(found.rows[inside])
            extras += _chosen(view, found.extras, inside)
    return (np.concatenate(parts) if parts else np.empty((0, view.layout.width))), extras


def _chosen(view: FeatureView, extras: Sequence[States], inside: NDArray[np.bool_]) -> list[States]:
    # Looking for positions lets go of the interpreter's lock, and a server's other threads take it: only where there is something to choose.
    return [extras[i] for i in np.flatnonzero(inside).tolist()] if view.layout.extras and extras else []


def _edge(view: FeatureView, span: Window, at: int) -> int:
    """Where the fine tiles of a window end: with the wide tile that its tail lies within, if it does."""
    found = edges([span], view.tiers[0], at)
    return min(found[0][1], at) if found else _NEVER


def _values(view: FeatureView, picked: _Picked, at: int) -> dict[str, object]:
    rows = np.stack(picked.rows)
    ends = np.full(len(rows), at, dtype=np.int64)
    tails = np.array([span.tail(at) or 0 for span in view.spans], dtype=np.int64)
    out: dict[str, object] = dict.fromkeys(view.column_names)
    for group, names in view.finished:
        found = view.layout.finish_alike(group, rows, picked.extras, ends, tails)
        values, valid = found.values.tolist(), found.valid.tolist()
        if group.type.name not in _AS_THEY_ARE:
            values = [plain(value, group.type) for value in values]
        out.update((name, value if good else None) for name, value, good in zip(names, values, valid, strict=True))
    return out


def plain(value: object, kind: DataType) -> object:
    """A finished value as plain Python: times and dates as ISO 8601 text, whole DECIMALs as integers."""
    if isinstance(value, (list, np.ndarray)):
        return [plain(one, kind.inner) for one in value]
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, datetime):
        return format_time(to_micros(number))
    if isinstance(number, date):
        return number.isoformat()
    if kind.name == "TIMESTAMP" and isinstance(number, int):
        return format_time(number)
    if kind.name == "DATE" and isinstance(number, int):
        return str(np.datetime64(number, "D"))
    return int(number) if isinstance(number, Decimal) and kind.scale == 0 else number
