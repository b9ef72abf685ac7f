"""The merge of a key's batch part and tiles to values at a time. Pure numpy; windows.py has the picture.

A batch part is stored as rows of float64 `[segment, start, state...]`. The segment is the kind of a row:

    -1 - i    collapsed: events of window i from its tail at cut + slack to its head at the cut (start unused)
    hop > 0   a hop at a window's tail or head: events of [start, start + hop) before the cut
    0         early: events at exactly `start`, at or after the cut
    LOST      a first row: states of `start` bytes are more than a store takes, and are left out
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.aggregates.layout import States
from anabranch.declare.views import FeatureView
from anabranch.states.blocks import Rows
from anabranch.values.times import floor_to, format_time

LABELS = 2  # columns before the state in a stored batch row
LOST = -(2.0**53)
_LEAST = -(2**62)


@dataclass(frozen=True)
class BatchPart:
    """One key's states in a batch with `cut` and `slack`: rows (k, 2 + width) and the extras of each row."""

    cut: int
    slack: int
    rows: Rows
    extras: Sequence[States] = ()


@dataclass(frozen=True)
class Tiles:
    """One key's states by the stream since the cut: starts of wide tiles (m,), states (m, width), extras.

    `fine` are the tiles of the other tier, at least those of hours in which a tail lies (windows.py). `lost`:
    the extras of a tile are more than the store takes, and are left out.
    """

    starts: NDArray[np.int64]
    rows: Rows
    extras: Sequence[States] = ()
    fine: "Tiles | None" = None
    lost: bool = False


@dataclass(frozen=True)
class Merged:
    """Values by feature column; `degraded` is the reason why they may not be exact, None when they are.

    `lost` are the columns whose states are more than the store takes, and were left out.
    """

    values: Mapping[str, object]
    degraded: str | None = None
    lost: frozenset[str] = frozenset()


Known = tuple[BatchPart | None, Tiles | None]
"""One key's states by batch and stream."""


def merge(view: FeatureView, batch: BatchPart | None, tiles: Tiles | None, at: int) -> Merged:
    """Features of one key at time `at`: the fold over its events in each window, or marked as degraded."""
    return merge_all(view, [(batch, tiles)], at)[0]


def merge_all(view: FeatureView, known: Sequence[Known], at: int) -> list[Merged]:
    """Features of several keys, all of one batch, with as many calls of numpy as for one key."""
    if not known:
        return []
    layout, count, groups = view.layout, len(known), len(view.spans) * len(known)
    extras: list[States] = [layout.reduce_extras(())] * groups if layout.extras else []
    folded = np.empty((groups, layout.width))
    folded[:] = layout.empty
    part = next((batch for batch, _ in known if batch is not None), None)
    reach = _Reach.of(view, at)
    stack = _Stack.of(view, known)
    if stack is not None:
        window, row = np.nonzero(stack.inside(view, part, reach))
        row = row if stack.order is None else stack.order[row]
        group = window if count == 1 else window * count + stack.owner[row]
        first = np.concatenate([[0], np.flatnonzero(group[1:] != group[:-1]) + 1])[: len(group)]
        present = group[first]
        folded[present] = layout.reduce_groups(stack.rows[row], first)
        if layout.extras:
            merged = layout.reduce_extras_groups([stack.extras[i] for i in row.tolist()], first)
            for position, state in zip(present.tolist(), merged, strict=True):
                extras[position] = state
    reasons = _reasons(view, known, part, folded, reach)
    values = _values(view, folded, extras, count, reach)
    return [
        Merged(found, None) if why is None else _degraded(view, found, why, *parts)
        for found, why, parts in zip(values, reasons, known, strict=True)
    ]


def with_events(
    view: FeatureView, known: Known, rows: Sequence[Mapping[str, Any]], times: Sequence[int]
) -> Known:
    """What is known of a key with further events of it, as if the stream had read them.

    Each is a wide tile of its own instant, as that of an event ahead of its arrival, and like it also a fine
    one where that is the beginning of a wide tile (windows.py).
    """
    batch, tiles = known
    states, extras = view.lifter.states(rows, times)
    starts = np.array(times, dtype=np.int64)
    wide = _further(view, tiles, starts, states, extras)
    edges = np.flatnonzero(starts % view.tiers[0] == 0)
    if len(view.tiers) > 1 and len(edges):
        own = [extras[place] for place in edges.tolist()] if extras else []
        wide = replace(wide, fine=_further(view, wide.fine, starts[edges], states[edges], own))
    return batch, wide


def _further(
    view: FeatureView, tiles: Tiles | None, starts: NDArray[np.int64], rows: Rows, extras: Sequence[States]
) -> Tiles:
    """Tiles of one tier with further ones."""
    if tiles is None:
        return Tiles(starts, rows, extras)
    before = tiles.extras or [view.layout.reduce_extras(())] * len(tiles.starts if extras else ())
    return replace(
        tiles,
        starts=np.concatenate([tiles.starts, starts]),
        rows=np.concatenate([tiles.rows, rows]),
        extras=[*before, *extras],
    )


