"""What callers see of a REST server while things change below it: versions that come and go, and a broker
that is away.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import pytest

from anabranch.stores.models.registry import Models
from anabranch.stores.opened import Stores
from anabranch.values.times import HOUR, floor_to, now_micros
from batch.building.versions import rollback
from jobs.servers import embedded
from jobs.wiring.settings import Settings
from tests.e2e.test_rest import Rest, build, running, train, until
from tests.support.stores import stores_with

SEEN_WITHIN = 5.0  # seconds; two looks take 2, and this machine may be busy
BUFFER = 20
Pair = tuple[int, str]


@pytest.fixture(scope="module")
def rest(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    """A server over a first batch version and its model, with a small buffer of predictions."""
    with running(servers, tmp_path_factory.mktemp("rest"), prediction_buffer=BUFFER) as found:
        train(found.models, found.project, "1")
        version = build(found.views, found.project, floor_to(now_micros(), HOUR), "1")
        until(
            60,
            lambda: _pair(found.ask("POST", "{p}/predict", {"key": "k1"})) == (version, "1") or None,
            "the first answer",
        )
        yield found


def _pair(answer: tuple[int, Any]) -> Pair | None:
    return (answer[1]["batch_version"], answer[1]["model_version"]) if answer[0] == 200 else None


@dataclass
class Caller:
    """Asks one key again and again; `told` are when an answer came, and its versions."""

    port: int
    path: str
    told: list[tuple[float, Pair]] = field(default_factory=list)
    failed: list[Any] = field(default_factory=list)

    def ask(self, stopping: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not stopping.wait(0.02):
            connection.request("POST", self.path, '{"key": "k1"}', {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.status, json.loads(response.read())
            pair = _pair(answer)
            if pair is None:
                self.failed.append(answer)
            else:
                self.told.append((time.monotonic(), pair))
        connection.close()

    def first(self, pair: Pair, since: float) -> float | None:
        """When the pair was first answered after `since`."""
        return next((at for at, told in list(self.told) if told == pair and at >= since), None)


def stores_of(rest: Rest, models: Models | None = None) -> Stores:
    return stores_with(rest.settings, views=rest.views, models=models or rest.models)


class SlowRegistry(Models):
    """A registry where a rollback's promotion has servers look several times before it and after it."""

    def promote(self, project: str, version: str) -> None:
        time.sleep(2.5)
        super().promote(project, version)
        time.sleep(2.5)


def test_callers_see_each_change_soon_and_never_a_mixture(rest: Rest) -> None:
    manifest = rest.views.manifest(rest.project.name)
    assert manifest is not None
    first, name = manifest.batch_version, rest.project.name
    train(rest.models, rest.project, "2", promoted=False)
    callers = [Caller(rest.settings.serving.port, f"/v1/projects/{name}/predict") for _ in range(2)]
    stopping = threading.Event()
    threads = [threading.Thread(target=caller.ask, args=(stopping,)) for caller in callers]
    for thread in threads:
        thread.start()
    for caller in callers:
        until(30, partial(caller.first, (first, "1"), 0.0), "the first answer")
    second, slow = first + 1, SlowRegistry(rest.models.settings)
    changes: list[tuple[Callable[[], object], Pair]] = [
        (lambda: rest.models.promote(name, "2"), (first, "2")),
        (lambda: build(rest.views, rest.project, floor_to(now_micros(), HOUR), "2"), (second, "2")),
        (lambda: rollback(stores_of(rest), rest.project), (first, "1")),
        (lambda: rollback(stores_of(rest, slow), rest.project), (second, "2")),
        (lambda: rollback(stores_of(rest, slow), rest.project), (first, "1")),
        (lambda: rest.models.promote(name, "2"), (first, "2")),
    ]
    try:
        for change, expected in changes:
            begun = time.monotonic()
            change()
            done = time.monotonic()
            for caller in callers:
                seen = until(30, partial(caller.first, expected, begun), f"{expected}")
                assert seen - done < SEEN_WITHIN
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    for caller in callers:
        assert not caller.failed
        assert [pair for pair, _ in groupby(pair for _, pair in caller.told)] == [
            (first, "1"),
            *(expected for _, expected in changes),
        ]
    settled = rest.views.manifest(name)
    assert settled is not None
    assert settled.replaces is None


class CutOffRegistry(Models):
    """A registry that goes away just before a rollback's promotion."""

    def promote(self, project: str, version: str) -> None:
        raise ConnectionError("gone")


def test_a_rollback_that_was_cut_off_is_served_whole_and_completed_by_repeating_it(rest: Rest) -> None:
    name, now = rest.project.name, rest.views.manifest(rest.project.name)
    assert now is not None
    assert now.previous is not None
    wanted = now.previous
    train(rest.models, rest.project, "3")
    with pytest.raises(ConnectionError):
        rollback(stores_of(rest, CutOffRegistry(rest.models.settings)), rest.project)
    expected = (wanted.batch_version, wanted.model_version)
    assert (rest.models.champion(name), wanted.model_version) == ("3", "2")
    until(
        30,
        lambda: _pair(rest.ask("POST", "{p}/predict", {"key": "k1"})) == expected or None,
        "the version before",
    )
    assert rollback(stores_of(rest), rest.project).batch_version == wanted.batch_version
    assert rest.models.champion(name) == wanted.model_version
    assert _pair(rest.ask("POST", "{p}/predict", {"key": "k1"})) == expected
    assert rollback(stores_of(rest), rest.project).batch_version == now.batch_version
    assert rest.models.champion(name) == "3"


def test_without_kafka_predictions_are_answered_in_time_kept_up_to_the_buffer_and_sent_when_it_is_back(
    rest: Rest,
) -> None:
    until(30, lambda: _counted(rest, "anabranch_predictions_buffered") == 0 or None, "an empty buffer")
    published, dropped = (
        _counted(rest, f"anabranch_predictions_{what}")
        for what in ("published_total", 'dropped_total{reason="buffer full"}')
    )
    embedded.down(rest.settings, ["kafka"])
    try:
        started = time.monotonic()
        answers = [
            rest.ask("POST", "{p}/predict", {"features": {"x_sum": 50.0, "x_count": 2}})
            for _ in range(BUFFER + 7)
        ]
        seconds = time.monotonic() - started
        assert [status for status, _ in answers] == [200] * len(answers)
        assert not any(answer["degraded"] for _, answer in answers)
        assert seconds < 10  # nobody waited for the broker
        assert rest.ask("POST", "{p}/predict", {"key": "k1"})[0] == 200
        assert _counted(rest, "anabranch_predictions_buffered") == BUFFER
        assert _counted(rest, 'anabranch_predictions_dropped_total{reason="buffer full"}') == dropped + 8
        event = {"id": "e1", "who": "k1", "time": "2024-05-01T12:00:00Z", "x": 1.5}
        assert rest.ask("POST", "{p}/events/things", [event])[0] == 503
        status, problem = rest.ask("GET", "/readyz")
        assert (status, problem["store"], problem["model"]) == (503, "ok", "ok")
        assert problem["bus"] != "ok"
    finally:
        embedded.up(rest.settings, ["kafka"])
    until(
        60,
        lambda: _counted(rest, "anabranch_predictions_published_total") == published + BUFFER or None,
        "what waited",
    )
    assert _counted(rest, "anabranch_predictions_buffered") == 0


def _counted(rest: Rest, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", rest.settings.serving.port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)
