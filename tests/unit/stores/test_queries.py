"""The supervisor of streaming queries, over queries that fail and end when the test says so."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.errors import UnavailableError
from anabranch.stores.queries import OnFailure, SupervisedQuery, Supervisor, reason_of, run_queries

AWAY = "Job aborted: org.apache.kafka.common.errors.TimeoutException: no broker answers"
BROKEN = "Traceback\npyspark.errors.ArithmeticException: [DIVIDE_BY_ZERO] division by zero\n  at line 3"


class ToyQuery(StreamingQuery):
    """A query that runs until `end`, with an error or without; `busy` while a micro-batch is under way."""

    def __init__(self) -> None:
        self.running, self.busy, self.stopped_busy, self.looks = True, False, False, 0
        self.error: RuntimeError | None = None

    def end(self, error: str | None = None) -> None:
        self.running, self.error = False, None if error is None else RuntimeError(error)

    @property
    def isActive(self) -> bool:  # noqa: N802 - Spark's name
        return self.running

    @property
    def status(self) -> dict[str, Any]:
        self.looks += 1
        self.busy = self.busy and self.looks < 3
        return {"isTriggerActive": self.busy, "isDataAvailable": self.busy}

    @property
    def lastProgress(self) -> None:  # noqa: N802 - Spark's name
        return None

    def exception(self) -> Exception | None:  # type: ignore[override]
        return self.error

    def awaitTermination(self, timeout: int | None = None) -> bool:  # noqa: N802
        return not self.running

    def stop(self) -> None:
        self.stopped_busy, self.running = self.busy, False


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def toy(name: str, outcomes: Sequence[ToyQuery | Exception], **more: Any) -> SupervisedQuery:
    """A query whose starts, one after another, give these queries or raise these errors."""
    starts: Iterator[ToyQuery | Exception] = iter(outcomes)

    def begin() -> StreamingQuery:
        outcome = next(starts)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return SupervisedQuery(name=name, begin=begin, **more)


def looked(supervisor: Supervisor, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    supervisor.look()


def test_while_a_server_is_away_a_query_is_restarted_ever_more_slowly_for_as_long_as_it_takes() -> None:
    clock, queries = Clock(), [ToyQuery() for _ in range(8)]
    one = toy("one", queries)
    supervisor = Supervisor([one], OnFailure.RESTART, clock)
    supervisor.start()
    waits = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0)
    for query, wait in zip(queries, waits, strict=False):
        query.end(AWAY)
        looked(supervisor, clock, 0.0)
        assert (one.query, supervisor.active) == (None, True)
        looked(supervisor, clock, wait - 0.1)
        assert one.query is None
        looked(supervisor, clock, 0.1)
        assert one.query is not None
    assert (one.restarts, one.failure) == (7, None)


def test_a_query_that_is_at_fault_three_times_in_a_row_is_given_up_and_the_others_go_on() -> None:
    clock, broken, well = Clock(), [ToyQuery() for _ in range(3)], ToyQuery()
    one, other = toy("one", broken), toy("other", [well])
    supervisor = Supervisor([one, other], OnFailure.RESTART, clock)
    supervisor.start()
    for query in broken:
        query.end(BROKEN)
        looked(supervisor, clock, 0.0)
        looked(supervisor, clock, 10.0)
    assert one.failure == "[DIVIDE_BY_ZERO] division by zero"
    assert (one.restarts, other.query, supervisor.active) == (2, well, True)
    well.end()
    assert not supervisor.active


def test_a_finished_micro_batch_between_two_failures_begins_the_count_anew() -> None:
    clock, queries = Clock(), [ToyQuery() for _ in range(6)]
    one = toy("one", queries, observe=lambda _query: True)
    supervisor = Supervisor([one], OnFailure.RESTART, clock)
    supervisor.start()
    for query in queries[:5]:
        query.end(BROKEN)
        looked(supervisor, clock, 0.0)
        looked(supervisor, clock, 0.5)
    assert (one.failure, one.query) == (None, queries[5])


def test_an_error_that_names_no_server_is_an_outage_when_a_server_does_not_answer() -> None:
    clock, queries = Clock(), [ToyQuery() for _ in range(5)]
    one = toy("one", queries, outage=lambda: True)
    supervisor = Supervisor([one], OnFailure.RESTART, clock)
    supervisor.start()
    for query in queries[:4]:
        query.end("broken pipe")
        looked(supervisor, clock, 0.0)
        looked(supervisor, clock, 10.0)
    assert (one.failure, one.restarts) == (None, 4)


@pytest.mark.parametrize("on_failure", list(OnFailure))
def test_a_server_that_is_away_when_queries_start_is_an_error(on_failure: OnFailure) -> None:
    with pytest.raises(UnavailableError):
        Supervisor([toy("one", [UnavailableError("Cassandra")])], on_failure).start()


def test_a_drain_gives_up_a_failed_query_at_once_and_those_that_wait_for_it() -> None:
    broken, well, last = ToyQuery(), ToyQuery(), ToyQuery()
    one, other = toy("one", [broken]), toy("other", [well])
    waiting = toy("last", [last], after=(one, other))
    supervisor = Supervisor([one, other, waiting], OnFailure.GIVE_UP)
    supervisor.start()
    well.end()
    supervisor.look()
    assert waiting.query is None
    broken.end(AWAY)
    for _ in range(2):
        supervisor.look()
    assert (one.failure, other.failure) == (AWAY, None)
    assert waiting.failure == "it starts when one has ended, and one failed"
    assert not supervisor.active


def test_a_query_that_waits_for_others_starts_when_they_have_ended() -> None:
    first, second = ToyQuery(), ToyQuery()
    one = toy("one", [first])
    waiting = toy("second", [second], after=(one,))
    supervisor = Supervisor([one, waiting], OnFailure.GIVE_UP)
    supervisor.start()
    supervisor.look()
    assert waiting.query is None
    first.end()
    supervisor.look()
    assert waiting.query is second


def test_a_stop_waits_for_the_micro_batch_under_way_but_not_for_ever() -> None:
    quick, slow = ToyQuery(), ToyQuery()
    for query in (quick, slow):
        query.busy = True
    Supervisor([started(quick)], OnFailure.RESTART).stop()
    Supervisor([started(slow)], OnFailure.RESTART).stop(patience=0)
    assert (quick.stopped_busy, slow.stopped_busy) == (False, True)
    assert not quick.isActive
    assert not slow.isActive


def started(query: ToyQuery) -> SupervisedQuery:
    return SupervisedQuery(name="started", begin=lambda: query, query=query)


def test_queries_that_run_together_all_stop_at_the_first_failure_whose_error_is_kept() -> None:
    broken, well = ToyQuery(), ToyQuery()
    one, other = toy("one", [broken]), toy("other", [well])
    run_queries([one, other], lambda: broken.end(BROKEN), None)
    assert (str(one.error), other.error) == (BROKEN, None)
    assert not well.isActive


def test_queries_that_run_together_stop_when_they_are_asked_to() -> None:
    stopping, query = threading.Event(), ToyQuery()
    run_queries([one := toy("one", [query])], stopping.set, stopping)
    assert (query.isActive, one.error) == (False, None)


def test_queries_that_run_together_all_stop_when_one_does_not_start() -> None:
    query = ToyQuery()
    with pytest.raises(ValueError, match="no such column"):
        run_queries([toy("one", [query]), toy("two", [ValueError("no such column")])], lambda: None, None)
    assert not query.isActive


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BROKEN, "[DIVIDE_BY_ZERO] division by zero"),
        (f"first\n  {AWAY}\nlast", AWAY),
        ("first line\nsecond line", "first line"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


def test_a_damaged_checkpoint_is_told_with_what_to_do() -> None:
    text = "Query 1 terminated\njava.lang.IllegalStateException: Incomplete log file\n\tat o.a"
    assert reason_of(RuntimeError(text)).startswith(
        "its checkpoint is damaged (java.lang.IllegalStateException: Incomplete log file): restore it"
    )


def test_a_query_that_is_added_starts_with_the_next_look_and_one_that_is_removed_ends_alone() -> None:
    clock, first, second = Clock(), ToyQuery(), ToyQuery()
    one, other = toy("one", [first]), toy("other", [second])
    supervisor = Supervisor([one], OnFailure.RESTART, clock)
    supervisor.start()
    supervisor.add(other)
    looked(supervisor, clock, 0.0)
    assert other.query is second
    supervisor.remove(one)
    assert (first.isActive, second.isActive, supervisor.active) == (False, True, True)
    looked(supervisor, clock, 60.0)
    assert one.restarts == 0
