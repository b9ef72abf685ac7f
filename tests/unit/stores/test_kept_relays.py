"""Relays go on for as long as something reads their copies."""

import threading
from typing import Any

import pytest

from anabranch.settings import BusSettings
from anabranch.stores.kafka import relays
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.relays import Relays
from speed.streams import Streams


class WaitingRelay:
    """Copies nothing until it is stopped."""

    def __init__(self, _settings: BusSettings, topic: str, _told: Any) -> None:
        self.topic, self.copied, self.lost, self.active = topic, 0, 0, True
        self.position: dict[int, int] = {}

    def run(self, stopping: threading.Event) -> None:
        stopping.wait(10)

    def behind(self) -> float:
        return 0.0


class NoPairs:
    """Makes no topics."""

    def __init__(self, *_: Any) -> None:
        """Needs no broker."""

    def pair(self) -> None:
        """Do nothing."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Relays:
    monkeypatch.setattr(relays, "Relay", WaitingRelay)
    monkeypatch.setattr(relays, "RelayAdmin", NoPairs)
    found = Relays(Bus(BusSettings(bootstrap_servers="127.0.0.1:1")))
    found.start(["old", "new"])
    return found


def test_a_relay_ends_when_no_query_reads_its_copy_and_starts_again(kept: Relays) -> None:
    threads = {topic: each.thread for topic, each in kept._kept.items()}
    kept.keep({"new", "other"})
    old, new = threads["old"], threads["new"]
    assert old is not None
    assert new is not None
    old.join(5)
    assert (old.is_alive(), new.is_alive()) == (False, True)
    assert [state.topic for state in kept.states()] == ["new"]
    kept.start(["old", "new"])
    assert [state.topic for state in kept.states()] == ["new", "old"]
    kept.close()
    assert not new.is_alive()


def test_a_stream_goes_on_when_the_query_of_a_relayed_topic_has_ended(kept: Relays) -> None:
    streams = Streams.__new__(Streams)
    streams._running, streams._relays = {}, kept
    assert streams._relay_snapshots() == []
    kept.close()
