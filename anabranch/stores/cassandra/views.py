"""Views in Cassandra: batch tables by version, tiles of the stream, current rows for analysts, the manifest.

    <project>__<view>__b<version>       key -> states, extras                          dropped when two versions old
    <project>__<view>__w<fingerprint>   (key) slot, tile_start -> state, extra         wide tiles; TTL beyond the rollback horizon
    <project>__<view>__f<fingerprint>   (key) tile_start, slot -> state, extra         fine tiles of views that have them
    <project>_current                   key -> every feature, score, versions, as_of, layer, degraded
    <project>_history                   (key) slot -> the same: the key's last row of each slot; TTL by setting
    manifest                            project -> current and previous batch version
    batch_versions                      project, version: numbers that builds took

A table of states belongs to one fingerprint of its view, so states of two meanings never meet.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cassandra import InvalidRequest
from cassandra.cluster import ResponseFuture, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType, PreparedStatement
from cassandra.util import Date as CassandraDate

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.declare.windows import edges
from anabranch.errors import AnabranchError, UnavailableError, ViewUnavailableError
from anabranch.folds.merge import BatchPart, Known
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.manifest import TABLE, Manifest, read_manifest, swap_manifest
from anabranch.stores.cassandra.reads import AWAY, Pending, batch_part, gone
from anabranch.stores.cassandra.session import READS, is_connected, prepared, session_for
from anabranch.values.times import MINUTE, SECOND, from_micros
from anabranch.values.types import BIGINT, DOUBLE, INT, STRING, TIMESTAMP, DataType

log = logging.getLogger(__name__)
_LONGEST = 48
# Numbers are forgotten long after every build that took one has ended.
RESERVED = "CREATE TABLE IF NOT EXISTS batch_versions (project text, version bigint, PRIMARY KEY (project, version)) WITH default_time_to_live = 7776000"
_CHUNK_ROWS, _CHUNK_BYTES = 20, 16_384
_KEYS_A_READ = 20
GRACE = MINUTE
"""An answer as of now has the time at which its reads are done, which may be this much later than they were asked for."""


def table_name(project: str, view: str, suffix: str) -> str:
    """Name of a table of states, shortened by a digest when it would pass Cassandra's 48 characters."""
    name = f"{project}__{view}__{suffix}"
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(f"{project}__{view}".encode()).hexdigest()[:10]
    return f"{project[:12]}__{digest}__{suffix}"


def batch_table(project: str, view: str, version: int) -> str:
    """Table of a view's batch states of one version."""
    return table_name(project, view, f"b{version}")


def tiles_table(project: str, view: FeatureView, *, fine: bool = False) -> str:
    """Table of a view's tiles, wide or fine."""
    return table_name(project, view.name, f"{'f' if fine else 'w'}{view.fingerprint}")


def current_table(project: str) -> str:
    """Table of a project's current rows."""
    return f"{project}_current"


def history_table(project: str) -> str:
    """Table of what a project's current rows were."""
    return f"{project}_history"


def current_columns(project: Project) -> dict[str, DataType]:
    """What a current row has beside `key`, and merged rows too: the project's keys, every feature, score, versions, and `degraded`: why features
    may not be exact, NULL when they are.
    """  # fmt: skip
    features = {column.name: column.type for column in project.columns}
    keys = {name: STRING for name in project.keys if name not in features and name != "key"}
    versions = {"model_version": STRING, "batch_version": BIGINT}
    said = {
        "score": DOUBLE,
        "label": INT,
        **versions,
        "as_of": TIMESTAMP,
        "layer": STRING,
        "degraded": STRING,
    }
    return {**keys, **features, **said}


class DeclaredAnewError(AnabranchError):
    """A view means something else than at the last build."""


