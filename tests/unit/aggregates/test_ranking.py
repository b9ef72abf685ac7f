"""Maps and lists of the largest categories: exact up to the capacity, and within the stated error beyond."""

import random
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import Count, Derived, FeatureView, Label, Model, Project, Source, Sum, Top
from anabranch.aggregates.base import Folded
from anabranch.aggregates.ranking import MOST_IN_MAP, TotalsMap
from anabranch.errors import DeclarationError
from anabranch.pages.formats import value as shown
from anabranch.states.blocks import Element, Values
from anabranch.states.totals import CategoryTotals, encoded
from anabranch.stores.cassandra.tables import plain_value, spark_type
from anabranch.values.types import BIGINT, DecimalType, MapType
from batch.building.recomputing import with_witnesses

payments = Source(
    name="payments",
    topic="payments",
    id="id",
    time="at",
    schema="id STRING, card STRING, at TIMESTAMP, amount DOUBLE, price DECIMAL(30,2), n INT, kind STRING, "
    "shop BIGINT, raw BINARY",
)
_NEVER = np.zeros(2, dtype=np.int64)
CATEGORY, AMOUNT = Element(sql="kind", kind="binary"), Element(sql="amount")


def view(aggregate: Any) -> FeatureView:
    """A view with the feature `f`."""
    return FeatureView(name="seen", source=payments, key="card", windows="1d", features={"f": aggregate})


@pytest.mark.parametrize(
    ("aggregate", "kind"),
    [
        (Count(by="kind", most=20), "MAP<STRING, BIGINT>"),
        (Count("amount", by="shop", most=20), "MAP<STRING, BIGINT>"),
        (Sum("amount", by="kind", most=20), "MAP<STRING, DOUBLE>"),
        (Sum("price", by="lower(kind)", most=20), "MAP<STRING, DECIMAL(38,2)>"),
        (Sum("n", by="kind", most=20), "MAP<STRING, BIGINT>"),
        (Top("kind", 3), "ARRAY<STRING>"),
        (Top("shop", 3, total="amount"), "ARRAY<BIGINT>"),
    ],
)
def test_maps_and_lists_have_the_types_of_their_totals(aggregate: Any, kind: str) -> None:
    (column,) = view(aggregate).columns
    assert (column.name, str(column.type)) == ("f_1d", kind)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Count(most=20), "most= needs by="),
        (lambda: Sum("amount", by="kind", most=20, among=("a",)), "give one of them"),
        (lambda: Count(by="kind", most=0), "from 1 to 200"),
        (lambda: Count(by="kind", most=MOST_IN_MAP + 1), "from 1 to 200"),
        (lambda: Count(by="kind"), "needs categories"),
        (lambda: Count(by="amount", most=3), "by='amount' is DOUBLE"),
        (lambda: Count(by="raw", most=3), "by='raw' is BINARY"),
        (lambda: Count(by="sort", most=3), "'sort'"),
        (lambda: Sum("kind", by="shop", most=3), "cannot take 'kind' of type STRING"),
        (lambda: Top("kind", 33), "k=33"),
        (lambda: Top("amount", 3), "cannot take 'amount' of type DOUBLE"),
        (lambda: Top("kind", 3, total="kind"), "cannot be summed"),
    ],
)
def test_what_cannot_be_ranked_is_refused(make: Any, said: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        view(make())
    assert said in str(raised.value), raised.value


def test_a_model_reads_no_map_and_a_derived_feature_neither() -> None:
    label = Label(source=payments, key="card", target="amount > 10")
    maps = FeatureView(
        name="seen",
        source=payments,
        key="card",
        features={"kinds": Count(by="kind", most=5), "best": Top("kind", 2), "n": Count()},
    )
    project = Project(name="shown", views=(maps,), label=label, model=Model())
    assert project.model_features == ("n",)
    with pytest.raises(DeclarationError, match="'kinds' is MAP<STRING, BIGINT>, which no trainer takes"):
        Project(name="shown", views=(maps,), label=label, model=Model(features=("kinds",)))
    with pytest.raises(DeclarationError, match="kinds"):
        Project(name="shown", views=(maps,), derived={"food": Derived("kinds['food'] / n")})


drawn = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.integers(-50, 50), st.integers(0, 5)), min_size=1, max_size=60
)