@dataclass(frozen=True)
class _Reach:
    """Tails, None without one, and heads of a view's windows for an answer at `at`."""

    at: int
    tails: Sequence[int | None]
    heads: Sequence[int]

    @classmethod
    def of(cls, view: FeatureView, at: int) -> "_Reach":
        """The windows of an answer at `at`."""
        return cls(at, [span.tail(at) for span in view.spans], [span.head(at) for span in view.spans])


@dataclass(frozen=True)
class _Portion:
    """Rows (n, ...) of several keys from one place: number of the key, extras, and starts of tiles."""

    owner: NDArray[np.intp]
    rows: Rows
    extras: Sequence[States]
    starts: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, view: FeatureView, parts: Sequence[BatchPart | Tiles | None]) -> "_Portion | None":
        """The rows of all parts; None when there are none."""
        numbered = [
            (number, part) for number, part in enumerate(parts) if part is not None and len(part.rows)
        ]
        if not numbered:
            return None
        present = [part for _, part in numbered]
        owner = (
            np.zeros(len(present[0].rows), dtype=np.intp)
            if len(parts) == 1
            else np.repeat([number for number, _ in numbered], [len(part.rows) for part in present])
        )
        extras: list[States] = []
        if view.layout.extras:
            nothing = view.layout.reduce_extras(())
            for part in present:
                extras += part.extras or [nothing] * len(part.rows)
        starts = (
            _joined([part.starts for part in present if isinstance(part, Tiles)])
            if isinstance(present[0], Tiles)
            else None
        )
        return cls(owner, _joined([part.rows for part in present]), extras, starts)


@dataclass(frozen=True)
class _Stack:
    """Batch rows, wide and fine tiles of several keys. `order` sorts them by `owner`, the key's number."""

    batch: _Portion | None
    tiles: _Portion | None
    fine: _Portion | None
    rows: Rows
    owner: NDArray[np.intp]
    order: NDArray[np.intp] | None
    extras: Sequence[States]

    @classmethod
    def of(cls, view: FeatureView, known: Sequence[Known]) -> "_Stack | None":
        """The stack; None when nothing is known of any key."""
        batch = _Portion.of(view, [part for part, _ in known])
        tiles = _Portion.of(view, [tiles for _, tiles in known])
        fine = _Portion.of(view, [None if tiles is None else tiles.fine for _, tiles in known])
        present = [portion for portion in (batch, tiles, fine) if portion is not None]
        if not present:
            return None
        owner = _joined([portion.owner for portion in present])
        rows = _joined(
            [portion.rows[:, LABELS:] if portion is batch else portion.rows for portion in present]
        )
        order = np.argsort(owner, kind="stable") if len(known) > 1 else None
        return cls(
            batch, tiles, fine, rows, owner, order, [state for portion in present for state in portion.extras]
        )

    def inside(self, view: FeatureView, part: BatchPart | None, reach: _Reach) -> NDArray[np.bool_]:
        """Whether an answer takes a row, in the order of keys, shape (windows, rows)."""
        found = []
        if self.batch is not None and part is not None:
            found.append(_of_batch(view, self.batch.rows, part, reach))
        if self.tiles is not None and self.tiles.starts is not None:
            found.append(_of_wide(view, self.tiles.starts, reach))
        if self.fine is not None and self.fine.starts is not None:
            found.append(_of_fine(view, self.fine.starts, reach))
        inside = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        return inside if self.order is None else inside[:, self.order]


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _of_batch(view: FeatureView, rows: Rows, part: BatchPart, reach: _Reach) -> NDArray[np.bool_]:
    """Whether each window takes each stored row of a batch, shape (windows, rows)."""
    segments, starts = rows[:, 0], rows[:, 1]
    table = []
    for position, span in enumerate(view.spans):
        tail, since = reach.tails[position], span.collapsed_from(part.cut, part.slack)
        if tail is None or since is None:
            table.append((-1.0 - position, np.nan, 0.0, 0.0, -np.inf, float(reach.at)))
        else:
            until = span.collapsed_to(part.cut)
            table.append((-1.0 - position, span.hop, since, until, tail, reach.heads[position]))
    own, hop, since, until, tail, head = np.array(table).T[:, :, np.newaxis]
    taken: NDArray[np.bool_] = (segments == hop) & ((starts < since) | (starts >= until))
    taken |= segments == 0  # early
    taken &= starts >= tail
    taken &= starts < head
    taken |= segments == own
    return taken


def _of_wide(view: FeatureView, starts: NDArray[np.int64], reach: _Reach) -> NDArray[np.bool_]:
    """Whether each window takes the wide tiles that begin at `starts`, shape (windows, tiles)."""
    wide = view.tiers[0]
    tails, heads = _ends(reach)
    taken = (starts >= tails) & (starts < heads)
    for position, head in enumerate(reach.heads):
        if head < reach.at and head % wide:
            # The head's own tile reaches beyond it; of that stretch only events ahead of their arrival are
            # apart.
            taken[position] &= (starts < floor_to(head, wide)) | (starts % wide != 0)
    return taken


