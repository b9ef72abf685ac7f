"""Measured values in Cassandra: what is latest, a history, and writing again."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.cassandra.views import Views
from jobs.wiring.settings import Settings

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def measures(servers: Settings) -> Measures:
    return Measures(servers.views)


@pytest.fixture
def psi() -> Measure:
    return Measure(
        project=f"watched_{uuid.uuid4().hex[:8]}",
        subject="features",
        name="psi",
        at=NOON,
        value=0.25,
        version="3",
        slice="age",
    )


def test_a_measure_is_read_as_it_was_written(measures: Measures, psi: Measure) -> None:
    assert measures.latest(psi.project) == [] == measures.history(psi.project, "features", "psi", NOON)
    measures.write([psi])
    assert measures.latest(psi.project) == [psi] == measures.history(psi.project, "features", "psi", NOON)


def test_latest_is_the_newest_of_each_slice_and_version_not_the_last_written(
    measures: Measures, psi: Measure
) -> None:
    later = replace(psi, at=NOON + timedelta(hours=1), value=0.5)
    other = [
        replace(psi, slice="chol", value=0.1),
        replace(psi, version="4", value=0.2),
        replace(psi, subject="scores", name="mean", slice=""),
    ]
    measures.write([later, *other])
    measures.write([psi])
    assert measures.latest(psi.project) == [later, other[1], other[0], other[2]]


def test_history_is_one_name_since_a_time_oldest_first(measures: Measures, psi: Measure) -> None:
    hours = [replace(psi, at=NOON + timedelta(hours=hour), value=float(hour)) for hour in range(5)]
    measures.write([*reversed(hours), replace(psi, name="js"), replace(psi, project=f"{psi.project}_too")])
    assert measures.history(psi.project, "features", "psi", NOON + timedelta(hours=2)) == hours[2:]


def test_writing_again_changes_nothing(measures: Measures, psi: Measure) -> None:
    for _ in range(3):
        measures.write([psi])
    assert measures.history(psi.project, "features", "psi", NOON) == [psi]


def test_old_measures_expire(servers: Settings, psi: Measure) -> None:
    session = Views(servers.views).session
    Measures(replace(servers.views, measure_ttl_days=2)).write([psi])
    for table, where in (
        ("measures", "project = %s AND subject = 'features' AND name = 'psi'"),
        ("measures_latest", "project = %s"),
    ):
        left = (
            session.execute(
                f"SELECT TTL(value) AS left FROM {servers.views.keyspace}.{table} WHERE {where}",
                (psi.project,),
            )
            .one()
            .left
        )
        assert 86_400 < left <= 2 * 86_400


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("value", float("nan"), "leave out"), ("at", NOON.replace(tzinfo=None), "aware")],
)
def test_a_measure_that_cannot_be_compared_is_refused(
    psi: Measure, field: str, value: object, says: str
) -> None:
    with pytest.raises(AnabranchError, match=says):
        replace(psi, **{field: value})  # type: ignore[arg-type]
