"""The streams of projects in one process: queries of sources, score requests and labels, kept running."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.delays import as_measures
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.events.decoders.schemas import is_registry_away
from anabranch.stores.kafka.relays import Relays
from anabranch.stores.queries import OnFailure, SupervisedQuery, Supervisor, triggered
from anabranch.values.times import SECOND, now_micros
from speed import online, requests
from speed.gaps import look_behind, place_of
from speed.progress import Delays, Meter, Snapshot, of_relay
from speed.query import SpeedLayer, ends_of, query_settings, scores_topic
from speed.retiring import Retirement
from speed.views import events_of, refresh_current, sources_of, states_of, write_states

log = logging.getLogger(__name__)
_LAG_SECONDS = 5.0


def start(layer: SpeedLayer, project: Project) -> list[StreamingQuery]:
    """Start the query of each source that has a topic, unsupervised."""
    prepare(layer, project)
    return [start_source(layer, project, source) for source in sources_of(project)]


def start_source(layer: SpeedLayer, project: Project, source: Source) -> StreamingQuery:
    """Start the query that keeps the tiles and current rows of a source's views; `prepare` first."""
    place = place_of(layer, project, source)
    events = events_of(layer, project, source)
    writer = (
        states_of(layer, project, source, events)
        .writeStream.queryName(f"{project.name}.{source.name}")
        .outputMode("update")
        .option("checkpointLocation", place)
        .foreachBatch(_micro_batch(layer, project, source, place))
    )
    with query_settings(layer):
        return triggered(writer, layer.trigger).start()


def prepare(layer: SpeedLayer, project: Project) -> None:
    """Create the missing topics and tables of a project's stream, and begin what copies its topics.

    Topics that producers stamp are copied by the layer's relays; without those, up to their present ends.
    """
    bus, views = layer.stores.bus, layer.stores.views
    labels = online.label_topic(project)
    topics = [str(source.topic) for source in sources_of(project)] + ([] if labels is None else [labels])
    bus.ensure_topics([*topics, scores_topic(project.name)])
    copied = bus.relayed(topics)
    if layer.relays is not None:
        layer.relays.start(copied)
    else:
        Relays(bus).copy_all(copied)
    views.ensure_tiles(project)
    views.ensure_current(project)
    views.ensure_own_events()


def _micro_batch(
    layer: SpeedLayer, project: Project, source: Source, place: str
) -> Callable[[DataFrame, int], None]:
    options = {**layer.stores.bus.spark_options([]), "topic": scores_topic(project.name)}

    def run(states: DataFrame, number: int) -> None:
        started = time.monotonic()
        views, ends = layer.stores.views, ends_of(layer, place, number)
        # Answers tell by these whether tiles that they read hold an event that came with a question.
        first: dict[str, Mapping[int, int]] = {"done": {}} if number == 0 else {}
        views.note_places(project.name, source.name, began=ends, **first)
        changed = write_states(layer, project, source, states)
        refresh_current(layer, project, changed).write.format("kafka").options(**options).save()
        views.note_places(project.name, source.name, done=ends)
        log.info(
            "micro-batch project=%s source=%s number=%s seconds=%.2f",
            project.name,
            source.name,
            number,
            time.monotonic() - started,
        )

    return run


@dataclass
class _MeasuredQuery:
    """A supervised query and its figures."""

    project: Project
    source: str
    topic: str
    supervised: SupervisedQuery
    meter: Meter
    unit: str = "events"
    delays: Delays | None = None
    lag: Mapping[int, int] = field(default_factory=dict)
    topic_id: str = ""
    rate: float = 0.0
    counted: tuple[float, int] = (0.0, 0)
    """When the events were last counted, and how many they were then."""

    def snapshot(self) -> Snapshot:
        """The query as it is now."""
        rows, size = self.meter.state
        return Snapshot(
            project=self.project.name,
            source=self.source,
            running=self.supervised.query is not None,
            failure=self.supervised.failure,
            waiting=self.supervised.waiting if self.supervised.query is None else None,
            events=self.meter.events,
            events_per_second=self.rate,
            lag=self.lag,
            state_rows=rows,
            state_bytes=size,
            open_slots=self.meter.open_slots,
            seconds=self.meter.seconds,
            restarts=self.supervised.restarts,
            unit=self.unit,
        )

    def look(self, layer: SpeedLayer, topic_id: str) -> None:
        """Start the query again, from its beginning, when its topic or its tiles were deleted."""
        before, self.topic_id = self.topic_id, topic_id
        whole = self.delays is None or layer.stores.views.tiles_are_whole(self.project, self.source)
        if (before in ("", self.topic_id) and whole) or self.supervised.query is None:
            return
        self.supervised.query.stop()
        self.supervised.query = None
        self.meter.offsets.clear()
        self.meter.position.clear()

    def count(self) -> None:
        """Bring the rate of events up to date."""
        then, events = self.counted
        self.counted = (time.monotonic(), self.meter.events)
        self.rate = (self.meter.events - events) / (self.counted[0] - then) if then else 0.0


