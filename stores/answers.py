"""Answers: for whole keys of a project, the merge of what batch and stream know, read from Cassandra.

The one piece that speed (scoring what changed), serving and verification share.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from features.declaration import Project
from features.keys import key_text
from features.merge import merge
from stores.manifest import Manifest
from stores.views import Pending, Views


@dataclass(frozen=True)
class Answer:
    """Features of one key at `as_of` (microseconds); `degraded` says why they may not be exact, None when they are."""

    key: Mapping[str, str]
    values: Mapping[str, object]
    as_of: int
    degraded: str | None = None
    batch_version: int | None = None


@dataclass
class _Seen:
    manifest: Manifest | None
    until: float


def now_micros() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000


@dataclass
class Answers:
    """Reads and merges; the manifest may be up to `patience` seconds old (0: read for every call)."""

    views: Views
    patience: float = 0.0
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def manifest(self, project: str) -> Manifest | None:
        """The manifest that answers are made with."""
        seen = self._seen.get(project)
        if seen is None or seen.until < time.monotonic():
            seen = _Seen(self.views.manifest(project), time.monotonic() + self.patience)
            self._seen[project] = seen
        return seen.manifest

    def features(self, project: Project, keys: Sequence[Mapping[str, object]], at: int | None = None) -> list[Answer]:
        """Answers in the order of `keys` (each ``{column: value}``), as of `at` or now; all reads run side by side."""
        manifest = self.manifest(project.name)
        texts = [{view.name: key_text(view.keys, key) for view in project.views} for key in keys]
        pending: dict[tuple[str, str], Pending] = {}
        for text in texts:
            for view in project.views:
                name = (view.name, text[view.name])
                if name not in pending:
                    pending[name] = self.views.ask(project.name, view, name[1], manifest)
        read = {name: found.result() for name, found in pending.items()}
        moment = now_micros() if at is None else at
        return [self._answer(project, key, text, read, manifest, moment) for key, text in zip(keys, texts, strict=True)]

    @staticmethod
    def _answer(project: Project, key: Mapping[str, object], text: Mapping[str, str], read: Mapping, manifest: Manifest | None, at: int) -> Answer:  # type: ignore[type-arg]
        values: dict[str, object] = {}
        reasons: dict[str, None] = {}
        for view in project.views:
            batch, tiles = read[view.name, text[view.name]]
            merged = merge(view, batch, tiles, at)
            values.update(merged.values)
            if merged.degraded:
                reasons[merged.degraded] = None
        version = manifest.batch_version if manifest else None
        return Answer({name: str(key[name]) for name in project.keys}, values, at, "; ".join(reasons) or None, version)
