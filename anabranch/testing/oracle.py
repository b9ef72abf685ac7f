"""The obvious oracle: every aggregate as a plain loop over plain Python values. Slow and right; nothing here
is shared with features.

An aggregate that is added from outside says what it means by its method `plain`, a window by its `tail`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

from anabranch.aggregates.base import Aggregate
from anabranch.declare.views import FeatureView
from anabranch.declare.windows import Window
from anabranch.errors import MisuseError
from anabranch.values.times import floor_to, from_micros, parse_duration, to_micros


class PlainEvent(Protocol):
    """An event that the oracle folds; times in microseconds."""

    @property
    def id(self) -> Any:
        """What copies of one event share."""

    @property
    def key(self) -> str:
        """The key whose features it is part of."""

    @property
    def time(self) -> int:
        """Event time."""

    @property
    def arrival(self) -> int:
        """When it came."""

    def value(self, text: str) -> Any:
        """The value of a column or SQL expression, None for NULL."""


Happened = TypeVar("Happened", bound=PlainEvent)


@dataclass(frozen=True)
class Found:
    """What an oracle folds: (event time, argument) of counted events in time order, both arguments of
    pairs, and the window.
    """

    items: list[tuple[int, Any]]
    pairs: list[tuple[Any, Any]]
    aggregate: Any
    at: int
    since: int

    @property
    def values(self) -> list[Any]:
        """The arguments alone."""
        return [value for _, value in self.items]


_WIDE = Context(prec=80)  # the default context would round long sums


def exact(values: Sequence[Any]) -> list[Fraction]:
    """Numbers without rounding."""
    return [Fraction(value) for value in values]


def moment(values: Sequence[Any], power: int) -> Fraction:
    """Sum of powers of the differences from the mean, exactly."""
    numbers = exact(values)
    mean = Fraction(sum(numbers)) / len(numbers)
    return sum((Fraction((number - mean) ** power) for number in numbers), start=Fraction(0))


def together(pairs: Sequence[tuple[Any, Any]]) -> Fraction:
    """Sum of products of the differences from both means, exactly."""
    xs, ys = exact([x for x, _ in pairs]), exact([y for _, y in pairs])
    mx, my = Fraction(sum(xs)) / len(xs), Fraction(sum(ys)) / len(ys)
    return sum(((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)), start=Fraction(0))


def total(values: Sequence[Any]) -> Any:
    """Sum as the type of its values."""
    if not values:
        return None
    if isinstance(values[0], Decimal):
        return reduce(_WIDE.add, values)
    return math.fsum(values) if isinstance(values[0], float) else sum(values)


def variance(values: Sequence[Any]) -> float | None:
    """Sample variance, rounded once."""
    return float(moment(values, 2) / (len(values) - 1)) if len(values) > 1 else None


def flat(values: Sequence[Any]) -> bool:
    """Whether all values are one."""
    return len(set(values)) < 2


def skewness(values: Sequence[Any]) -> float | None:
    """Population skewness."""
    return (
        None
        if flat(values)
        else math.sqrt(len(values)) * float(moment(values, 3)) / float(moment(values, 2)) ** 1.5
    )


def kurtosis(values: Sequence[Any]) -> float | None:
    """Population excess kurtosis."""
    return None if flat(values) else float(len(values) * moment(values, 4) / moment(values, 2) ** 2) - 3


def correlation(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Pearson's correlation."""
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    if flat(xs) or flat(ys):
        return None
    return float(together(pairs)) / (math.sqrt(float(moment(xs, 2))) * math.sqrt(float(moment(ys, 2))))


def slope(found: Found) -> float | None:
    """Least-squares trend per day."""
    if flat([time for time, _ in found.items]):
        return None
    return float(
        together(found.items)
        / moment([time for time, _ in found.items], 2)
        * parse_duration(found.aggregate.per)
    )


def histogram(found: Found) -> list[int]:
    """Counts by bin."""
    edges = [-math.inf, *found.aggregate.edges, math.inf]
    return [sum(low <= value < high for value in found.values) for low, high in pairwise(edges)]


def faded(found: Found, mean: bool) -> float | None:
    """Sum or mean with weights halved by age."""
    if not found.items:
        return None
    weights = [
        2.0 ** ((time - found.at) / parse_duration(found.aggregate.half_life)) for time, _ in found.items
    ]
    above = math.fsum(weight * float(value) for weight, value in zip(weights, found.values, strict=True))
    return above / math.fsum(weights) if mean else above


def percentile(found: Found) -> float | None:
    """The smallest value whose rank is at least the share asked for."""
    if not found.items:
        return None
    wanted = max(math.ceil(found.aggregate.percentage * len(found.items) - 1e-9), 1)
    return float(sorted(found.values)[wanted - 1])


