"""What the server is given: settings and the stores, each by the few methods it calls. Tests pass small fakes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from anabranch.answers.features import Answers
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.current_rows import CurrentRow
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.versions import Scorer
from serving.http.access import Access
from serving.settings import ServingSettings


class Views(Protocol):
    """The tables that serve."""

    def manifest(self, project: str) -> Manifest | None:
        """The manifest in force."""
        ...

    def current(self, project: Project, key: str) -> Mapping[str, Any] | None:
        """The row of the analysts' table for a key as stored text."""
        ...


class ModelEntry(Protocol):
    """What the registry has of a version."""

    @property
    def version(self) -> str:
        """Its number."""
        ...

    @property
    def created(self) -> str:
        """ISO 8601 UTC."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """On held-out rows; those of training rows begin with ``train_``."""
        ...

    @property
    def lake_versions(self) -> Mapping[str, int]:
        """What it was trained on."""
        ...

    @property
    def run(self) -> str:
        """The training's run."""
        ...

    @property
    def gate(self) -> str:
        """What the gate said."""
        ...

    @property
    def reason(self) -> str:
        """Why the gate refused it, or why it was promoted all the same."""
        ...


class Tried(Protocol):
    """A version that is tried on live requests."""

    @property
    def kind(self) -> str:
        """``shadow`` or ``canary``."""
        ...

    @property
    def version(self) -> str:
        """The version."""
        ...

    @property
    def share(self) -> float:
        """Of the keys, above 0 and at most 1."""
        ...


class Roles(Protocol):
    """Which version has which role, of one moment."""

    @property
    def champion(self) -> str | None:
        """Version of the model in force."""
        ...

    @property
    def trial(self) -> Tried | None:
        """What is tried beside it."""
        ...


class Models(Protocol):
    """The registry."""

    def roles(self, project: str) -> Roles:
        """Who has which role, by one read."""
        ...

    def scorer(self, project: str, version: str) -> Scorer:
        """That version, loaded once a process."""
        ...

    def entry(self, project: str, version: str) -> ModelEntry:
        """What is recorded of a version."""
        ...

    def files(self, project: str, version: str, names: Sequence[str]) -> Mapping[str, bytes]:
        """Files that were kept with a version, among them ``report/model_card.html``; those that are not there are left out."""
        ...


class Bus(Protocol):
    """Topics to publish to."""

    def ensure_topics(self, names: Sequence[str], partitions: int = 1) -> None:
        """Create what is not there; with no names it only asks whether the broker answers."""
        ...

    def publish(self, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
        """Publish and wait until every message is kept."""
        ...

    def publish_together(self, messages: Mapping[str, Sequence[tuple[bytes | None, bytes]]]) -> int:
        """The same for messages by topic."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServingContext:
    """All that the server needs; `clock` gives microseconds."""

    folders: tuple[Path, ...]
    views: Views
    answers: Answers
    models: Models
    bus: Bus
    settings: ServingSettings
    future_skew_seconds: int
    clock: Callable[[], int]
    access: Access | None = None
    """Who may ask what; None lets everybody ask everything."""
    keep: Callable[[Sequence[Measure]], object] = lambda _: None
    """Keep measures; raises UnavailableError when the store is away."""
    measures: Callable[[str], Sequence[Measure]] = lambda _: ()
    """The latest measures of a project; raises UnavailableError when the store is away."""
    measured: Callable[[str, str, str, datetime, int], Sequence[Measure]] = lambda *_: ()
    """What one measure of a project (subject, name) has been since a time, the newest so many."""
    sample: Callable[[Project, int], Sequence[CurrentRow]] = lambda *_: ()
    """Up to so many current rows of a project."""
    reports: Callable[[Project, int], Sequence[dict[str, Any]]] = lambda *_: ()
    """The newest reports of the quality gate."""
    report: Callable[[Project, str, str], bytes | None] = lambda *_: None
    """A report's page, by source and name."""
