"""The streams of projects in one process: queries of sources, score requests and labels, kept running."""

import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.delays import as_measures
from anabranch.declare.projects import Project
from anabranch.events.decoders.schemas import is_registry_away
from anabranch.stores.kafka.relays import Relays
from anabranch.stores.queries import OnFailure, SupervisedQuery, Supervisor, triggered
from anabranch.values.times import SECOND, now_micros
from speed import online, requests
from speed.feeds import StreamFeed, feeds
from speed.gaps import look_behind, place_of
from speed.progress import Delays, Meter, Snapshot, of_relay
from speed.query import SpeedLayer, ends_of, query_settings, scores_topic
from speed.retiring import Retirement
from speed.views import events_of, refresh_current, states_of, write_states

log = logging.getLogger(__name__)
_LAG_SECONDS = 5.0


def start(layer: SpeedLayer, project: Project) -> list[StreamingQuery]:
    """Start the queries of a project's feeds, unsupervised."""
    prepare(layer, project)
    names: set[str] = set()
    return [start_source(layer, each, _free_name(each.source.name, names)) for each in feeds(layer, project)]


def _free_name(wanted: str, names: set[str]) -> str:
    """A name that none of `names` is, to which it is added: `wanted`, or with a number behind it."""
    found = next(
        name for number in count(1) if (name := f"{wanted}-{number}" if number > 1 else wanted) not in names
    )
    names.add(found)
    return found


def start_source(layer: SpeedLayer, feed: StreamFeed, name: str) -> StreamingQuery:
    """Start the query that keeps the tiles of a source's views, and current rows where these serve.

    `prepare` first. `name` tells queries of one source apart.
    """
    project, source = feed.project, feed.source
    place = place_of(layer, project, source)
    events = events_of(layer, project, source)
    writer = (
        states_of(layer, project, source, events)
        .writeStream.queryName(f"{project.name}.{name}")
        .outputMode("update")
        .option("checkpointLocation", place)
        .foreachBatch(_micro_batch(layer, feed, place))
    )
    with query_settings(layer):
        return triggered(writer, layer.trigger).start()


def prepare(layer: SpeedLayer, project: Project) -> None:
    """Create the missing topics and tables of a project's stream, and begin what copies its topics.

    Topics that producers stamp are copied by the layer's relays; without those, up to their present ends.
    """
    bus, views, found = layer.stores.bus, layer.stores.views, feeds(layer, project)
    served, _ = layer.served(project)
    labels = online.label_topic(served)
    topics = [str(each.source.topic) for each in found] + ([] if labels is None else [labels])
    topics = list(dict.fromkeys(topics))
    bus.ensure_topics([*topics, scores_topic(project.name)])
    copied = bus.relayed(topics)
    if layer.relays is not None:
        layer.relays.start(copied)
    else:
        Relays(bus).copy_all(copied)
    for each in dict.fromkeys(each.project for each in found):
        views.ensure_tiles(each)
    views.ensure_current(served)
    views.ensure_own_events()


