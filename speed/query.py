"""How the streaming queries of the speed layer run: settings, checkpoints, offsets, the model in force."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyspark.sql import DataFrame

from anabranch.answers.current import InForce
from anabranch.answers.features import Answers
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import UnavailableError
from anabranch.events.expectations import Suite
from anabranch.settings import TimeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.removal import needed_since
from anabranch.stores.files.filesystems import read_text
from anabranch.stores.kafka.relays import Relays
from anabranch.stores.opened import Stores
from anabranch.stores.queries import checkpoint_of
from anabranch.values.times import DAY, SECOND, floor_to, now_micros
from speed.places import TilePlaces

log = logging.getLogger(__name__)
EARLIEST = "earliest"
_STATE_FORMAT = 2
"""Raise it when the contents of a checkpoint change while the declaration stays the same."""


def _no_suites(_project: Project) -> Mapping[str, Suite]:
    return {}


@dataclass(frozen=True, kw_only=True)
class SpeedLayer:
    """The stores, and how queries over them run.

    `trigger`: how often a micro-batch starts, such as ``2 seconds``; with None a query drains its topic and
    ends. `most_offsets`: the most messages of a micro-batch. `partitions`: of a query's state, fixed for the
    life of a checkpoint. `suites`: the expectations by source that landing judges rows by, so that a stream
    skips the same rows. `relays`: what keeps copying topics that producers stamp, where the queries go on.
    `declared` gives a project as it is declared now. `places`: how far tiles are.
    """

    stores: Stores
    checkpoints: str
    suites: Callable[[Project], Mapping[str, Suite]] = _no_suites
    trigger: str | None = None
    most_offsets: int | None = None
    partitions: int = 1
    relays: Relays | None = None
    declared: Callable[[Project], Project] = lambda project: project
    places: TilePlaces = field(default_factory=TilePlaces)

    @property
    def times(self) -> TimeSettings:
        """The lengths of slots, slack and horizons."""
        return self.stores.settings.times

    def served(self, project: Project) -> tuple[Project, Manifest | None]:
        """The declaration that answers of a project are by at this moment, and the manifest."""
        return Answers(self.stores.views).served(self.declared(project))

    def checkpoint(self, project: Project, query: str) -> str:
        """The folder of a query's checkpoint."""
        return f"{self.checkpoints.rstrip('/')}/{project.name}/{query}"


def scores_topic(project: str) -> str:
    """Topic of a project's approximate scores."""
    return f"scores.{project}"


def checkpoint(layer: SpeedLayer, project: Project, source: Source) -> str:
    """The checkpoint of a source's query: a new folder when the meaning or layout of its state changes."""
    meaning = (
        _STATE_FORMAT,
        layer.partitions,
        layer.times.slot_seconds,
        project.key_columns_in(source) or project.keys,
        [view.tiles_name for view in project.views_of(source.name)],
    )
    digest = hashlib.sha256(repr(meaning).encode()).hexdigest()[:12]
    return layer.checkpoint(project, f"{source.name}-{digest}")


def begun(layer: SpeedLayer, topic: str, folder: str) -> str:
    """The checkpoint with which a query of the topic starts: another one when the topic was made again."""
    stores = layer.stores
    return checkpoint_of(stores.spark, folder, stores.bus.topic_id(topic), begin=True)


def messages(layer: SpeedLayer, topic: str, **options: str) -> DataFrame:
    """The streaming messages of a topic, at most `most_offsets` a micro-batch."""
    options = {**layer.stores.bus.spark_options([topic]), **options}
    if layer.most_offsets is not None:
        options["maxOffsetsPerTrigger"] = str(layer.most_offsets)
    return layer.stores.spark.readStream.format("kafka").options(**options).load()


@contextmanager
def query_settings(layer: SpeedLayer) -> Iterator[None]:
    """Settings of the session under which queries of tiles start: a query keeps those it was started with."""
    conf = layer.stores.spark.conf
    wanted = {
        "spark.sql.shuffle.partitions": str(layer.partitions),
        # Expired state is removed with the next events; a micro-batch of its own would only delay those.
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        # Spark refuses any sort in a stream. Ours orders the rows of one task of one micro-batch: well
        # defined.
        "spark.sql.streaming.unsupportedOperationCheck": "false",
    }
    before = {name: conf.get(name) for name in wanted}
    try:
        for name, value in wanted.items():
            conf.set(name, value)
        yield
    finally:
        for name, old in before.items():
            conf.set(name, str(old))


def ends_of(layer: SpeedLayer, place: str, number: int) -> dict[int, int]:
    """By partition the offset up to which a micro-batch of the query with that checkpoint reads.

    Source: Spark's OffsetSeqLog, which is written before a micro-batch runs.
    """
    *_, offsets = read_text(layer.stores.spark, f"{place}/offsets/{number}").strip().splitlines()
    return {
        int(partition): int(end) for topic in json.loads(offsets).values() for partition, end in topic.items()
    }


def starting_offsets(layer: SpeedLayer, project: Project, source: Source) -> str:
    """Spark's `startingOffsets` for a query without a checkpoint: the first arrival that it can need."""
    first = _first_needed(layer, project)
    if first is None:
        return EARLIEST
    topic = layer.stores.bus.read_as(str(source.topic))
    offsets = layer.stores.bus.offsets_at(topic, first)
    return json.dumps({topic: {str(partition): offset for partition, offset in offsets.items()}})


def remembered_days(layer: SpeedLayer, project: Project) -> int | None:
    """Days of files of a large table in which copies of the topic's events are looked for; None: all.

    The days reach back to every arrival that a query which starts now can read and an answer can need, and
    move on with the query.
    """
    first = _first_needed(layer, project)
    if first is None:
        return None
    return -(-(now_micros() - first + layer.times.dedup_horizon_seconds * SECOND) // DAY)


def model_in_force(layer: SpeedLayer, project: Project) -> InForce:
    """The version that scores; none while the registry is away and no version was known: rows say why."""
    if project.model is None:
        return InForce(version=None)
    models = layer.stores.models
    try:
        version = models.usable_champion(project, for_stream=True)
        place = "" if version is None else models.address(project.name, version)
        return InForce(version=version, place=place)
    except UnavailableError as error:
        log.info("rows of %s are not scored: %s", project.name, error)
        return InForce(version=None, why=str(error))


def _first_needed(layer: SpeedLayer, project: Project) -> int | None:
    """The first arrival (microseconds) that a query without a checkpoint can need; None: all of them."""
    since = needed_since(layer.stores.views.manifest(project.name))
    if since is None:
        return None
    return floor_to(since, layer.times.slot_seconds * SECOND) - layer.times.dedup_horizon_seconds * SECOND
