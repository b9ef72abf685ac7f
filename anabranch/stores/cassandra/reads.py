"""Reads of an answer: what batch and stream know of keys of one view, asked side by side on the hot path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from cassandra.cluster import ResponseFuture

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.declare.windows import edges
from anabranch.errors import AnabranchError
from anabranch.folds.merge import LABELS, BatchPart, Known, Tiles
from anabranch.folds.packing import LOST_EXTRAS, unpack_extras, unpack_rows
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.session import READS, answering, prepared
from anabranch.stores.cassandra.tables import Tables, tiles_table
from anabranch.values.times import MINUTE

_KEYS_A_READ = 20
GRACE = MINUTE
"""An answer as of now has the time at which its reads end, which may be this much later than their start."""
_Statements = tuple[str | None, str | None, str | None]


class DeclaredAnewError(AnabranchError):
    """A view is declared differently than at the last build."""


def states_of(project: Project, view: FeatureView, manifest: Manifest | None) -> tuple[str, Manifest | None]:
    """The project whose tables hold a view's states, and its manifest: those of the owner of a shared view.

    `manifest` is that of `project`. Where the owner has built another view of the name, it is the owner's
    version before, as long as that is kept. Raises DeclaredAnewError when the shared view is not the one that
    the project was built with.
    """
    owner = view.use.owner
    if owner is None:
        return project.name, manifest
    noted = {} if manifest is None else manifest.shared.get(view.full_name, {})
    if not noted:
        raise DeclaredAnewError(
            f"project {project.name!r} was not built with view {view.name!r} of project {owner!r} yet: "
            f"run 'anabranch build {project.name}'"
        )
    if noted["promise"] != view.promise:
        raise DeclaredAnewError(
            f"view {view.name!r} of project {owner!r} is not the one that {project.name!r} was built with: "
            f"its owner declared it anew; run 'anabranch build {project.name}' and train again"
        )
    lent = None if manifest is None else manifest.lent.get(owner)
    if lent is None:
        raise DeclaredAnewError(
            f"project {owner!r} has no batch version any more, so its view {view.name!r} cannot be read: "
            f"run 'anabranch build {owner}'"
        )
    before = lent.previous
    if before is not None and lent.fingerprints.get(view.name) != view.fingerprint:
        lent = before if before.fingerprints.get(view.name) == view.fingerprint else lent
    return owner, lent


class Read(Protocol):
    """A read in flight."""

    def result(self) -> Sequence[Sequence[Any]]:
        """The rows, once they are there; only cassandra-driver waits. Raises that driver's errors."""

    def add_done_callback(self, call: Callable[[Any], object], /) -> object:
        """Call `call` when the read has an answer or an error, from any thread."""


class Reader(Protocol):
    """What starts reads: the driver for threads (`DriverReader`), or one for an event loop (native.py)."""

    def start(self, statement: str, values: Sequence[object], timeout: float | None) -> Read:
        """Start a read; `timeout` in seconds."""

    def prepare(self, statements: Sequence[str], timeout: float | None) -> None:
        """Prepare statements, so that no read waits for it."""


@dataclass(frozen=True)
class DriverRead:
    """A read by cassandra-driver."""

    future: ResponseFuture

    def result(self) -> Sequence[Sequence[Any]]:
        """Wait for the rows."""
        rows: Sequence[Sequence[Any]] = self.future.result().all()
        return rows

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Call `call` from the driver's thread."""
        self.future.add_callbacks(call, call)


class DriverReader(Tables):
    """Reads by cassandra-driver, from any thread."""

    def start(self, statement: str, values: Sequence[object], timeout: float | None) -> DriverRead:
        """Start a read; connects first when the process has no session."""
        session = self.session
        options = {} if timeout is None else {"timeout": timeout}
        return DriverRead(
            session.execute_async(prepared(session, statement), values, execution_profile=READS, **options)
        )

    def prepare(self, statements: Sequence[str], timeout: float | None) -> None:
        """Prepare statements; `timeout` means nothing here."""
        for statement in statements:
            prepared(self.session, statement)