def _of_fine(view: FeatureView, starts: NDArray[np.int64], reach: _Reach) -> NDArray[np.bool_]:
    """Whether each window takes the fine tiles that begin at `starts`: those of its edges."""
    wide = view.tiers[0]
    tails, heads = _ends(reach)
    begun = starts - starts % wide
    # Of a tail or head within a wide tile: the fine tiles that begin in that one.
    taken: NDArray[np.bool_] = begun == np.array(
        [[_LEAST if t is None or not t % wide else t - t % wide] for t in reach.tails]
    )
    if any(head < reach.at for head in reach.heads):
        taken |= begun == np.array([[h - h % wide if h < reach.at else _LEAST] for h in reach.heads])
    return taken & (starts >= tails) & (starts < heads)


def _ends(reach: _Reach) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tails and heads, each of shape (windows, 1); a window without a tail has the least number."""
    tails = [_LEAST if tail is None else tail for tail in reach.tails]
    return np.array(tails)[:, np.newaxis], np.array(reach.heads)[:, np.newaxis]


def _reasons(
    view: FeatureView, known: Sequence[Known], part: BatchPart | None, folded: Rows, reach: _Reach
) -> list[str | None]:
    """The reason why the values of each key may not be exact."""
    if part is not None and any(
        batch is not None and (batch.cut, batch.slack) != (part.cut, part.slack) for batch, _ in known
    ):
        raise ValueError(
            "batch parts of several batches cannot be merged together: merge each batch's keys separately"
        )
    count, at = len(known), reach.at
    early = view.layout.latest(folded) >= at
    late = part is not None and at < part.cut
    old = [] if part is None else _too_old(view, part, reach)
    lost = [_is_lost(batch, tiles) for batch, tiles in known]
    if not (late or old or any(lost) or early.any()):
        return [None] * count
    texts = []
    for number, (batch, _) in enumerate(known):
        missing = {_lost_text(view): None} if lost[number] else {}
        reasons: dict[str, None] = {**missing}
        for position, span in enumerate(view.spans):
            if early[position * count + number]:
                reasons[f"{format_time(at)} lies before events that were already folded"] = None
            if part is not None and batch is not None and span.name in old:
                reasons[f"the batch of {format_time(part.cut)} is too old for window {span.name}"] = None
        if part is not None and batch is not None and late:
            before = f"{format_time(at)} lies before the batch's cut {format_time(part.cut)}"
            reasons = {**missing, before: None}
        texts.append("; ".join(reasons) or None)
    return texts


def _is_lost(batch: BatchPart | None, tiles: Tiles | None) -> bool:
    """Whether states of a key were left out, as more than a store takes."""
    by_stream = tiles is not None and (tiles.lost or (tiles.fine is not None and tiles.fine.lost))
    return by_stream or _lost_by_batch(batch)


def _lost_by_batch(batch: BatchPart | None) -> bool:
    return batch is not None and len(batch.rows) > 0 and bool(batch.rows[0, 0] == LOST)


def _degraded(
    view: FeatureView, values: dict[str, object], why: str, batch: BatchPart | None, tiles: Tiles | None
) -> Merged:
    """An answer that may not be exact; values whose states the batch lost are NULL."""
    if not _is_lost(batch, tiles):
        return Merged(values, why)
    by_batch = _lost_by_batch(batch)
    every = by_batch and batch is not None and len(batch.rows) == 1  # the numbers too
    lost = {column.name for column in view.columns if every or view.layout.bounds[column.part].extras}
    return Merged({**values, **dict.fromkeys(lost if by_batch else ())}, why, frozenset(lost))


def _lost_text(view: FeatureView) -> str:
    return (
        f"the states of this key in view {view.name!r} are more than the store takes, so values are missing: "
        "keep fewer of them (k=, most=) or give the view a longer hop="
    )


def _too_old(view: FeatureView, part: BatchPart, reach: _Reach) -> list[str]:
    """The windows that a batch of that time does not know enough of."""
    found = []
    for span, tail, head in zip(view.spans, reach.tails, reach.heads, strict=True):
        since = span.collapsed_from(part.cut, part.slack)
        if tail is None or since is None:
            continue
        if tail > since or (reach.at > head > span.head(part.cut + part.slack) < part.cut):
            found.append(span.name)
    return found


def _values(
    view: FeatureView, folded: Rows, extras: Sequence[States], count: int, reach: _Reach
) -> list[dict[str, object]]:
    """Values of each key from states (windows * keys, width)."""
    ends, tails = np.array(reach.heads), np.array([tail or 0 for tail in reach.tails])
    if count > 1:
        ends, tails = np.repeat(ends, count), np.repeat(tails, count)
    out: list[dict[str, object]] = [dict.fromkeys(view.column_names) for _ in range(count)]
    for group, finished in view.layout.finish_alike(folded, extras, ends, tails):
        names, values, valid = view.finished[group.names], finished.values.tolist(), finished.valid.tolist()
        shown = [value if good else None for value, good in zip(values, valid, strict=True)]
        for number, into in enumerate(out):
            into.update(zip(names, shown[number::count], strict=True))
    return out
