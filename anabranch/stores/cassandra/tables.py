"""Names and types of tables in Cassandra, and what every gateway to them shares."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cassandra import InvalidRequest, RequestExecutionException
from cassandra.cluster import NoHostAvailable, Session
from cassandra.util import Date as CassandraDate

from anabranch.declare.views import FeatureView
from anabranch.settings import ViewsSettings
from anabranch.stores.cassandra.session import answering, is_connected, session_for
from anabranch.values.times import from_micros, parse_time, sortable_time
from anabranch.values.types import BIGINT, BOOLEAN, DATE, DOUBLE, INT, STRING, TIMESTAMP, DataType

READ_AGAIN = "speculative_retry = 'MIN(99p,50ms)'"
"""An option of tables that answers read: a node that is slow or was lost just now is not waited for.

By default another replica is asked after the 99th percentile of a table's own reads, which may be seconds in
a table that few have read.
"""
_LONGEST = 48
_SPARK_TYPES = {
    **{kind.cql: str(kind) for kind in (BIGINT, BOOLEAN, DATE, DOUBLE, INT, STRING, TIMESTAMP)},
    "blob": "BINARY",
    "varchar": "STRING",
    "ascii": "STRING",
    "smallint": "SMALLINT",
    "float": "FLOAT",
    "decimal": "DECIMAL(38,10)",
}


def table_name(project: str, view: str, suffix: str) -> str:
    """Name of a table of states, shortened by a digest when it would exceed Cassandra's 48 characters."""
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


def is_of_project(table: str, project: str, kinds: str = "bwf") -> bool:
    """Whether the name of a table tells that it has states of a project: batch states (b), tiles (w and f).

    A shortened name tells none.
    """
    view = r"(?![0-9a-f]{10}__)[a-z0-9]+(_[a-z0-9]+)*"
    return bool(re.fullmatch(rf"{project}__{view}__([{kinds}][0-9a-f]{{12}}|[{kinds}]\d+)", table))


def current_table(project: str) -> str:
    """Table of a project's current rows."""
    return f"{project}_current"


def history_table(project: str) -> str:
    """Table of the earlier current rows of a project."""
    return f"{project}_history"


def spark_type(cql: str) -> str:
    """Spark's type of a CQL column; types that Spark does not have are read as texts."""
    if cql.startswith("frozen<list<"):
        return f"ARRAY<{spark_type(cql.removeprefix('frozen<list<').removesuffix('>>'))}>"
    if cql.startswith("frozen<map<text, "):
        return f"MAP<STRING, {spark_type(cql.removeprefix('frozen<map<text, ').removesuffix('>>'))}>"
    return _SPARK_TYPES.get(cql, "STRING")


def exact_cql(kind: DataType) -> str:
    """CQL's type of a feature: times are texts (`sortable_time`), as CQL's own keep milliseconds only."""
    return kind.cql.replace(TIMESTAMP.cql, STRING.cql)


def exact_value(value: Any) -> Any:
    """A feature's value as the driver takes it for a column of `exact_cql`."""
    if isinstance(value, list):
        return [exact_value(one) for one in value]
    return sortable_time(value) if isinstance(value, datetime) else value


def time_of(value: Any) -> Any:
    """The time, or list of times, that `exact_value` made a text of; other values as they are."""
    if isinstance(value, list):
        return [time_of(one) for one in value]
    return from_micros(parse_time(value)) if isinstance(value, str) else value


def plain_value(value: Any) -> Any:
    """A value that the driver read as Python's own: dates, times with their zone, and dicts."""
    if isinstance(value, list):
        return [plain_value(one) for one in value]
    if isinstance(value, Mapping):
        return {name: plain_value(one) for name, one in value.items()}
    if isinstance(value, CassandraDate):
        return value.date()
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def token_ranges(count: int) -> list[tuple[int, int]]:
    """All tokens as `count` ranges (start, end]; the first one holds its start too."""
    return list(pairwise(-(2**63) + (2**64 - 1) * i // count for i in range(count + 1)))


class Tables:
    """Tables of one keyspace; holds only settings, so it can travel to Spark's workers."""

    def __init__(self, settings: ViewsSettings) -> None:
        self.settings = settings

    @property
    def session(self) -> Session:
        """The process's session."""
        return session_for(self.settings)

    @property
    def connected(self) -> bool:
        """Whether a read starts at once; otherwise it connects first, which may take seconds."""
        return is_connected(self.settings)

    @property
    def tables(self) -> list[str]:
        """The names of all tables."""
        return list(self._tables())

    def has_table(self, name: str) -> bool:
        """Whether the table can be read; asks Cassandra where it is not known: others make tables too.

        What the driver knows follows events, which come late: without this a worker of Spark that stays would
        take the tiles of a new project for none.
        """
        if name not in self._tables() and self._can_be_read(name):
            self.session.cluster.refresh_table_metadata(self.settings.keyspace, name)
        return name in self._tables()

    def _can_be_read(self, name: str) -> bool:
        """Whether a young table can be read: Cassandra lists it, and prepares reads of it, before that.

        Nothing has been written to it by then: who makes it waits until all nodes have it.
        """
        with answering():
            try:
                self.session.execute(f"SELECT * FROM {name} LIMIT 1")
            except InvalidRequest:
                return False
            except (NoHostAvailable, RequestExecutionException) as error:
                if "Unknown CF" in str(error):
                    return False
                raise
        return True

    def _tables(self) -> Mapping[str, Any]:
        tables: Mapping[str, Any] = self.session.cluster.metadata.keyspaces[self.settings.keyspace].tables
        return tables
