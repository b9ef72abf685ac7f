"""Supervision of streaming queries: started together, watched, restarted from their checkpoints, stopped
between batches.

While a server is away, a query that fails for it is restarted for as long as it takes. What happens to other
failures is the choice of the layer that runs the queries (see OnFailure).
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.readwriter import DataStreamWriter

from anabranch.errors import UnavailableError
from anabranch.stores.files.filesystems import file_names, read_text, write_text

log = logging.getLogger(__name__)
_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds before a restart, doubled with each failure
_MOST_FAILURES = 3  # in a row without a finished micro-batch, outages not counted
_LAST_BATCH = 10.0
"""Seconds; Spark answers the interruption of a micro-batch with a thousand lines of stack trace."""
_LOOK_SECONDS = 1.0
_OUTAGE = re.compile(
    r"UnavailableError|NoHostAvailable|OperationTimedOut|(Read|Write|Coordination)(Timeout|Failure)"
    r"|cassandra\.Unavailable|NoConnectionsAvailable|Connection(Exception|Shutdown| refused)|TimeoutException"
    r"|DisconnectException|BrokerNotAvailable|NETWORK_EXCEPTION|KafkaTimeoutError|NoBrokersAvailable"
    r"|UnknownTopicOrPartition"
)
_DAMAGED = (
    "Incomplete log file", "Log file was malformed", "Failed to read log file", "CANNOT_LOAD_STATE_STORE",
    "MALFORMED_LOG_FILE", "CHECKSUM_VERIFICATION_FAILED", "CHECKPOINT_MISSING",
)  # fmt: skip
"""What Spark says of a checkpoint whose files are damaged."""
_RAISED = re.compile(r"^(?:Caused by: )?[\w.]*(?:Error|Exception): (.*\S)", re.MULTILINE)


class OnFailure(Enum):
    """What a supervisor does when a query fails."""

    RESTART = auto()
    """Restart it; give it up alone after three failures in a row that are not outages."""
    GIVE_UP = auto()
    """Give it up alone; the other queries go on."""
    STOP_ALL = auto()
    """Stop all queries."""


@dataclass
class SupervisedQuery:
    """A streaming query, and what became of it: `query` is None before it starts and between restarts.

    `begin` creates what the query needs and starts it. `observe` reads its progress and returns whether a
    micro-batch was finished since the last call. `outage` asks whether a server that the query needs is away
    at this moment. `patient` tells by the reason of a failure whether the query is restarted for as long as
    it takes, whatever the layer's choice. `after`: queries that must have ended before this one starts.
    `failure` says why the query was given up.
    """

    name: str
    begin: Callable[[], StreamingQuery]
    observe: Callable[[StreamingQuery], bool] = lambda _query: False
    outage: Callable[[], bool] = lambda: False
    patient: Callable[[str], bool] = lambda _reason: False
    after: Sequence["SupervisedQuery"] = ()
    query: StreamingQuery | None = None
    failure: str | None = None
    waiting: str | None = None
    """Why the query waits to be restarted."""
    error: Exception | None = None
    restarts: int = 0
    failures: int = field(default=0, repr=False)
    wait: float = field(default=_SHORTEST_WAIT, repr=False)
    restart_at: float = field(default=0.0, repr=False)

    @property
    def pending(self) -> bool:
        """Is the query running, waiting to start, or failed without having been looked at?"""
        return self.failure is None and (
            self.query is None or self.query.isActive or self.query.exception() is not None
        )


class Supervisor:
    """Keeps queries running: `start`, then `look` again and again while `active`, then `stop`."""

    def __init__(
        self,
        queries: Sequence[SupervisedQuery],
        on_failure: OnFailure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queries, self._on_failure, self._clock = list(queries), on_failure, clock
        self._stopped = False

    def start(self) -> None:
        """Start every query that waits for no other; raises when a server is away, tolerated later."""
        for each in self._queries:
            if any(other.pending for other in each.after):
                continue
            try:
                each.query = each.begin()
            except Exception as error:
                if self._on_failure is OnFailure.STOP_ALL or _is_outage(each, error):
                    raise
                self._failed(each, error)

    @property
    def active(self) -> bool:
        """Is there a query that runs or is to be started?"""
        if self._on_failure is OnFailure.STOP_ALL and any(each.error for each in self._queries):
            return False
        return any(each.pending for each in self._queries)

    def look(self) -> None:
        """Observe every query and, until `stop`, start again what failed."""
        for each in self._queries:
            if each.query is not None:
                self._check(each, each.query)
            elif each.failure is None and not self._stopped:
                self._restart(each)

    def add(self, query: SupervisedQuery) -> None:
        """Keep one more query running; the next look starts it."""
        self._queries.append(query)

    def remove(self, query: SupervisedQuery, patience: float = _LAST_BATCH) -> None:
        """Stop a query after its micro-batch, as `stop` does, and forget it."""
        self._queries.remove(query)
        if query.query is not None:
            self._end(query.query, self._clock() + patience)

    def pause(self) -> None:
        """Wait for a second, or until a running query ends."""
        active = next((each.query for each in self._queries if each.query and each.query.isActive), None)
        try:
            if active is not None:
                active.awaitTermination(_LOOK_SECONDS)  # type: ignore[arg-type] # a float
            else:
                time.sleep(_SHORTEST_WAIT / 5)  # all wait to be restarted
        except StreamingQueryException:
            return  # the next look finds it

    def stop(self, patience: float = _LAST_BATCH) -> None:
        """Stop every query after its micro-batch; one that takes longer is repeated at the next start."""
        self._stopped = True
        deadline = self._clock() + patience
        for query in [each.query for each in self._queries if each.query is not None]:
            self._end(query, deadline)

    def _end(self, query: StreamingQuery, deadline: float) -> None:
        last = _last_batch(query)
        while (
            query.isActive and _is_working(query) and _last_batch(query) == last and self._clock() < deadline
        ):
            time.sleep(0.02)
        query.stop()

    def _check(self, each: SupervisedQuery, query: StreamingQuery) -> None:
        if each.observe(query):
            each.wait, each.failures, each.waiting = _SHORTEST_WAIT, 0, None
        error = None if query.isActive else query.exception()
        if error is not None:
            each.query = None
            self._failed(each, error)

    def _restart(self, each: SupervisedQuery) -> None:
        if self._clock() < each.restart_at or any(other.pending for other in each.after):
            return
        failed = next((other.name for other in each.after if other.failure is not None), None)
        if failed is not None:
            self._give_up(each, f"it starts when {failed} has ended, and {failed} failed")
            return
        try:
            each.query = each.begin()
        except Exception as error:  # noqa: BLE001 - `_failed` tells an outage from a fault
            self._failed(each, error)

    def _failed(self, each: SupervisedQuery, error: Exception) -> None:
        each.waiting = reason_of(error)
        restarts = self._on_failure is OnFailure.RESTART or each.patient(each.waiting)
        each.failures += not (restarts and _is_outage(each, error))
        if not restarts or each.failures >= _MOST_FAILURES:
            self._give_up(each, reason_of(error), error)
            return
        each.restarts += 1
        each.restart_at = self._clock() + each.wait
        log.warning("query %s failed and restarts in %.1f s: %s", each.name, each.wait, each.waiting)
        each.wait = min(2 * each.wait, _LONGEST_WAIT)

    def _give_up(self, each: SupervisedQuery, reason: str, error: Exception | None = None) -> None:
        each.failure, each.error, each.waiting = reason, error, None
        if self._on_failure is not OnFailure.STOP_ALL:
            trace = error if log.isEnabledFor(logging.INFO) else None
            log.error("query %s failed and is given up: %s", each.name, reason, exc_info=trace)


def checkpoint_of(spark: SparkSession, folder: str, topic_id: str, *, begin: bool = False) -> str:
    """The checkpoint of a topic, which is another one when the topic was deleted and made again.

    The first topic has the `folder` itself, later ones have their ids behind it. A file beside the folder
    names the first; `begin` writes it when it is missing.
    """
    parent, _, name = folder.rpartition("/")
    first = f"{name}.topic"
    if first in file_names(spark, parent):
        return folder if read_text(spark, f"{parent}/{first}") == topic_id else f"{folder}-{topic_id}"
    if begin and topic_id:
        write_text(spark, f"{parent}/{first}", topic_id)
    return folder


def triggered(writer: DataStreamWriter, interval: str | None) -> DataStreamWriter:
    """The query with a micro-batch every `interval`, such as ``30 seconds``; None drains and ends."""
    if interval is None:
        return writer.trigger(availableNow=True)
    return writer.trigger(processingTime=interval)


def run_queries(
    queries: Sequence[SupervisedQuery], on_look: Callable[[], None], stopping: threading.Event | None = None
) -> None:
    """Run queries until all have ended, one has failed (its `error` is set) or `stopping` is set.

    Calls `on_look` every second. Raises what starting a query raises.
    """
    supervisor = Supervisor(queries, OnFailure.STOP_ALL)
    try:
        supervisor.start()
        while supervisor.active and not (stopping is not None and stopping.is_set()):
            supervisor.pause()
            supervisor.look()
            on_look()
        if supervisor.active:
            supervisor.stop()
    finally:
        supervisor.stop(patience=0)


def reason_of(error: Exception) -> str:
    """The line of an error's text that names an outage or damage; else its innermost or its first line."""
    lines = str(error).splitlines()
    damaged = next((line.strip() for line in lines if any(sign in line for sign in _DAMAGED)), None)
    outage = next((line.strip() for line in reversed(lines) if _OUTAGE.search(line)), None)
    raised = _RAISED.findall(str(error))
    if damaged and not outage:
        return (
            f"its checkpoint is damaged ({damaged}): restore it, or remove this query's folder "
            "below checkpoints/ and start again, which reads the topic anew from where it is needed"
        )
    return outage or (raised[-1] if raised else lines[0] if lines else type(error).__name__)


def _is_outage(each: SupervisedQuery, error: Exception) -> bool:
    """Is a server away, by what the error says or by asking?"""
    named = (
        isinstance(error, UnavailableError) or _OUTAGE.search(f"{type(error).__name__}: {error}") is not None
    )
    return named or each.outage()


def _is_working(query: StreamingQuery) -> bool:
    """Is a micro-batch under way? A query that only looks for new messages is triggered all the time."""
    status = query.status
    return bool(status["isTriggerActive"] and status["isDataAvailable"])


def _last_batch(query: StreamingQuery) -> int:
    """The number of the last finished micro-batch; -1 for none."""
    last = query.lastProgress
    return -1 if last is None else int(last["batchId"])