class Views:
    """The gateway; holds only settings, so it can travel to Spark's workers."""

    def __init__(self, settings: ViewsSettings) -> None:
        self.settings = settings

    @property
    def session(self) -> Session:
        """The process's session, with the manifest's table in place."""
        return session_for(self.settings)

    def manifest(self, project: str) -> Manifest | None:
        """Which batch version serves; None before the first build."""
        try:
            return read_manifest(self.session, project)
        except InvalidRequest:
            self.session.execute(TABLE)
            return read_manifest(self.session, project)
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error

    def swap(self, entry: Manifest, expected: Manifest | None, previous: Manifest | None) -> None:
        """Make `entry` current if the manifest still is `expected`, then drop versions that neither can need."""
        self.session.execute(TABLE)
        try:
            swap_manifest(self.session, entry, previous, expected)
        except AWAY as error:
            # Whether a conditional write that got no answer was made, only the manifest knows.
            found = self.manifest(entry.project)
            if found is None or found.batch_version != entry.batch_version:
                raise UnavailableError(
                    f"Cassandra did not answer: {error}: see 'anabranch status'"
                ) from error
        try:
            self._drop_old(entry, expected, previous)
        except AWAY as error:
            log.warning("old tables of %s stay until the next build: %s", entry.project, error)

    def _drop_old(self, entry: Manifest, expected: Manifest | None, previous: Manifest | None) -> None:
        needed = {*entry.tables.values(), *(previous.tables.values() if previous else ())}
        known = {
            *entry.tables,
            *(previous.tables if previous else ()),
            *(expected.tables if expected else ()),
        }
        self._drop_unneeded(
            entry.project, known, needed, max(entry.batch_version, previous.batch_version if previous else 0)
        )

    def _drop_unneeded(self, project: str, views: Set[str], needed: Set[str], newest: int) -> None:
        prefixes = [batch_table(project, view, 0)[:-1] for view in views]
        for name in [name for name in self._tables() if name not in needed]:
            for prefix in prefixes:
                version = name.removeprefix(prefix)
                # A newer one belongs to a build that is still under way.
                if version != name and version.isdigit() and int(version) <= newest:
                    log.info("dropping %s: no manifest needs it", name)
                    self.session.execute(f"DROP TABLE IF EXISTS {name}")

    def new_version(self, project: str, wanted: int) -> int:
        """Reserve the number of a version that nobody has, `wanted` or the next free one."""
        self.session.execute(RESERVED)
        while not self.session.execute(
            "INSERT INTO batch_versions (project, version) VALUES (%s, %s) IF NOT EXISTS", (project, wanted)
        ).was_applied:
            wanted += 1
        return wanted

    def create_batch_table(self, project: str, view: str, version: int) -> str:
        """Create the table of a view's batch states; its name."""
        name = batch_table(project, view, version)
        self.session.execute(f"CREATE TABLE {name} (key text PRIMARY KEY, states blob, extras blob)")
        return name

    def count(self, table: str, expected: int) -> int:
        """Rows of a table of states, counted by the server over ranges of about 5,000 of `expected` rows."""
        ranges = max(4, expected // 5000)
        edges = [-(2**63) + (2**64 - 1) * i // ranges for i in range(ranges + 1)]
        asked = self.session.prepare(f"SELECT count(*) FROM {table} WHERE token(key) > ? AND token(key) <= ?")
        found = execute_concurrent_with_args(self.session, asked, list(pairwise(edges)), concurrency=4)
        return sum(result.one()[0] for _, result in found)

    def sample(self, view: FeatureView, manifest: Manifest, most: int) -> list[BatchPart]:
        """Batch parts of up to `most` keys: those first in the order of tokens, which is random and the same in every version."""
        rows = (
            self.session.execute(f"SELECT states, extras FROM {manifest.tables[view.name]} LIMIT {most}")
            if most
            else []
        )
        return [batch_part(view, manifest, row) for row in rows]

    def drop_version(self, project: str, views: Sequence[str], version: int) -> None:
        """Drop the tables of a version that failed."""
        for view in views:
            self.session.execute(f"DROP TABLE IF EXISTS {batch_table(project, view, version)}")

    def ensure_tiles(self, project: Project) -> None:
        """Create the tile tables of a project's views."""
        ttl = self.settings.tile_ttl_days * 86_400
        for view in project.views:
            for fine in (False, True)[: len(view.tiers)]:
                order = "tile_start, slot" if fine else "slot, tile_start"
                self.session.execute(
                    f"""CREATE TABLE IF NOT EXISTS {tiles_table(project.name, view, fine=fine)} (key text, slot bigint, tile_start bigint,
                    state blob, extra blob, PRIMARY KEY ((key), {order})) WITH default_time_to_live = {ttl}"""
                )

    @property
    def connected(self) -> bool:
        """Whether asking begins at once: otherwise it first connects, which may take seconds."""
        return is_connected(self.settings)

    def ask(
        self,
        project: str,
        view: FeatureView,
        known: Mapping[str, BatchPart | None],
        manifest: Manifest | None,
        at: int,
        timeout: float | None = None,
    ) -> list[Pending]:
        """Start reading what batch and stream know of keys, side by side; a batch part that is `known` is not read. `timeout` in seconds.

        Many keys go into one read, which costs more than the rows it brings. Fine tiles are read for any answer at a time in [at, at + GRACE].
        """
        found = []
        names = list(known)
        for start in range(0, len(names), _KEYS_A_READ):
            some = names[start : start + _KEYS_A_READ]
            unknown = [key for key in some if known[key] is None]
            found.append(
                Pending(
                    view,
                    manifest,
                    {key: known[key] for key in some},
                    *self._reads(project, view, manifest, at, unknown, some, timeout),
                )
            )
        return found

    def known(self, project: str, view: FeatureView, key: str, manifest: Manifest | None, at: int) -> Known:
        """What batch and stream know of one key; waits for it."""
        (pending,) = self.ask(project, view, {key: None}, manifest, at)
        return pending.result()[key]

    def _reads(
        self,
        project: str,
        view: FeatureView,
        manifest: Manifest | None,
        at: int,
        batch: Sequence[str],
        tiles: Sequence[str],
        timeout: float | None,
    ) -> tuple[ResponseFuture | None, ResponseFuture | None, ResponseFuture | None]:
        """Reads of the tiles, wide and fine, of some keys, and of the batch parts of those in `batch`, which are among them."""
        session, found, many = self.session, [None, None, None], len(tiles) > 1
        more = {"execution_profile": READS, **({} if timeout is None else {"timeout": timeout})}
        try:
            for_batch, for_tiles, for_fine = self._statements(session, project, view, manifest, many=many)
            if for_batch is not None and batch:
                found[0] = session.execute_async(for_batch, (batch if many else batch[0],), **more)
            keys = tiles if many else tiles[0]
            if for_tiles is not None:
                found[1] = session.execute_async(for_tiles, (keys, manifest.cut if manifest else 0), **more)
            if for_fine is not None and (starts := _fine_starts(view, at)):
                found[2] = session.execute_async(for_fine, (keys, starts), **more)
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error
        except InvalidRequest as error:
            raise gone(f"view {view.name!r} of {project!r}", error) from error
        return found[0], found[1], found[2]

    def prepare(self, project: Project, manifest: Manifest | None) -> None:
        """Prepare the statements of `ask`, so that the first answers need not wait for it."""
        try:
            for view in project.views:
                for many in (False, True):
                    self._statements(self.session, project.name, view, manifest, many=many)
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error

    def _statements(
        self,
        session: Session,
        project: str,
        view: FeatureView,
        manifest: Manifest | None,
        *,
        many: bool = False,
    ) -> tuple[PreparedStatement | None, ...]:
        """How a view's batch part, its wide and its fine tiles are read, of one key or of `many`; None for what it does not have."""
        batch = tiles = fine = None
        where = "key IN ?" if many else "key = ?"  # one key's read goes to a node that has it
        if manifest is not None:
            if manifest.fingerprints.get(view.name) != view.fingerprint:
                raise DeclaredAnewError(
                    f"view {view.name!r} of {project!r} was declared anew since the last build: run 'anabranch build {project}'"
                )
            batch = prepared(
                session, f"SELECT key, states, extras FROM {manifest.tables[view.name]} WHERE {where}"
            )
        table = tiles_table(project, view)
        if view.source.topic is not None and table in self._tables():
            tiles = prepared(
                session, f"SELECT key, tile_start, state, extra FROM {table} WHERE {where} AND slot >= ?"
            )
            if len(view.tiers) > 1:
                narrow = tiles_table(project, view, fine=True)
                fine = prepared(
                    session,
                    f"SELECT key, tile_start, state, extra, slot FROM {narrow} WHERE {where} AND tile_start IN ?",
                )
        return batch, tiles, fine

    def has_table(self, name: str) -> bool:
        """Is there such a table?"""
        return name in self._tables()

    def _tables(self) -> Mapping[str, Any]:
        tables: Mapping[str, Any] = self.session.cluster.metadata.keyspaces[self.settings.keyspace].tables
        return tables

    def ensure_current(self, project: Project) -> None:
        """Create or widen the project's tables of current rows and their history; one with a column whose type changed is made anew."""
        wanted = {name: kind.cql for name, kind in current_columns(project).items()}
        if project.model is not None and project.model.online is not None:
            wanted["online_score"] = "double"
        columns = ", ".join(f'"{name}" {kind}' for name, kind in wanted.items())
        self._ensure(current_table(project.name), f"(key text PRIMARY KEY, {columns})", wanted)
        if self.settings.history_ttl_days:
            more = f"CLUSTERING ORDER BY (slot DESC) AND default_time_to_live = {self.settings.history_ttl_days * 86_400}"
            self._ensure(
                history_table(project.name),
                f"(key text, slot timestamp, {columns}, PRIMARY KEY ((key), slot)) WITH {more}",
                wanted,
            )

    def _ensure(self, table: str, shape: str, wanted: Mapping[str, str]) -> None:
        create = f"CREATE TABLE IF NOT EXISTS {table} {shape}"
        self.session.execute(create)
        known = {name: column.cql_type for name, column in self._tables()[table].columns.items()}
        if any(known.get(name, kind) != kind for name, kind in wanted.items()):
            log.warning("%s is made anew: a column has another type now", table)
            self.session.execute(f"DROP TABLE {table}")
            self.session.execute(create)
            return
        for name in wanted.keys() - known.keys():
            self.session.execute(f'ALTER TABLE {table} ADD "{name}" {wanted[name]}')

    def write_current(self, project: str, rows: Sequence[Mapping[str, Any]], as_of: int) -> None:
        """Upsert current rows, all with the same columns, and their history; a row of a later `as_of` is never overwritten by an earlier one.

        Both rows of a key lie on the same nodes and travel in one request.
        """
        if not rows:
            return
        session, width = self.session, self.settings.history_seconds * SECOND
        insert = self._insertion(current_table(project), rows[0])
        keep = (
            self._insertion(history_table(project), ["slot", *rows[0]])
            if self.settings.history_ttl_days
            else None
        )
        slot = from_micros(as_of // width * width)
        futures = []
        for chunk in _chunks(rows):
            request = BatchStatement(batch_type=BatchType.UNLOGGED)
            for row in chunk:
                request.add(insert, [*row.values(), as_of])
                if keep is not None:
                    request.add(keep, [slot, *row.values(), as_of])
            futures.append(session.execute_async(request))
        for future in futures:
            future.result()

    def _insertion(self, table: str, names: Iterable[str]) -> PreparedStatement:
        found = self._tables().get(table)
        # Values bound for the types of a table that was made anew meanwhile would be stored as other numbers.
        types = (
            tuple(f"{column.name} {column.cql_type}" for column in found.columns.values()) if found else ()
        )
        quoted = [f'"{name}"' for name in names]
        statement = f"INSERT INTO {table} ({', '.join(quoted)}) VALUES ({', '.join('?' * len(quoted))}) USING TIMESTAMP ?"
        return prepared(self.session, statement, types)

    def approximate_scores(
        self, project: str, keys: Sequence[str], model_version: str
    ) -> dict[str, tuple[float, int | None]]:
        """Score and label of those current rows of `keys` that the stream wrote with this model, by key; all reads run side by side."""
        session, table = self.session, current_table(project)
        statement = prepared(
            session,
            f"SELECT key, score, label FROM {table} WHERE key = ? AND layer = 'speed' AND model_version = ? ALLOW FILTERING",
        )
        found = execute_concurrent_with_args(
            session,
            statement,
            [(key, model_version) for key in keys],
            concurrency=200,
            execution_profile=READS,
        )
        rows = [one for result in found for one in result.result_or_exc]
        return {key: (score, label) for key, score, label in rows if score is not None}

    def current(self, project: Project, key: str) -> dict[str, Any] | None:
        """The current row of a key; None when there is none."""
        try:
            if current_table(project.name) not in self._tables():
                return None
            found = self.session.execute(
                f"SELECT * FROM {current_table(project.name)} WHERE key = %s", (key,)
            )
        except AWAY as error:
            raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error
        except InvalidRequest as error:
            raise ViewUnavailableError(
                f"the current rows of {project.name!r} are being made anew ({error}): try again"
            ) from error
        row = found.one()
        return (
            None
            if row is None
            else {name: _plain(value) for name, value in zip(found.column_names, row, strict=True)}
        )


def _chunks(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Rows that travel together: a request costs more than the row in it, but Cassandra refuses large ones."""
    start = size = 0
    for position, row in enumerate(rows):
        mine = sum(
            16
            + (
                4 * len(value)
                if isinstance(value, str)
                else 64 * len(value)
                if isinstance(value, list)
                else 0
            )
            for value in row.values()
        )
        if position > start and (size + mine > _CHUNK_BYTES or position - start >= _CHUNK_ROWS):
            yield rows[start:position]
            start, size = position, 0
        size += mine
    yield rows[start:]


def _fine_starts(view: FeatureView, at: int) -> list[int]:
    """Starts of the fine tiles that answers at [at, at + GRACE] take."""
    if len(view.tiers) == 1:
        return []
    wide, step = view.tiers
    stretches = {*edges(view.spans, wide, at), *edges(view.spans, wide, at + GRACE)}
    return sorted({start for since, until in stretches for start in range(since, until, step)})


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, CassandraDate):
        return value.date()
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
