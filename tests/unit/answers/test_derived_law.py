"""The law for derived features: an answer's equal the expression over the naive fold of what has arrived."""

from collections.abc import Mapping
from typing import Any, cast

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from anabranch import Derived, Project
from anabranch.answers.features import Answers
from anabranch.stores.cassandra.views import Views
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import MINUTE
from tests.support.law import START, Event, events_strategy
from tests.unit.answers.test_view_uses import KEYS, LIFELONG, VIEW, StatesInMemory

PROJECT = Project(
    name="deals",
    views=(VIEW.on(key="buyer", prefix="buyer"), LIFELONG.on(key="seller")),
    derived={
        "twice": Derived("share * 2"),
        "share": Derived("buyer_count_x_1h / nullif(buyer_count_x_7d, 0)"),
        "reach": Derived("buyer_max_x_7d - buyer_min_x_7d"),
        "said": Derived("concat(coalesce(buyer_last_s_7d, 'none'), '-', buyer, seller)"),
        "above": Derived("CASE WHEN buyer_max_x_1h > max_x THEN 1 WHEN count_x = 0 THEN 0 END"),
    },
)


def expected(found: Mapping[str, Any], buyer: str, seller: str) -> dict[str, Any]:
    """The expressions in plain Python, over folded features."""
    hour, week = found["buyer_count_x_1h"], found["buyer_count_x_7d"]
    share = hour / week if week else None
    high, low = found["buyer_max_x_7d"], found["buyer_min_x_7d"]
    recent, ever = found["buyer_max_x_1h"], found["max_x"]
    said = found["buyer_last_s_7d"]
    above = recent is not None and ever is not None and recent > ever
    return {
        "share": share,
        "twice": None if share is None else share * 2,
        "reach": None if high is None else high - low,
        "said": f"{'none' if said is None else said}-{buyer}{seller}",
        "above": 1 if above else 0 if found["count_x"] == 0 else None,
    }


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(events=events_strategy(), cut_slots=st.integers(0, 12 * 24), late=st.integers(0, SLACK // MINUTE))
def test_derived_features_of_an_answer_equal_the_expression_over_the_fold(
    events: list[Event], cut_slots: int, late: int
) -> None:
    cut = START + cut_slots * SLOT
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    answers = Answers(cast("Views", StatesInMemory(arrived, {"deals": cut})))
    asked = [dict(zip(("buyer", "seller"), key, strict=True)) for key in KEYS]
    for key, answer in zip(KEYS, answers.features(PROJECT, asked, at), strict=True):
        assert answer.degraded is None
        folded: dict[str, Any] = {}
        for view in PROJECT.views:
            mine = key[("buyer", "seller").index(view.asked[0])]
            folded |= oracle.answer(view, arrived, mine, at)
        wanted = expected(folded, *key)
        assert {name: answer.values[name] for name in wanted} == wanted
