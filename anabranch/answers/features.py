"""Features of keys: batch parts and tiles are read from Cassandra and merged.

Jobs and streams block (`features`), the server awaits (`answer`): both use the same reads, cache and merge.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from cachetools import TTLCache

from anabranch.answers.coalescing import Coalescer
from anabranch.answers.parts import Name, Parts
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import UnavailableError
from anabranch.folds.merge import BatchPart, Known, Merged, merge_all
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.reads import GRACE, Pending, Reader, states_of
from anabranch.stores.cassandra.views import Views
from anabranch.stores.ignite.shared_parts import SharedParts
from anabranch.values.keys import SEPARATOR, key_text
from anabranch.values.times import format_time, now_micros

_AT_ONCE = 20  # keys that are read or merged before other callers get their turn on the event loop
_SIDE_BY_SIDE = 200  # keys whose reads are in flight together where no event loop waits


@dataclass(frozen=True)
class Answer:
    """Features of one key at `as_of` (microseconds); `degraded` says why they may be wrong, if they may.

    `known` is whether the batch version or the stream since its cut has anything of the key, in any view,
    whatever its time. `lost` are the columns of which states were left out, as more than the store takes.
    """

    key: Mapping[str, str]
    values: Mapping[str, object]
    as_of: int
    degraded: str | None = None
    batch_version: int | None = None
    known: bool = True
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Reading:
    """Reads in flight; `texts` are the stored texts of each key, in the order of the project's views."""

    texts: Sequence[Sequence[str]]
    pending: Sequence[Pending]

    def when_done(self, done: Callable[[], object]) -> None:
        """Call `done` when every read has an answer or an error: from any thread, and at least once."""
        reads = [read for pending in self.pending for read in pending.reads]
        left = [None] * len(reads)  # popping is atomic between threads

        def one(_: object) -> None:
            left.pop()
            if not left:
                done()

        for read in reads:
            read.add_done_callback(one)
        if not reads:
            done()


