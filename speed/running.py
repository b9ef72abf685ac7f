"""Streams of several projects in one process, and what answers their score requests, kept running: a query that fails
because a server is away is started again from its checkpoint, for as long as it takes; the others go on meanwhile. One that
fails for another reason again and again is given up, and the others still go on.
"""  # fmt: skip

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.delays import as_measures
from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.stores.cassandra.measures import Measures
from anabranch.values.times import now_micros
from speed import online, requests
from speed.delays import Delays
from speed.progress import Meter, Snapshot
from speed.retiring import Retiring
from speed.views import Channel, fed_sources, prepare, start_source

log = logging.getLogger(__name__)
_LONGEST_WAIT = 10.0
_HOPELESS = 3  # failures in a row that are nobody's absence, without one micro-batch between them
_AWAY = re.compile(
    r"UnavailableError|NoHostAvailable|OperationTimedOut|(Read|Write|Coordination)(Timeout|Failure)|cassandra\.Unavailable"
    r"|NoConnectionsAvailable|Connection(Exception|Shutdown| refused)|TimeoutException|DisconnectException|BrokerNotAvailable|NETWORK_EXCEPTION"
    r"|KafkaTimeoutError|NoBrokersAvailable|UnknownTopicOrPartition"
)
_RAISED = re.compile(r"^(?:Caused by: )?[\w.]*(?:Error|Exception): (.*\S)", re.MULTILINE)
_LAG_EVERY = 5.0
_LAST_BATCH = 10.0  # seconds; Spark meets the interruption of a micro-batch with a thousand lines of stack


@dataclass
class _RunningQuery:
    """One query, or the moment at which it is to be started again, or why it is not."""

    project: Project
    name: str
    topic: str
    begin: Callable[[], StreamingQuery]
    meter: Meter
    delays: Delays | None = None
    query: StreamingQuery | None = None
    again_at: float = 0.0
    wait: float = 0.5
    failures: int = 0
    failure: str | None = None
    restarts: int = 0
    lag: dict[int, int] | None = None
    rate: float = 0.0
    counted: tuple[float, int] = (0.0, 0)

    @property
    def lives(self) -> bool:
        """Does it run, is it to be started, or has it a failure that was not looked at yet?"""
        return self.failure is None and (
            self.query is None or self.query.isActive or self.query.exception() is not None
        )


