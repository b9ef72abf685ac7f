"""What `fold` says of events that are given as dicts: the values of every part of a declaration, by hand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from anabranch import (
    Aggregate,
    Count,
    Derived,
    Example,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Project,
    Request,
    Source,
    Sum,
    TimeSince,
    Top,
)
from anabranch import (
    Any as AnyOf,
)
from anabranch.errors import DeclarationError, MisuseError
from anabranch.testing import check_example, fold
from anabranch.testing.rows import read_events

payments = Source(
    name="payments",
    topic="payments",
    id="payment_id",
    time="paid_at",
    schema="payment_id STRING, card STRING, shop STRING, amount DOUBLE, fee DECIMAL(30,10), points BIGINT, "
    "online BOOLEAN, day DATE, paid_at TIMESTAMP",
)
visits = Source(
    name="visits", topic="visits", id=None, time="at", schema="card STRING, shop STRING, at TIMESTAMP"
)
spending = FeatureView(
    name="spending",
    source=payments,
    key="card",
    windows=("1h", "7d"),
    features={
        "spent": Sum("amount"),
        "payments": Count(),
        "large": Count(where="amount > 10 AND shop LIKE 's%'"),
        "double": Max("amount * 2"),
        "abroad": AnyOf("NOT online"),
    },
)
lifelong = FeatureView(
    name="lifelong",
    source=payments,
    key="card",
    features={
        "fees": Sum("fee"),
        "points": Sum("points"),
        "first_shop": First("shop"),
        "shops": LastK("shop", 2),
        "last_day": Last("day"),
        "last_paid": Last("paid_at"),
        "quiet": TimeSince(),
    },
)
visited = FeatureView(
    name="visited", source=visits, key=("card", "shop"), windows=("1d",), features={"visits": Count()}
)
PROJECT = Project(
    name="cards",
    views=(spending, lifelong, visited),
    request=Request(schema="amount DOUBLE, channel STRING DEFAULT 'web'"),
    derived={
        "ratio": Derived("spent_1h / nullif(spent_7d, 0)"),
        "jump": Derived("amount / nullif(spent_1h, 0)"),
        "by_web": Derived("channel = 'web'"),
    },
)
KEY = {"card": "c1", "shop": "s1"}
AT = "2024-05-01T12:00:00Z"


def paid(number: int, at: str, amount: float | None = None, **more: Any) -> dict[str, Any]:
    """One payment of card c1."""
    given = {"source": "payments", "payment_id": f"p{number}", "card": "c1", "amount": amount, "paid_at": at}
    return given | more


EVENTS = [
    paid(1, "2024-05-01T11:30:00Z", 12.5, shop="s1", fee="0.0000000001", points=2**62, online=True),
    paid(2, "2024-05-01T11:59:59.999999", 2.5, shop="s2", fee=1, points=2**62, day="2024-04-30"),
    paid(3, "2024-04-28T09:00:00+02:00", 5.0, shop="s1", fee="20000000000000000000", online=False),
    paid(4, "2024-04-30T09:00:00Z", None, shop=None),
    {"source": "visits", "card": "c1", "shop": "s1", "at": "2024-05-01T10:00:00Z"},
    {"source": "visits", "card": "c1", "shop": "s1", "at": "2024-05-01T10:00:00Z"},
    {"source": "visits", "card": "c1", "shop": "s2", "at": "2024-05-01T10:00:00Z"},
    {"source": "visits", "card": "c1", "shop": None, "at": "2024-05-01T10:00:00Z"},
]
NOT_COUNTED = [
    paid(1, "2024-05-01T11:45:00Z", 99.0, shop="s9"),  # a copy of what arrived first
    paid(5, "2024-05-01T12:00:00Z", 99.0, shop="s9"),  # not before the time asked for
    paid(6, "2024-05-01T11:00:00Z", 99.0, card="c2"),
    paid(7, "2024-05-01T11:00:00Z", 99.0, card=None),
    paid(8, "2024-05-01T11:00:00Z", 99.0, points="many"),
    paid(9, "yesterday", 99.0),
]


def test_every_part_of_a_declaration_is_folded() -> None:
    assert fold(PROJECT, EVENTS, KEY, AT, request={"amount": 30}) == {
        "spent_1h": 15.0, "spent_7d": 20.0, "payments_1h": 2, "payments_7d": 4, "large_1h": 1, "large_7d": 1,
        "double_1h": 25.0, "double_7d": 25.0, "abroad_1h": False, "abroad_7d": True,
        "fees": Decimal("20000000000000000001.0000000001"), "points": 2**63, "first_shop": "s1",
        "shops": ["s2", "s1"], "last_day": date(2024, 4, 30),
        "last_paid": datetime(2024, 5, 1, 11, 59, 59, 999999, UTC), "quiet": 1e-6,
        "visits_1d": 2, "ratio": 0.75, "jump": 2.0, "by_web": True,
    }  # fmt: skip


def test_what_does_not_count_changes_nothing() -> None:
    expected = fold(PROJECT, EVENTS, KEY, AT)
    assert fold(PROJECT, [*EVENTS, *NOT_COUNTED], KEY, AT) == expected
    refused = read_events(PROJECT, [*EVENTS, *NOT_COUNTED]).refused
    assert [(one.position, one.reason.split(":")[0]) for one in refused] == [
        (len(EVENTS) - 1, "shop is missing"),
        (len(EVENTS) + 3, "card is missing"),
        (len(EVENTS) + 4, "points"),
        (len(EVENTS) + 5, "paid_at"),
    ]


def test_without_events_and_without_a_request_there_are_the_values_of_nothing() -> None:
    found = fold(PROJECT, [], KEY, AT)
    assert {name for name, value in found.items() if value is not None} == {
        "payments_1h", "payments_7d", "large_1h", "large_7d", "shops", "visits_1d"
    }  # fmt: skip
    assert fold(PROJECT, EVENTS, KEY, AT)["jump"] is None


def test_times_may_be_datetimes_and_windows_end_before_the_time_asked_for() -> None:
    event = paid(1, "", 1.0) | {"paid_at": datetime(2024, 5, 1, 11, 0, tzinfo=UTC)}
    found = [
        fold(PROJECT, [event], KEY, datetime(2024, 5, 1, hour, minute, tzinfo=UTC))["payments_1h"]
        for hour, minute in ((11, 0), (11, 1), (12, 4), (12, 5))
    ]
    # The tail of a window is rounded down to its hop of five minutes.
    assert found == [0, 1, 1, 0]


def test_arrivals_decide_which_copy_wins_what_is_known_and_what_is_from_the_future() -> None:
    late = paid(1, "2024-05-01T11:00:00Z", 1.0, _arrival="2024-05-01T13:00:00Z")
    first = paid(1, "2024-05-01T11:00:00Z", 2.0, _arrival="2024-05-01T11:50:00Z")
    future = paid(2, "2024-05-01T11:10:00Z", 4.0, _arrival="2024-05-01T11:04:00Z")
    assert fold(PROJECT, [late, first, future], KEY, AT)["spent_7d"] == 2.0
    assert fold(PROJECT, [late, future], KEY, AT)["spent_7d"] is None
    with pytest.raises(MisuseError, match="1 of 2 events have '_arrival'"):
        fold(PROJECT, [first, paid(3, AT)], KEY, AT)


def test_a_view_in_two_roles_and_a_view_of_another_project_are_folded() -> None:
    risk = FeatureView(name="risk", source=payments, key="shop", features={"turnover": Sum("amount")})
    owner = Project(name="merchants", views=(risk,), shared_with=("deals",))
    project = Project(
        name="deals",
        views=(
            spending.on(card="buyer", prefix="buyer"),
            spending.on(card="seller", prefix="seller"),
            owner.lend("risk"),
        ),
    )
    events = [paid(1, "2024-05-01T11:30:00Z", 3.0), paid(2, "2024-05-01T11:30:00Z", 4.0, card="c2")]
    events.append({**paid(1, "2024-05-01T11:30:00Z", 8.0, shop="s1"), "source": "merchants.payments"})
    found = fold(project, events, {"buyer": "c1", "seller": "c2", "shop": "s1"}, AT)
    assert (found["buyer_spent_7d"], found["seller_spent_7d"], found["turnover"]) == (3.0, 4.0, 8.0)


def test_rows_of_files_without_an_id_are_told_apart_by_their_values() -> None:
    loose = Source(name="loose", id=None, time="at", schema="card STRING, x INT, at TIMESTAMP")
    project = Project(
        name="loose",
        views=(
            FeatureView(name="all", source=loose, key="card", features={"n": Count(), "mean": Mean("x")}),
        ),
    )
    rows = [{"card": "a", "x": x, "at": "2024-05-01"} for x in ("1", 1, 1.0, 2)]
    assert fold(project, rows, {"card": "a"}, AT) == {"n": 2, "mean": 1.5}


@pytest.mark.parametrize(
    ("events", "key", "told"),
    [
        (
            [{"source": "payment"}],
            KEY,
            "event 1: 'source' is 'payment': it must be one of payments, visits: did you mean 'payments'?",
        ),
        ([{"card": "c1"}], KEY, "event 1 has no 'source'"),
        (
            [{"source": "visits", "shoe": 1}],
            KEY,
            "did you mean 'shop'",
        ),
        (["p1"], KEY, "event 1 is 'p1'"),
        ([], {"card": "c1"}, "key {'card': 'c1'} does not fit project 'cards'"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(
    events: list[Any], key: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(MisuseError, match=told):
        fold(PROJECT, events, key, AT)


@pytest.mark.parametrize("text", ["soundex(shop)", "fee * 2", "fee + fee"])
def test_an_expression_that_needs_spark_says_so(text: str) -> None:
    view = FeatureView(name="odd", source=payments, key="card", features={"odd": Last(text)})
    with pytest.raises(MisuseError, match="proof on rows is without Spark"):
        fold(Project(name="odd", views=(view,)), EVENTS[:1], {"card": "c1"}, AT)


def test_decimals_are_compared_exactly() -> None:
    conditions = {
        "small": "fee < 1.5",
        "some": "fee BETWEEN 0.0000000001 AND 1",
        "none": "fee = 0",
        "one": "fee IN (1, 2)",
    }
    view = FeatureView(
        name="exact",
        source=payments,
        key="card",
        features={name: Count(where=text) for name, text in conditions.items()},
    )
    found = fold(Project(name="exact", views=(view,)), EVENTS[:4], {"card": "c1"}, AT)
    assert found == {"small": 2, "some": 2, "none": 0, "one": 1}


def by_shop(*windows: str, **features: Aggregate) -> Project:
    """A project of one view of cards."""
    view = FeatureView(name="shops", source=payments, key="card", windows=windows, features=features)
    return Project(name="shops", views=(view,))


AT_SHOPS = [
    paid(1, "2024-04-28T23:59:59.999999Z", 64.0, shop="s1", fee="0.5", points=1),
    paid(2, "2024-04-29T00:00:00Z", 32.0, shop="s2", fee="0.25", points=2),
    paid(3, "2024-04-30T11:00:00Z", 16.0, shop="s2", fee="2", points=2),
    paid(4, "2024-04-30T12:00:00Z", 8.0, shop="s1", fee="1", points=None),
    paid(5, "2024-04-30T21:59:59.999999Z", 4.0, shop="s3", fee="0.75", points=1),
    paid(6, "2024-04-30T22:00:00Z", 2.0, shop=None, fee="8", points=3),
    paid(7, "2024-05-01T11:59:59.999999Z", 1.0, shop="s2", fee=None, points=2),
]
"""Of the week that began on Monday, April 29, all but the first; of May in Berlin the last two."""


def test_features_by_category_are_folded() -> None:
    project = by_shop("7d", spent=Sum("amount", by="shop", among=("s1", "s2"), where="fee < 2"))
    found = fold(project, AT_SHOPS, {"card": "c1"}, AT)
    assert found == {"spent_7d_s1": 72.0, "spent_7d_s2": 32.0, "spent_7d_other": 4.0}


def test_maps_of_categories_are_folded_the_largest_first() -> None:
    project = by_shop(
        "7d",
        payments=Count(by="shop", most=2),
        fees=Sum("fee", by="shop", most=9),
        spent=Sum("amount", by="points", most=2),
    )
    found = fold(project, AT_SHOPS, {"card": "c1"}, AT)
    assert found == {
        "payments_7d": {"s2": 3, "s1": 2},
        "fees_7d": {"s2": Decimal("2.25"), "s1": Decimal("1.5"), "s3": Decimal("0.75")},
        "spent_7d": {"1": 68.0, "2": 49.0},
    }
    assert [list(value) for value in found.values()] == [["s2", "s1"], ["s2", "s1", "s3"], ["1", "2"]]
    nothing = fold(project, [], {"card": "c1"}, AT)
    assert nothing == {"payments_7d": {}, "fees_7d": {}, "spent_7d": {}}


def test_categories_with_the_largest_sums_are_folded() -> None:
    project = by_shop("7d", shops=Top("shop", 2, total="amount"), points=Top("points", 2), fee=Top("shop", 1))
    found = fold(project, AT_SHOPS, {"card": "c1"}, AT)
    assert found == {"shops_7d": ["s1", "s2"], "points_7d": [2, 1], "fee_7d": ["s2"]}


def test_windows_with_an_offset_are_folded() -> None:
    project = by_shop("1h offset 1d", "1d offset 12h", spent=Sum("amount"))
    found = fold(project, AT_SHOPS, {"card": "c1"}, AT)
    assert found == {"spent_1h_offset_1d": 16.0, "spent_1d_offset_12h": 30.0}


def test_calendar_windows_are_folded_by_the_clocks_of_their_zone() -> None:
    project = by_shop("month to date Europe/Berlin", "week to date", "day to date", spent=Sum("amount"))
    found = fold(project, AT_SHOPS, {"card": "c1"}, AT)
    assert list(found.values()) == [3.0, 63.0, 1.0]


def test_an_example_may_give_maps() -> None:
    project = by_shop("7d", spent=Sum("amount / 10", by="shop", most=2), fees=Sum("fee", by="shop", most=1))
    gives = {"spent_7d": {"s1": 7.2, "s2": 4.9}, "fees_7d": {"s2": 2.25}}
    example = Example(events=AT_SHOPS, key={"card": "c1"}, at=AT, gives=gives)
    assert check_example(project, example) == []
    wrong = replace(example, gives={"spent_7d": {"s1": 7.2, "s2": 4.8}, "fees_7d": {"s3": 2.25}})
    assert [each.feature for each in check_example(project, wrong)] == ["spent_7d", "fees_7d"]


def test_an_example_holds_or_says_which_feature_differs() -> None:
    gives = {
        "spent_1h": 15,
        "fees": "20000000000000000001.0000000001",
        "last_day": "2024-04-30",
        "shops": ["s2", "s1"],
    }
    good = Example(events=EVENTS, key=KEY, at=AT, gives=gives)
    assert check_example(PROJECT, good) == []
    bad = Example(events=EVENTS, key=KEY, at=AT, gives={"spent_1h": 15, "payments_7d": 3, "first_shop": None})
    assert [str(each) for each in check_example(PROJECT, bad)] == [
        "payments_7d: expected 3, the events give 4",
        "first_shop: expected None, the events give 's1'",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gives": {"spend_1h": 1}}, "did you mean 'spent_1h'"),
        ({"key": {"card": "c1"}}, "key {'card': 'c1'} does not fit"),
        ({"gives": {}}, "gives nothing"),
        ({"at": 12}, "at is 12: it must be an ISO 8601 text or a datetime"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_when_it_is_declared(
    changes: dict[str, Any], told: str
) -> None:
    given: dict[str, Any] = {"events": EVENTS, "key": KEY, "at": AT, "gives": {"spent_1h": 1}}
    with pytest.raises(DeclarationError, match=told):
        Project(name="cards", views=PROJECT.views, examples=(Example(**(given | changes)),))