@dataclass
class Answers:
    """Reads and merges; the manifest may be up to `patience` seconds old (0: read for every call).

    `parts` caches batch parts; `shared` exchanges them with other servers where an answer is awaited, and
    `reader` reads there. A read that takes longer than `timeout` seconds has failed.
    """

    views: Views
    patience: float = 0.0
    parts: Parts | None = None
    timeout: float | None = None
    shared: SharedParts | None = None
    reader: Reader | None = None
    _manifests: TTLCache[str, tuple[Manifest | None]] = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gathering: "Coalescer[tuple[Project, Manifest | None], Mapping[str, object], Answer]" = field(init=False)

    def __post_init__(self) -> None:
        self._manifests = TTLCache(maxsize=1024, ttl=self.patience)
        self._gathering = Coalescer(
            lambda versions, keys: self._awaited(versions[0], keys, versions[1]), most=_AT_ONCE
        )

    def manifest(self, project: str) -> Manifest | None:
        """The manifest that answers are made with, up to `patience` seconds old."""
        with self._lock:
            kept = self._manifests.get(project)
        if kept is None:
            kept = (self.views.manifest(project),)
            with self._lock:
                self._manifests[project] = kept
        return kept[0]

    @property
    def kept(self) -> Mapping[str, int]:
        """Counts of the cache of batch parts: bytes, entries, hits, misses, and those of the shared one."""
        parts = self.parts or Parts(0)
        kept = {"bytes": parts.bytes, "entries": len(parts), "hits": parts.hits, "misses": parts.misses}
        return kept if self.shared is None else {**kept, **self.shared.done}

    def prepare(self, project: Project, manifest: Manifest | None) -> None:
        """Prepare the statements that answers of this manifest need, so that no answer waits for it."""
        self.views.prepare(project, manifest, self.timeout, self.reader)

    def features(
        self, project: Project, keys: Sequence[Mapping[str, object]], at: int | None = None
    ) -> list[Answer]:
        """Answers in the order of `keys` (each ``{column: value}``), as of `at` or now; 200 at once."""
        manifest = self.manifest(project.name)
        answers: list[Answer] = []
        for start in range(0, len(keys), _SIDE_BY_SIDE):
            chunk = keys[start : start + _SIDE_BY_SIDE]
            asked = now_micros() if at is None else at
            reading = self._begin(project, chunk, manifest, asked)
            known = self._collect(reading, project)
            moment = min(now_micros(), asked + GRACE) if at is None else at
            answers += _answers(project, chunk, reading.texts, known, manifest, moment)
        return answers

    async def answer(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        at: int | None = None,
    ) -> Sequence[Answer]:
        """Answers on an event loop, by the given manifest; concurrent requests for now are read together.

        Raises UnavailableError, never waiting to connect.
        """
        if not self.views.connected:
            raise UnavailableError(
                "Cassandra has not answered since this server started: see 'anabranch status'"
            )
        if at is None and len(keys) <= _AT_ONCE:
            return await self._gathering.ask((project, manifest), keys)
        return await self._awaited(project, keys, manifest, at)

    async def _awaited(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        at: int | None = None,
    ) -> list[Answer]:
        await self._take_shared(project, keys, manifest)
        several = len(keys) > _AT_ONCE
        readings, asked = [], now_micros() if at is None else at
        for start in range(0, len(keys), _AT_ONCE):
            readings.append(
                self._begin(project, keys[start : start + _AT_ONCE], manifest, asked, self.reader)
            )
            if several:
                await asyncio.sleep(0)
        known: dict[tuple[str, str], Known] = {}
        for reading in readings:
            await _done(reading)
            known.update(self._collect(reading, project))
        moment = min(now_micros(), asked + GRACE) if at is None else at
        answers: list[Answer] = []
        for reading in readings:
            answers += _answers(
                project, keys[len(answers) : len(answers) + _AT_ONCE], reading.texts, known, manifest, moment
            )
            if several:
                await asyncio.sleep(0)
        return answers

    def last_known(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        why: str,
        at: int | None = None,
    ) -> list[Answer]:
        """Degraded answers from cached batch parts alone.

        Raises UnavailableError with `why` where a part is not cached, and where all parts of a key are
        empty, since the stream may know the key.
        """
        moment = now_micros() if at is None else at
        found = []
        for key in keys:
            text = _texts(project, key)
            known: dict[tuple[str, str], Known] = {}
            for view, stored in zip(project.views, text, strict=True):
                part = self._kept(*states_of(project, view, manifest), view, stored)
                if part is None:
                    raise UnavailableError(why)
                known[view.full_name, stored] = (part, None)
            (answer,) = _answers(project, [key], [text], known, manifest, moment)
            if not answer.known:
                raise UnavailableError(why)
            cuts = [one.cut for one in (manifest, *(manifest.lent.values() if manifest else ())) if one]
            since = format_time(min(cuts)) if cuts else "ever"
            missing = f"events that arrived since {since} are missing, for {why}"
            found.append(replace(answer, degraded="; ".join(filter(None, (missing, answer.degraded)))))
        return found

    def _begin(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        at: int,
        reader: Reader | None = None,
    ) -> _Reading:
        """Start all reads; keys share reads, which is less work."""
        texts = [_texts(project, key) for key in keys]
        pending: list[Pending] = []
        for view, positions in project.stored_views:
            owner, version = states_of(project, view, manifest)
            asked = dict.fromkeys(text[position] for text in texts for position in positions)
            wanted = {text: self._kept(owner, version, view, text) for text in asked}
            pending += self.views.ask(owner, view, wanted, version, at, self.timeout, reader)
        return _Reading(texts, pending)

    def _collect(self, reading: _Reading, project: Project) -> dict[tuple[str, str], Known]:
        found: dict[tuple[str, str], Known] = {}
        for pending in reading.pending:
            view, version = pending.view, pending.manifest
            owner = view.use.owner or project.name
            for key, known in pending.result().items():
                found[view.full_name, key] = known
                batch, _ = known
                if (
                    self.parts is not None
                    and batch is not None
                    and version is not None
                    and pending.known[key] is None
                ):
                    self.parts.put(_name(owner, view, key, version), batch)
                    if self.shared is not None:
                        self.shared.offer(_shared_name(owner, view, key, version), batch)
        return found

    async def _take_shared(
        self, project: Project, keys: Sequence[Mapping[str, object]], manifest: Manifest | None
    ) -> None:
        """Copy shared parts to the own cache; what does not come in time is read from Cassandra."""
        if self.shared is None or self.parts is None or not self.parts.limit or manifest is None:
            return
        wanted: dict[str, Name] = {}
        for view in project.views:
            owner, version = states_of(project, view, manifest)
            if version is not None and version.fingerprints.get(view.name) == view.fingerprint:
                names = (
                    (_name(owner, view, text, version), text)
                    for text in (key_text(view.asked, key) for key in keys)
                )
                wanted |= {
                    _shared_name(owner, view, text, version): name
                    for name, text in names
                    if name not in self.parts
                }
        for shared, part in (await self.shared.fetch(list(wanted))).items():
            self.parts.put(wanted[shared], part)

    def _kept(self, owner: str, manifest: Manifest | None, view: FeatureView, key: str) -> BatchPart | None:
        # The manifest has no part of a view that is declared otherwise now, even if one is cached.
        if self.parts is None or manifest is None or manifest.fingerprints.get(view.name) != view.fingerprint:
            return None
        return self.parts.get(_name(owner, view, key, manifest))


