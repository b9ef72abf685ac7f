"""The example `card_fraud`: what it declares, and the events that are simulated for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anabranch.declare.loading import load_project
from anabranch.testing import fold
from anabranch.testing.examples import check_example
from jobs.wiring.settings import ROOT
from projects.data.simulate_cards import JUDGED, simulate

UNTIL = datetime(2026, 11, 30, 12, tzinfo=UTC)
PROJECT = load_project("card_fraud", (ROOT / "projects",))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_its_example_holds_and_a_wrong_value_is_found() -> None:
    (example,) = PROJECT.examples
    assert check_example(PROJECT, example) == []
    wrong = replace(example, gives={**example.gives, "disputes_30d": 2})
    assert [each.feature for each in check_example(PROJECT, wrong)] == ["disputes_30d"]


def test_one_time_gives_the_same_events_and_outcomes_are_those_of_payments_two_days_ago() -> None:
    cards = simulate(UNTIL)
    assert simulate(UNTIL) == cards
    assert simulate(UNTIL, seed=1) != cards
    paid = {row["payment_id"][1:]: row for row in cards.payments}
    assert all(moment(row["paid_at"]) < UNTIL for row in cards.payments)
    old = [number for number, row in paid.items() if moment(row["paid_at"]) < UNTIL - JUDGED]
    assert [row["outcome_id"][1:] for row in cards.outcomes] == old
    for outcome in cards.outcomes:
        payment = paid[outcome["outcome_id"][1:]]
        assert moment(outcome["decided_at"]) == moment(payment["paid_at"]) + timedelta(seconds=1)
        assert [outcome[name] for name in ("card", "merchant", "amount")] == [
            payment[name] for name in ("card", "merchant", "amount")
        ]
    assert 50 < sum(row["fraud"] for row in cards.outcomes) < 200


@pytest.mark.parametrize("place", [0, 400, 1200])
def test_the_payment_counts_in_the_features_of_its_outcome(place: int) -> None:
    cards = simulate(UNTIL)
    outcome = cards.outcomes[place]
    key = {name: outcome[name] for name in ("card", "merchant")}
    events = [
        *({"source": "payments", **row} for row in cards.payments if row["card"] == key["card"]),
        *({"source": "merchant_risk.disputes", **row} for row in cards.disputes),
    ]
    request = {name: outcome[name] for name in ("amount", "channel")}
    at = moment(outcome["decided_at"])
    found = fold(PROJECT, events, key, at, request)
    assert found["last_paid"] == at - timedelta(seconds=1)

    def spent(since: datetime, until: datetime) -> tuple[Any, int]:
        amounts = [row["amount"] for row in cards.payments
                   if row["card"] == key["card"] and since <= moment(row["paid_at"]) < until]  # fmt: skip
        return (pytest.approx(sum(amounts)) if amounts else None), len(amounts)

    week = timedelta(days=7)
    middle = (at - week).replace(minute=0, second=0, microsecond=0)
    assert spent(middle, at) == (found["spent_7d"], found["payments_7d"])
    assert spent(middle - week, middle) == (found["spent_7d_offset_7d"], found["payments_7d_offset_7d"])
