"""The registry as a running stream sees it: champions promoted by other processes, and an outage."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from pyspark.sql import SparkSession

from anabranch.errors import UnavailableError
from anabranch.stores.models.registry import Models
from jobs.servers.processes import wait_until
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings
from speed.streams import Streams
from tests.servers.speed.test_score_requests import DECLARATION, PATIENCE, Desk

PROMOTE = """
import sys
from anabranch.stores.models.registry import Models
from anabranch.settings import ModelsSettings
Models(ModelsSettings(tracking_uri=sys.argv[1], artifact_root=sys.argv[2])).promote(sys.argv[3], sys.argv[4])
"""
QUICKLY = 10.0


@pytest.fixture
def desk(servers: Settings, spark: SparkSession, tmp_path: Path) -> Iterator[Desk]:
    """A project with a registry of its own, and a stream that is not started yet."""
    name = f"away_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(DECLARATION.format(name=name), encoding="utf-8")
    models = replace(servers.models, tracking_uri=f"sqlite:///{tmp_path / 'registry.db'}")
    context = Context(replace(servers, projects=(tmp_path,), models=models))
    context.spark = spark
    found = Desk(context, context.project(name))
    found.stream = Streams(context.speed_layer(once=False), [found.project])
    yield found
    found.stream.stop()


def promote_elsewhere(desk: Desk, version: str) -> None:
    """As a training on another machine does."""
    models = desk.context.settings.models
    command = [
        sys.executable,
        "-c",
        PROMOTE,
        models.tracking_uri,
        models.artifact_root,
        desk.project.name,
        version,
    ]
    subprocess.run(command, check=True, cwd=ROOT, timeout=PATIENCE)


def visited(desk: Desk, version: str | None) -> bool:
    """One more visit of Ann, read by the stream: did that version score her?"""
    desk.visit("ann")

    def read() -> bool:
        assert desk.stream is not None
        assert not any(
            snapshot.failed or snapshot.restarts
            for snapshot in desk.stream.look()
            if snapshot.source == "visits"
        )
        row = desk.context.views.current(desk.project, "ann")
        return row is not None and row["visits"] == desk.sent

    assert wait_until(read, PATIENCE)
    row = desk.context.views.current(desk.project, "ann") or {}
    assert (row["score"] is None) == (row["model_version"] is None)
    return bool(row["model_version"] == version)


def test_tiles_go_on_while_the_registry_is_away_and_champions_of_other_processes_are_in_force_soon(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = desk.learn("logistic"), desk.learn("logistic")
    registry, stream = Path(desk.context.settings.models.tracking_uri.removeprefix("sqlite:///")), desk.stream
    assert stream is not None
    there = registry.read_bytes()
    registry.write_bytes(b"no database " * 10_000)
    with pytest.raises(UnavailableError):
        desk.context.models.champion(desk.project.name)
    stream.start()
    # Nobody ever said who the champion is.
    assert visited(desk, None)
    assert visited(desk, None)
    registry.write_bytes(there)
    promote_elsewhere(desk, first)
    assert wait_until(lambda: visited(desk, first), PATIENCE)
    promote_elsewhere(desk, second)
    promoted = time.monotonic()
    assert wait_until(lambda: visited(desk, second), QUICKLY)
    assert time.monotonic() - promoted < QUICKLY
    registry.write_bytes(b"no database " * 10_000)
    with pytest.raises(UnavailableError):
        desk.context.models.champion(desk.project.name)
    # The one that was last known.
    assert visited(desk, second)
    assert visited(desk, second)
    # A worker that never had it fetches its files where the driver says they are.
    name, models = desk.project.name, desk.context.settings.models
    worker = Models(replace(models, tracking_uri=models.tracking_uri.replace("registry.db", "./registry.db")))
    with pytest.raises(UnavailableError):
        worker.scorer(name, second)
    assert worker.stream_scorer(name, second, desk.context.models.address(name, second)).version == second
    assert desk.context.answers.features(desk.project, [{"who": "ann"}])[0].values["visits"] == desk.sent
    # Said once each time.
    assert (
        caplog.text.count(f"the registry is away, the last known champion of {desk.project.name} serves") == 2
    )


def test_tiles_go_on_while_the_store_of_artifacts_is_away_and_the_registry_answers(desk: Desk) -> None:
    context, stream = desk.context, desk.stream
    assert stream is not None
    first, second = desk.learn("logistic"), desk.learn("forest")
    context.models.promote(desk.project.name, first)
    stream.start()
    assert visited(desk, first)
    assert degraded(desk) is None
    folder = Path(unquote(urlparse(context.models.uri(desk.project.name, second)).path))
    away = folder.rename(folder.with_name("away"))
    context.models.promote(desk.project.name, second)
    with pytest.raises(
        UnavailableError, match=f"version {second} of project '{desk.project.name}' cannot be fetched from"
    ):
        context.models.scorer(desk.project.name, second)
    assert visited(desk, None)
    assert (degraded(desk) or "").startswith(
        f"not scored: version {second} of project '{desk.project.name}' cannot be fetched"
    )
    # The one that is loaded needs no file any more.
    context.models.promote(desk.project.name, first)
    assert visited(desk, first)
    assert degraded(desk) is None
    context.models.promote(desk.project.name, second)
    away.rename(folder)
    assert wait_until(lambda: visited(desk, second), PATIENCE)
    assert degraded(desk) is None


def degraded(desk: Desk) -> str | None:
    row = desk.context.views.current(desk.project, "ann")
    assert row is not None
    found: str | None = row["degraded"]
    return found