def most_frequent(found: Found) -> Any:
    """The value that occurs most, the smallest text of equals."""
    counts = Counter(found.values)
    texts = {str(value).lower() if isinstance(value, bool) else str(value): value for value in counts}
    best = [text for text, value in texts.items() if counts[value] == max(counts.values())]
    least = min(best, key=str.encode, default=None)
    return least if least is None or isinstance(texts[least], bool) else texts[least]


def root(value: float | None) -> float | None:
    """Square root of what is there."""
    return None if value is None else math.sqrt(value)


FOLDS: dict[str, Callable[[Found], Any]] = {
    "Count": lambda found: len(found.items),
    "Sum": lambda found: total(found.values),
    "Mean": lambda found: float(sum(exact(found.values)) / len(found.items)) if found.items else None,
    "Rate": lambda found: (
        float(total(found.values) or 0) / ((found.at - found.since) / parse_duration(found.aggregate.per))
        if found.at > found.since
        else 0.0
    ),
    "Histogram": histogram,
    "Any": lambda found: any(found.values) if found.items else None,
    "All": lambda found: all(found.values) if found.items else None,
    "Min": lambda found: min(found.values, default=None),
    "Max": lambda found: max(found.values, default=None),
    "First": lambda found: min(found.items, default=(0, None))[1],
    "Last": lambda found: max(found.items, default=(0, None))[1],
    "FirstK": lambda found: [value for _, value in sorted(found.items)[: found.aggregate.k]],
    "LastK": lambda found: [value for _, value in sorted(found.items, reverse=True)[: found.aggregate.k]],
    "TopK": lambda found: sorted(found.values, reverse=True)[: found.aggregate.k],
    "BottomK": lambda found: sorted(found.values)[: found.aggregate.k],
    "Variance": lambda found: variance(found.values),
    "StdDev": lambda found: root(variance(found.values)),
    "Skewness": lambda found: skewness(found.values),
    "Kurtosis": lambda found: kurtosis(found.values),
    "Covariance": lambda found: (
        float(together(found.pairs) / (len(found.pairs) - 1)) if len(found.pairs) > 1 else None
    ),
    "Correlation": lambda found: correlation(found.pairs),
    "Slope": slope,
    "TimeSince": lambda found: (
        (found.at - max(time for time, _ in found.items)) / 1e6 if found.items else None
    ),
    "DecayedSum": lambda found: faded(found, mean=False),
    "DecayedMean": lambda found: faded(found, mean=True),
    "MostFrequent": most_frequent,
    "Distinct": lambda found: min(len(set(found.values)), found.aggregate.most),
    "ApproxDistinct": lambda found: len(set(found.values)),
    "ApproxPercentile": percentile,
}


def _began(period: str, zone: str, at: int) -> int:
    """When a period began by a zone's clocks: from tomorrow back, day by day, to the first that has begun."""
    known = ZoneInfo(zone)
    day = from_micros(at).astimezone(known).date() + timedelta(days=1)
    while True:
        first = {"day": True, "week": day.isoweekday() == 1, "month": day.day == 1}[period]
        midnight = to_micros(datetime(day.year, day.month, day.day, tzinfo=known).astimezone(UTC))
        if first and midnight <= at:
            return midnight
        day -= timedelta(days=1)


BEGINNINGS: dict[str, Callable[[Any, int], int | None]] = {
    "SlidingWindow": lambda window, at: floor_to(at - window.width, window.hop),
    "ShiftedWindow": lambda window, at: floor_to(at - window.offset - window.width, window.hop),
    "CalendarWindow": lambda window, at: floor_to(_began(window.period, window.zone, at), window.hop),
    "LifetimeWindow": lambda _window, _at: None,
}
"""Where a window of each kind begins; None for no beginning."""

ENDS: dict[str, Callable[[Any, int], int]] = {
    "SlidingWindow": lambda _window, at: at,
    "ShiftedWindow": lambda window, at: floor_to(at - window.offset, window.hop),
    "CalendarWindow": lambda _window, at: at,
    "LifetimeWindow": lambda _window, at: at,
}
"""Where a window of each kind ends."""


def beginning(window: Window, at: int) -> int | None:
    """Where a window begins: of a kind that was added from outside, where it says itself."""
    known = BEGINNINGS.get(type(window).__name__)
    return window.tail(at) if known is None else known(window, at)


def ending(window: Window, at: int) -> int:
    """Where a window ends: of a kind that was added from outside, where it says itself."""
    known = ENDS.get(type(window).__name__)
    return window.head(at) if known is None else known(window, at)


