"""Values of changed features before and after, over the same events of sampled keys."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from anabranch.pages.charts import bins
from anabranch.planning.changes import COMES, GOES, RENAMED, Changes
from anabranch.testing.oracle import close

BINS = 12
_SHOWN = 8  # values of a text, the most frequent first
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Side:
    """The values of a feature over keys: the share that is missing, and of numbers mean and quantiles."""

    missing: float
    mean: float | None = None
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None

    def document(self) -> dict[str, float | None]:
        """The figures as JSON."""
        return {"missing": self.missing, "mean": self.mean, "p10": self.p10, "p50": self.p50, "p90": self.p90}


@dataclass(frozen=True, kw_only=True)
class ValueChange:
    """A feature over `keys` keys, of which `differ` have another value; a side is None where it is not there.

    `names` are bins or values, with the counts of keys on both sides. `examples` are key, before and after.
    """

    name: str
    change: str
    keys: int
    differ: int | None
    before: Side | None
    after: Side | None
    names: Sequence[str]
    counts_before: Sequence[int]
    counts_after: Sequence[int]
    examples: Sequence[tuple[str, Any, Any]] = ()

    def document(self) -> dict[str, Any]:
        """The change as JSON."""
        return {
            "name": self.name,
            "change": self.change,
            "keys": self.keys,
            "differ": self.differ,
            "before": None if self.before is None else self.before.document(),
            "after": None if self.after is None else self.after.document(),
            "distribution": {
                "names": list(self.names),
                "before": list(self.counts_before),
                "after": list(self.counts_after),
            },
            "examples": [{"key": key, "before": old, "after": new} for key, old, new in self.examples],
        }


Values = Sequence[Mapping[str, Any]]
"""Features as JSON by name, one mapping a key."""


def value_changes(changes: Changes, keys: Sequence[str], before: Values, after: Values) -> list[ValueChange]:
    """The values of each feature that comes, goes or changes; a renamed one keeps its values.

    `before` and `after` are in the order of `keys`, with values as JSON.
    """
    found = []
    for change in changes.features:
        if change.kind == RENAMED or not keys:
            continue
        old = None if change.kind == COMES else [each.get(change.name) for each in before]
        new = None if change.kind == GOES else [each.get(change.name) for each in after]
        found.append(_change(change.name, change.kind, keys, old, new))
    return found


def _change(
    name: str, kind: str, keys: Sequence[str], old: Sequence[Any] | None, new: Sequence[Any] | None
) -> ValueChange:
    other = [
        (key, was, now)
        for key, was, now in zip(keys, old or (), new or (), strict=False)
        if not (was == now or (was is not None and now is not None and close(_float(was), _float(now))))
    ]
    names, counts = _distribution(old or (), new or ())
    return ValueChange(
        name=name,
        change=kind,
        keys=len(keys),
        differ=None if old is None or new is None else len(other),
        before=None if old is None else _side(old),
        after=None if new is None else _side(new),
        names=names,
        counts_before=counts[0],
        counts_after=counts[1],
        examples=other[:_EXAMPLES],
    )


def _float(value: Any) -> Any:
    return float(value) if _number(value) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _side(values: Sequence[Any]) -> Side:
    there = [value for value in values if value is not None]
    missing = round(1 - len(there) / len(values), 4)
    if not there or not all(map(_number, there)):
        return Side(missing=missing)
    cut = quantiles(there, n=10, method="inclusive") if len(there) > 1 else [there[0]] * 9
    return Side(missing=missing, mean=fmean(there), p10=cut[0], p50=cut[4], p90=cut[8])


def _distribution(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[str], tuple[list[int], list[int]]]:
    """Common bins of numbers, or the most frequent values, and how many keys of each side are in them."""
    there = [value for value in (*old, *new) if value is not None]
    if there and all(map(_number, there)):
        edges, _ = bins([float(value) for value in there], BINS)
        low, step = edges[0], (edges[-1] - edges[0]) / BINS or 1.0
        counts = tuple([0] * BINS for _ in range(2))
        for side, values in zip(counts, (old, new), strict=True):
            for value in values:
                if value is not None:
                    side[min(int((value - low) / step), BINS - 1)] += 1
        return [f"{edge:.4g}" for edge in edges[:-1]], (counts[0], counts[1])
    texts = [[str(value) for value in side if value is not None] for side in (old, new)]
    names = [name for name, _ in Counter([*texts[0], *texts[1]]).most_common(_SHOWN)]
    found = [Counter(side) for side in texts]
    return names, ([found[0][name] for name in names], [found[1][name] for name in names])
