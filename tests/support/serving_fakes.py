"""Stores that live in memory, for the server's own tests; the real ones are used in tests/e2e."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError, ViewUnavailableError
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.roles import Roles, VersionTrial
from anabranch.values.times import parse_time
from serving.api.context import ServingContext
from serving.app import Application, create_app
from serving.http.access import Access
from serving.http.messages import Request, Response
from serving.settings import ServingSettings

NOW = parse_time("2024-05-01T12:00:00Z")
PROJECTS = Path(__file__).parents[2] / "projects"


@dataclass(frozen=True)
class FakeManifest:
    batch_version: int = 7
    cut: int = NOW - 3_600_000_000
    built_at: int = NOW - 3_000_000_000
    rows: Mapping[str, int] = field(default_factory=lambda: {"latest_exam": 303})
    tables: Mapping[str, str] = field(
        default_factory=lambda: {"latest_exam": "heart_disease__latest_exam__b7"}
    )
    lake_versions: Mapping[str, int] = field(default_factory=lambda: {"exams": 4})
    model_version: str | None = "3"
    replaces: str | None = None
    previous: "FakeManifest | None" = None

    def champion(self, registered: str | None) -> str | None:
        return self.model_version if self.replaces is not None and registered == self.replaces else registered


@dataclass(frozen=True)
class FakeAnswer:
    values: Mapping[str, Any]
    degraded: str | None = None
    batch_version: int | None = 7
    as_of: int = NOW
    known: bool = True


@dataclass
class Store:
    """Answers and views in one: stored features by key, and whether the store is away."""

    stored: dict[tuple[object, ...], dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[tuple[object, ...], dict[str, Any]] = field(default_factory=dict)
    served: FakeManifest | None = field(default_factory=FakeManifest)
    degraded: str | None = None
    away: bool = False
    gone: set[str] = field(default_factory=set)
    """Projects whose tables are not there."""
    reads: int = 0

    def prepare(self, project: Project, manifest: Any) -> None:
        self.check()

    @property
    def kept(self) -> Mapping[str, int]:
        return {"entries": len(self.parts)}

    def last_known(
        self, project: Project, keys: Sequence[Mapping[str, object]], manifest: Any, why: str
    ) -> Sequence[FakeAnswer]:
        if not all(tuple(key.values()) in self.parts for key in keys):
            raise UnavailableError(why)
        return [FakeAnswer(self.parts[tuple(key.values())], why) for key in keys]

    async def answer(
        self, project: Project, keys: Sequence[Mapping[str, object]], manifest: Any, at: int | None = None
    ) -> Sequence[FakeAnswer]:
        self.check()
        self.find(project)
        self.reads += 1
        empty = dict.fromkeys(column.name for column in project.columns)
        moment = NOW if at is None else at
        version = None if manifest is None else manifest.batch_version
        found = [self.stored.get(tuple(key.values())) for key in keys]
        return [
            FakeAnswer({**empty, **(values or {})}, self.degraded, version, moment, values is not None)
            for values in found
        ]

    def manifest(self, project: str) -> FakeManifest | None:
        self.check()
        return self.served

    def current(self, project: Project, key: str) -> Mapping[str, Any] | None:
        self.check()
        self.find(project)
        return self.rows.get(key)

    def check(self) -> None:
        if self.away:
            raise UnavailableError(
                "Cassandra does not answer at 127.0.0.1:9042: start it with 'anabranch up'"
            )

    def find(self, project: Project) -> None:
        if project.name in self.gone:
            raise ViewUnavailableError(f"a table of {project.name!r} is gone")


@dataclass(frozen=True)
class SumScorer:
    """Scores with the sum of what is known, divided by 1000."""

    version: str
    features: Sequence[str]

    @property
    def kinds(self) -> Mapping[str, str]:
        return dict.fromkeys(self.features, "number")

    def score(self, columns: Mapping[str, Any]) -> Any:
        return np.nansum([np.array(columns[name], dtype=np.float64) for name in self.features], axis=0) / 1000

    def label(self, scores: Any) -> Any:
        return (scores > 0.5).astype(np.int64)


@dataclass(frozen=True)
class FakeEntry:
    version: str
    created: str = "2024-05-01T10:00:00Z"
    metrics: Mapping[str, float] = field(
        default_factory=lambda: {
            "roc_auc": 0.875,
            "roc_auc_low": 0.8,
            "roc_auc_high": 0.93,
            "train_roc_auc": 0.99,
        }
    )
    lake_versions: Mapping[str, int] = field(default_factory=lambda: {"exams": 3})
    run: str = "run"
    gate: str = "passed"
    reason: str = ""


@dataclass
class Registry:
    features: Sequence[str]
    version: str | None = "3"
    kept: dict[str, bytes] = field(default_factory=dict)
    trial: VersionTrial | None = None
    others: dict[str, Any] = field(default_factory=dict)
    """Versions that are no `SumScorer`; an error is raised."""

    def roles(self, project: str) -> Roles:
        return Roles(aliases={"champion": self.version} if self.version else {}, trial=self.trial)

    def scorer(self, project: str, version: str) -> Any:
        found = self.others.get(version, SumScorer(version, self.features))
        if isinstance(found, Exception):
            raise found
        return found

    def entry(self, project: str, version: str) -> FakeEntry:
        return FakeEntry(version)

    def files(self, project: str, version: str, names: Sequence[str]) -> Mapping[str, bytes]:
        return {name: self.kept[name] for name in names if name in self.kept}


@dataclass
class Topics:
    """A bus that keeps what is published."""

    messages: dict[str, list[tuple[bytes | None, bytes]]] = field(default_factory=dict)
    away: bool = False

    def ensure_topics(self, names: Sequence[str], partitions: int = 1) -> None:
        self.check()

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        self.check()
        found = list(messages)
        self.messages.setdefault(topic, []).extend(found)
        return len(found)

    def publish_together(self, messages: Mapping[str, Sequence[tuple[bytes | None, bytes]]]) -> int:
        return sum(self.publish(topic, each) for topic, each in messages.items())

    def check(self) -> None:
        if self.away:
            raise UnavailableError("Kafka does not answer at 127.0.0.1:9092: start it with 'anabranch up'")


@dataclass
class Bench:
    """A server over fakes, asked without a socket."""

    app: Application
    store: Store
    registry: Registry
    topics: Topics
    kept: list[Measure] = field(default_factory=list)

    def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """Status and decoded JSON of an answer; `body` bytes are sent as they are."""
        response = self.raw(method, path, body, content_type)
        return response.status, json.loads(response.body)

    def raw(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Response:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return asyncio.run(
            self.app.handle(Request(method, path, b"" if body is None else sent, content_type))
        )


def bench(
    folder: Path,
    features: Sequence[str],
    settings: ServingSettings | None = None,
    access: Access | None = None,
) -> Bench:
    """A server over the declarations in `folder`, its projects looked at once."""
    store, registry, topics, kept = Store(), Registry(features), Topics(), list[Measure]()

    def keep(measures: Sequence[Measure]) -> None:
        store.check()
        kept.extend(measures)

    context = ServingContext(
        folders=(folder,),
        views=store,
        answers=store,
        models=registry,
        bus=topics,
        settings=settings or ServingSettings(store_timeout_seconds=1),
        future_skew_seconds=300,
        clock=lambda: NOW,
        keep=keep,
        access=access,
    )
    app = create_app(context)
    app.live.refresh()
    return Bench(app, store, registry, topics, kept)
