"""Stores that live in memory, for the server's own tests; the real ones are used in tests/e2e."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from anabranch.answers.features import Answer, Answers
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, UnavailableError, ViewUnavailableError
from anabranch.settings import LakeSettings, StoreSettings, TimeSettings
from anabranch.stores.cassandra.current_rows import CurrentRow
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.cassandra.views import Views
from anabranch.stores.files.reports import Reports
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.kafka.publisher import Message
from anabranch.stores.models.design import Design
from anabranch.stores.models.explaining.explanation import NUMBER, Explainer
from anabranch.stores.models.explaining.others import LinearExplainer
from anabranch.stores.models.registry import Models
from anabranch.stores.models.roles import Roles, VersionTrial
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.versions import ModelVersion, Scorer
from anabranch.stores.opened import Stores
from anabranch.values.times import parse_time
from serving.api.context import ServingContext
from serving.app import Application, create_app
from serving.http.access import Access
from serving.http.messages import HttpRequest, Response
from serving.settings import ServingSettings

NOW = parse_time("2024-05-01T12:00:00Z")
_ALONE = TemporaryDirectory(prefix="anabranch-heart-")
(Path(_ALONE.name) / "heart_disease.py").symlink_to(
    Path(__file__).parents[2] / "projects" / "heart_disease.py"
)
PROJECTS = Path(_ALONE.name)
"""A folder with heart_disease alone: the fakes serve one project and one model."""


@dataclass(frozen=True, kw_only=True)
class FakeManifest(Manifest):
    project: str = "heart_disease"
    batch_version: int = 7
    cut: int = NOW - 3_600_000_000
    slack: int = 0
    built_at: int = NOW - 3_000_000_000
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(
        default_factory=lambda: {"latest_exam": "heart_disease__latest_exam__b7"}
    )
    rows: Mapping[str, int] = field(default_factory=lambda: {"latest_exam": 303})
    lake_versions: Mapping[str, int] = field(default_factory=lambda: {"exams": 4})
    model_version: str | None = "3"


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
    read_seconds: float = 0.0
    sample_current: Callable[[Project, int], Sequence[CurrentRow]] = lambda *_: ()

    def prepare(self, project: Project, manifest: Any) -> None:
        self.check()

    @property
    def kept(self) -> Mapping[str, int]:
        return {"entries": len(self.parts)}

    def last_known(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Any,
        why: str,
        events: Sequence[Any] = (),
    ) -> Sequence[Answer]:
        if not all(tuple(key.values()) in self.parts for key in keys):
            raise UnavailableError(why)
        return [_answer(key, self.parts[tuple(key.values())], NOW, why, 7) for key in keys]

    async def answer(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Any,
        at: int | None = None,
        events: Sequence[Any] = (),
    ) -> Sequence[Answer]:
        self.check()
        self.find(project)
        self.reads += 1
        empty = dict.fromkeys(column.name for column in project.columns)
        moment = NOW if at is None else at
        version = None if manifest is None else manifest.batch_version
        found = [self.stored.get(tuple(key.values())) for key in keys]
        return [
            _answer(key, {**empty, **(values or {})}, moment, self.degraded, version, values is not None)
            for key, values in zip(keys, found, strict=True)
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


def _answer(
    key: Mapping[str, object],
    values: Mapping[str, Any],
    at: int,
    degraded: str | None,
    version: int | None,
    known: bool = True,
) -> Answer:
    return Answer({name: str(value) for name, value in key.items()}, values, at, degraded, version, known)


class SumScorer(Scorer):
    """Scores with the sum of what is known, divided by 1000."""

    def __init__(self, version: str, features: Sequence[str]) -> None:
        self.version, self.features = version, tuple(features)
        self.kinds = dict.fromkeys(features, "number")
        self._coder = InputCoder([{"name": name, "kind": "number"} for name in features])
        self._explained = b"computed below"

    @cached_property
    def explainer(self) -> Explainer:
        count = len(self.features)
        nothing = np.zeros(count, dtype=np.float32)
        sums = Design(plain=tuple(range(count)), equal=(), fill=nothing, shift=nothing, scale=nothing + 1)
        return LinearExplainer(sums, np.full(count, 1 / 1000), np.zeros(count), 0.0, count, NUMBER)

    def score(self, columns: Mapping[str, Any]) -> Any:
        return np.nansum([np.array(columns[name], dtype=np.float64) for name in self.features], axis=0) / 1000

    def label(self, scores: Any) -> Any:
        return (scores > 0.5).astype(np.int64).tolist()


@dataclass
class Registry:
    features: Sequence[str] = ()
    version: str | None = "3"
    kept: dict[str, bytes] = field(default_factory=dict)
    before: str | None = None
    """The champion before `version`."""
    trial: VersionTrial | None = None
    others: dict[str, Any] = field(default_factory=dict)
    """Versions that are no `SumScorer`; an error is raised."""

    def roles(self, project: str) -> Roles:
        aliases = {"champion": self.version, "previous": self.before}
        return Roles(aliases={name: one for name, one in aliases.items() if one}, trial=self.trial)

    def scorer(self, project: str, version: str) -> Any:
        found = self.others.get(version, SumScorer(version, self.features))
        if isinstance(found, Exception):
            raise found
        return found

    def entry(self, project: str, version: str) -> ModelVersion:
        return ModelVersion(
            version=version,
            aliases=(),
            created="2024-05-01T10:00:00Z",
            metrics={"roc_auc": 0.875, "roc_auc_low": 0.8, "roc_auc_high": 0.93, "train_roc_auc": 0.99},
            fingerprint="",
            lake_versions={"exams": 3},
            run="run",
            tags={"gate": "passed", "hindsight": "hindsight changed no value", "fairness": "no gap"},
        )

    def files(self, project: str, version: str, names: Sequence[str]) -> Mapping[str, bytes]:
        return {name: self.kept[name] for name in names if name in self.kept}


@dataclass
class Topics:
    """A bus that keeps what is published."""

    messages: dict[str, list[tuple[bytes | None, bytes]]] = field(default_factory=dict)
    away: bool = False
    refusing: dict[str, AnabranchError] = field(default_factory=dict)
    """Topics that take no message, and why."""
    trouble: str | None = None

    def ensure_topics(self, names: Sequence[str], partitions: int = 1) -> None:
        self.check()

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        self.check()
        found = list(messages)
        self.messages.setdefault(topic, []).extend(found)
        return len(found)

    def offer(self, messages: Sequence[Message]) -> dict[int, AnabranchError]:
        refused = {
            place: self.refusing[topic]
            for place, (topic, *_) in enumerate(messages)
            if topic in self.refusing
        }
        for place, (topic, key, value) in enumerate(messages):
            if place not in refused:
                self.publish(topic, [(key, value)])
        return refused

    def read_as(self, topic: str) -> str:
        self.check()
        return topic

    def topic_id(self, topic: str) -> str:
        return topic

    def beginnings(self, topic: str) -> dict[int, int]:
        return {0: 0}

    def ends(self, topic: str) -> dict[int, int]:
        return {0: len(self.messages.get(topic, ()))}

    def records(
        self, topic: str, left: Mapping[int, object], most: int, seconds: float
    ) -> tuple[list[Any], bool]:
        assert not left, (
            "what was published is not read back here: tests/servers/speed/test_stream_law.py does"
        )
        return [], True

    def check(self) -> None:
        if self.away:
            raise UnavailableError("Kafka does not answer at 127.0.0.1:9092: start it with 'anabranch up'")


@dataclass
class FakeMeasures:
    """Measures that are kept in a list; what is read of them is given."""

    store: Store
    written: list[Measure] = field(default_factory=list)
    latest: Callable[[str], Sequence[Measure]] = lambda _: ()
    history: Callable[..., Sequence[Measure]] = lambda *_: ()

    def write(self, measures: Sequence[Measure]) -> None:
        self.store.check()
        self.written.extend(measures)


@dataclass
class FakeReports:
    """Reports of the quality gate, and their pages."""

    latest: Callable[[Project, int], Sequence[dict[str, Any]]] = lambda *_: ()
    page: Callable[[Project, str, str], bytes | None] = lambda *_: None


class FakeStores(Stores):
    """The stores of a server as stand-ins in memory; here they take the types of the real stores."""

    def __init__(self) -> None:
        unused: Any = None
        settings = StoreSettings(
            lake=LakeSettings(root="/nonexistent/lake"),
            bus=unused,
            views=unused,
            models=unused,
            files=unused,
            times=TimeSettings(),
            quality=unused,
        )
        super().__init__(settings, lambda: unused)
        self.store, self.registry, self.topics = Store(), Registry(), Topics()
        self.kept, self.gate_reports = FakeMeasures(self.store), FakeReports()
        self.views, self.models = cast("Views", self.store), cast("Models", self.registry)
        self.bus, self.measures = cast("Bus", self.topics), cast("Measures", self.kept)
        self.reports = cast("Reports", self.gate_reports)


@dataclass
class Bench:
    """A server over stand-ins, asked without a socket."""

    app: Application
    stores: FakeStores

    @property
    def store(self) -> Store:
        """The serving store."""
        return self.stores.store

    @property
    def registry(self) -> Registry:
        """The models."""
        return self.stores.registry

    @property
    def topics(self) -> Topics:
        """The bus."""
        return self.stores.topics

    @property
    def kept(self) -> list[Measure]:
        """Measures that the server wrote."""
        return self.stores.kept.written

    def changed(self, **context: Any) -> "Bench":
        """A new server over the same stores, with other settings or another access."""
        app = create_app(replace(self.app.parts.context, **context))
        app.live.refresh()
        return Bench(app, self.stores)

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
            self.app.handle(HttpRequest(method, path, b"" if body is None else sent, content_type))
        )


def bench(
    folder: Path,
    features: Sequence[str],
    settings: ServingSettings | None = None,
    access: Access | None = None,
) -> Bench:
    """A server over the declarations in `folder`, its projects looked at once."""
    stores = FakeStores()
    stores.registry.features = features
    context = ServingContext(
        folders=(folder,),
        stores=stores,
        answers=cast("Answers", stores.store),
        settings=settings or ServingSettings(store_timeout_seconds=1, ready_seconds=1e-9),
        clock=lambda: NOW,
        access=access,
    )
    app = create_app(context)
    app.live.refresh()
    return Bench(app, stores)