@dataclass(frozen=True)
class Pending:
    """Reads in flight for keys of one view, some of whose batch parts are `known`."""

    view: FeatureView
    manifest: Manifest | None
    known: Mapping[str, BatchPart | None]
    batch: Read | None
    tiles: Read | None
    fine: Read | None = None

    @property
    def reads(self) -> list[Read]:
        """The reads in flight."""
        return [read for read in (self.batch, self.tiles, self.fine) if read is not None]

    def result(self) -> dict[str, Known]:
        """Wait for all of them; raises UnavailableError when the store does not answer or a table is gone."""
        with answering(_gone(self.view.name)):
            parts, tiles = self._batch(), self._tiles()
        return {key: (parts[key], tiles.get(key)) for key in self.known}

    def _batch(self) -> Mapping[str, BatchPart | None]:
        manifest = self.manifest
        if manifest is None:
            return self.known
        rows = {key: row for key, *row in self.batch.result()} if self.batch else {}
        return {
            key: batch_part(self.view, manifest, rows.get(key)) if part is None else part
            for key, part in self.known.items()
        }

    def _tiles(self) -> dict[str, Tiles]:
        wide = self._tier(self.tiles.result()) if self.tiles else {}
        if not wide or self.fine is None:
            return wide
        # Fine tiles are read by start, not by slot, so slots that the batch covers are left out here.
        cut = self.manifest.cut if self.manifest else 0
        fine = self._tier([row for *row, slot in self.fine.result() if slot >= cut])
        return {key: replace(tiles, fine=fine[key]) if key in fine else tiles for key, tiles in wide.items()}

    def _tier(self, rows: Sequence[Sequence[Any]]) -> dict[str, Tiles]:
        """Tiles by key from rows (key, start, state, extra), decoded together; each key has a slice."""
        if not rows:
            return {}
        keys, starts, states, framed = zip(*sorted(rows, key=itemgetter(0)), strict=True)
        count = len(self.view.layout.extras)
        moments, matrix = (
            np.array(starts, dtype=np.int64),
            unpack_rows(b"".join(states), self.view.layout.width),
        )
        lost = [frame == LOST_EXTRAS for frame in framed]
        nothing = [None] * count
        extras = [
            nothing if gone else unpack_extras(frame, count)[0]
            for frame, gone in zip(framed if count else (), lost, strict=False)
        ]
        found, end = {}, 0
        for key, group in groupby(keys):
            begin, end = end, end + sum(1 for _ in group)
            found[key] = Tiles(
                moments[begin:end], matrix[begin:end], extras[begin:end], lost=any(lost[begin:end])
            )
        return found


def batch_part(view: FeatureView, manifest: Manifest, row: Any) -> BatchPart:
    """The batch part in a row (states, extras) of the version's table; an empty one without a row."""
    width = LABELS + view.layout.width
    if row is None:
        return BatchPart(manifest.cut, manifest.slack, np.empty((0, width)))
    states, extras = row
    return BatchPart(
        manifest.cut,
        manifest.slack,
        unpack_rows(states, width),
        unpack_extras(extras, len(view.layout.extras)),
    )


