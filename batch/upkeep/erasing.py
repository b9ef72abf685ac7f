"""Erasing a key: deletes everything that the project keeps about it, from older versions of its tables too.

    events         rows with the key's columns, and predictions that were requested for the key
    quarantine     bad rows whose text has the key's value as a word, since it cannot be parsed for certain
    states         grains of the key
    serving store  batch parts of both versions, tiles, the current row and its history

A table of the user that a source reads where it lies is never changed: as long as it has rows of the key,
nothing is erased, and the error says where they are.

Deleted rows are removed from disk at once, so that no earlier version can be read again, neither by
`reproduce` nor by a job that is reading one. A view whose key is only a part of the erased one (an airport,
when a plane is erased) keeps its rows until the build that follows has computed them anew.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.predictions import NAME, landed_sources
from anabranch.folds.spark import key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.removal import erase_current, erase_states
from anabranch.stores.lake.increments import states_there
from anabranch.stores.lake.lake import READABLE_FROM, as_stored
from anabranch.stores.lake.light import stored_name
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.lake.table_files import Table
from anabranch.stores.opened import Stores
from anabranch.values.datatype import DataType
from anabranch.values.keys import key_text, read_key
from anabranch.values.names import quoted
from batch.building.kept_states import keys_name, sources_of_keys

_ESCAPES = {
    **{character: (rf"\\{letter}",) for character, letter in zip("\b\f\n\r\t/", "bfnrt/", strict=True)},
    '"': (r"\\\"", '""'),
    "\\": (r"\\\\",),
}
"""Short escapes of JSON, and CSV's doubled quote, as patterns."""
_LETTER = r"[\w\-\u00c0-\u02af\u0370-\u1fff\u3040-\ud7ff]"
_LETTER_ESCAPED = (
    r"\\u(?i:002d|003[0-9]|004[1-9a-f]|005[0-9af]|006[1-9a-f]|007[0-9a]|00[c-f]|0[1-9a-f]|[1-9a-f])"
)
# Behind an escape that is no letter, the text before ends with letters of the escape itself.
_NO_LETTER_ESCAPED = (
    r"(?<=\\[bfnrt])|(?<=\\u00[01][0-9a-fA-F])|(?<=\\u002[0-9a-cA-CefEF])|(?<=\\u003[a-fA-F])"
)
_BEFORE, _AFTER = f"(?:(?<!{_LETTER})|{_NO_LETTER_ESCAPED})", f"(?!{_LETTER}|{_LETTER_ESCAPED})"


@dataclass(frozen=True)
class Erased:
    """Deleted rows by table (in a dry run, those to delete), and the number of `files` removed from disk."""

    rows: Mapping[str, int]
    files: int


@dataclass(frozen=True)
class _Part:
    """The rows of the key in one Delta table, as a SQL condition."""

    name: str
    path: str
    rows: str


def entity(project: Project, words: list[str]) -> dict[str, str]:
    """The key, of the project or of a view, that command line words name; raises MisuseError for others.

    A view that is used in roles has its own key (`card`) and one for each role (`buyer_card`).
    """
    roles = [view.asked for view in project.views if view.use.columns]
    known = list(dict.fromkeys([project.keys, *(view.keys for view in project.own_views), *roles]))
    written = {word.split("=", 1)[0] for word in words}
    fitting = known if len(known) == 1 else [names for names in known if set(names) == written]
    if not fitting:
        forms = ", or ".join(" ".join(f"{name}=VALUE" for name in names) for names in known)
        raise MisuseError(f"key {' '.join(words)!r} is none of {project.name!r}: write {forms}")
    return {name: _stored(project, name, value) for name, value in read_key(fitting[0], words).items()}


def _stored(project: Project, name: str, value: str) -> str:
    own = {key: view.source.column(key, "key").type for view in project.own_views for key in view.keys}
    kind = project.key_types.get(name) or own[name]
    text = kind.key_text(value)
    if text is None:
        raise MisuseError(f"key {name!r}: {kind.fault(value)}")
    return text


