"""The obvious oracle: every aggregate as a plain loop over plain Python values. Slow and right; nothing here is shared with features."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from features import AGGREGATES, Aggregate, FeatureView
from features.times import floor_to


@dataclass(frozen=True)
class Event:
    """One event of the test source; times in microseconds."""

    id: str
    key: str
    time: int
    arrival: int
    x: float | None = None
    n: int | None = None
    d: Decimal | None = None
    s: str | None = None
    b: bool | None = None


Item = tuple[int, Any]  # (event time, argument), non-null ones


def _mean(values: Sequence[Any]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _variance(values: Sequence[Any]) -> float | None:
    return float(statistics.variance([Decimal(value) for value in values])) if len(values) > 1 else None


def _values(items: Sequence[Item]) -> list[Any]:
    return [value for _, value in items]


def _total(values: Sequence[Any]) -> Any:
    if not values:
        return None
    return math.fsum(values) if isinstance(values[0], float) else sum(values[1:], values[0])


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


FOLDS: dict[str, Callable[[list[Item], Aggregate], Any]] = {
    "Count": lambda items, _: len(items),
    "Sum": lambda items, _: _total(_values(items)),
    "Mean": lambda items, _: _mean(_values(items)),
    "Min": lambda items, _: min(_values(items), default=None),
    "Max": lambda items, _: max(_values(items), default=None),
    "Variance": lambda items, _: _variance(_values(items)),
    "StdDev": lambda items, _: _root(_variance(_values(items))),
    "First": lambda items, _: min(items, default=(0, None))[1],
    "Last": lambda items, _: max(items, default=(0, None))[1],
}

CONDITIONS: dict[str | None, Callable[[Event], bool]] = {None: lambda _: True, "n > 0": lambda event: event.n is not None and event.n > 0}


def fold(aggregate: Aggregate, events: Sequence[Event]) -> Any:
    """The aggregate over events that are already those of one key and window."""
    name = type(aggregate).__name__
    counted = [event for event in events if CONDITIONS[aggregate.where](event)]
    items = [(event.time, 1 if aggregate.argument == "1" else getattr(event, str(aggregate.argument))) for event in counted]
    present = [(time, v) for time, v in items if v is not None and not (isinstance(v, float) and not math.isfinite(v))]
    return FOLDS[name](present, aggregate)


def distinct(events: Sequence[Event]) -> list[Event]:
    """First arrival of an id wins."""
    first: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.arrival):
        first.setdefault(event.id, event)
    return list(first.values())


def answer(view: FeatureView, events: Sequence[Event], key: str, at: int) -> dict[str, Any]:
    """What the law says the features of `key` at `at` are."""
    mine = [event for event in distinct(events) if event.key == key and event.time < at]
    out = {}
    for column in view.columns:
        width, hop = column.window.width, column.window.hop
        inside = [event for event in mine if width is None or event.time >= floor_to(at - width, hop)]
        out[column.name] = fold(view.features[column.feature], inside)
    return out


def close(expected: Any, found: Any, scale: float = 1.0) -> bool:
    """Equal, or for floats within 1e-9 relative to the larger of the values and `scale`."""
    if isinstance(expected, float) and isinstance(found, (float, int)):
        return math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-9 * scale)
    return type(expected) is type(found) and bool(expected == found)


def check_complete() -> None:
    """Raises when an exported aggregate has no fold here."""
    missing = [kind.__name__ for kind in AGGREGATES if kind.__name__ not in FOLDS]
    if missing:
        raise LookupError(f"aggregates without an oracle: {', '.join(missing)}")