class Running:
    """The streams of `projects`; `start`, then `look` again and again, then `stop`."""

    def __init__(self, spark: SparkSession, channel: Channel, projects: Sequence[Project]) -> None:
        self._channel, self._projects = channel, projects
        self._kept = [kept for project in projects for kept in _queries(spark, channel, project)]
        self._retiring = None if channel.trigger is None else Retiring(channel.views, projects)
        self._lag_at = 0.0
        self._stopped = False

    def start(self) -> list[str]:
        """Start every query; returns their names. A server that is away is an error here, and waited for later."""
        for project in self._projects:
            try:
                _prepare(self._channel, project)
            except Exception as error:  # noqa: BLE001 - `_not_started` tells absence from error
                self._not_started([kept for kept in self._kept if kept.project is project], error)
        for kept in self._kept:
            if not kept.failures and not self._held(kept):
                try:
                    kept.query = kept.begin()
                except Exception as error:  # noqa: BLE001 - as above
                    self._not_started([kept], error)
        if self._retiring is not None:
            self._retiring.start()
        return [f"{kept.project.name}.{kept.name}" for kept in self._kept]

    @property
    def active(self) -> bool:
        """Is there a query that runs or is to be started again?"""
        return any(kept.lives for kept in self._kept)

    def look(self) -> list[Snapshot]:
        """Read progress and, before the end, start again what failed. A query whose failure is nobody's absence is given up at its third time in a
        row, and when the channel only drains at once; its snapshot says why.
        """  # fmt: skip
        for kept in self._kept:
            if kept.query is not None:
                self._check(kept, kept.query)
            elif kept.failure is None and not self._stopped and not self._held(kept):
                self._revive(kept)
        if self._channel.trigger is not None and not self._stopped and time.monotonic() >= self._lag_at:
            self._lag_at = time.monotonic() + _LAG_EVERY
            self._measure()
        return [self._snapshot(kept) for kept in self._kept]

    def stop(self) -> None:
        """Stop every query when it has ended its micro-batch; what one that takes too long has not finished is done again at the next start."""
        self._stopped = True
        deadline = time.monotonic() + _LAST_BATCH
        for query in [kept.query for kept in self._kept if kept.query is not None]:
            done = _batches(query)
            while (
                query.isActive and _works(query) and _batches(query) == done and time.monotonic() < deadline
            ):
                time.sleep(0.02)
            query.stop()
        if self._retiring is not None:
            self._retiring.stop()

    def _held(self, kept: _RunningQuery) -> bool:
        """A drain folds all events first: then labels find the features that they should."""
        others = (other for other in self._kept if other.name != online.NAME)
        return (
            self._channel.trigger is None
            and kept.name == online.NAME
            and any(other.lives for other in others)
        )

    def _check(self, kept: _RunningQuery, query: StreamingQuery) -> None:
        before = kept.meter.events
        kept.meter.read(query)
        if kept.delays is not None:
            kept.delays.reached(now_micros(), kept.meter.position)
        if kept.meter.events > before:
            kept.wait, kept.failures = 0.5, 0
        failure = None if query.isActive else query.exception()
        if failure is not None:
            kept.query = None
            self._failed(kept, failure)

    def _revive(self, kept: _RunningQuery) -> None:
        if time.monotonic() < kept.again_at:
            return
        missing = next(
            (
                other.name
                for other in self._kept
                if other.project is kept.project and other.failure is not None
            ),
            None,
        )
        if self._channel.trigger is None and kept.name == online.NAME and missing is not None:
            self._give_up(kept, f"labels are learnt after the events, and {missing} failed")
            return
        try:
            _prepare(self._channel, kept.project)
            kept.query = kept.begin()
        except Exception as error:  # noqa: BLE001 - whatever a client raises: `_failed` tells absence from error
            self._failed(kept, error)

    def _not_started(self, all_kept: Sequence[_RunningQuery], error: Exception) -> None:
        """Raise when somebody is away: whoever starts a stream is there to see it. Anything else is that of these queries alone."""
        if _is_absence(error) or self._somebody_is_away(all_kept[0].project):
            raise error
        for kept in all_kept:
            self._failed(kept, error)

    def _failed(self, kept: _RunningQuery, error: Exception) -> None:
        drains = self._channel.trigger is None
        kept.failures += drains or not (_is_absence(error) or self._somebody_is_away(kept.project))
        if drains or kept.failures >= _HOPELESS:
            self._give_up(kept, _reason(error), error)
            return
        kept.restarts += 1
        kept.again_at = time.monotonic() + kept.wait
        log.warning(
            "stream of %s.%s failed and starts again in %.1f s: %s",
            kept.project.name,
            kept.name,
            kept.wait,
            _reason(error),
        )
        kept.wait = min(2 * kept.wait, _LONGEST_WAIT)

    @staticmethod
    def _give_up(kept: _RunningQuery, reason: str, error: Exception | None = None) -> None:
        kept.failure = reason
        log.error(
            "stream of %s.%s failed and is given up: %s",
            kept.project.name,
            kept.name,
            reason,
            exc_info=error if log.isEnabledFor(logging.INFO) else None,
        )

    def _somebody_is_away(self, project: Project) -> bool:
        """Whatever an error says: is Cassandra or Kafka away at this moment?"""
        try:
            self._channel.views.manifest(project.name)
        except Exception as error:  # noqa: BLE001 - as above
            log.info("Cassandra is asked and fails: %s", error)
            return True
        return not self._channel.bus.is_there()

    def _measure(self) -> None:
        for kept in self._kept:
            then, events = kept.counted
            kept.counted = (time.monotonic(), kept.meter.events)
            kept.rate = (kept.meter.events - events) / (kept.counted[0] - then) if then else 0.0
            asked = now_micros()
            try:
                ends = self._channel.bus.ends(kept.topic)
            except Exception as error:  # noqa: BLE001 - whatever the client raises: a figure for people must not end a stream
                log.info("lag of %s is unknown: %s", kept.topic, error)
                kept.lag = None
                continue
            kept.lag = (
                {
                    partition: max(0, end - kept.meter.offsets.get(partition, 0))
                    for partition, end in ends.items()
                }
                if kept.meter.offsets
                else None
            )
            if kept.delays is not None:
                kept.delays.ended(asked, ends)
        self._tell()

    def _tell(self) -> None:
        """Keep how far behind arrival the current rows are; of a query that does not run nothing is told, which tells as much."""
        running = [
            (kept.project.name, kept.delays)
            for kept in self._kept
            if kept.delays is not None and kept.query is not None and kept.query.isActive
        ]
        told = [
            (project, delay)
            for project, delays in running
            if (delay := delays.told(now_micros())) is not None
        ]
        try:
            Measures.of(self._channel.views.settings).write(
                [one for project, delay in told for one in as_measures(project, delay)], history=False
            )
        except Exception as error:  # noqa: BLE001 - whatever the store raises: a figure for people must not end a stream
            log.info("delays are not kept: %s", error)

    def _snapshot(self, kept: _RunningQuery) -> Snapshot:
        rows, size = kept.meter.state
        return Snapshot(
            project=kept.project.name,
            source=kept.name,
            running=kept.query is not None,
            failure=kept.failure,
            events=kept.meter.events,
            events_per_second=kept.rate,
            lag=kept.lag or {},
            state_rows=rows,
            state_bytes=size,
            open_slots=kept.meter.open_slots,
            seconds=kept.meter.seconds,
            restarts=kept.restarts,
            unit={requests.NAME: "requests", online.NAME: "labels"}.get(kept.name, "events"),
        )


