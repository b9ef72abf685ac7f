"""One contract for both drivers that read states of answers: cassandra-driver and acsylla."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError, ViewUnavailableError
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.native import NativeReader
from anabranch.stores.cassandra.reads import DriverReader, Reader
from anabranch.stores.cassandra.views import Views
from anabranch.values.times import HOUR, floor_to, now_micros
from jobs.servers.processes import read_record, wait_until
from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.e2e.test_rest import DECLARATION, build
from tests.support.hanging import hanging
from tests.support.law import SCHEMA

KEYS = [{"who": who} for who in ("k1", "never seen", "k1")]
Make = Callable[[ViewsSettings], Reader]
BOTH = pytest.mark.parametrize("make", [DriverReader, NativeReader])


@pytest.fixture(scope="module")
def built(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Manifest]:
    """A project with batch states and tiles, and its manifest."""
    name, folder = f"readers_{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("readers")
    declared = DECLARATION.format(name=name, schema=SCHEMA.replace("key STRING", "who STRING"))
    Path(folder / f"{name}.py").write_text(declared)
    project, views = load_project(name, (folder,)), Views(servers.views)
    build(views, project, floor_to(now_micros(), HOUR))
    manifest = views.manifest(name)
    assert manifest is not None
    return project, manifest


def answers(servers: Settings, make: Make, timeout: float = 5.0) -> Answers:
    """Answers of a server that reads with the driver that `make` makes."""
    views = Views(servers.views)
    assert views.session  # as the first look of a server
    return Answers(views, parts=Parts(0), timeout=timeout, reader=make(servers.views))


@BOTH
def test_answers_are_those_of_a_job(
    servers: Settings, built: tuple[Project, Manifest], make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    project, manifest = built
    server, at = answers(servers, make), now_micros()
    expected = server.features(project, KEYS, at)  # by cassandra-driver, whatever the reader
    assert [answer.known for answer in expected] == [True, False, True]

    async def several() -> list[list[Answer]]:
        one, together = [server.answer(project, [key], manifest, at) for key in KEYS], KEYS * 30
        return [
            list(each) for each in await asyncio.gather(*one, server.answer(project, together, manifest, at))
        ]

    for _ in range(2):  # an event loop of its own each time
        *single, many = asyncio.run(several())
        assert [answer for (answer,) in single] == expected
        assert many == expected * 30
    assert not [record for record in caplog.records if record.name == "acsylla"]  # a terminal would show it


@BOTH
def test_a_table_that_is_gone_is_said_and_one_that_is_there_again_is_read(
    servers: Settings, built: tuple[Project, Manifest], make: Make
) -> None:
    project, manifest = built
    server = answers(servers, make)
    views, (table,) = server.views, manifest.tables.values()
    before = server.features(project, KEYS[:1], now := now_micros())
    rows = list(views.session.execute(f"SELECT key, states, extras FROM {table}"))

    async def change() -> None:
        assert list(await server.answer(project, KEYS[:1], manifest, now)) == before
        views.session.execute(f"DROP TABLE {table}")
        with pytest.raises(ViewUnavailableError, match="gone, since another batch version is current"):
            await server.answer(project, KEYS[:1], manifest, now)
        views.session.execute(f"CREATE TABLE {table} (key text PRIMARY KEY, states blob, extras blob)")
        for row in rows:
            views.session.execute(
                f"INSERT INTO {table} (key, states, extras) VALUES (%s, %s, %s)", tuple(row)
            )
        assert list(await server.answer(project, KEYS[:1], manifest, now)) == before

    asyncio.run(change())


@BOTH
def test_a_store_that_hangs_is_unavailable_in_time_and_is_used_again(
    servers: Settings, built: tuple[Project, Manifest], make: Make
) -> None:
    project, manifest = built
    server = answers(servers, make, timeout=0.5)
    record = read_record(servers.data / "run" / "cassandra.json")
    assert record is not None

    async def hang() -> None:
        before = list(await server.answer(project, KEYS, manifest, now))
        with hanging(record.pid):
            started = time.monotonic()
            with pytest.raises(UnavailableError, match="did not answer"):
                await server.answer(project, KEYS, manifest, now)
            assert time.monotonic() - started < 3
        deadline = time.monotonic() + 20
        while True:
            try:
                assert list(await server.answer(project, KEYS, manifest, now)) == before
                return
            except UnavailableError:
                assert time.monotonic() < deadline

    now = now_micros()
    asyncio.run(hang())


@BOTH
def test_a_store_that_is_not_there_is_unavailable(
    servers: Settings, built: tuple[Project, Manifest], make: Make
) -> None:
    project, manifest = built
    (port,) = free_ports(1)
    server = answers(servers, lambda views: make(replace(views, port=port)))
    with pytest.raises(UnavailableError, match=r"(does|did) not answer"):
        asyncio.run(_ask(server, project, manifest))


async def _ask(server: Answers, project: Project, manifest: Manifest) -> None:
    await server.answer(project, KEYS, manifest, now_micros())


def test_statements_are_prepared_before_an_answer_needs_them(
    servers: Settings, built: tuple[Project, Manifest]
) -> None:
    project, manifest = built
    reader = NativeReader(servers.views)
    server = answers(servers, lambda _: reader)

    async def look() -> None:
        await server.answer(project, KEYS[:1], manifest, now_micros())
        of_one_and_many = 2 * len(reader.prepared)
        await asyncio.to_thread(server.prepare, project, manifest)
        assert await asyncio.to_thread(wait_until, lambda: len(reader.prepared) == of_one_and_many, 10)
        await server.answer(project, KEYS, manifest, now_micros())
        assert len(reader.prepared) == of_one_and_many

    asyncio.run(look())
