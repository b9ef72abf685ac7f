"""`assert_lawful` holds for what Anabranch has, and finds what breaks the law."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from anabranch import (
    Aggregate,
    Count,
    Distinct,
    FeatureView,
    Label,
    Last,
    Max,
    Model,
    Project,
    Sum,
    Top,
    register_window,
)
from anabranch.aggregates.base import Bound, Folded
from anabranch.declare import windows
from anabranch.declare.windows import SlidingWindow, Window
from anabranch.errors import MisuseError
from anabranch.states.blocks import Block, Element, Lifted, Rows, Values
from anabranch.states.formulas import Formula, double
from anabranch.testing import BrokenLawError, assert_lawful
from anabranch.values.times import HOUR, from_micros
from anabranch.values.types import DOUBLE
from tests.support.law import SHIFTED, START, make_view
from tests.support.law import source as things
from tests.support.toys import GeometricMean, TodayWindow

register_window(TodayWindow)
EVENTS = [
    {
        "id": f"e{number}",
        "key": "ab"[number % 2],
        "time": from_micros(START + number * 7 * 60_000_000),
        "x": number * 1.5,
        "d": number * 1.25,
        "n": number % 3,
        "s": "xyz"[number % 3],
    }
    for number in range(30)
]


def project(*views: FeatureView) -> Project:
    """A project of the views."""
    return Project(name="proven", views=views)


def test_every_aggregate_over_every_window_is_lawful() -> None:
    for view in (make_view(("1h", "today")), make_view(()), SHIFTED):
        plain = {name: each for name, each in view.features.items() if each.where is None}
        assert_lawful(project(replace(view, features=plain)), EVENTS[:12], examples=2)


def test_expressions_filters_and_an_aggregate_from_outside_are_lawful() -> None:
    view = FeatureView(
        name="recent",
        source=things,
        key="key",
        windows=("1h", "1d"),
        features={
            "sum": Sum("n * 2 + 1", where="s <> 'y' OR x > 20"),
            "n": Count(where="hour(time) < 12"),
            "gm": GeometricMean("x"),
            "by": Sum("d", by="s", among=("x", "y"), where="d BETWEEN 1 AND 30"),
            "map": Sum("x / 3", by="s", most=2),
            "top": Top("s", 2, total="x * 2"),
        },
    )
    assert_lawful(project(view), EVENTS, examples=10)


def test_labels_with_own_events_are_lawful_also_where_events_share_an_instant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = FeatureView(
        name="recent",
        source=things,
        key="key",
        windows=("1h", "1d"),
        features={
            "sum": Sum("n * 2 + 1", where="s <> 'y' OR x > 20"),
            "last": Last("s"),
            "ids": Distinct("id"),
        },
    )
    label = Label(source=things, key="key", target="n > 1", own_event=True)
    declared = Project(name="proven", views=(view,), label=label, model=Model())
    events = [*EVENTS[:8], *({**event, "id": f"other {event['id']}"} for event in EVENTS[:8])]
    assert_lawful(declared, events, examples=5)
    monkeypatch.setattr("anabranch.folds.training_sets.along", lambda pieces, _query, _event: pieces)
    with pytest.raises(BrokenLawError, match="the training set with the label's own event"):
        assert_lawful(declared, events, examples=5)


@dataclass(frozen=True)
class HalfKept(Block):
    """The largest value: a block whose merge forgets the right side where it is the smaller."""

    element: Element
    empty = (-np.inf, 0.0)

    def sql(self) -> tuple[str, ...]:
        return ("0D", "0D")

    def lift(self, lifted: Lifted) -> Rows:
        found = lifted[self.element]
        values = np.where(found.valid, found.values.astype(np.float64), -np.inf)
        return np.stack([values, found.valid.astype(np.float64)], axis=1)

    def combine(self, left: Rows, right: Rows) -> Rows:
        out = np.maximum(left, right)
        out[..., 1] = np.where(left[..., 0] >= right[..., 0], left[..., 1], left[..., 1] + right[..., 1])
        return out


@dataclass(frozen=True, init=False)
class WronglyMerged(Aggregate):
    """The number of values, by a merge that loses some."""

    def over(self, kind: Any) -> Bound:
        return Bound(DOUBLE, Formula(_counted), (HalfKept(double(self.text, self.where)),))

    def plain(self, items: Sequence[tuple[int, Any]], at: int, since: int) -> float:
        return float(len(items))


def _counted(found: Folded) -> Values:
    return Values(found.rows[0][:, 1], np.ones(len(found.at), dtype=bool))


def test_a_merge_that_loses_events_is_found_in_a_small_history() -> None:
    view = FeatureView(
        name="lost", source=things, key="key", windows=("1d",), features={"n": WronglyMerged("x")}
    )
    with pytest.raises(BrokenLawError, match=r"(?s)view 'lost'.*n_1d: the fold gives .* event \d+, time"):
        assert_lawful(project(view), EVENTS)


@dataclass(frozen=True)
class EdgelessWindow(SlidingWindow):
    """An hour that does not ask for the fine tiles at its edge."""

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Any:  # noqa: ARG003 - its hop is fixed
        return cls("hour", 300_000_000, HOUR) if text == "hour" else None

    def needs_fine(self, wide: int) -> bool:
        return False


@dataclass(frozen=True)
class EarlyWindow(SlidingWindow):
    """A day whose batch state begins too early."""

    @classmethod
    def read(cls, text: str, hop: str | None, place: str) -> Any:  # noqa: ARG003 - its hop is fixed
        return cls("early", HOUR, 24 * HOUR) if text == "early" else None

    def collapsed_from(self, cut: int, slack: int) -> int | None:
        return self.tail(cut)


@pytest.fixture
def edgeless() -> Iterator[None]:
    """The broken kinds of windows, for one test."""
    kinds: list[type[Window]] = list(windows._KINDS)
    register_window(EdgelessWindow)
    register_window(EarlyWindow)
    yield
    windows._KINDS[:] = kinds


@pytest.mark.usefixtures("edgeless")
@pytest.mark.parametrize("window", ["hour", "early"])
def test_a_window_that_forgets_an_edge_is_found(window: str) -> None:
    view = FeatureView(name="edge", source=things, key="key", windows=(window,), features={"n": Count()})
    with pytest.raises(BrokenLawError, match=f"n_{window}: the fold gives|degraded"):
        assert_lawful(project(view), EVENTS)


def test_a_feature_that_reads_the_order_of_arrival_is_found() -> None:
    class ByArrival(Max):
        """The largest value, that means the first one to arrive."""

        def plain(self, items: Sequence[tuple[int, Any]], at: int, since: int) -> Any:
            return items[0][1] if items else None

    view = FeatureView(
        name="order", source=things, key="key", windows=("7d",), features={"m": ByArrival("x")}
    )
    with pytest.raises(BrokenLawError, match="m_7d"):
        assert_lawful(project(view), EVENTS)


def test_an_aggregate_that_does_not_say_what_it_means_is_named() -> None:
    class Silent(Sum):
        """A sum by another name."""

    view = FeatureView(name="silent", source=things, key="key", windows=("1h",), features={"s": Silent("x")})
    with pytest.raises(MisuseError, match="aggregate Silent does not say what it means"):
        assert_lawful(project(view), EVENTS)


def test_events_that_are_all_refused_prove_nothing() -> None:
    view = FeatureView(name="v", source=things, key="key", features={"n": Count()})
    wrong = [{**event, "key": None} for event in EVENTS]
    with pytest.raises(MisuseError, match="the first is refused because key is missing"):
        assert_lawful(project(view), wrong)
