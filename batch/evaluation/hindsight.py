"""The hindsight audit: what a model owes to events that had not arrived when its labels' times came.

A feature before a label counts every event that happened before it; an answer at that time could count those
alone that had arrived. Where the two differ, the metric on held-out rows promises what serving cannot give.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER
from anabranch.stores.models.inputs import ModelInput
from anabranch.stores.models.scoring import InputCoder, Matrix, Scores
from batch.evaluation.assessment import RESAMPLES, JudgedRows, resamples
from batch.evaluation.measures import measure


@dataclass(frozen=True, kw_only=True)
class ChangedFeature:
    """A feature and the number of rows in which hindsight changed its value."""

    feature: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Hindsight:
    """The audit of one training over `rows` rows, a sample where there are many.

    The rows' windows hold `events` pairs of a row and an event before it; in `late` of them the event had not
    arrived by the row's time, in `loaded` it came from a file. `features` are those that hindsight changed,
    the most changed first. `with_hindsight` and `without` are the metric on the held-out rows, None where it
    is not defined; `gain` is how much better it is with hindsight, positive in any metric, with the bounds of
    its 95% bootstrap interval. A model that learns `as_known` has no hindsight: there `with_hindsight` is
    what its scores would be worth if it had.
    """

    metric: str
    as_known: bool
    rows: int
    events: int
    late: int
    loaded: int
    features: tuple[ChangedFeature, ...] = ()
    with_hindsight: float | None = None
    without: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Hindsight":
        """The audit from its fields, as JSON has them."""
        features = tuple(ChangedFeature(**one) for one in content["features"])
        return cls(**{**content, "features": features})

    @property
    def unmeasurable(self) -> str:
        """Why nothing can be said; empty when something can."""
        if self.events and self.loaded == self.events and not self.as_known:
            return (
                "not measurable: every event came from files or tables, whose arrival is the time of landing"
            )
        return ""

    @property
    def said(self) -> str:
        """The audit in one sentence, for people."""
        if self.unmeasurable:
            return self.unmeasurable
        if not self.late:
            return f"no event arrived late enough to change one of {self.rows:,} rows{self._left_out}"
        changed = f"hindsight changed {self._most}" if self.features else "hindsight changed no value"
        if self.gain is None or self.with_hindsight is None or self.without is None:
            return f"{changed}; the metric is not defined on the held-out rows{self._left_out}"
        interval = "" if self.low is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        return (
            f"{self.metric} {self.with_hindsight:.4f} with hindsight, {self.without:.4f} as known: gain "
            f"{self.gain:+.4f}{interval}; {changed}{self._left_out}"
        )

    def share(self, one: ChangedFeature) -> float:
        """The share of rows in which hindsight changed the feature."""
        return one.rows / self.rows

    @property
    def _most(self) -> str:
        first = self.features[0]
        rest = len(self.features) - 1
        more = f" and {rest} more feature{'s' if rest > 1 else ''}" if rest else ""
        return f"{first.feature} in {self.share(first):.1%} of {self.rows:,} rows{more}"

    @property
    def _left_out(self) -> str:
        if not self.loaded or self.as_known:
            return ""
        return f"; {self.loaded / self.events:.0%} of the events came from files and count as known at once"


def said_late(late: int, events: int, row: str) -> str:
    """For people, the share of the events before rows' times that do not count as known."""
    share = f"{late / events:.1%} of the events" if events else "none of 0 events"
    return f"as known: {share} before a {row}'s time arrived after it and do not count"


class Sights:
    """The column `_sight` of a training set (training_sets.py) in memory, NULL of rows not examined."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.examined: NDArray[np.int64] = np.flatnonzero(column.is_valid().to_numpy()).astype(np.int64)
        self._whole: pa.StructArray = pa.concat_arrays(column.drop_null().chunks or [_none(column.type)])

    def total(self, count: str) -> int:
        """The sum of `events`, `late` or `loaded`."""
        return int(np.sum(self._whole.field(count).to_numpy(zero_copy_only=False)))

    def changed(self) -> tuple[NDArray[np.int64], NDArray[np.int64], pa.StructArray]:
        """For each changed value its place among examined rows, that of its input, and the other value."""
        lists = self._whole.field("changed")
        entries = lists.flatten()
        rows = lists.value_parent_indices().to_numpy().astype(np.int64)
        return rows, entries.field("place").to_numpy().astype(np.int64), entries


def _none(kind: pa.DataType) -> pa.Array:
    return pa.array([], kind)


def audit(
    metric: str,
    inputs: Sequence[ModelInput],
    sights: tuple[Sights, Sights],
    predict: Callable[[Matrix], Scores],
    matrix: Matrix,
    judged: JudgedRows,
    *,
    as_known: bool,
    seed: int,
) -> Hindsight:
    """The audit; `sights` are those of the training and the held-out rows.

    `matrix` has the coded inputs of the held-out rows, `judged` their targets and scores.
    """
    counts = np.sum([np.bincount(one.changed()[1], minlength=len(inputs)) for one in sights], axis=0)
    features = [
        ChangedFeature(feature=given.name, rows=int(count))
        for given, count in zip(inputs, counts, strict=True)
        if count
    ]
    found = Hindsight(
        metric=metric,
        as_known=as_known,
        rows=sum(len(one.examined) for one in sights),
        events=sum(one.total("events") for one in sights),
        late=sum(one.total("late") for one in sights),
        loaded=sum(one.total("loaded") for one in sights),
        features=tuple(sorted(features, key=lambda one: (-one.rows, one.feature))),
    )
    judged, matrix = judged.part(sights[1].examined), matrix[sights[1].examined]
    if len(np.unique(judged.target)) < 2:
        return found
    others = judged
    if (rows := np.unique(sights[1].changed()[0])).size:
        other = _other_matrix(inputs, sights[1], matrix)
        scores = judged.scores.copy()
        scores[rows] = predict(other[rows])
        others = replace(judged, scores=scores)
    known, seen = (judged, others) if as_known else (others, judged)
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    with_hindsight, without = seen.measure(metric), known.measure(metric)
    low, high = _interval(metric, sign, seen, known, seed) if others is not judged else (0.0, 0.0)
    return replace(
        found,
        with_hindsight=with_hindsight,
        without=without,
        gain=sign * (with_hindsight - without),
        low=low,
        high=high,
    )


def _other_matrix(inputs: Sequence[ModelInput], sights: Sights, matrix: Matrix) -> Matrix:
    """The coded inputs with the other values of what hindsight changed."""
    other = matrix.copy()
    rows, places, entries = sights.changed()
    for place, given in enumerate(inputs):
        mine = places == place
        if not mine.any():
            continue
        kind = "text" if given.kind == "text" else "number"
        values = entries.field(kind).filter(pa.array(mine))
        column = (
            np.array(values.to_pylist(), dtype=object)
            if kind == "text"
            else values.to_numpy(zero_copy_only=False).astype(np.float64)
        )
        other[rows[mine], place] = InputCoder([given.described()]).matrix({given.name: column})[:, 0]
    return other


def _interval(
    metric: str, sign: float, seen: JudgedRows, known: JudgedRows, seed: int
) -> tuple[float | None, float | None]:
    """The 95% interval of the gain by paired resamples of keys."""
    gains = []
    for drawn in resamples(seen.groups, RESAMPLES, seed):
        target = seen.target[drawn]
        if len(np.unique(target)) > 1:
            both = [measure(metric, target, one.scores[drawn], one.threshold) for one in (seen, known)]
            gains.append(sign * (both[0] - both[1]))
    if not gains:
        return None, None
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(low), float(high)
