"""What keeps relays running: restarted while a server is away, else given up; origins and marks."""

import threading
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from anabranch.errors import AnabranchError, UnavailableError
from anabranch.events.origins import Origin, can_be_copied, copy_of, is_copy
from anabranch.settings import BusSettings
from anabranch.stores.kafka import relays
from anabranch.stores.kafka.relay import Relay
from anabranch.stores.kafka.relay_topics import Mark, Pair, RelayAdmin, marks

PAIR = Pair(topic="t", topic_id="T1", copy_id="C1", partitions=1)


class Scripted(Relay):
    """A relay that fails as its script says, and copies between failures; ends with the script."""

    def __init__(self, *script: Exception | int) -> None:
        super().__init__(BusSettings(), "t")
        self.script = list(script)

    def run(self, stopping: threading.Event, until: Any = None) -> None:
        if not self.script:
            stopping.set()
            return
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        self.copied += step


def kept(monkeypatch: pytest.MonkeyPatch, *script: Exception | int) -> relays.RelayState:
    monkeypatch.setattr(relays, "_SHORTEST_WAIT", 0.001)
    monkeypatch.setattr(relays, "_LONGEST_WAIT", 0.001)
    found = relays._Kept(Scripted(*script), threading.Event())
    found.keep()
    return found.state()


def test_a_relay_restarts_for_as_long_as_a_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kept(monkeypatch, *[UnavailableError("away")] * 9)
    assert (found.failure, found.restarts) == (None, 9)


def test_a_relay_that_fails_for_another_reason_is_given_up_at_the_third_time_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = AnabranchError("no rights")
    assert kept(monkeypatch, wrong, UnavailableError("away"), wrong, wrong, 5).failure == "no rights"
    found = kept(monkeypatch, wrong, wrong, 5, wrong, 5, wrong)
    assert (found.failure, found.copied) == (None, 10)


def test_an_origin_is_read_as_it_was_written_and_the_last_header_counts() -> None:
    origin = Origin("a.b-c", 3, 42, 1_764_529_452_123, "VQ3/x+y")
    forged = [("anabranch.origin", b"x/1/1/1/x"), ("other", b"1"), ("anabranch.origin", origin.header())]
    assert Origin.of(forged) == origin
    for headers in (None, [], [("anabranch.origin", None)], [("anabranch.origin", b"a/1/x/2/3")]):
        assert Origin.of(headers) is None


def test_a_mark_counts_for_the_very_same_topics_alone() -> None:
    mark = Mark("relay", 1_764_529_452_123, 7)
    assert Mark.of(mark.text(PAIR), PAIR) == mark
    for topic_id, copy_id in (("T2", "C1"), ("T1", "C2")):
        other = Pair(topic="t", topic_id=topic_id, copy_id=copy_id, partitions=1)
        assert Mark.of(mark.text(PAIR), other) is None
    assert Mark.of("", PAIR) is None
    assert Mark.of(None, PAIR) is None


def test_a_name_that_is_too_long_for_a_copy_is_refused() -> None:
    assert is_copy(copy_of("t"))
    assert can_be_copied("x" * 239)
    with pytest.raises(AnabranchError, match="name is too long for a copy"):
        RelayAdmin(BusSettings(), "x" * 240)


class Waking:
    """A consumer whose group has no coordinator at first, as on a broker that has just started."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        return [TopicPartition(place.topic, place.partition, OFFSET_INVALID) for place in asked]

    def poll(self, _timeout: float) -> None:
        return None


def test_a_group_whose_coordinator_is_being_chosen_is_waited_for() -> None:
    loading = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)
    assert marks(Waking(*loading), PAIR) == {}
    with pytest.raises(KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
        marks(Waking(*loading, KafkaError.GROUP_AUTHORIZATION_FAILED), PAIR)