class StateReads(Tables):
    """Reads of batch parts and tiles."""

    def ask(
        self,
        project: str,
        view: FeatureView,
        known: Mapping[str, BatchPart | None],
        manifest: Manifest | None,
        at: int,
        timeout: float | None = None,
        reader: Reader | None = None,
        *,
        look: bool = True,
    ) -> list[Pending]:
        """Start the reads of keys; a batch part that is `known` is not read. `timeout` in seconds.

        Up to 20 keys share a read, since a read costs more than its rows. Fine tiles cover answers at any
        time in [at, at + GRACE]. Without a `reader` cassandra-driver reads. Whether there are tables of tiles
        that are not known is asked first; an event loop does not `look`: `prepare` has.
        """
        names, by = list(known), reader or DriverReader(self.settings)
        chunks = [names[start : start + _KEYS_A_READ] for start in range(0, len(names), _KEYS_A_READ)]
        return [
            self._read(
                project, view, {key: known[key] for key in chunk}, manifest, at, timeout, by, look=look
            )
            for chunk in chunks
        ]

    def known(self, project: str, view: FeatureView, key: str, manifest: Manifest | None, at: int) -> Known:
        """Batch part and tiles of one key; waits for the reads."""
        (pending,) = self.ask(project, view, {key: None}, manifest, at)
        return pending.result()[key]

    def _read(
        self,
        project: str,
        view: FeatureView,
        known: Mapping[str, BatchPart | None],
        manifest: Manifest | None,
        at: int,
        timeout: float | None,
        reader: Reader,
        *,
        look: bool,
    ) -> Pending:
        keys = list(known)
        unknown = [key for key in keys if known[key] is None]
        many = len(keys) > 1
        for_batch, for_tiles, for_fine = self._statements(project, view, manifest, many=many, look=look)

        def start(statement: str | None, *values: object) -> Read | None:
            return None if statement is None else reader.start(statement, values, timeout)

        with answering(_gone(view.name)):
            starts = [] if for_fine is None else _fine_starts(view, at)
            return Pending(
                view,
                manifest,
                known,
                batch=start(for_batch, unknown if many else unknown[0]) if unknown else None,
                tiles=start(for_tiles, keys if many else keys[0], manifest.cut if manifest else 0),
                fine=start(for_fine, keys if many else keys[0], starts) if starts else None,
            )

    def prepare(
        self,
        project: Project,
        manifest: Manifest | None,
        timeout: float | None = None,
        reader: Reader | None = None,
    ) -> None:
        """Prepare the statements of `ask`, so that no answer waits for it."""
        by = reader or DriverReader(self.settings)
        for view, _ in project.stored_views:
            owner, version = states_of(project, view, manifest)
            with answering(_gone(view.name)):
                for many in (False, True):
                    found = self._statements(owner, view, version, many=many, look=True)
                    by.prepare([statement for statement in found if statement is not None], timeout)

    def _statements(
        self, project: str, view: FeatureView, manifest: Manifest | None, *, many: bool, look: bool
    ) -> _Statements:
        """Statements for batch part, wide and fine tiles of one key or of `many`; None where missing.

        With `look` Cassandra is asked for a table of tiles that is not known.
        """
        batch = tiles = fine = None
        where = "key IN ?" if many else "key = ?"  # one key's read goes to a node that has it
        if manifest is not None:
            if manifest.fingerprints.get(view.name) != view.fingerprint:
                raise DeclaredAnewError(
                    f"view {view.name!r} of {project!r} was declared anew since the last build: "
                    f"run 'anabranch build {project}'"
                )
            batch = f"SELECT key, states, extras FROM {manifest.tables[view.name]} WHERE {where}"
        table = tiles_table(project, view)
        known = self.has_table if look else self._tables().__contains__
        if view.source.topic is not None and known(table):
            tiles = f"SELECT key, tile_start, state, extra FROM {table} WHERE {where} AND slot >= ?"
            if len(view.tiers) > 1:
                narrow = tiles_table(project, view, fine=True)
                columns = "key, tile_start, state, extra, slot"
                fine = f"SELECT {columns} FROM {narrow} WHERE {where} AND tile_start IN ?"
        return batch, tiles, fine


def _gone(view: str) -> str:
    return f"a table of view {view!r} is gone, since another batch version is current by now"


def _fine_starts(view: FeatureView, at: int) -> list[int]:
    """Starts of the fine tiles that answers at [at, at + GRACE] take."""
    if len(view.tiers) == 1:
        return []
    wide, step = view.tiers
    stretches = edges(view.spans, wide, at, at + GRACE)
    return sorted({start for since, until in stretches for start in range(since, until, step)})