def one_event(category: str, amount: int) -> bytes:
    """The state of an event."""
    return encoded(0.0, {category: [amount, float(abs(amount))]})


def in_pieces(extra: CategoryTotals, events: list[tuple[str, int, int]], order: random.Random) -> bytes:
    """The events merged to states of their pieces, and those in any order and grouping."""
    pieces = defaultdict(list)
    for category, amount, piece in events:
        pieces[piece].append(one_event(category, amount))
    states = [extra.merge(piece) for piece in pieces.values()]
    while len(states) > 1:
        order.shuffle(states)
        states = [extra.merge(states[:2]), *states[2:]]
    return states[0]


@settings(max_examples=100, deadline=None)
@given(events=drawn, order=st.randoms(use_true_random=False))
def test_up_to_the_capacity_every_order_and_grouping_gives_the_same_bytes(
    events: list[tuple[str, int, int]], order: random.Random
) -> None:
    extra = CategoryTotals(CATEGORY, 10, (Element(sql="n", kind="whole"),))
    merged = in_pieces(extra, events, order)
    totals: dict[str, int] = defaultdict(int)
    for category, amount, _ in events:
        totals[category] += amount
    assert extra.totals(merged) == totals
    assert merged == extra.merge([one_event(category, amount) for category, amount, _ in events])


@settings(max_examples=200, deadline=None)
@given(events=drawn, order=st.randoms(use_true_random=False))
def test_beyond_the_capacity_totals_are_within_the_error_that_the_state_keeps(
    events: list[tuple[str, int, int]], order: random.Random
) -> None:
    extra = CategoryTotals(CATEGORY, 3, (Element(sql="n", kind="whole"),))
    merged = in_pieces(extra, events, order)
    totals: dict[str, int] = defaultdict(int)
    kept = extra.totals(merged)
    for category, amount, _ in events:
        totals[category] += amount
    mass = sum(abs(amount) for _, amount, _ in events)
    assert len(kept) <= 3
    assert extra.error(merged) <= mass / (3 + 1)
    for category, total in totals.items():
        assert abs(kept.get(category, 0) - total) <= extra.error(merged)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", None]),
            st.one_of(
                st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e308, -1e308, 5e-324])
            ),
        ),
        max_size=12,
    ),
    ranges=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8),
)
def test_training_sums_floats_of_any_ranges_without_rounding(
    events: list[tuple[bytes | None, float]], ranges: list[tuple[int, int]]
) -> None:
    extra = CategoryTotals(CATEGORY, 10, (AMOUNT,))
    categories = np.empty(len(events), dtype=object)
    categories[:] = [category for category, _ in events]
    valid = np.array([category is not None for category, _ in events], dtype=bool)
    amounts = np.array([amount for _, amount in events], dtype=np.float64)
    lifted = {CATEGORY: Values(categories, valid), AMOUNT: Values(amounts, np.ones(len(events), dtype=bool))}
    pairs = [(min(pair[0], len(events)), min(pair[1], len(events))) for pair in ranges]
    first, end = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    for (begin, until), found in zip(pairs, extra.exact_totals(lifted, first, end), strict=True):
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for category, amount in events[begin:until]:
            if category is not None:
                sums[category.decode()] += Fraction(amount)
        assert found == {name: _rounded(total) for name, total in sums.items()}


def _rounded(total: Fraction) -> float:
    try:
        return float(total)
    except OverflowError:
        return float("inf")


def test_equal_totals_are_ordered_by_their_texts_and_a_total_beyond_double_is_left_out() -> None:
    (bound,) = view(Sum("amount", by="kind", most=2)).layout.bounds.values()
    state = encoded(0.0, {"b": [2.0**-32, 1.0], "a": [2.0**-32, 1.0], "c": [1e300, 1.0], "d": [0.0, 0.0]})
    found = bound.finish(Folded([], [np.array([state, None], dtype=object)], _NEVER, _NEVER))
    assert [list(one.items()) for one in found.values] == [[("a", 1.0), ("b", 1.0)], []]


