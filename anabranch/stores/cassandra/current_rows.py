"""Current rows: features and score of each key as they stand, for analysts and devices, and their history.

`CURRENT_COLUMNS` is the one list of what a row has beside its keys and features: the table, the message on
the topic of scores, the schema of Spark's tables and the names that no feature may have follow from it.
`register_column` adds one.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from cassandra.cluster import ResponseFuture
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from anabranch.declare.names import INTERVAL, RESERVED, reserve
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.session import READS, MissingTableError, answering, prepared
from anabranch.stores.cassandra.tables import (
    Tables,
    current_table,
    exact_cql,
    exact_value,
    history_table,
    plain_value,
    time_of,
)
from anabranch.stores.models.versions import ScoredRow
from anabranch.values.keys import key_text
from anabranch.values.times import SECOND, format_time, from_micros, to_micros
from anabranch.values.types import BIGINT, DOUBLE, INT, STRING, TIMESTAMP, DataType

log = logging.getLogger(__name__)
_CHUNK_ROWS, _CHUNK_BYTES = 20, 16_384
_ROW_BYTES = 2 * 2**20  # of the texts of one row


@dataclass(frozen=True, kw_only=True)
class ScoredKey:
    """The content of a current row: a key, its features as of `as_of` (microseconds), and scores."""

    key: Mapping[str, str]
    values: Mapping[str, object]
    as_of: int
    layer: str
    batch_version: int | None = None
    degraded: str | None = None
    model_version: str | None = None
    scored: ScoredRow | None = None
    online_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class CurrentColumn:
    """A column of current rows: its type, its value as the driver takes it, and its value in a message.

    `declared` says which projects have it; rows merged at a time other than now have it only where it is
    `merged`.
    """

    name: str
    type: DataType
    value: Callable[[ScoredKey], object]
    message: Callable[[Any], object] = lambda value: value
    declared: Callable[[Project], bool] = lambda _: True
    merged: bool = True


def _learns_online(project: Project) -> bool:
    return project.model is not None and project.model.online is not None


def _labelled(kind: DataType) -> CurrentColumn:
    """The label, of the type that the project's labels have."""
    return CurrentColumn(
        name="label",
        type=kind,
        value=lambda row: None if row.scored is None else _fitting_label(row.scored.label, kind),
        declared=lambda project: label_type(project) is kind,
    )


def _fitting_label(label: int | str | None, kind: DataType) -> int | str | None:
    """The label as the column has it: a champion from before the label was declared anew may give others."""
    if label is None or kind.text:
        return None if label is None else str(label)
    return label if isinstance(label, int) else None


def label_type(project: Project) -> DataType:
    """The type of a project's labels: INT for 0 and 1, STRING or BIGINT for several classes."""
    if project.task != "classes" or project.label is None:
        return INT
    return STRING if project.label.type.text else BIGINT


def _end(place: int, row: ScoredKey) -> float | None:
    return None if row.scored is None or row.scored.interval is None else row.scored.interval[place]


def _scores_text(row: ScoredKey) -> str | None:
    return None if row.scored is None or row.scored.scores is None else json.dumps(row.scored.scores)


CURRENT_COLUMNS = [
    CurrentColumn(
        name="score", type=DOUBLE, value=lambda row: None if row.scored is None else row.scored.score
    ),
    _labelled(INT),
    _labelled(STRING),
    _labelled(BIGINT),
    CurrentColumn(
        name="scores",
        type=STRING,
        value=_scores_text,
        message=lambda text: None if text is None else json.loads(text),
        declared=lambda project: project.task == "classes",
    ),
    *(
        CurrentColumn(
            name=name,
            type=DOUBLE,
            value=partial(_end, place),
            declared=lambda project: project.model is not None and project.model.interval is not None,
        )
        for place, name in enumerate(INTERVAL)
    ),
    CurrentColumn(name="model_version", type=STRING, value=lambda row: row.model_version),
    CurrentColumn(name="batch_version", type=BIGINT, value=lambda row: row.batch_version),
    CurrentColumn(
        name="as_of",
        type=TIMESTAMP,
        value=lambda row: from_micros(row.as_of),
        message=lambda moment: format_time(to_micros(moment)),
    ),
    CurrentColumn(name="layer", type=STRING, value=lambda row: row.layer),
    CurrentColumn(
        name="degraded",
        type=STRING,
        value=lambda row: row.degraded,
        message=lambda reason: reason is not None,
    ),
    CurrentColumn(
        name="online_score",
        type=DOUBLE,
        value=lambda row: row.online_score,
        declared=_learns_online,
        merged=False,
    ),
]
"""The columns, in their order."""


def register_column(column: CurrentColumn) -> None:
    """Add a column to the current rows of every project that declares it; its name is then reserved.

    Spark's workers need the same call: make it in a module that they import.
    """
    if column.name in RESERVED:
        raise ValueError(f"column {column.name!r} exists already: give the new one a name of its own")
    reserve(column.name)
    CURRENT_COLUMNS.append(column)


def own_columns(project: Project, *, merged: bool = False) -> list[CurrentColumn]:
    """The columns of a project's rows beside its keys and features."""
    return [
        column for column in CURRENT_COLUMNS if column.declared(project) and (column.merged or not merged)
    ]


