"""Two REST workers share batch parts through a real Ignite node; answers are the same with and without it."""

import asyncio
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from anabranch.answers.features import Answers
from anabranch.answers.parts import Parts
from anabranch.declare.loading import load_project
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.views import Views
from anabranch.stores.ignite.shared_parts import SharedParts
from anabranch.values.times import HOUR, floor_to, now_micros
from jobs.servers import embedded
from jobs.servers.processes import read_record, wait_until
from jobs.wiring.settings import Settings
from tests.e2e.test_rest import DECLARATION, build
from tests.support.hanging import hanging
from tests.support.law import SCHEMA

KEYS = [{"who": who} for who in ("k1", "never seen", "k1")]


@pytest.fixture
def views(servers: Settings) -> Views:
    return Views(servers.views)


class Worker:
    """The stores of one worker: its own memory, the shared node, and Cassandra."""

    def __init__(self, views: Views, address: str | None) -> None:
        self.shared = None if address is None else SharedParts(address, patience=0.5, pause=0.5)
        self.answers = Answers(views, parts=Parts(10_000_000), timeout=5.0, shared=self.shared)

    def ask(self, project: object, manifest: Manifest, at: int) -> list[tuple[object, object, bool]]:
        found = asyncio.run(self.answers.answer(project, KEYS, manifest, at))  # type: ignore[arg-type]
        return [(answer.values, answer.degraded, answer.known) for answer in found]

    @property
    def done(self) -> dict[str, int]:
        return dict(self.answers.kept)


def test_workers_share_parts_and_a_node_that_is_down_costs_only_speed(
    views: Views, ignite: Settings, tmp_path: Path
) -> None:
    name = f"shared_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(
        DECLARATION.format(name=name, schema=SCHEMA.replace("key STRING", "who STRING"))
    )
    project = load_project(name, (tmp_path,))
    cut = floor_to(now_micros(), HOUR)
    build(views, project, cut)
    manifest = views.manifest(name)
    assert manifest is not None
    address, at = f"127.0.0.1:{ignite.servers.ignite_port}", now_micros()
    expected = Worker(views, None).ask(project, manifest, at)
    assert expected[0] == expected[2] != expected[1]
    assert [known for _, _, known in expected] == [True, False, True]

    first, second = Worker(views, address), Worker(views, address)
    assert first.ask(project, manifest, at) == expected
    assert first.done["shared_hits"] == 0

    def taken() -> bool:
        fresh = Worker(views, address)
        assert fresh.ask(project, manifest, at) == expected
        return fresh.done["shared_hits"] == 2  # both keys, that there is nothing of the second one too

    assert wait_until(taken, 30), "the other worker's parts did not come"
    # What lies there is what is answered with: nothing of it is read from Cassandra again.
    assert second.ask(project, manifest, at) == expected
    assert (second.done["shared_hits"], second.done["entries"]) == (2, 2)
    assert (
        Worker(views, address).ask(project, replace(manifest, built_at=manifest.built_at + 1), at) == expected
    )  # another version: other names

    record = read_record(ignite.data / "run" / "ignite.json")
    assert record is not None
    with hanging(record.pid):
        third = Worker(views, address)
        started = time.monotonic()
        assert third.ask(project, manifest, at) == expected
        assert third.ask(project, manifest, at) == expected
        assert time.monotonic() - started < 3
        assert third.done["shared_failures"] == 1
    embedded.down(ignite, ["ignite"])
    fourth = Worker(views, address)
    assert fourth.ask(project, manifest, at) == expected
    assert fourth.done["shared_failures"] == 1
    embedded.up(ignite, ["ignite"])
    assert wait_until(
        lambda: Worker(views, address).ask(project, manifest, at) == expected and _works(address), 30
    ), "the node is not used again"


def _works(address: str) -> bool:
    shared = SharedParts(address, patience=1.0)
    asyncio.run(shared.fetch(["nothing"]))
    return shared.misses == 1 and shared.failures == 0
