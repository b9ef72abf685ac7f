"""Faults of a real stream with real servers: in the end every answer is the plain fold of the topic.

One `anabranch stream` lives through all of it, in this order; each test ends with the comparison. `make
drill` kills more often, leaves Cassandra down for a minute, and recomputes from the lake after every fault.
"""

import json
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyspark.sql import SparkSession

from anabranch.errors import UnavailableError
from anabranch.values.times import HOUR, MINUTE, format_time, now_micros
from jobs.flows.building import build_project
from jobs.servers import embedded
from jobs.servers.processes import read_record, stop, wait_until
from jobs.show import Steps
from jobs.wiring.settings import Settings
from tests.support.drill import KILLS, LONG, SEED, note, recovery
from tests.support.stream_rig import PATIENCE, Rig

HOSTILE = (
    " ", "a\0b", "\x07\x1b[31m\x7f", "\u202eabc\u2066", "\u05e9\u05dc\u05d5\u05dd\u200f", "e\u0301",
    "\U0010ffff", "\ufeffx", "'; DROP TABLE things; --", 'say "hi"\\', "two\nlines\r\t", "../../x%00%2e",
    "\U0001f600" * 2048,
)  # fmt: skip
"""Texts that can be keys; the last one is as long as a key may be."""
AWAY_SECONDS = 60.0 if LONG else 0.0


