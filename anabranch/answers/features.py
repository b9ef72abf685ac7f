"""Features of keys: batch parts and tiles are read from Cassandra and merged.

Jobs and streams block (`features`), the server awaits (`answer`): both use the same reads, cache and merge.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median

from cachetools import TTLCache

from anabranch.answers.coalescing import Coalescer
from anabranch.answers.costs import StageCosts
from anabranch.answers.own import CountingStates, name_of, published, until_certain
from anabranch.answers.parts import Name, Parts
from anabranch.answers.spans import span
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import UnavailableError
from anabranch.events.own_events import OwnEvent
from anabranch.folds.merge import BatchPart, Known, Merged, merge_all, with_events
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.own_events import OwnPlace
from anabranch.stores.cassandra.reads import GRACE, Pending, Reader, states_of
from anabranch.stores.cassandra.views import Views
from anabranch.stores.ignite.shared_parts import SharedParts
from anabranch.values.keys import SEPARATOR, key_text
from anabranch.values.times import format_time, now_micros

Events = Sequence[OwnEvent]
"""The events that come with one question."""
_Item = tuple[Mapping[str, object], Events]
_AT_ONCE = 20  # keys that are read or merged before other callers get their turn on the event loop
_APART = 0.015  # seconds between reads of a project by a server that many ask: a third of what it may take
_RECENT_READS = 32
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
    counted: tuple[bool, ...] = ()
    """Of the events of the question, those that batch or stream had counted already; () for none."""


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
    costs: StageCosts = field(default_factory=StageCosts)
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_READS))
    _manifests: TTLCache[str, tuple[Manifest | None]] = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gathering: "Coalescer[tuple[Project, Manifest | None], _Item, Answer]" = field(init=False)

    def __post_init__(self) -> None:
        self._manifests = TTLCache(maxsize=1024, ttl=self.patience)
        self._gathering = Coalescer(
            lambda versions, items: self._awaited(versions[0], items, versions[1]),
            most=_AT_ONCE,
            apart=_APART,
            name="read together",
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

    @property
    def read_seconds(self) -> float:
        """How long an answer on an event loop usually waits for the store's reads: the median of the last."""
        return median(self._waits) if self._waits else 0.0

    def served(self, declared: Project) -> tuple[Project, Manifest | None]:
        """The declaration that answers are by while `declared` may wait for its build, and the manifest."""
        manifest = self.manifest(declared.name)
        return (declared if manifest is None else manifest.meant(declared)), manifest

    def prepare(self, project: Project, manifest: Manifest | None) -> None:
        """Prepare the statements that answers of this manifest need, so that no answer waits for it."""
        self.views.prepare(project, manifest, self.timeout, self.reader)

    def features(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        at: int | None = None,
        events: Sequence[Events] = (),
        manifest: Manifest | None = None,
    ) -> list[Answer]:
        """Answers in the order of `keys` (each ``{column: value}``), as of `at` or now; 200 at once.

        `events`, if any, are those that come with each key: they count as if they had arrived. A key with an
        event ahead of now is answered as of just after it. `manifest` is the one that `served` gave with the
        project, by default the one of now, by which the project must have been built.
        """
        manifest = self.manifest(project.name) if manifest is None else manifest
        items = _items(keys, events)
        found = self._all(project, items, manifest, at)
        return self._certain(project, items, found, manifest, at) if events else found

    def _all(
        self, project: Project, items: Sequence[_Item], manifest: Manifest | None, at: int | None
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for places, moment in _by_moment(items, at):
            for start in range(0, len(places), _SIDE_BY_SIDE):
                chunk = places[start : start + _SIDE_BY_SIDE]
                found = self._read(project, [items[place] for place in chunk], manifest, moment)
                answers |= dict(zip(chunk, found, strict=True))
        return [answers[place] for place in range(len(items))]

    def _certain(
        self,
        project: Project,
        items: Sequence[_Item],
        found: Sequence[Answer],
        manifest: Manifest | None,
        at: int | None,
    ) -> list[Answer]:
        """The answers `found`, in which each event is counted once, also one that was published before.

        Looks for such events after the reads: one that these may have counted is known by then.
        """
        known = published(self.views, [event for _, events in items for event in events])
        answers = [
            replace(answer, counted=(False,) * len(events)) if events else answer
            for (_, events), answer in zip(items, found, strict=True)
        ]
        for place, item in enumerate(items):
            if repeated := [event for event in item[1] if name_of(event) in known]:
                answers[place] = self._counted_once(project, item, repeated, manifest, at)
        return answers

    def _counted_once(
        self, project: Project, item: _Item, repeated: Events, manifest: Manifest | None, at: int | None
    ) -> Answer:
        """The answer to a question of whose events some, the `repeated` ones, were published before."""
        (key, events), reading = item, CountingStates(project, manifest)
        rest = [event for event in events if event not in repeated]
        result: list[Answer] = []

        def read_once() -> bool:
            known = published(self.views, repeated)
            before = reading.places(self.views, repeated)
            # Both have the same reads.
            whole, without = self._all(project, [(key, events), (key, rest)], manifest, at)
            after = reading.places(self.views, repeated)
            says = {
                reading.counts(event, known.get(name_of(event) or ("", ""), OwnPlace()), before, after)
                for event in repeated
            }
            there = True not in says and None not in says
            counted = tuple(event in repeated and not there for event in events)
            result[:] = [replace(whole if there else without, counted=counted)]
            return len(says) == 1 and None not in says

        if until_certain(read_once):
            return result[0]
        names = ", ".join(str(event.id) for event in repeated)
        why = f"the stream was just reading {names}, which may count or not"
        return replace(result[0], degraded="; ".join(filter(None, (why, result[0].degraded))))

    def _read(
        self, project: Project, items: Sequence[_Item], manifest: Manifest | None, at: int | None
    ) -> list[Answer]:
        asked = now_micros() if at is None else at
        reading = self._begin(project, [key for key, _ in items], manifest, asked)
        known = self._collect(reading, project)
        moment = min(now_micros(), asked + GRACE) if at is None else at
        return _answers(project, items, reading.texts, known, manifest, moment)

    async def answer(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        at: int | None = None,
        events: Sequence[Events] = (),
    ) -> Sequence[Answer]:
        """Answers on an event loop, by the given manifest; concurrent requests for now are read together.

        `events` as for `features`. Raises UnavailableError, never waiting to connect.
        """
        if not self.views.connected:
            raise UnavailableError(
                "Cassandra has not answered since this server started: see 'anabranch status'"
            )
        items = _items(keys, events)
        if events:
            answers: dict[int, Answer] = {}
            for places, moment in _by_moment(items, at):
                chosen = [items[place] for place in places]
                found = await self._together(project, chosen, manifest, moment)
                answers |= dict(zip(places, found, strict=True))
            first = [answers[place] for place in range(len(items))]
            # The look-up waits, and longer where an event was published before.
            return await asyncio.get_running_loop().run_in_executor(
                None, self._certain, project, items, first, manifest, at
            )
        return await self._together(project, items, manifest, at)

    async def _together(
        self, project: Project, items: Sequence[_Item], manifest: Manifest | None, at: int | None
    ) -> Sequence[Answer]:
        if at is None and len(items) <= _AT_ONCE:
            return await self._gathering.ask((project, manifest), items)
        return await self._awaited(project, items, manifest, at)

    async def _awaited(
        self,
        project: Project,
        items: Sequence[_Item],
        manifest: Manifest | None,
        at: int | None = None,
    ) -> list[Answer]:
        keys = [key for key, _ in items]
        await self._take_shared(project, keys, manifest)
        several = len(keys) > _AT_ONCE
        since = self.costs.begin("read")
        readings, asked = [], now_micros() if at is None else at
        known: dict[tuple[str, str], Known] = {}
        with span("read", keys=len(keys)):
            for start in range(0, len(keys), _AT_ONCE):
                readings.append(
                    self._begin(project, keys[start : start + _AT_ONCE], manifest, asked, waits=False)
                )
                if several:
                    await asyncio.sleep(0)
            if not several:
                self.costs.end("read", since, len(keys))
            for reading in readings:
                began = time.monotonic()
                await _done(reading)
                self._waits.append(time.monotonic() - began)
                since = self.costs.begin("merge")
                known.update(self._collect(reading, project))
        moment = min(now_micros(), asked + GRACE) if at is None else at
        answers: list[Answer] = []
        for reading in readings:
            answers += _answers(
                project, items[len(answers) : len(answers) + _AT_ONCE], reading.texts, known, manifest, moment
            )
            if several:
                await asyncio.sleep(0)
        if not several:
            self.costs.end("merge", since, len(keys))
        return answers

    def last_known(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        manifest: Manifest | None,
        why: str,
        at: int | None = None,
        events: Sequence[Events] = (),
    ) -> list[Answer]:
        """Degraded answers from cached batch parts alone, and the events that came with the keys.

        Raises UnavailableError with `why` where a part is not cached, and where all parts of a key are
        empty, since the stream may know the key.
        """
        now, found = now_micros() if at is None else at, []
        for key, own in _items(keys, events):
            moment = max(now, *(event.time + 1 for event in own)) if own else now
            text = _texts(project, key)
            known: dict[tuple[str, str], Known] = {}
            for view, stored in zip(project.views, text, strict=True):
                part = self._kept(*states_of(project, view, manifest), view, stored)
                if part is None:
                    raise UnavailableError(why)
                known[view.full_name, stored] = (part, None)
            (answer,) = _answers(project, [(key, own)], [text], known, manifest, moment)
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
        *,
        waits: bool = True,
    ) -> _Reading:
        """Start all reads; keys share reads, which is less work. An event loop never `waits`."""
        texts = [_texts(project, key) for key in keys]
        pending: list[Pending] = []
        for view, positions in project.stored_views:
            owner, version = states_of(project, view, manifest)
            asked = dict.fromkeys(text[position] for text in texts for position in positions)
            wanted = {text: self._kept(owner, version, view, text) for text in asked}
            reader = None if waits else self.reader
            pending += self.views.ask(owner, view, wanted, version, at, self.timeout, reader, look=waits)
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