def _there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def as_text(value: Any) -> str:
    """The text of a category; a long one is cut."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 100 else f"{text[:100]}...{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def ranked(aggregate: Any, events: Sequence[PlainEvent]) -> Any:
    """The map of Count and Sum with `most`, or the list of Top; of equal totals the smaller text first."""
    name = type(aggregate).__name__
    of, summed = (
        (aggregate.argument, aggregate.total)
        if name in ("Top", "TotalsMap")
        else (aggregate.by, aggregate.argument)
    )
    found: dict[str, list[Any]] = {}
    whole = False
    for event in events:
        category, value = event.value(of), 1 if summed is None else event.value(summed)
        if category is not None and _there(value):
            found.setdefault(as_text(category), []).append(1 if name == "Count" else value)
            whole |= isinstance(category, int) and not isinstance(category, bool)
    totals = {category: total(values) for category, values in found.items()}
    order = sorted(totals, key=lambda category: (-totals[category], category.encode()))
    if name == "Top":
        return [int(category) if whole else category for category in order[: aggregate.k]]
    return {category: totals[category] for category in order[: aggregate.most]}


def _of_category(aggregate: Aggregate, event: PlainEvent, category: str) -> bool:
    """Whether an event is of the category with that name; those of none, such as NULL, are `other`."""
    if not category or aggregate.by is None:
        return True
    names = {wanted: name for name, wanted in aggregate.among}
    return names.get(event.value(aggregate.by), "other") == category


def fold(aggregate: Aggregate, events: Sequence[PlainEvent], at: int, since: int, category: str = "") -> Any:
    """The aggregate over events that are already those of one key and window [since, at).

    Of an aggregate by category over those of the category with that name. Raises MisuseError for an aggregate
    that does not say what it means.
    """
    argument, other = aggregate.text, getattr(aggregate, "other", None)
    counted = [event for event in events if aggregate.where is None or event.value(aggregate.where)]
    counted = [event for event in counted if _of_category(aggregate, event, category)]
    if type(aggregate).__name__ in ("Top", "TotalsMap") or (aggregate.by and not aggregate.among):
        return ranked(aggregate, counted)
    items = [(event.time, event.value(argument)) for event in counted]
    pairs = [(event.value(argument), event.value(other)) for event in counted] if other else []
    there = [(x, y) for x, y in pairs if _there(x) and _there(y)]
    found = Found([(time, v) for time, v in items if _there(v)], there, aggregate, at, since)
    known = FOLDS.get(type(aggregate).__name__)
    if known is not None:
        return known(found)
    if type(aggregate).plain is Aggregate.plain:
        raise MisuseError(
            f"aggregate {type(aggregate).__name__} does not say what it means: give it a method "
            "'plain(self, items, at, since)', a loop over pairs of event time and value"
        )
    return aggregate.plain(found.items, at, since)


def distinct(events: Sequence[Happened]) -> list[Happened]:
    """First arrival of an id wins."""
    first: dict[Any, Happened] = {}
    for event in sorted(events, key=lambda event: event.arrival):
        first.setdefault(event.id, event)
    return list(first.values())


def answer(view: FeatureView, events: Sequence[PlainEvent], key: str, at: int) -> dict[str, Any]:
    """What the law says the features of `key` at `at` are."""
    return _folded(view, [event for event in distinct(events) if event.key == key and event.time < at], at)


def answer_with_own(
    view: FeatureView, events: Sequence[PlainEvent], key: str, at: int, own: Any
) -> dict[str, Any]:
    """What the law says a label's features are that count its own event, of the id `own` and the time `at`.

    All other events count strictly before `at`. The time asked for is the instant after, as of which an event
    of that time counts.
    """
    mine = [event for event in distinct(events) if event.key == key]
    counted = [event for event in mine if event.time < at or (event.id == own and event.time == at)]
    return _folded(view, counted, at + 1)


def _folded(view: FeatureView, mine: Sequence[PlainEvent], at: int) -> dict[str, Any]:
    """Features of one key from its counted events."""
    out = {}
    for column in view.columns:
        since, until = beginning(column.window, at), ending(column.window, at)
        inside = [event for event in mine if (since is None or event.time >= since) and event.time < until]
        out[column.name] = fold(view.features[column.feature], inside, until, since or 0, column.category)
    return out


def close(expected: Any, found: Any, scale: float = 0.0) -> bool:
    """Equal; floats to 1e-9 relative, or to 1e-12 of `scale`, the size of what was folded."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            close(value, found[name], scale) for name, value in expected.items()
        )
    if isinstance(expected, float) and isinstance(found, (float, int)):
        return math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12 * scale)
    return type(expected) is type(found) and bool(expected == found)