def _queries(spark: SparkSession, channel: Channel, project: Project) -> Iterator[_RunningQuery]:
    """One a source, one for the requests of a project with a model, one for labels that are learnt online."""
    slot = channel.times.slot_seconds
    promised = project.freshness.stream_micros if project.freshness else None
    for source in fed_sources(project):
        begin = partial(start_source, spark, channel, project, source)
        yield _RunningQuery(
            project, source.name, str(source.topic), begin, Meter(slot), Delays(source.name, promised)
        )
    if project.model is not None:
        yield _RunningQuery(
            project,
            requests.NAME,
            requests.requests_topic(project.name),
            partial(requests.start_requests, spark, channel, project),
            Meter(slot),
        )
    labels = online.label_topic(project)
    if labels is not None:
        yield _RunningQuery(
            project, online.NAME, labels, partial(online.start_online, spark, channel, project), Meter(slot)
        )


def _works(query: StreamingQuery) -> bool:
    """Is a micro-batch under way? A query that only asks for new messages is triggered all the time."""
    status = query.status
    return bool(status["isTriggerActive"] and status["isDataAvailable"])


def _batches(query: StreamingQuery) -> int:
    """The number of the last micro-batch that is done."""
    last = query.lastProgress
    return -1 if last is None else int(last["batchId"])


def _prepare(channel: Channel, project: Project) -> None:
    prepare(channel, project)
    if project.model is not None:
        requests.prepare_requests(channel, project)
    labels = online.label_topic(project)
    if labels is not None:
        channel.bus.ensure_topics([labels])
        channel.bus.require_arrival([labels])


def _is_absence(error: Exception) -> bool:
    """Does the error say that a server is away?"""
    return isinstance(error, UnavailableError) or _AWAY.search(f"{type(error).__name__}: {error}") is not None


def _reason(error: Exception) -> str:
    """Of a text of many lines, the one that says what was away; else the innermost error; else the first."""
    lines = str(error).splitlines()
    away = next((line.strip() for line in reversed(lines) if _AWAY.search(line)), None)
    raised = _RAISED.findall(str(error))
    return away or (raised[-1] if raised else lines[0] if lines else type(error).__name__)
