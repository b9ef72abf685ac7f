from decimal import Decimal

import numpy as np

from anabranch import Count, FeatureView, Mean, Min, Sum
from anabranch.testing.states import states
from anabranch.values.times import HOUR
from tests.support.law import START, Event, make_view, source


def test_features_of_one_formula_are_finished_together() -> None:
    features = {"a": Mean("x"), "n": Count(), "b": Mean("x + 1"), "exact": Sum("n"), "least": Min("x")}
    features |= {"c": Mean("n"), "m": Count(where="n > 0")}
    view = FeatureView(name="v", source=source, key="key", windows=("1h", "1d"), features=features)
    assert [group.names for group in view.layout.alike] == [
        ("a", "b", "c"),
        ("n", "m"),
        ("exact",),
        ("least",),
    ]
    assert view.finished[view.layout.alike[1].names] == ("n_1h", "n_1d", "m_1h", "m_1d")


def test_together_and_each_alone_are_the_same_values() -> None:
    for view in (make_view(), make_view(())):
        events = [
            Event(
                id=str(i),
                key="k",
                time=START + i * HOUR,
                arrival=START,
                x=i / 3,
                n=i,
                d=Decimal(i),
                s=f"s{i}",
                b=i > 3,
            )
            for i in range(9)
        ]
        rows, extras = states(view, [events[:2], events[2:], []])
        at = np.array([START, START + 1, START + 2], dtype=np.int64)
        for group, together in view.layout.finish_alike(rows, extras, at, at - HOUR):
            for position, name in enumerate(group.names):
                alone = view.layout.finish(name, rows, extras, at, at - HOUR)
                part = slice(position * len(rows), (position + 1) * len(rows))
                assert together.values[part].tolist() == alone.values.tolist()
                assert together.valid[part].tolist() == alone.valid.tolist()