def _texts(project: Project, key: Mapping[str, object]) -> tuple[str, ...]:
    """The stored texts of a key in the order of the project's views."""
    return tuple(key_text(view.asked, key) for view in project.views)


def _name(owner: str, view: FeatureView, key: str, manifest: Manifest) -> Name:
    return (owner, view.name, manifest.built_at, key)


def _shared_name(owner: str, view: FeatureView, key: str, manifest: Manifest) -> str:
    fingerprint = manifest.fingerprints[view.name]
    return SEPARATOR.join((owner, view.name, fingerprint, str(manifest.built_at), key))


async def _done(reading: _Reading) -> None:
    """Wait without a thread: the callback of the last read wakes the event loop."""
    loop, own = asyncio.get_running_loop(), threading.get_ident()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def from_any_thread() -> None:
        if threading.get_ident() == own:
            wake()
            return
        with suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(wake)

    reading.when_done(from_any_thread)
    await waiter


def _answers(
    project: Project,
    keys: Sequence[Mapping[str, object]],
    texts: Sequence[Sequence[str]],
    known: Mapping[tuple[str, str], Known],
    manifest: Manifest | None,
    at: int,
) -> list[Answer]:
    """Merge what is `known`, by view and key text, for each of `keys`; all keys of a view together."""
    merged: list[Mapping[str, Merged]] = []
    for position, view in enumerate(project.views):
        names = list(dict.fromkeys(text[position] for text in texts))
        found = merge_all(view, [known[view.full_name, name] for name in names], at)
        merged.append(dict(zip(names, found, strict=True)))
    version = manifest.batch_version if manifest else None
    gaps = [*manifest.gaps, *(gap for one in manifest.lent.values() for gap in one.gaps)] if manifest else []
    answers: list[Answer] = []
    rows: list[dict[str, object]] = [{} for _ in keys]
    for key, text, values in zip(keys, texts, rows, strict=True):
        reasons: dict[str, None] = dict.fromkeys(map(str, gaps))
        any_known, lost = False, frozenset[str]()
        for view, name, values_of in zip(project.views, text, merged, strict=True):
            batch, tiles = known[view.full_name, name]
            # A batch part without rows is a key that the version's table does not have.
            any_known = any_known or tiles is not None or (batch is not None and len(batch.rows) > 0)
            values.update(values_of[name].values)
            lost |= values_of[name].lost
            if why := values_of[name].degraded:
                reasons[why] = None
        answers.append(
            Answer(
                {name: str(key[name]) for name in project.keys},
                values,
                at,
                "; ".join(reasons) or None,
                version,
                any_known,
                lost,
            )
        )
    if project.derived_columns:
        _derive(project, [answer.key for answer in answers], rows)
    return answers


def _derive(project: Project, keys: Sequence[Mapping[str, str]], rows: Sequence[dict[str, object]]) -> None:
    """Add the derived features to the values of each key; those over the request are NULL: there is none."""
    program = project.program_without_request
    columns = {
        name: [one[name] for one in (keys if name in project.key_types else rows)] for name in program.reads
    }
    found = program.run(columns, len(rows))
    for place, row in enumerate(rows):
        for column in project.derived_columns:
            row[column.name] = None if column.asked else found[column.name][place]