class Streams:
    """The streams of `projects`: `start`, then `look` again and again while `active`, then `stop`.

    A query that fails while a server is away is restarted from its checkpoint for as long as it takes; one
    that fails for another reason is given up at the third time in a row, or at once where the layer only
    drains. Others go on.
    """

    def __init__(self, layer: SpeedLayer, projects: Sequence[Project]) -> None:
        self._drains = layer.trigger is None
        self._relays = None if self._drains else Relays(layer.stores.bus)
        self._layer = layer = replace(layer, relays=self._relays)
        self._queries = [query for project in projects for query in _queries(layer, project)]
        self._supervisor = Supervisor(
            [each.supervised for each in self._queries],
            OnFailure.GIVE_UP if self._drains else OnFailure.RESTART,
        )
        self._retirement = None if self._drains else Retirement(layer.stores.views, projects)
        self._measure_at = math.inf if self._drains else 0.0

    def start(self) -> list[str]:
        """Start every query; returns their names. Raises when a server is away, which later is waited for."""
        self._supervisor.start()
        if self._retirement is not None:
            self._retirement.start()
        return [each.supervised.name for each in self._queries]

    @property
    def active(self) -> bool:
        """Is there a query that runs or is to be started?"""
        return self._supervisor.active

    def look(self) -> list[Snapshot]:
        """Read the progress of every query and, until `stop`, start again what failed."""
        self._supervisor.look()
        if time.monotonic() >= self._measure_at:
            self._measure_at = time.monotonic() + _LAG_SECONDS
            self._measure()
        return [*(each.snapshot() for each in self._queries), *self._relay_snapshots()]

    def stop(self) -> None:
        """Stop every query after its micro-batch; one that takes too long is repeated at the next start."""
        self._measure_at = math.inf
        self._supervisor.stop()
        if self._retirement is not None:
            self._retirement.stop()
        if self._relays is not None:
            self._relays.close()

    def _relay_snapshots(self) -> list[Snapshot]:
        """Every relay as a query of its own, under the first project that reads its copy."""
        readers = {each.topic: each.project for each in reversed(self._queries)}
        return [
            of_relay(readers[state.topic].name, state)
            for state in (() if self._relays is None else self._relays.states())
        ]

    def _measure(self) -> None:
        if self._relays is not None:
            self._relays.measure()
        bus, asked, read_as, found = self._layer.stores.bus, now_micros(), dict[str, str](), {}
        try:
            read_as = {each.topic: bus.read_as(each.topic) for each in self._queries}
            found = bus.topics_at(read_as.values())
        except Exception as error:  # noqa: BLE001 - a figure must not end a stream
            log.info("lags are unknown: %s", error)
        for each in self._queries:
            each.count()
            if read_as.get(each.topic) not in found:
                each.lag = {}
                continue
            topic_id, ends = found[read_as[each.topic]]
            read = each.meter.offsets
            each.lag = {part: max(0, end - read.get(part, 0)) for part, end in ends.items()} if read else {}
            if each.delays is not None:
                each.delays.topic_ended(asked, ends)
            try:
                each.look(self._layer, topic_id)
            except Exception as error:  # noqa: BLE001 - the next look asks again
                log.info("whether %s or its tiles were deleted is unknown: %s", each.topic, error)
        self._keep_delays()

    def _keep_delays(self) -> None:
        """Store how far current rows are behind arrival; of a query that does not run nothing is stored."""
        now, measures = now_micros(), []
        relays = () if self._relays is None else self._relays.states()
        late = {state.topic: round(state.seconds * SECOND) for state in relays}
        for each in self._queries:
            query = each.supervised.query
            if each.delays is not None and query is not None and query.isActive:
                delay = each.delays.report(now, late.get(each.topic, 0))
                measures += [] if delay is None else as_measures(each.project.name, delay)
        try:
            self._layer.stores.measures.write(measures, history=False)
        except Exception as error:  # noqa: BLE001 - whatever the store raises: a figure must not end a stream
            log.info("delays are not kept: %s", error)


def _queries(layer: SpeedLayer, project: Project) -> Iterator[_MeasuredQuery]:
    """One query a source, one for the score requests of a model, one for labels that are learnt online."""
    promised = project.promised_freshness.stream_micros if project.promised_freshness else None
    folding = []
    for source in sources_of(project):
        begin = partial(start_source, source=source)
        measured = _measured(layer, project, source.name, str(source.topic), begin)
        measured.delays = Delays(source.name, promised)
        folding.append(measured.supervised)
        yield measured
    if project.model is not None:
        topic = requests.requests_topic(project.name)
        yield _measured(layer, project, requests.NAME, topic, requests.start_requests, unit="requests")
    labels = online.label_topic(project)
    if labels is not None:
        learning = _measured(layer, project, online.NAME, labels, online.start_online, unit="labels")
        if layer.trigger is None:
            learning.supervised.after = tuple(folding)  # so that each label finds all events before it
        yield learning


def _measured(
    layer: SpeedLayer,
    project: Project,
    source: str,
    topic: str,
    begin: Callable[[SpeedLayer, Project], StreamingQuery],
    *,
    unit: str = "events",
) -> _MeasuredQuery:
    bus = layer.stores.bus

    def prepare_and_begin() -> StreamingQuery:
        prepare(layer, project)
        query = begin(layer, project)
        measured.topic_id = bus.topic_id(bus.read_as(topic))
        return query

    def observe(query: StreamingQuery) -> bool:
        before = measured.meter.events
        measured.meter.read(query)
        if measured.delays is not None:
            measured.delays.query_reached(now_micros(), measured.meter.position)
            look_behind(layer, project, source, bus.read_as(topic), measured.meter.unseen)
        return measured.meter.events > before

    supervised = SupervisedQuery(
        name=f"{project.name}.{source}",
        begin=prepare_and_begin,
        observe=observe,
        outage=partial(_is_server_away, layer, project),
        patient=is_registry_away,
    )
    measured = _MeasuredQuery(project, source, topic, supervised, Meter(layer.times.slot_seconds), unit)
    return measured


def _is_server_away(layer: SpeedLayer, project: Project) -> bool:
    """Is Cassandra or Kafka away at this moment?"""
    try:
        layer.stores.views.manifest(project.name)
    except Exception as error:  # noqa: BLE001 - whatever the driver raises
        log.info("Cassandra does not answer: %s", error)
        return True
    return not layer.stores.bus.is_reachable()