@dataclass(frozen=True)
class Erasure:
    """The erasure of one key, `{column: value}`."""

    stores: Stores
    project: Project
    key: Mapping[str, str]
    progress: Progress

    @cached_property
    def keys(self) -> dict[str, set[str]]:
        """Stored texts of the keys that include the erased one, by view or, for the project, `keys_name`."""
        project = self.project
        by_view = {view.name: self._keys(view.keys, [view.source.name]) for view in project.own_views}
        return {**by_view, keys_name(project): self._keys(project.keys, sources_of_keys(project))}

    def count(self) -> Erased:
        """Count what would be deleted, and delete nothing."""
        spark = self.stores.spark
        rows = {part.name: Table(spark, part.path).count(part.rows) for part in self._parts()}
        return Erased({**rows, **self._rows_of_users()}, 0)

    def run(self, until: int) -> Erased:
        """Delete the key; `until` (microseconds) is the first slot boundary after all arrivals so far.

        Raises AnabranchError, with nothing deleted, while a table of the user has rows of the key.
        """
        for name, count in self._rows_of_users().items():
            if count:
                raise AnabranchError(
                    f"{count:,} rows of the key are in {name}, which Anabranch only reads: nothing was "
                    "deleted; delete them there, remove its old versions (VACUUM), and erase the key again"
                )
        self.unserve(until)
        parts, rows, files = list(self._parts()), {}, 0
        for position, part in enumerate(parts):
            self.progress.step(f"{part.name}: deleting rows, and every file that had them")
            table = Table(self.stores.spark, part.path)
            rows[part.name] = table.delete(part.rows)
            source = self.project.sources.get(part.name.removeprefix("events/"))
            # Earlier versions of the lake name earlier ones of the user's table, which may have had the key.
            reads = source is not None and source.table is not None
            if part.name.startswith("events/") and (rows[part.name] or reads):
                table.note(READABLE_FROM, snapshot(self.stores.spark, part.path).version())
            files += table.vacuum(0)
            self.progress.advance(position + 1, len(parts))
        return Erased(rows, files)

    def unserve(self, until: int) -> None:
        """Remove the key from the serving store."""
        self.progress.step("removing what is served")
        views, project = self.stores.views, self.project
        erase_states(views, project, views.manifest(project.name), self.keys, until)
        erase_current(views, project, self.keys[keys_name(project)])

    def _rows_of_users(self) -> dict[str, int]:
        """By table of the user, the events of the key that it had when it was read last."""
        found = {}
        for source in self.project.sources.values():
            reading = self.stores.lake.readings(self.stores.spark, self.project, source).at()
            if reading is not None and self._of_key(source) is not None:
                rows = self._events(source).where(F.col("_file") == reading.table_name)
                found[f"table {reading.table_name}"] = int(rows.count())
        return found

    def _keys(self, names: tuple[str, ...], sources: Sequence[str]) -> set[str]:
        if set(names) == set(self.key):
            return {key_text(names, self.key)}
        if not set(self.key) < set(names):
            return set()
        frames = [self._events(self.project.sources[source]) for source in sources]
        return {
            row["key"]
            for frame in frames
            for row in frame.select(key_column(names).alias("key")).distinct().collect()
            if row["key"] is not None
        }

    def _events(self, source: Source) -> DataFrame:
        events = self.stores.lake.events(self.stores.spark, self.project, source)
        of_key = as_stored(events).where(self._of_key(source) or "FALSE")
        return of_key.toDF(*events.columns)

    def _parts(self) -> Iterator[_Part]:
        lake, project = self.stores.lake, self.project
        for name, source in landed_sources(project).items():
            events, quarantine = lake.path(project, source), lake.quarantine_path(project, source)
            rows = self._of_key(source)
            if rows is not None and self._exists(events):
                yield _Part(f"events/{name}", events, rows)
            if self._exists(quarantine):
                yield _Part(f"quarantine/{name}", quarantine, self._named())
            ids = lake.readings(self.stores.spark, project, source).ids
            if source.table is not None and self._exists(ids):
                # The reading that found the key gone wrote it anew: what older files have goes from disk.
                yield _Part(f"ids/{name}", ids, "FALSE")
        states = {view.fingerprint: self.keys[view.name] for view in project.own_views}
        states[keys_name(project)] = self.keys[keys_name(project)]
        for name in states_there(self.stores.spark, lake, project.name):
            if keys := states.get(name):
                condition = f"key IN ({', '.join(map(_quoted, sorted(keys)))})"
                yield _Part(f"states/{name}", lake.state_path(project.name, name), condition)

    def _of_key(self, source: Source) -> str | None:
        """The condition for the key's rows in a source's table; None when it cannot have any."""
        columns = set(
            self.project.keys if source.name == NAME else (column.name for column in source.columns)
        )
        if not set(self.key) <= columns:
            return None
        pairs = self.key.items()
        return " AND ".join(f"{self._value(source, name)} <=> {_quoted(value)}" for name, value in pairs)

    def _value(self, source: Source, name: str) -> str:
        if source.name != NAME:
            return f"CAST({quoted(stored_name(name))} AS STRING)"
        # A prediction has the key of its request: a value where the key has one column, else an object.
        if len(self.project.keys) == 1:
            return "get_json_object(asked, '$.key')"
        # A path of get_json_object takes no name with a dot, a bracket or a quote.
        return f"from_json(asked, 'key MAP<STRING, STRING>').key[{_quoted(name)}]"

    def _named(self) -> str:
        """The condition for bad rows that have the key in their text."""
        columns = [column for source in self.project.sources.values() for column in source.columns]
        kinds = {column.name: column.type for column in columns}
        words = [word_pattern(value, kinds.get(name)) for name, value in self.key.items()]
        return " AND ".join(f"concat_ws(' ', raw, reason) RLIKE {_quoted(word)}" for word in words)

    def _exists(self, path: str) -> bool:
        return DeltaTable.isDeltaTable(self.stores.spark, path)


def word_pattern(value: str, kind: DataType | None) -> str:
    """A regular expression, of Java and of Python, that finds a key's value as a word of a broken row.

    The row could not be parsed, so it is searched for every way in which its format may write the value:
    with JSON's escapes, with CSV's doubled quotes, as UTF-16, in a code page that UTF-8 cannot read, and
    where the column is of numbers or truths, in their other forms.
    """
    word = r"\x00?".join(map(_character, value))
    if kind is not None and kind.integral:
        word = rf"\+?0*{word}(?:\.0*)?" if value.isdigit() else rf"{word}(?:\.0*)?"
    elif kind is not None and kind.name == "BOOLEAN":
        word = f"(?i:{word})"
    return f"{_BEFORE}(?:{word}){_AFTER}"


def _character(character: str) -> str:
    """A pattern of a character as JSON, CSV and unreadable text have it."""
    units = character.encode("utf-16-be", "surrogatepass")
    escapes = "".join(rf"\\u(?i:{units[place : place + 2].hex()})" for place in range(0, len(units), 2))
    forms = [re.escape(character), escapes, *_ESCAPES.get(character, ())]
    if not character.isascii():
        forms.append("\ufffd{1,4}")
    return f"(?:{'|'.join(forms)})"


def _quoted(text: str) -> str:
    """The text as a Spark SQL literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
