"""Objectives: what is judged, what is left of the budget, and where it is shown."""

import time

import pytest

from anabranch import Freshness, Objectives
from anabranch.errors import DeclarationError
from anabranch.values.times import SECOND
from serving.api.budgets import Budget, Judgements, KeptCounts, budgets, counted
from serving.api.metrics import ServingMetrics, joined
from tests.support.webhooks import shown

PROMISED = Objectives(availability=0.99, p99="50ms", freshness="5s", quality=0.999)


def metrics() -> ServingMetrics:
    made = ServingMetrics(timed=["predict"])
    made.promise("p", PROMISED)
    return made


def counts(made: ServingMetrics) -> dict[str, tuple[float, float]]:
    return {objective: both for (_, objective), both in counted(made.text().decode()).items()}


def test_answers_are_judged_by_their_status_and_by_their_time() -> None:
    made = metrics()
    now = time.perf_counter()
    for route, status, seconds in (
        ("predict", 200, 0.0),
        ("predict", 200, 0.2),
        ("predict", 503, 0.2),
        ("predict", 404, 0.2),
        ("events", 200, 9.0),
    ):
        made.answered(route, "p", status, now - seconds)
    made.answered("predict", "other", 503, now)  # which promises nothing
    for kept in (True, True, False, None):
        made.judge_freshness("p", kept)
    assert counts(made) == {"availability": (4.0, 1.0), "latency": (1.0, 1.0), "freshness": (2.0, 1.0)}


def test_every_promised_objective_shows_its_target_and_counts_from_zero() -> None:
    text = metrics().text().decode()
    assert 'anabranch_objective_target{objective="quality",project="p"} 0.999' in text
    assert 'anabranch_objective_events_total{kept="no",objective="availability",project="p"} 0.0' in text


def test_a_changed_promise_is_judged_from_then_on_and_a_withdrawn_one_no_more() -> None:
    made = metrics()
    slow = time.perf_counter() - 0.2
    made.answered("predict", "p", 200, slow)
    made.promise("p", Objectives(p99="10s"))
    made.answered("predict", "p", 200, time.perf_counter() - 0.2)
    assert counts(made)["latency"] == (1.0, 1.0)
    assert counts(made)["availability"] == (1.0, 0.0)
    made.promise("p", None)
    made.answered("predict", "p", 503, time.perf_counter())
    assert counts(made)["availability"] == (1.0, 0.0)
    assert "anabranch_objective_target{" not in made.text().decode()


def test_workers_are_added_up() -> None:
    one, two = metrics(), metrics()
    one.answered("predict", "p", 200, time.perf_counter())
    two.answered("predict", "p", 500, time.perf_counter())
    text = joined({"1": one.text().decode(), "2": two.text().decode()})
    assert counted(text)["p", "availability"] == (1.0, 1.0)


def test_a_budget_is_what_is_left_of_the_misses_that_are_allowed() -> None:
    tally = Judgements("prometheus", {("p", "availability"): (9_950.0, 50.0), ("p", "latency"): (0.0, 0.0)})
    available, quick, fresh, good = budgets("p", PROMISED, tally)
    assert (available.share, available.by) == (0.995, "prometheus")
    assert available.left == pytest.approx(0.5)
    assert (quick.share, quick.left, fresh.share, good.left) == (None, None, None, None)
    assert [one.promised for one in (available, quick, fresh, good)] == [
        "0.99",
        "99% within 50ms",
        "99% of the time stream within 5s",
        "0.999",
    ]
    spent = Budget(objective="availability", promised="", target=0.99, kept=90.0, missed=10.0)
    assert spent.left == pytest.approx(-9.0)
    assert budgets("p", None, tally) == []


def test_counts_of_prometheus_are_read_and_without_an_answer_there_are_none() -> None:
    answer = (
        b'{"status":"success","data":{"result":['
        b'{"metric":{"project":"p","objective":"quality","kept":"yes"},"value":[1,"9"]},'
        b'{"metric":{"project":"p","objective":"quality","kept":"no"},"value":[1,"1"]}]}}'
    )
    now = [0.0]
    with shown(lambda: answer) as place:
        known = KeptCounts(f"http://{place}", clock=lambda: now[0])
        known.look()
        found = known.latest
        assert found == {("p", "quality"): (9.0, 1.0)}
    now[0] += 11
    known.look()
    assert known.latest is None
    silent = KeptCounts("")
    silent.look()
    assert silent.latest is None


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "promise nothing"),
        ({"availability": 1.0}, "availability is 1.0: it must be a share above 0 and below 1"),
        ({"quality": 0}, "quality is 0"),
        ({"p99": "fast"}, "p99 'fast' is not understood"),
        ({"freshness": "soon"}, "freshness"),
    ],
)
def test_what_cannot_be_promised_is_refused(given: dict[str, object], wrong: str) -> None:
    with pytest.raises(DeclarationError, match=wrong):
        Objectives(**given)  # type: ignore[arg-type]


def test_a_duration_promises_the_freshness_of_the_stream() -> None:
    assert PROMISED.freshness == Freshness(stream="5s")
    assert Objectives(freshness=Freshness(batch="1d")).targets == {"freshness": 0.99}
    assert Objectives(p99="2s").p99_seconds == 2.0
    assert Freshness(stream="5s").stream_micros == 5 * SECOND
