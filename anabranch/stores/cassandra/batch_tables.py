"""Batch versions in Cassandra: their numbers, their tables of states, and the manifest that names one."""

import logging
from collections.abc import Sequence, Set

from cassandra.concurrent import execute_concurrent_with_args

from anabranch.declare.views import FeatureView
from anabranch.errors import UnavailableError
from anabranch.folds.merge import BatchPart
from anabranch.stores.cassandra.manifest import (
    GAPS,
    TABLE,
    Gap,
    Manifest,
    note_gap,
    read_gaps,
    read_manifest,
    swap_manifest,
)
from anabranch.stores.cassandra.reads import batch_part
from anabranch.stores.cassandra.session import MissingTableError, answering
from anabranch.stores.cassandra.tables import READ_AGAIN, Tables, batch_table, token_ranges

log = logging.getLogger(__name__)
# A number expires long after every build that took one has ended.
_NUMBERS = """CREATE TABLE IF NOT EXISTS batch_versions
(project text, version bigint, PRIMARY KEY (project, version))
WITH default_time_to_live = 7776000"""
_NUMBER = "INSERT INTO batch_versions (project, version) VALUES (%s, %s) IF NOT EXISTS"
_ROWS_COUNTED = 5000  # by one read


class BatchTables(Tables):
    """The manifest and the tables of batch states."""

    def manifest(self, project: str) -> Manifest | None:
        """Which batch version serves; None before the first build."""
        try:
            return self._manifest(project)
        except MissingTableError:
            with answering():
                self.session.execute(TABLE)
                self.session.execute(GAPS)
            return self._manifest(project)

    @answering()
    def _manifest(self, project: str) -> Manifest | None:
        return read_manifest(self.session, project)

    def gaps(self, project: str) -> list[Gap]:
        """The gap of each source that ends last, whether or not a build has closed it."""
        self.manifest(project)  # creates what is missing
        with answering():
            return read_gaps(self.session, project)

    @answering()
    def note_gap(self, project: str, gap: Gap) -> None:
        """Keep that the project's tiles lack events: answers are degraded until a later cut."""
        note_gap(self.session, project, gap)

    def swap(self, entry: Manifest, expected: Manifest | None, previous: Manifest | None) -> None:
        """Make `entry` current if the manifest still is `expected`, then drop versions that neither needs."""
        try:
            with answering():
                self.session.execute(TABLE)
                swap_manifest(self.session, entry, previous, expected)
        except UnavailableError:
            # Only the manifest knows whether a conditional write that got no answer was applied.
            now = self.manifest(entry.project)
            if now is None or now.batch_version != entry.batch_version:
                raise
        try:
            self._drop_old(entry, expected, previous)
        except UnavailableError as error:
            log.warning("old tables of %s stay until the next build: %s", entry.project, error)

    @answering()
    def _drop_old(self, entry: Manifest, expected: Manifest | None, previous: Manifest | None) -> None:
        needed = {*entry.tables.values(), *(previous.tables.values() if previous else ())}
        # Also those that only the version which is dropped had.
        known = (entry, previous, expected, expected and expected.previous)
        views = {view for each in known if each is not None for view in each.tables}
        newest = max(entry.batch_version, previous.batch_version if previous else 0)
        self._drop_unneeded(entry.project, views, needed, newest)

    def _drop_unneeded(self, project: str, views: Set[str], needed: Set[str], newest: int) -> None:
        prefixes = [batch_table(project, view, 0)[:-1] for view in views]
        for name in [name for name in self._tables() if name not in needed]:
            for prefix in prefixes:
                version = name.removeprefix(prefix)
                # A newer one belongs to a build that is still running.
                if version != name and version.isdigit() and int(version) <= newest:
                    log.info("dropping %s: no manifest needs it", name)
                    self.session.execute(f"DROP TABLE IF EXISTS {name}")

    @answering()
    def new_version(self, project: str, wanted: int) -> int:
        """Reserve the number of a version that no build has taken, `wanted` or the next free one."""
        self.session.execute(_NUMBERS)
        while not self.session.execute(_NUMBER, (project, wanted)).was_applied:
            wanted += 1
        return wanted

    @answering()
    def create_batch_table(self, project: str, view: str, version: int) -> str:
        """Create the table of a view's batch states and return its name."""
        name = batch_table(project, view, version)
        self.session.execute(
            f"CREATE TABLE {name} (key text PRIMARY KEY, states blob, extras blob) WITH {READ_AGAIN}"
        )
        return name

    @answering()
    def count(self, table: str, expected: int) -> int:
        """Rows of a table of states, counted by the server in ranges of about 5,000 of `expected` rows."""
        ranges = token_ranges(max(4, expected // _ROWS_COUNTED))
        statement = self.session.prepare(
            f"SELECT count(*) FROM {table} WHERE token(key) > ? AND token(key) <= ?"
        )
        results = execute_concurrent_with_args(self.session, statement, ranges, concurrency=4)
        return sum(result.one()[0] for _, result in results)

    @answering()
    def sample(self, view: FeatureView, manifest: Manifest, most: int) -> list[BatchPart]:
        """Batch parts of up to `most` keys, the first by token: a sample that every version shares."""
        if not most:
            return []
        rows = self.session.execute(f"SELECT states, extras FROM {manifest.tables[view.name]} LIMIT {most}")
        return [batch_part(view, manifest, row) for row in rows]

    @answering()
    def drop_version(self, project: str, views: Sequence[str], version: int) -> None:
        """Drop the tables of a version that failed."""
        for view in views:
            self.session.execute(f"DROP TABLE IF EXISTS {batch_table(project, view, version)}")