def _micro_batch(layer: SpeedLayer, feed: StreamFeed, place: str) -> Callable[[DataFrame, int], None]:
    project, source = feed.project, feed.source
    options = {**layer.stores.bus.spark_options([]), "topic": scores_topic(project.name)}
    tiles = [view.tiles_name for view in project.views_of(source.name)]
    with_rows: list[Project] = []  # the declaration whose columns the current rows have

    def run(states: DataFrame, number: int) -> None:
        started = time.monotonic()
        views, ends = layer.stores.views, ends_of(layer, place, number)
        served, _ = layer.served(project)
        serves = feed.serves(served)
        layer.places.note_begun(views, project.name, tiles, ends)
        changed = write_states(layer, project, source, states)
        if serves:
            if with_rows and with_rows != [served]:
                views.ensure_current(served)
            with_rows[:] = [served]
            refresh_current(layer, served, changed).write.format("kafka").options(**options).save()
        else:
            changed.write.format("noop").mode("overwrite").save()
        layer.places.note_done(views, project.name, tiles, ends)
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
    feed: StreamFeed | None = None
    serves: bool = True
    """Whether current rows are by the feed: only then are they as old as it is behind."""
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
        feed, views = self.feed, layer.stores.views
        whole = feed is None or not views.lacking_tiles(feed.project, feed.source.name)
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

    Queries follow declarations, which `load` reads again by name, and the versions that serve: a changed
    declaration is fed beside the one that serves until it is built, and that one until no rollback needs it.

    A query that fails while a server is away is restarted from its checkpoint for as long as it takes; one
    that fails for another reason is given up at the third time in a row, or at once where the layer only
    drains. Others go on.
    """

    def __init__(
        self,
        layer: SpeedLayer,
        projects: Sequence[Project],
        load: Callable[[str], Project] | None = None,
    ) -> None:
        self._drains = layer.trigger is None
        self._relays = None if self._drains else Relays(layer.stores.bus)
        self._projects = {project.name: project for project in projects}
        self._load = load
        self._layer = replace(
            layer, relays=self._relays, declared=lambda project: self._projects.get(project.name, project)
        )
        self._running: dict[Hashable, _MeasuredQuery] = {}
        self._supervisor = Supervisor([], OnFailure.GIVE_UP if self._drains else OnFailure.RESTART)
        self._retirement = None if self._drains else Retirement(layer.stores.views, self._fed)
        self._measure_at = math.inf if self._drains else 0.0

    @property
    def _queries(self) -> list[_MeasuredQuery]:
        return list(self._running.values())

    def start(self) -> list[str]:
        """Start every query; returns their names. Raises when a server is away, which later is waited for."""
        self._follow()
        self._supervisor.start()
        if self._retirement is not None:
            self._retirement.start()
        return [each.supervised.name for each in self._queries]

    def _fed(self) -> Mapping[str, Sequence[Project]]:
        """The declarations whose tiles are kept, by project."""
        found: dict[str, list[Project]] = {name: [] for name in list(self._projects)}
        for each in self._queries:
            if each.feed is not None:
                found[each.project.name].append(each.feed.project)
        return found

    def _follow(self) -> None:
        """Run the queries that declarations and versions need now, and no other."""
        wanted: dict[Hashable, _Wanted] = {}
        for name, project in list(self._projects.items()):
            self._projects[name] = project if self._load is None else self._load(name)
            wanted |= _wanted(self._layer, self._projects[name])
        for key in [key for key in self._running if key not in wanted]:
            ended = self._running.pop(key)
            log.info("query %s ends: no version needs it any more", ended.supervised.name)
            self._supervisor.remove(ended.supervised)
        for key in [key for key in wanted if key not in self._running]:
            new = self._begun(wanted[key])
            self._running[key] = new
            self._supervisor.add(new.supervised)
        for project in self._projects.values():
            served, _ = self._layer.served(project)
            for each in self._queries:
                if each.project.name == project.name and each.feed is not None:
                    each.serves = each.feed.serves(served)
        if self._relays is not None:
            self._relays.keep({each.topic for each in self._queries})

    def _begun(self, wanted: "_Wanted") -> _MeasuredQuery:
        names = {each.source for each in self._queries if each.project.name == wanted.project.name}
        source, feed = _free_name(wanted.source, names), wanted.feed
        measured = _measured(self._layer, wanted, source)
        if feed is not None:
            promised = feed.project.promised_freshness
            measured.delays = Delays(feed.source.name, None if promised is None else promised.stream_micros)
        if wanted.waits and self._drains:  # so that each label finds all events before it
            measured.supervised.after = tuple(
                each.supervised
                for each in self._queries
                if each.feed is not None and each.project.name == wanted.project.name
            )
        return measured

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
            if state.topic in readers
        ]

    def _measure(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - a store that is away, or a declaration that is being edited
            log.info("queries are as before: %s", error)
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
            if each.delays is not None and each.serves and query is not None and query.isActive:
                delay = each.delays.report(now, late.get(each.topic, 0))
                measures += [] if delay is None else as_measures(each.project.name, delay)
        try:
            self._layer.stores.measures.write(measures, history=False)
        except Exception as error:  # noqa: BLE001 - whatever the store raises: a figure must not end a stream
            log.info("delays are not kept: %s", error)


@dataclass(frozen=True)
class _Wanted:
    """A query that is to run: of a feed, of the score requests of a model, or of labels learnt online."""

    project: Project
    source: str
    topic: str
    unit: str = "events"
    feed: StreamFeed | None = None
    begin: Callable[[SpeedLayer, Project], StreamingQuery] = requests.start_requests
    """How a query that is of no feed starts."""
    waits: bool = False


def _wanted(layer: SpeedLayer, project: Project) -> dict[Hashable, _Wanted]:
    """One query a feed, one for the score requests of a model, one for labels that are learnt online."""
    found: dict[Hashable, _Wanted] = {}
    for feed in feeds(layer, project):
        source = feed.source
        # A source that is declared otherwise is read otherwise, from the same checkpoint.
        key = (*feed.meaning, repr(source))
        found[key] = _Wanted(feed.project, source.name, str(source.topic), feed=feed)
    served, _ = layer.served(project)
    if served.model is not None or project.model is not None:
        topic = requests.requests_topic(project.name)
        found[project.name, requests.NAME] = _Wanted(
            project, requests.NAME, topic, "requests", begin=requests.start_requests
        )
    labels = online.label_topic(served)
    if labels is not None:
        found[project.name, online.NAME, labels] = _Wanted(
            served, online.NAME, labels, "labels", begin=online.start_online, waits=True
        )
    return found


def _measured(layer: SpeedLayer, wanted: _Wanted, name: str) -> _MeasuredQuery:
    bus, project, topic = layer.stores.bus, wanted.project, wanted.topic

    def prepare_and_begin() -> StreamingQuery:
        prepare(layer, project)
        if wanted.feed is not None:
            query = start_source(layer, wanted.feed, name)
        else:
            query = wanted.begin(layer, project)
        measured.topic_id = bus.topic_id(bus.read_as(topic))
        return query

    def observe(query: StreamingQuery) -> bool:
        before = measured.meter.events
        measured.meter.read(query)
        if measured.delays is not None:
            measured.delays.query_reached(now_micros(), measured.meter.position)
            look_behind(layer, project, wanted.source, bus.read_as(topic), measured.meter.unseen)
        return measured.meter.events > before

    supervised = SupervisedQuery(
        name=f"{project.name}.{name}",
        begin=prepare_and_begin,
        observe=observe,
        outage=partial(_is_server_away, layer, project),
        patient=is_registry_away,
    )
    meter = Meter(layer.times.slot_seconds)
    measured = _MeasuredQuery(project, name, topic, supervised, meter, wanted.unit, feed=wanted.feed)
    return measured


def _is_server_away(layer: SpeedLayer, project: Project) -> bool:
    """Is Cassandra or Kafka away at this moment?"""
    try:
        layer.stores.views.manifest(project.name)
    except Exception as error:  # noqa: BLE001 - whatever the driver raises
        log.info("Cassandra does not answer: %s", error)
        return True
    return not layer.stores.bus.is_reachable()
