"""What serving is measured on: ten projects with models, batch views and tiles in real servers, put there
without Spark.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.folds.merge import BatchPart, Tiles
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.session import close_sessions
from anabranch.stores.cassandra.tables import tiles_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import TrainingRecord
from anabranch.testing.states import batch_part, tiles
from anabranch.values.times import DAY, HOUR, MINUTE, floor_to, now_micros
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.servers import embedded
from jobs.wiring.settings import ROOT, Settings, load_settings
from tests.conftest import free_ports
from tests.support.law import SCHEMA, Event

SLACK = 2 * DAY
SHAPES = 20  # different states; keys share them, for what is stored under a key does not change the work
DECLARATION = """
from anabranch import Count, FeatureView, Label, Max, Mean, Min, Model, Project, Source, Sum

things = Source(name="things", topic="{name}-things", id="id", time="time", schema="{schema}")
view = FeatureView(name="recent", source=things, key="key", windows=("1h", "1d", "7d"), features={{
    "n": Count("x"), "x_mean": Mean("x"), "x_sum": Sum("x"), "x_min": Min("x"), "x_max": Max("x"),
    "high": Count(where="x > 50")}})
project = Project(name="{name}", views=(view,), label=Label(source=things, key="key", target="n > 0"),
    model=Model())
"""


@dataclass(frozen=True)
class River:
    """Running servers and what lies in them."""

    settings: Settings
    projects: tuple[Project, ...]
    keys: tuple[str, ...]
    cut: int
    parts: tuple[BatchPart, ...]
    fresh: tuple[Tiles, ...]

    def shape(self, key: str) -> int:
        """Which of the stored states a key has."""
        return self.keys.index(key) % SHAPES

    @property
    def tiles(self) -> int:
        """How many tiles of both tiers a key has."""
        shape = self.fresh[0]
        return len(shape.rows) + (len(shape.fine.rows) if shape.fine is not None else 0)


@contextmanager
def river(folder: Path, projects: int, keys: int, tell: Any) -> Iterator[River]:
    """Kafka and Cassandra on ports of their own, filled; stopped at the end."""
    names = (
        "servers.kafka_port",
        "servers.kafka_controller_port",
        "servers.cassandra_port",
        "servers.cassandra_storage_port",
        "serving.port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    settings = load_settings(
        {}, {"paths.data": str(folder), "paths.jars": str(ROOT / ".anabranch" / "jars"), **ports}
    )
    settings = replace(settings, projects=(folder / "projects",))
    try:
        embedded.up(settings, tell=tell)
        yield _fill(settings, projects, tuple(f"key-{i:05d}" for i in range(keys)), tell)
    finally:
        close_sessions()
        embedded.down(settings, tell=tell)


def _fill(settings: Settings, count: int, keys: Sequence[str], tell: Any) -> River:
    (folder,) = settings.projects
    folder.mkdir()
    names = [f"bench_{i}" for i in range(count)]
    for name in names:
        (folder / f"{name}.py").write_text(DECLARATION.format(name=name, schema=SCHEMA))
    projects = tuple(load_project(name, (folder,)) for name in names)
    cut = floor_to(now_micros() - 90 * MINUTE, HOUR)
    shapes = [_events(position, cut) for position in range(SHAPES)]
    (view,) = projects[0].views
    parts = tuple(batch_part(view, [e for e in events if e.arrival < cut], cut, SLACK) for events in shapes)
    fresh = tuple(tiles(view, [e for e in events if e.arrival >= cut]) for events in shapes)
    found = River(settings, projects, tuple(keys), cut, parts, fresh)
    views, models = Views(settings.views), Models(settings.models)
    for project in projects:
        train(models, project, "x_mean_1h")
        publish(views, project, found)
    tell(
        f"{count} projects of {len(keys):,} keys, {len(parts[0].rows)} batch states and {found.tiles} "
        f"tiles a key, {len(view.columns)} features"
    )
    return found


def _events(seed: int, cut: int) -> list[Event]:
    """A week of one key's readings, one every ten minutes or so, up to now."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(cut - 7 * DAY, now_micros(), 7 * 24 * 6))
    values = np.round(random.normal(45, 10, len(times)), 2)
    return [
        Event(id=str(i), key="k", time=t, arrival=t, x=x)
        for i, (t, x) in enumerate(zip(times.tolist(), values.tolist(), strict=True))
    ]


def train(models: Models, project: Project, deciding: str) -> None:
    """Make a champion of random rows, whose target is whether the feature `deciding` is above its mean."""
    random = np.random.default_rng(1)
    columns: dict[str, Any] = {name: random.normal(45, 10, 1000) for name in project.model_features}
    inputs = model_inputs(project)
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    rows = TrainingRows(
        matrix=matrix, target=(columns[deciding] > 45).astype(np.float64), inputs=inputs, task="class"
    )
    record = TrainingRecord(
        metrics={},
        parameters={},
        lake_versions={},
        example={name: values[:3].tolist() for name, values in columns.items()},
    )
    models.promote(project.name, models.log(project, record, fit("xgboost", rows)))


def publish(views: Views, project: Project, found: River) -> None:
    """Write batch states, tiles and the manifest, as a build and a stream would; the version that serves
    becomes the previous one.
    """
    (view,), session = project.views, views.session
    before = views.manifest(project.name)
    version = views.new_version(project.name, 1)
    views.ensure_tiles(project)
    batch = views.create_batch_table(project.name, view.name, version)
    blobs = [part.rows.astype("<f8").tobytes() for part in found.parts]
    insert = session.prepare(f"INSERT INTO {batch} (key, states) VALUES (?, ?)")
    execute_concurrent_with_args(
        session, insert, [(key, blobs[i % SHAPES]) for i, key in enumerate(found.keys)], concurrency=32
    )
    for fine in (False, True)[: len(view.tiers)]:
        _publish_tiles(session, tiles_table(project.name, view, fine=fine), found, fine)
    entry = Manifest(
        project=project.name, batch_version=version, cut=found.cut, slack=SLACK, built_at=now_micros(),
        fingerprints={view.name: view.fingerprint},
        tables={view.name: batch}, rows={view.name: len(found.keys)},
    )  # fmt: skip
    views.swap(entry, before, replace(before, previous=None) if before is not None else None)


def _publish_tiles(session: Any, table: str, found: River, fine: bool) -> None:
    insert = session.prepare(f"INSERT INTO {table} (key, slot, tile_start, state) VALUES (?, ?, ?, ?)")
    futures = []
    for position, key in enumerate(found.keys):
        shape, together = found.fresh[position % SHAPES], BatchStatement(BatchType.UNLOGGED)
        tier = shape.fine if fine else shape
        if tier is None:
            continue
        for start, row in zip(tier.starts.tolist(), tier.rows, strict=True):
            together.add(insert, (key, floor_to(start, HOUR), start, row.astype("<f8").tobytes()))
        futures.append(session.execute_async(together))
        if len(futures) >= 64:
            futures.pop(0).result()
    for future in futures:
        future.result()