TOTALS = {"a": 10.0, "b": 5.0, "c": 5.0}


@pytest.mark.parametrize(
    ("exact", "served", "right"),
    [
        ({"a": 10, "b": 5}, {"a": 10, "b": 5}, True),
        ({"a": 10, "b": 5}, {"a": 10, "b": 6}, False),
        ({"a": 10, "b": 5}, {"a": 10}, False),
        ({"a": 10.0, "b": 5.0}, {"a": 10.0 + 1e-9, "b": 5.0}, True),
        ({"a": 10.0, "b": 5.0}, {"a": 10.0, "c": 5.0}, True),  # equal but for rounding
        ({"a": 10.0, "b": 5.0}, {"a": 10.0 + 1e-6, "b": 5.0}, False),
        ({"a": 10.0, "b": 5.0}, {"b": 5.0, "c": 5.0}, False),
        ({"a": Decimal(10)}, {"a": Decimal(11)}, False),
    ],
)
def test_verify_finds_a_planted_error_in_a_map(exact: Any, served: Any, right: bool) -> None:
    numbers = [*exact.values(), *served.values()]
    totals = {name: type(numbers[0])(total) for name, total in TOTALS.items()}
    found = TotalsMap("kind", "amount", 2, None).agrees(exact, served, {"totals": totals, "sizes": totals})
    assert found is right


def test_verify_finds_a_planted_error_in_a_list() -> None:
    witnessed = {"totals": TOTALS, "sizes": TOTALS}
    top = Top("kind", 2, total="amount")
    assert top.agrees(["a", "b"], ["a", "b"], witnessed)
    assert top.agrees(["a", "b"], ["a", "c"], witnessed)
    assert not top.agrees(["a", "b"], ["b", "a"], witnessed)
    assert not top.agrees(["a", "b"], ["a"], witnessed)
    counted = {"totals": {"a": 10, "b": 5}, "sizes": {"a": 10, "b": 5}}
    assert not Top("kind", 1).agrees(["a"], ["b"], counted)


def test_beyond_the_capacity_verify_allows_the_stated_error_and_no_more() -> None:
    totals = {f"k{i}": 100 for i in range(101)} | {"big": 1000}
    witnessed = {"totals": totals, "sizes": totals}
    top = Count(by="kind", most=20).by_category(payments.columns, "place")[""]
    error = sum(totals.values()) // 101
    exact = dict(list({"big": 1000, **totals}.items())[:20])
    assert top.agrees(exact, {**exact, "big": 1000 - error}, witnessed)
    assert not top.agrees(exact, {**exact, "big": 1000 - error - 2}, witnessed)


def test_witnesses_of_maps_are_declared_as_features() -> None:
    names = [column.name for one in with_witnesses(_project()).views for column in one.columns]
    assert len(names) == 3 * (1 + 2)


def _project() -> Project:
    ranked = {"a": Sum("amount", by="kind", most=3), "b": Count(by="shop", most=3), "c": Top("kind", 2)}
    return Project(name="shown", views=(FeatureView(name="v", source=payments, key="card", features=ranked),))


def test_a_map_is_stored_read_and_shown() -> None:
    kind = MapType(DecimalType(38, 0))
    assert kind.cql == "frozen<map<text, decimal>>"
    assert spark_type(kind.cql).startswith("MAP<STRING, ")
    assert spark_type(MapType(BIGINT).cql) == "MAP<STRING, BIGINT>"
    assert kind.to_cql({"a": 1}) == {"a": Decimal(1)}
    assert plain_value({"a": 1}) == {"a": 1}
    assert kind.value([("a", Decimal(1))]) == {"a": 1}
    assert shown({"food": 12, "": 3}) == "food: 12, : 3"
