"""Whether an answer counts an event of its question already, and publication of such events.

An event that was published with a question, and comes with another, is in the tiles that an answer reads or
is not yet. Its message's place and the places of streams before and after the reads tell which
(stores/cassandra/own_events.py); while a stream is just writing it, the reads are repeated.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, UnavailableError
from anabranch.events.own_events import OwnEvent
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.own_events import OwnPlace, StreamPlaces, counted
from anabranch.stores.cassandra.reads import states_of
from anabranch.stores.cassandra.views import Views
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import SECOND

PATIENCE = 2.0
"""Seconds for which an answer waits for a stream to have written an event that it is just writing."""
PAUSE = 0.05
_ABANDONED = 10 * SECOND
"""After so long an event that was claimed and has no place is published by the next who brings it."""
Name = tuple[str, str]
"""Topic and id of an event."""


def names_of(events: Iterable[OwnEvent]) -> list[Name]:
    """The topics and ids of the events that have both."""
    return [
        (event.source.topic, event.id)
        for event in events
        if event.source.topic is not None and event.id is not None
    ]


def name_of(event: OwnEvent) -> Name | None:
    """The topic and id of an event that has both."""
    return next(iter(names_of([event])), None)


def published(views: Views, events: Iterable[OwnEvent]) -> dict[Name, OwnPlace]:
    """Those of the events that were published with a question before."""
    by_topic: dict[str, list[str]] = {}
    for topic, event in names_of(events):
        by_topic.setdefault(topic, []).append(event)
    return {
        (topic, event): at
        for topic, ids in by_topic.items()
        for event, at in views.published(topic, list(dict.fromkeys(ids))).items()
    }


@dataclass(frozen=True)
class CountingStates:
    """The streams and batches that count the events of a question."""

    project: Project
    manifest: Manifest | None

    def owners(self, event: OwnEvent) -> list[tuple[tuple[str, str], int | None]]:
        """The views whose states count the event, by owner and tiles, each with its batch's cut."""
        found: dict[tuple[str, str], int | None] = {}
        for position in sorted(event.positions):
            view = self.project.views[position]
            owner, version = states_of(self.project, view, self.manifest)
            found[owner, view.tiles_name] = None if version is None else version.cut
        return list(found.items())

    def places(self, views: Views, events: Iterable[OwnEvent]) -> dict[tuple[str, str], StreamPlaces]:
        """How far the streams are that count the events, by project and the view's tiles."""
        names = {name for event in events for name, _ in self.owners(event)}
        return {name: views.places(*name) for name in names}

    def counts(
        self,
        event: OwnEvent,
        at: OwnPlace,
        before: Mapping[tuple[str, str], StreamPlaces],
        after: Mapping[tuple[str, str], StreamPlaces],
    ) -> bool | None:
        """Whether states that were read between two looks at the places hold the event; None: in part."""
        found = {counted(at, before[name], after[name], cut) for name, cut in self.owners(event)}
        return found.pop() if len(found) == 1 else None


def until_certain(try_once: Callable[[], bool]) -> bool:
    """Call `try_once` until it is certain, for as long as PATIENCE; whether it became so."""
    deadline = time.monotonic() + PATIENCE
    while not try_once():
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True


def publish_own(
    views: Views, bus: Bus, source: Source, event: str, value: bytes, now: int, seconds: int
) -> bool:
    """Publish an event under its id, unless another question did; whether this call published it.

    Raises as `Bus.publish` does, and UnavailableError while another question publishes the event: the caller
    may ask and publish again. `seconds`: how long ids are remembered, at least as long as the stream does.
    """
    topic = str(source.topic)
    if not views.claim(topic, event, now, seconds):
        found = views.published(topic, [event]).get(event)
        if found is not None and found.offset is not None:
            return False
        if found is not None and now - found.claimed < _ABANDONED:
            raise UnavailableError(
                f"event {event!r} of {source.name!r} is being published for another question: try again"
            )
    try:
        partition, offset, arrived = bus.publish_one(topic, event.encode(), value)
    except AnabranchError:
        views.note_published(topic, event, OwnPlace(), seconds)  # the next who brings it publishes it
        raise
    at = OwnPlace(claimed=now, partition=partition, offset=offset, arrived=arrived)
    views.note_published(topic, event, at, seconds)
    return True


def shown(events: Sequence[OwnEvent], known: Sequence[bool]) -> list[dict[str, object]]:
    """The events that an answer counts, by source and id; `known` of those that it would count anyway."""
    return [
        {"source": event.source.name, "id": event.id, "known": there}
        for event, there in zip(events, known, strict=True)
    ]