def current_columns(project: Project, *, merged: bool = False) -> dict[str, DataType]:
    """Columns of a current row beside `key`: the project's keys, its features and `own_columns`."""
    features = {column.name: column.type for column in project.columns}
    keys = {name: STRING for name in project.keys if name not in features and name != "key"}
    own = {column.name: column.type for column in own_columns(project, merged=merged)}
    return {**keys, **features, **own}


def time_features(project: Project) -> list[str]:
    """Features whose values are times, or lists of them."""
    return [column.name for column in project.columns if exact_cql(column.type) != column.type.cql]


def current_rows(project: Project, scored: Iterable[ScoredKey]) -> list[dict[str, Any]]:
    """Rows of the table of current rows, all with the same columns."""
    types = {column.name: column.type for column in project.columns}
    names = [name for name in project.keys if name not in types and name != "key"]
    own = own_columns(project)
    return [
        {
            "key": key_text(project.keys, one.key),
            **{name: one.key[name] for name in names},
            **{name: types[name].to_cql(value) for name, value in one.values.items()},
            **{column.name: column.value(one) for column in own},
        }
        for one in map(_fitting, scored)
    ]


def _fitting(row: ScoredKey) -> ScoredKey:
    """The row without the largest of its texts, lists and maps where they are more than the store takes."""
    sizes = {name: size for name, value in row.values.items() if (size := _text_bytes(value))}
    if (total := sum(sizes.values())) <= _ROW_BYTES:
        return row
    values, lost = dict(row.values), []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if total > _ROW_BYTES:
            values[name], total = None, total - sizes[name]
            lost.append(name)
    why = f"{', '.join(lost)} of this key are more than the store takes: keep fewer or shorter values"
    return replace(row, values=values, degraded="; ".join(filter(None, (row.degraded, why))))


def current_message(project: Project, row: Mapping[str, Any]) -> str:
    """The JSON of a current row on the topic of scores, without its features."""
    own = {column.name: column.message(row[column.name]) for column in own_columns(project)}
    return json.dumps({"key": row["key"], **own})


@dataclass(frozen=True, kw_only=True)
class CurrentRow:
    """A current row without its features: `key` is stored text, `as_of` is in microseconds."""

    key: str
    score: float | None
    label: int | str | None
    model_version: str | None
    batch_version: int | None
    as_of: int
    layer: str


@dataclass(frozen=True)
class CurrentWrite:
    """A write of current rows in flight."""

    futures: Sequence[ResponseFuture] = ()

    @answering()
    def wait(self) -> None:
        """Wait for its end; raises the first error."""
        for future in self.futures:
            future.result()


