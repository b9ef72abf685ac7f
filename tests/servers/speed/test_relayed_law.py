"""The law with producers' timestamps: what arrived is what a relay has copied, once, twice, or late.

The same messages go to two topics. Events of the one have ids; those of the other are their messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from kafka import KafkaProducer
from pyspark.sql import SparkSession

from anabranch import Aggregate, ApproxDistinct, Count, Last, Project, Sum
from anabranch.events.origins import Origin, copy_of
from anabranch.stores.kafka.relay_topics import RelayAdmin
from anabranch.stores.kafka.relays import Relays
from anabranch.values.times import DAY, now_micros
from batch.landing.comparing import compare_topic
from batch.landing.topics import land
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from tests.support.law import Event
from tests.support.law_river import LawRiver, assert_exact, make_project, message, records_of, some_events

_YEAR = 365 * DAY


@dataclass
class RelayedRiver(LawRiver):
    """A river whose topics have two partitions and stamps that mean nothing: of the past and of the future.

    `bare`: by moment what had arrived of the topic without ids, each message an event.
    """

    bare: dict[str, list[Event]] = field(default_factory=dict)

    @property
    def topics(self) -> tuple[str, str]:
        return self.project.name, f"{self.project.name}_bare"

    def publish(self, events: Sequence[Event]) -> None:
        self.published |= {message(event): [event] for event in events}
        bus = self.context.bus
        bus.ensure_topics(
            self.topics,
            partitions=2,
            configs={"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**62)},
        )
        producer = KafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers)
        for number, event in enumerate(events):
            stamp = (now_micros() + (number % 5 - 3) * _YEAR) // 1000
            for topic in self.topics:
                producer.send(topic, message(event), partition=number % 2, timestamp_ms=stamp)
        producer.close()

    def copy_again(self, count: int) -> None:
        """Write the last copies of each partition again, as a relay does that was killed before its mark."""
        bus = self.context.bus
        producer = KafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers)
        for topic in map(copy_of, self.topics):
            records = records_of(bus, topic)
            for part in (0, 1):
                for one in [one for one in records if one.partition == part][-count:]:
                    producer.send(topic, one.value, one.key, one.headers, partition=part)
        producer.close()

    def look(self, name: str, later: int = 0) -> None:
        super().look(name, later)
        self.bare[name] = []
        for one in records_of(self.context.bus, copy_of(self.topics[1])):
            origin = Origin.of(one.headers)
            assert origin is not None
            (event,) = self.published[one.value]
            place = f"{origin.partition}/{origin.offset}"
            self.bare[name].append(replace(event, id=place, arrival=one.timestamp * 1000))


def assert_both_exact(river: RelayedRiver, name: str) -> None:
    """Every feature equals the fold: over distinct ids, and over distinct messages of the original."""
    assert_exact(river, name, river.project.views[:2])
    bare = replace(river.moments[name], arrived=river.bare[name])
    assert_exact(replace(river, moments={name: bare}), name, river.project.views[2:])


def make_small() -> Project:
    """A project of its own name and topics: arrival is what differs, not what is folded."""
    project = make_project()
    recent, lifelong = project.views
    bare = replace(recent.source, name="bare", topic=f"{project.name}_bare", id=None)
    features: dict[str, Aggregate] = {
        "n": Count(),
        "x": Sum("x"),
        "last": Last("s"),
        "ids": ApproxDistinct("s"),
    }
    ever: dict[str, Aggregate] = {f"life_{name}": each for name, each in features.items()}
    mine: dict[str, Aggregate] = {f"bare_{name}": each for name, each in features.items()}
    views = (
        replace(recent, features=features),
        replace(lifelong, features=ever),
        replace(recent, name="bare", source=bare, features=mine),
    )
    return replace(project, views=views)


@pytest.fixture(scope="module")
def river(servers: Settings, spark: SparkSession) -> RelayedRiver:
    found = RelayedRiver(Context(servers), make_small())
    events = some_events(150)
    found.publish(events[:60])
    Relays(found.context.bus).copy_all(found.topics)
    found.copy_again(8)
    found.drain()
    found.look("before any batch")
    found.publish([*events[60:100], *events[10:20]])
    found.build()
    found.drain()
    found.publish([*events[100:], *events[30:40], *events[65:75]])
    found.look("before the relay has copied them")
    found.drain()
    found.look("after a build in the middle")
    found.build()
    found.look("after a second build")
    return found


def test_the_stream_answers_exactly_of_what_was_copied_and_of_copies_that_came_twice(
    river: RelayedRiver,
) -> None:
    arrived = river.moments["before any batch"].arrived
    assert len(arrived) == 60 + 16
    assert_both_exact(river, "before any batch")


def test_what_is_not_copied_has_not_arrived_and_a_cut_does_not_pass_it(river: RelayedRiver) -> None:
    moment = river.moments["before the relay has copied them"]
    assert len(moment.arrived) < len(river.published)
    assert_both_exact(river, "before the relay has copied them")
    assert_both_exact(river, "after a build in the middle")


def test_a_second_build_is_exact_and_verify_finds_nothing(river: RelayedRiver) -> None:
    assert_both_exact(river, "after a second build")
    messages, ids = (
        {event.id for event in events}
        for events in (river.bare["after a second build"], river.moments["after a second build"].arrived)
    )
    assert len(messages) > len(ids)
    context, project = river.context, river.project
    verified = verify_settled(context, project, None, Steps())
    assert verified.keys == 2
    assert (verified.mismatches, verified.degraded) == (0, 0)


def test_the_lake_names_the_places_of_the_original_and_is_compared_with_it(river: RelayedRiver) -> None:
    context, project, name = river.context, river.project, river.project.name
    source = project.sources["things"]
    river.publish([replace(some_events(150)[0], id="late")])
    ends = context.bus.ends(name)
    compared = compare_topic(context, project, source)
    assert (compared.topic, compared.missing, compared.waiting) == (name, 0, 1)
    assert compared.messages == sum(context.bus.ends(copy_of(name)).values())
    rows = context.lake.events(context.spark, project, source).select("_topic", "_partition", "_offset")
    places = {tuple(row) for row in rows.collect()}
    landed = {0: ends[0] - 1, 1: ends[1]}
    assert places == {(name, part, offset) for part, end in landed.items() for offset in range(end)}
    # Negative control: a message that the relay never wrote is missing, though the next one was copied.
    producer = KafkaProducer(bootstrap_servers=context.settings.bus.bootstrap_servers)
    river.publish([replace(some_events(150)[0], id="later")])
    topic_id = RelayAdmin(context.settings.bus, name).pair().topic_id
    skipping = Origin(name, 0, ends[0], 0, topic_id)
    producer.send(copy_of(name), b"{}", headers=[("anabranch.origin", skipping.header())], partition=0)
    producer.close()
    land(context, project, Steps())
    found = compare_topic(context, project, source)
    assert (found.missing, found.example) == (1, f"{name}/0/{ends[0] - 1}")
