"""A project's river that is lived through once, and what was answered at each of its moments."""

import json
import random
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from kafka import TopicPartition

from anabranch import Aggregate, FeatureView, Project
from anabranch.answers.features import Answer
from anabranch.stores.kafka.bus import Bus
from anabranch.testing import oracle
from anabranch.values.times import DAY, MINUTE, floor_to, format_time, now_micros
from jobs.flows.building import build_project
from jobs.show import Steps
from jobs.wiring.context import Context
from speed.streams import start
from tests.support.law import BY_CATEGORY, RANKED, START, Event, events_strategy, features_of, source
from tests.unit.folds.test_law import assert_lawful

KEYS = ("a", "b", "never seen")
SEED = 11


@dataclass(frozen=True)
class Answered:
    """The answers at `at`, and all events that had arrived by then, in order, duplicates included."""

    at: int
    arrived: list[Event]
    answers: list[Answer]


Moment = TypeVar("Moment", bound=Answered)


@dataclass
class LivedRiver(Generic[Moment]):
    """A project's river, what was published, by message, and the moments of its history by name."""

    context: Context
    project: Project
    published: dict[bytes, list[Event]] = field(default_factory=dict)
    moments: dict[str, Moment] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)

    def drain(self) -> None:
        """Run the stream until it has read everything."""
        context = self.context
        layer = replace(context.speed_layer(once=True), partitions=2)  # elsewhere in the tests it is one
        for query in start(layer, self.project):
            query.awaitTermination()

    def forget_the_checkpoint(self) -> None:
        shutil.rmtree(Path(self.context.settings.checkpoints) / self.project.name)

    def build(self) -> None:
        built = build_project(self.context, self.project, None, Steps())
        self.cuts.append(built.manifest.cut)

    def arrived(self, topic: str) -> list[Event]:
        """Every record of a topic as its events, by the arrival that the broker gave it."""
        return [
            replace(event, arrival=record.timestamp * 1000)
            for record in records_of(self.context.bus, topic)
            for event in self.published[record.value]
        ]


class LawRiver(LivedRiver[Answered]):
    """A river of one topic, whose messages are events."""

    def publish(self, events: Sequence[Event]) -> None:
        self.published |= {message(event): [event] for event in events}
        self.context.bus.ensure_topics([self.project.name])
        self.context.bus.publish(self.project.name, [(None, message(event)) for event in events])

    def look(self, name: str, later: int = 0) -> None:
        """Keep the answers of now, or of `later` microseconds from now."""
        at = now_micros() + later
        self.moments[name] = Answered(
            at,
            self.arrived(self.context.bus.read_as(self.project.name)),
            self.context.answers.features(self.project, [{"key": key} for key in KEYS], at),
        )


def records_of(bus: Bus, topic: str) -> list[Any]:
    """Every record of a topic, by its stamp."""
    ends = bus.ends(topic)
    places = [TopicPartition(topic, number) for number in ends]
    consumer, records = bus.consumer(), list[Any]()
    try:
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        while any(consumer.position(place) < ends[place.partition] for place in places):
            records += [one for batch in consumer.poll(timeout_ms=500).values() for one in batch]
    finally:
        consumer.close(autocommit=False)
    return sorted(records, key=lambda one: (one.timestamp, one.partition, one.offset))


def some_features(windows: str, prefix: str = "") -> dict[str, Aggregate]:
    """Every aggregate such windows allow: over the first column it takes, and with a filter over the last."""
    found, more = features_of(windows), BY_CATEGORY | RANKED
    by_kind: dict[str, list[str]] = {}
    for name in found:
        if not name.endswith("_some") and name not in more:
            by_kind.setdefault(name.partition("_")[0], []).append(name)
    chosen = [name for names in by_kind.values() for name in (names[0], f"{names[-1]}_some")]
    return {f"{prefix}{name}": found[name] for name in (*chosen, *more)}


def make_project() -> Project:
    """A project of its own name and topic with every aggregate, in windows and for a lifetime."""
    name = f"law_{uuid.uuid4().hex[:8]}"
    fed = replace(source, topic=name)
    recent = FeatureView(
        name="recent",
        source=fed,
        key="key",
        windows=("1h", "7d", "7d offset 2d"),
        features=some_features("finite"),
    )
    lifelong = FeatureView(name="lifelong", source=fed, key="key", features=some_features("none", "life_"))
    return Project(name=name, views=(recent, lifelong))


def some_events(count: int) -> list[Event]:
    """Random events of nine days in any order, some ids repeated, by the strategy of the pure law."""
    found: list[Event] = []
    shift = floor_to(now_micros(), 5 * MINUTE) - START - 9 * DAY

    @examples(
        max_examples=18,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(events=events_strategy())
    def gather(events: list[Event]) -> None:
        base = len(found)
        found.extend(replace(event, id=f"{base}-{event.id}", time=event.time + shift) for event in events)

    gather()
    random.Random(SEED).shuffle(found)
    assert len(found) >= count
    return found[:count]


def message(event: Event) -> bytes:
    """The event as JSON, a DECIMAL as a number with all its digits."""
    fields = {
        "id": event.id,
        "key": event.key,
        "time": format_time(event.time),
        "x": event.x,
        "n": event.n,
        "s": event.s,
        "b": event.b,
    }
    text = json.dumps({name: value for name, value in fields.items() if value is not None})
    return (text if event.d is None else f'{text[:-1]}, "d": {event.d}}}').encode()


def assert_exact(river: LawRiver, name: str, views: Sequence[FeatureView] | None = None) -> None:
    """Every feature (of `views`) of every key equals the naive fold over distinct events that had arrived."""
    moment = river.moments[name]
    for key, answer in zip(KEYS, moment.answers, strict=True):
        assert answer.degraded is None
        for view in river.project.views if views is None else views:
            expected = oracle.answer(view, moment.arrived, key, moment.at)
            assert_lawful(view, moment.arrived, expected, dict(answer.values))
