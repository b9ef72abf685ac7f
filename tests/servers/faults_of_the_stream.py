"""Faults of a real stream with real servers: whatever happens, in the end every answer is the plain fold of what the topic holds.

Not part of `make test` yet: its bad messages break the harness itself.
One `anabranch stream` lives through all of it; each test ends with the comparison.
"""

import json
import os
import random
from collections.abc import Iterator

import pytest

from features.times import HOUR, MINUTE, format_time
from jobs import servers as embedded
from jobs.processes import read_record, stop, wait_until
from jobs.settings import Settings
from stores.answers import now_micros
from tests.servers.stream_rig import PATIENCE, Rig

KILLS = int(os.environ.get("KILLS", "3"))
"""`make drill` kills more often."""


@pytest.fixture(scope="module")
def rig(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = Rig(servers, tmp_path_factory.mktemp("rig"))
    # The stream starts before its topic is there.
    found.start()
    yield found
    found.stop()


def test_a_topic_that_does_not_exist_yet_is_made_and_read(rig: Rig) -> None:
    rig.start()
    assert wait_until(lambda: "stream of" in rig.said(), PATIENCE), rig.said()
    rig.publish(rig.events(50))
    rig.assert_exact()


def test_bad_events_are_left_out_and_the_good_ones_among_them_count(rig: Rig) -> None:
    rig.start()
    good = [json.dumps(event).encode() for event in rig.events(20)]
    now = format_time(now_micros())
    bad: list[bytes | None] = [
        b"{",
        b"[]",
        b"\xff\xfe",
        None,
        b"null",
        json.dumps({"id": "w1", "thing": "t0", "at": now, "x": "many"}).encode(),
        json.dumps({"id": "w2", "thing": "t0", "at": "yesterday", "x": 1}).encode(),
        json.dumps({"id": "w3", "at": now, "x": 1}).encode(),
        json.dumps({"thing": "t0", "at": now, "x": 1}).encode(),
        json.dumps({"id": "w4", "thing": "t0", "at": format_time(now_micros() + HOUR), "x": 1}).encode(),
        json.dumps({"id": "w5", "thing": "t0", "at": now, "x": 1, "more": "y" * 1_100_000}).encode(),
    ]
    mixed = [*good, *bad, *good[:5]]
    random.Random(5).shuffle(mixed)
    rig.send(None, *mixed)
    rig.assert_exact()


def test_late_event_is_exact_before_the_next_batch(rig: Rig) -> None:
    rig.start()
    rig.publish([*rig.events(10, ago=3 * HOUR), *rig.events(10, ago=5 * HOUR + 20 * MINUTE)])
    rig.assert_exact()


def test_a_topic_that_gains_partitions_while_it_is_read(rig: Rig) -> None:
    rig.start()
    rig.grow(3)
    for partition in (2, 1, 0):
        rig.send(partition, *[json.dumps(event).encode() for event in rig.events(10)])
    rig.assert_exact()


def test_the_stream_goes_on_when_the_broker_was_restarted(rig: Rig) -> None:
    rig.start()
    rig.publish(rig.events(30))
    _stop_server(rig.settings, "kafka")
    embedded.up(rig.settings, ("kafka",))
    rig.publish(rig.events(30))
    rig.assert_exact()


def test_while_cassandra_is_down_the_stream_waits_and_then_catches_up(rig: Rig) -> None:
    rig.start()
    rig.publish(rig.events(30))
    rig.assert_exact()
    said = len(rig.said())
    _stop_server(rig.settings, "cassandra")
    rig.publish(rig.events(40))
    assert wait_until(lambda: "WAITING" in rig.said()[said:], PATIENCE), "the stream does not say that it waits"
    rig.publish(rig.events(40))
    embedded.up(rig.settings, ("cassandra",))
    rig.assert_exact()
    assert rig.process is not None
    assert rig.process.poll() is None


def test_a_driver_killed_at_any_moment_loses_and_doubles_nothing(rig: Rig) -> None:
    chance = random.Random()
    for _ in range(KILLS):
        rig.start()
        for _ in range(chance.randrange(2, 8)):
            # Events flow while it starts, while it folds and while it writes: the kill meets whatever is under way.
            rig.publish(rig.events(chance.randrange(1, 60)))
            expected = rig.expected()
            moment = chance.random()
            wait_until(lambda expected=expected, moment=moment: len(rig.differences(expected)) <= moment * len(expected), 5.0)  # type: ignore[misc]
        rig.kill()
        rig.publish(rig.events(10))
    rig.start()
    rig.assert_exact()


def test_a_batch_cut_over_while_events_flow(rig: Rig) -> None:
    rig.start()
    rig.publish(rig.events(20))
    build = rig.command("build", rig.name)
    while build.poll() is None:
        rig.publish(rig.events(5))
        wait_until(lambda: build.poll() is not None, 1.0)
    assert build.returncode == 0, rig.said()[-2000:]
    assert rig.context.views.manifest(rig.name) is not None
    rig.publish(rig.events(20))
    rig.assert_exact()


def test_it_stops_cleanly_when_it_is_told_to(rig: Rig) -> None:
    rig.start()
    rig.publish(rig.events(10))
    rig.assert_exact()
    assert rig.stop() == 0
    assert f"stream of {rig.name} stopped after " in rig.said()


def _stop_server(settings: Settings, name: str) -> None:
    """End one embedded server by the pid that `up` noted."""
    record = read_record(settings.data / "run" / f"{name}.json")
    assert record is not None
    stop(record, 30.0)
