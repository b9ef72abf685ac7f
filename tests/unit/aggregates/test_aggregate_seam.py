"""An aggregate with a block of its own, added from outside, obeys the law."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch import FeatureView, Mean, Sum
from anabranch.errors import DeclarationError
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import MINUTE
from tests.support.law import START, Event, events_strategy, source
from tests.support.toys import GeometricMean, LogTotal
from tests.unit.folds.test_law import QUERIES, assert_answers, assert_training_rows

FEATURES = {
    "growth": GeometricMean("n"),
    "growth_some": GeometricMean("x", where="n > 0"),
    "total": Sum("x"),
    "mean": Mean("n"),
}
VIEW = FeatureView(name="toys", source=source, key="key", windows=("1h", "7d"), features=FEATURES)


def test_a_new_aggregate_is_bound_and_laid_out_with_the_others() -> None:
    bound = VIEW.layout.bounds["growth"]
    assert (str(bound.type), [type(block).__name__ for block in bound.blocks]) == (
        "DOUBLE",
        ["LogTotal", "Tally"],
    )
    assert sum(isinstance(block, LogTotal) for block in VIEW.layout.blocks) == 2
    assert any("ln(" in text for text in VIEW.layout.sql())
    with pytest.raises(
        DeclarationError, match="GeometricMean cannot take 's' of type STRING: it takes numbers"
    ):
        FeatureView(name="wrong", source=source, key="key", features={"x": GeometricMean("s")})


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), cut_slots=st.integers(0, 12 * 24), late=st.integers(0, SLACK // MINUTE))
def test_answers_of_a_new_aggregate_equal_the_fold(events: list[Event], cut_slots: int, late: int) -> None:
    assert_answers([VIEW], events, START + cut_slots * SLOT, late)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=events_strategy(), minutes=QUERIES)
def test_training_rows_of_a_new_aggregate_equal_the_fold(
    events: list[Event], minutes: list[tuple[str, int]]
) -> None:
    assert_training_rows([VIEW], events, minutes)