class CurrentRows(Tables):
    """The tables of current rows and of their history."""

    @answering()
    def ensure_current(self, project: Project) -> None:
        """Create the tables or add missing columns; a table where a column has another type is recreated."""
        times = time_features(project)
        wanted = {
            name: exact_cql(kind) if name in times else kind.cql
            for name, kind in current_columns(project).items()
        }
        columns = ", ".join(f'"{name}" {kind}' for name, kind in wanted.items())
        self._ensure(current_table(project.name), f"(key text PRIMARY KEY, {columns})", wanted)
        if self.settings.history_ttl_days:
            ttl = self.settings.history_ttl_days * 86_400
            self._ensure(
                history_table(project.name),
                f"(key text, slot timestamp, {columns}, PRIMARY KEY ((key), slot)) "
                f"WITH CLUSTERING ORDER BY (slot DESC) AND default_time_to_live = {ttl}",
                wanted,
            )

    def _ensure(self, table: str, shape: str, wanted: Mapping[str, str]) -> None:
        create = f"CREATE TABLE IF NOT EXISTS {table} {shape}"
        self.session.execute(create)
        known = {name: column.cql_type for name, column in self._tables()[table].columns.items()}
        if any(known.get(name, kind) != kind for name, kind in wanted.items()):
            log.warning("%s is recreated: the type of a column has changed", table)
            self.session.execute(f"DROP TABLE {table}")
            self.session.execute(create)
            return
        for name in wanted.keys() - known.keys():
            self.session.execute(f'ALTER TABLE {table} ADD "{name}" {wanted[name]}')

    def write_current(self, project: str, rows: Sequence[Mapping[str, Any]], as_of: int) -> None:
        """Upsert current rows, all with the same columns, and their history; rows of a later `as_of` stay."""
        self.start_current(project, rows, as_of).wait()

    @answering()
    def start_current(self, project: str, rows: Sequence[Mapping[str, Any]], as_of: int) -> CurrentWrite:
        """Start what `write_current` does.

        Both rows of a key lie on the same nodes and travel in one request.
        """
        if not rows:
            return CurrentWrite()
        session, width = self.session, self.settings.history_seconds * SECOND
        insert = self._insertion(current_table(project), rows[0])
        keep = (
            self._insertion(history_table(project), ["slot", *rows[0]])
            if self.settings.history_ttl_days
            else None
        )
        slot, own = from_micros(as_of // width * width), {column.name for column in CURRENT_COLUMNS}
        futures = []
        for chunk, size in _chunks(rows):
            writes = []
            for row in chunk:
                values = [value if name in own else exact_value(value) for name, value in row.items()]
                writes.append((insert, [*values, as_of]))
                if keep is not None:
                    writes.append((keep, [slot, *values, as_of]))
            if size > _CHUNK_BYTES:
                # Cassandra refuses large batches, not large rows; such a chunk is of one row.
                futures += [session.execute_async(*write) for write in writes]
                continue
            request = BatchStatement(batch_type=BatchType.UNLOGGED)
            for write in writes:
                request.add(*write)
            futures.append(session.execute_async(request))
        return CurrentWrite(futures)

    def _insertion(self, table: str, names: Iterable[str]) -> PreparedStatement:
        found = self._tables().get(table)
        # Values bound for the types of a table before it was recreated would be stored as other numbers.
        types = tuple(f"{one.name} {one.cql_type}" for one in found.columns.values()) if found else ()
        quoted = [f'"{name}"' for name in names]
        marks = ", ".join("?" * len(quoted))
        insert = f"INSERT INTO {table} ({', '.join(quoted)}) VALUES ({marks}) USING TIMESTAMP ?"
        return prepared(self.session, insert, types)

    @answering()
    def approximate_scores(
        self, project: str, keys: Sequence[str], model_version: str
    ) -> dict[str, tuple[float, int | str | None]]:
        """Score and label, by key, of those current rows of `keys` that the stream wrote with this model."""
        session, table = self.session, current_table(project)
        statement = prepared(
            session,
            f"SELECT key, score, label FROM {table} "
            "WHERE key = ? AND layer = 'speed' AND model_version = ? ALLOW FILTERING",
        )
        results = execute_concurrent_with_args(
            session,
            statement,
            [(key, model_version) for key in keys],
            concurrency=200,
            execution_profile=READS,
        )
        rows = [one for result in results for one in result.result_or_exc]
        return {key: (score, label) for key, score, label in rows if score is not None}

    def current(self, project: Project, key: str) -> dict[str, Any] | None:
        """The current row of a key (stored text), or None."""
        with answering(f"the current rows of {project.name!r} are being recreated"):
            table = current_table(project.name)
            if not self.has_table(table):
                return None
            result = self.session.execute(f"SELECT * FROM {table} WHERE key = %s", (key,))
            row = result.one()
        if row is None:
            return None
        found, times = zip(result.column_names, row, strict=True), set(time_features(project))
        return {name: time_of(value) if name in times else plain_value(value) for name, value in found}

    def sample_current(self, project: Project, most: int) -> list[CurrentRow]:
        """Up to `most` current rows, the first by token (a random sample); none before the first build."""
        names = ("key", "score", "label", "model_version", "batch_version", "as_of", "layer")
        rows = [dict(zip(names, row, strict=True)) for row in self._first(project, names, most)]
        return [
            CurrentRow(**{**row, "as_of": to_micros(row["as_of"]), "layer": row["layer"] or ""})
            for row in rows
            if isinstance(row["as_of"], datetime)
        ]

    def sample_features(self, project: Project, names: Sequence[str], most: int) -> list[dict[str, Any]]:
        """Features `names` of up to `most` current rows; none where a feature is newer than the build."""
        times = set(time_features(project))
        rows = [zip(names, row, strict=True) for row in self._first(project, names, most)]
        return [{name: time_of(value) if name in times else value for name, value in row} for row in rows]

    def _first(self, project: Project, names: Sequence[str], most: int) -> list[list[Any]]:
        table, columns = current_table(project.name), ", ".join(f'"{name}"' for name in names)
        if not self.has_table(table):
            return []
        try:
            with answering():
                rows = list(self.session.execute(f"SELECT {columns} FROM {table} LIMIT {int(most)}"))
        except MissingTableError:  # the table is being recreated
            return []
        return [[plain_value(value) for value in row] for row in rows]


def _chunks(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Sequence[Mapping[str, Any]], int]]:
    """Rows that travel together, and about their bytes: a request costs more than its rows, but Cassandra
    refuses large ones.
    """
    start = size = 0
    for position, row in enumerate(rows):
        bytes_ = 16 * len(row) + sum(map(_text_bytes, row.values()))
        if position > start and (size + bytes_ > _CHUNK_BYTES or position - start >= _CHUNK_ROWS):
            yield rows[start:position], size
            start, size = position, 0
        size += bytes_
    yield rows[start:], size


def _text_bytes(value: object) -> int:
    """About the bytes of a text, a list or a map, 0 for other values."""
    measure = _MEASURES.get(type(value))
    return 0 if measure is None else measure(value)


def _bytes_of_text(value: str) -> int:
    return len(value) if value.isascii() else 4 * len(value)


_MEASURES: dict[type, Callable[[Any], int]] = {
    str: _bytes_of_text,
    bytes: len,
    dict: lambda value: sum(32 + _text_bytes(name) for name in value),
    list: lambda value: sum(16 + _text_bytes(one) for one in value),
}
"""What measures a value, by its type: most values are numbers, and each row has dozens."""