def _items(keys: Sequence[Mapping[str, object]], events: Sequence[Events]) -> list[_Item]:
    """Each key with its events; no `events` are none for any key."""
    return list(zip(keys, events, strict=True)) if events else [(key, ()) for key in keys]


def _by_moment(items: Sequence[_Item], at: int | None) -> list[tuple[list[int], int | None]]:
    """Positions of items that are answered as of one time, and that time: those ahead of now as of theirs."""
    if at is not None or not any(events for _, events in items):
        return [(list(range(len(items))), at)]
    now, moments = now_micros(), dict[int | None, list[int]]()
    for place, (_, events) in enumerate(items):
        latest = max((event.time for event in events), default=0)
        moments.setdefault(latest + 1 if latest >= now else None, []).append(place)
    return [(places, moment) for moment, places in moments.items()]


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
    items: Sequence[_Item],
    texts: Sequence[Sequence[str]],
    known: Mapping[tuple[str, str], Known],
    manifest: Manifest | None,
    at: int,
) -> list[Answer]:
    """Merge what is `known`, by view and key text, for each of `items`; all keys of a view together."""
    with span("merge", keys=len(items)):
        merged = [
            _merged(view, position, items, texts, known, at) for position, view in enumerate(project.views)
        ]
    version = manifest.batch_version if manifest else None
    read = [states_of(project, view, manifest)[1] for view, _ in project.stored_views]
    gaps = [gap for one in (manifest, *read) if one is not None for gap in one.gaps]
    answers: list[Answer] = []
    rows: list[dict[str, object]] = [{} for _ in items]
    for place, ((key, events), text, values) in enumerate(zip(items, texts, rows, strict=True)):
        reasons: dict[str, None] = dict.fromkeys(map(str, gaps))
        any_known, lost = bool(events), frozenset[str]()
        for view, name, of_view in zip(project.views, text, merged, strict=True):
            batch, tiles = known[view.full_name, name]
            # A batch part without rows is a key that the version's table does not have.
            any_known = any_known or tiles is not None or (batch is not None and len(batch.rows) > 0)
            found = of_view[place]
            values.update(found.values)
            lost |= found.lost
            if why := found.degraded:
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
        with span("derive", keys=len(items)):
            _derive(project, [answer.key for answer in answers], rows)
    return answers


def _merged(
    view: FeatureView,
    position: int,
    items: Sequence[_Item],
    texts: Sequence[Sequence[str]],
    known: Mapping[tuple[str, str], Known],
    at: int,
) -> list[Merged]:
    """What a view gives for each of `items`; equal keys without events are merged once."""
    parts: list[Known] = []
    numbers: dict[str, int] = {}
    chosen = []
    for (_, events), text in zip(items, texts, strict=True):
        name = text[position]
        mine = [event for event in events if position in event.positions] if events else ()
        if mine:
            chosen.append(len(parts))
            rows, times = [event.row for event in mine], [event.time for event in mine]
            parts.append(with_events(view, known[view.full_name, name], rows, times))
            continue
        if name not in numbers:
            numbers[name] = len(parts)
            parts.append(known[view.full_name, name])
        chosen.append(numbers[name])
    found = merge_all(view, parts, at)
    return [found[number] for number in chosen]


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