@pytest.fixture(scope="module")
def lived(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = Rig(servers, tmp_path_factory.mktemp("rig"))
    found.context.spark = spark
    # The stream starts before its topic is there.
    found.start()
    yield found
    found.stop()


@pytest.fixture
def rig(lived: Rig) -> Iterator[Rig]:
    lived.start()
    yield lived
    if LONG:
        lived.start()  # one that was stopped goes on
        lived.assert_exact()
        note(verified=lived.assert_verified())


def test_a_missing_topic_is_created_and_read(rig: Rig) -> None:
    assert wait_until(lambda: "stream of" in rig.said(), PATIENCE), rig.said()
    with recovery(
        "a topic that is not there", "when the stream starts; 50 events after it was made"
    ) as found:
        rig.publish(rig.events(50))
        found.compared = rig.assert_exact()


def test_bad_events_are_skipped_and_good_ones_among_them_count(rig: Rig) -> None:
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
    before = rig.expected()
    mixed = [*good, *bad, *good[:5]]
    random.Random(5).shuffle(mixed)
    rig.send(None, *mixed)
    # None of the bad ones is in the fold: 20 further events are.
    assert (
        sum(row["n_1d"] for row in rig.expected().values())
        == sum(row["n_1d"] for row in before.values()) + 20
    )
    with recovery(
        "bad events", f"{len(bad)}, each of another kind, among 20 good ones and 5 copies, shuffled"
    ) as found:
        found.compared = rig.assert_exact()


def test_hostile_texts_are_keys_as_they_are_and_longer_ones_are_skipped(rig: Rig) -> None:
    now = format_time(now_micros())
    numbers = [
        f'{{"id": "h{sent}", "thing": {sent}, "at": "{now}", "x": 7}}'
        for sent in ("1.10", "-9.292860303920501e17")
    ]
    good = [
        json.dumps(
            {**event, "id": f"{text[:100]}-{event['id']}", "thing": text}, ensure_ascii=escapes
        ).encode()
        for text in HOSTILE
        for event, escapes in zip(rig.events(2), (True, False), strict=True)
    ]
    plain = json.dumps({"id": "w6", "thing": "#", "at": now, "x": 1})
    bad = [
        *(
            plain.replace("#", text).encode()
            for text in ("x" * 8193, "x" * 900_000, "a\\u001fb", "\\ud800", "\0")
        ),
        plain.encode().replace(b"#", b"\xed\xa0\x80"),
        b"\0" + plain.encode(),
    ]
    before = set(rig.expected())
    mixed = [*good, *map(str.encode, numbers), *bad]
    random.Random(6).shuffle(mixed)
    rig.send(None, *mixed)
    assert set(rig.expected()) - before == {*HOSTILE, "1.10", "-9.292860303920501e17"}
    with recovery(
        "hostile texts", f"{len(HOSTILE)} in keys and ids, and {len(bad)} that can be no key"
    ) as found:
        found.compared = rig.assert_exact()


def test_late_event_is_exact_before_the_next_batch(rig: Rig) -> None:
    with recovery("late events", "20, by 3 h and by 5 h 20 min") as found:
        rig.publish([*rig.events(10, ago=3 * HOUR), *rig.events(10, ago=5 * HOUR + 20 * MINUTE)])
        found.compared = rig.assert_exact()


def test_partitions_added_to_a_topic_are_read(rig: Rig) -> None:
    rig.grow(3)
    with recovery(
        "a topic that gains partitions", "from 1 to 3 while it is read; 10 events into each"
    ) as found:
        for partition in (2, 1, 0):
            rig.send(partition, *[json.dumps(event).encode() for event in rig.events(10)])
        found.compared = rig.assert_exact()


def test_the_stream_goes_on_after_a_restart_of_the_broker(rig: Rig) -> None:
    rig.publish(rig.events(30))
    _stop_server(rig.settings, "kafka")
    embedded.up(rig.settings, ("kafka",))
    with recovery("the broker is restarted", "between 30 events and 30 more") as found:
        rig.publish(rig.events(30))
        found.compared = rig.assert_exact()
    _assert_same_process(rig)


def test_while_cassandra_is_down_the_stream_waits_and_then_catches_up(rig: Rig) -> None:
    rig.publish(rig.events(30))
    rig.assert_exact()
    assert wait_until(lambda: re.search(r"[1-9]\d* events, .* lag \d", rig.said()) is not None, PATIENCE)
    said = len(rig.said())
    _stop_server(rig.settings, "cassandra")
    try:
        rig.publish(rig.events(40))
        # It says that it waits, and how far it is behind.
        assert wait_until(
            lambda: re.search(r"lag [^\n]*:[1-9][^\n]* WAITING", rig.said()[said:]) is not None, PATIENCE
        ), rig.state()
        wait_until(lambda: False, AWAY_SECONDS)
        rig.publish(rig.events(40))
    finally:
        embedded.up(rig.settings, ("cassandra",))
        # Whatever runs after this in the same process finds its session connected again.
        back = wait_until(lambda: _answers(rig), PATIENCE)
    with recovery(
        "Cassandra is down",
        f"for {AWAY_SECONDS:.0f} s and what it takes to stop and start, while 80 events come",
    ) as found:
        assert back
        found.compared = rig.assert_exact()
    _assert_same_process(rig)


@pytest.mark.parametrize("seed", [SEED])
def test_a_driver_killed_at_any_moment_loses_and_doubles_nothing(rig: Rig, seed: int) -> None:
    chance, met = random.Random(seed), 0
    for number in range(KILLS):
        rig.start()
        came = rig.count
        for _ in range(chance.randrange(2, 8) if LONG else 2):
            # Events flow while it starts, folds and writes: the kill meets whatever is under way.
            rig.publish(rig.events(chance.randrange(1, 60)))
            expected = rig.expected()
            moment = chance.random()
            wait_until(
                lambda expected=expected, moment=moment: (  # type: ignore[misc]
                    len(rig.differences(expected)) <= moment * len(expected)
                ),
                5.0,
            )
        rig.kill()
        met += rig.unfinished
        share = f"at most {100 * moment:.0f}% of the keys lacked any"
        when = f"{rig.count - came} events after its start, when {share}"
        note(
            kill=number + 1,
            seed=seed,
            moment=f"{when}; a micro-batch was {'under way' if rig.unfinished else 'done'}",
        )
        rig.publish(rig.events(10))
    rig.start()
    with recovery(
        "the driver is killed",
        f"{KILLS} times at random, {met} of them within a micro-batch; since it was started for good",
    ) as found:
        found.compared = rig.assert_exact()
    # Not every kill meets a micro-batch under way; of many some do.
    assert met or not LONG


def test_a_batch_is_cut_over_while_events_flow(rig: Rig) -> None:
    rig.publish(rig.events(20))
    done = threading.Event()
    with ThreadPoolExecutor(1) as other:
        flow = other.submit(_flow, rig, done)
        try:
            built = build_project(rig.context, rig.project, None, Steps())
        finally:
            done.set()
    assert flow.result() > 1
    manifest = rig.context.views.manifest(rig.name)
    assert manifest is not None
    assert manifest.batch_version == built.manifest.batch_version
    with recovery("a batch takes over", "while events flow; 30 more behind it, 10 of them late") as found:
        rig.publish([*rig.events(20), *rig.events(10, ago=4 * HOUR)])
        found.compared = rig.assert_exact()
    rig.assert_verified()


def test_a_stream_stops_cleanly_at_a_signal(rig: Rig) -> None:
    rig.publish(rig.events(10))
    rig.assert_exact()
    before, done = len(rig.said()), threading.Event()
    with ThreadPoolExecutor(1) as other:
        flow = other.submit(_flow, rig, done)
        try:
            assert wait_until(lambda: "open slots" in rig.said()[before:], PATIENCE), rig.state()
            with recovery(
                "the stream is told to stop", "SIGTERM, while events flow; until it has ended its micro-batch"
            ) as found:
                assert rig.stop() == 0
                found.compared = 1
        finally:
            done.set()
    assert flow.result() > 1
    said = rig.said()[before:]
    assert f"stream of {rig.name} stopped after " in said
    # It ended the micro-batch that was under way, rather than breaking it off.
    assert "Exception" not in said
    assert "StackOverflowError" not in said


def _flow(rig: Rig, done: threading.Event) -> int:
    """Publish a few events again and again until `done`; returns how often."""
    times = 0
    while not done.wait(0.3):
        rig.publish(rig.events(5))
        times += 1
    return times


def _stop_server(settings: Settings, name: str) -> None:
    """End one embedded server by the pid that `up` noted."""
    record = read_record(settings.data / "run" / f"{name}.json")
    assert record is not None
    stop(record, 30.0)


def _answers(rig: Rig) -> bool:
    try:
        rig.context.views.manifest(rig.name)
    except UnavailableError:
        return False
    return True


def _assert_same_process(rig: Rig) -> None:
    assert rig.process is not None
    assert rig.process.poll() is None
