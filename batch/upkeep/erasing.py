"""Erasing a key: everything the project keeps of a person, a plane, a pump goes, older versions of its tables included.

    events         rows with the key's columns are deleted, of predictions those that were asked for the key
    quarantine     bad rows in whose text the key's value stands as a word of its own: what they say cannot be read for certain
    states         what builds keep of the key
    serving store  batch parts of both versions, tiles, the current row and its history

What was deleted is removed from disk at once, so no version from before can be read again: neither by `reproduce` nor by a job
that reads one at this very moment. A view whose key is only a part of what is erased (an airport, when a plane is erased) keeps
its rows until the build that follows has counted them anew.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from delta.tables import DeltaTable
from pyspark.sql import DataFrame

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from anabranch.events.predictions import NAME, landed_sources
from anabranch.folds.spark import key_column
from anabranch.progress import Progress
from anabranch.stores.cassandra.erasure import erase_current, erase_states
from anabranch.stores.lake.increments import states_there
from anabranch.stores.lake.lake import READABLE_FROM
from anabranch.stores.lake.staging import snapshot
from anabranch.stores.lake.table_files import Table
from anabranch.stores.opened import Stores
from anabranch.values.keys import key_text, read_key
from batch.building.kept_states import keys_name, sources_of_keys


@dataclass(frozen=True)
class Erased:
    """Rows that were deleted, or of a dry run would be, by table; `files` that were removed from disk."""

    rows: Mapping[str, int]
    files: int


@dataclass(frozen=True)
class _Part:
    """Rows of one Delta table that are the key's, by a condition in SQL."""

    name: str
    path: str
    rows: str


def entity(project: Project, words: list[str]) -> dict[str, str]:
    """The key to erase, of a command line: the project's or one of a view's. Raises MisuseError when the words are neither."""
    wholes = dict.fromkeys([project.keys, *(view.keys for view in project.views)])
    given = {word.split("=", 1)[0] for word in words}
    fitting = [names for names in wholes if set(names) == given] or (
        [project.keys] if len(wholes) == 1 else []
    )
    if not fitting:
        forms = ", or ".join(" ".join(f"{name}=VALUE" for name in names) for names in wholes)
        raise MisuseError(f"key {' '.join(words)!r} is none of {project.name!r}: write {forms}")
    return read_key(fitting[0], words)


@dataclass(frozen=True)
class Erasure:
    """The erasure of one key, `{column: value}`."""

    stores: Stores
    project: Project
    key: Mapping[str, str]
    progress: Progress

    @cached_property
    def keys(self) -> dict[str, set[str]]:
        """Stored texts of the keys that hold the erased one, as events name them now: by view, and by `keys_name` those of the project."""
        found = {view.name: self._keys(view.keys, [view.source.name]) for view in self.project.views}
        return {
            **found,
            keys_name(self.project): self._keys(self.project.keys, sources_of_keys(self.project)),
        }

    def count(self) -> Erased:
        """What would be deleted; nothing is."""
        return Erased(
            {part.name: Table(self.stores.spark, part.path).count(part.rows) for part in self._parts()}, 0
        )

    def run(self, until: int) -> Erased:
        """Delete; `until` (microseconds) is the first slot boundary after everything that has arrived so far."""
        self.unserve(until)
        parts, rows, files = list(self._parts()), {}, 0
        for position, part in enumerate(parts):
            self.progress.step(f"{part.name}: deleting rows, and every file that had them")
            table = Table(self.stores.spark, part.path)
            rows[part.name] = table.delete(part.rows)
            if rows[part.name] and part.name.startswith("events/"):
                table.note(READABLE_FROM, snapshot(self.stores.spark, part.path).version())
            files += table.vacuum(0)
            self.progress.advance(position + 1, len(parts))
        return Erased(rows, files)

    def unserve(self, until: int) -> None:
        """Remove the key from the serving store."""
        self.progress.step("removing what is served")
        erase_states(
            self.stores.views, self.project, self.stores.views.manifest(self.project.name), self.keys, until
        )
        erase_current(self.stores.views, self.project, self.keys[keys_name(self.project)])

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
        return self.stores.lake.events(self.stores.spark, self.project, source).where(
            self._of_key(source) or "FALSE"
        )

    def _parts(self) -> Iterator[_Part]:
        for name, source in landed_sources(self.project).items():
            if (rows := self._of_key(source)) is not None and self._is_there(
                self.stores.lake.path(self.project, source)
            ):
                yield _Part(f"events/{name}", self.stores.lake.path(self.project, source), rows)
            if self._is_there(self.stores.lake.quarantine_path(self.project, source)):
                yield _Part(
                    f"quarantine/{name}",
                    self.stores.lake.quarantine_path(self.project, source),
                    self._named(),
                )
        name = keys_name(self.project)
        states = {
            **{view.fingerprint: self.keys[view.name] for view in self.project.views},
            name: self.keys[name],
        }
        for name in states_there(self.stores.spark, self.stores.lake, self.project.name):
            if states.get(name):
                yield _Part(
                    f"states/{name}",
                    self.stores.lake.state_path(self.project.name, name),
                    f"key IN ({', '.join(map(_quoted, sorted(states[name])))})",
                )

    def _of_key(self, source: Source) -> str | None:
        """Which rows of a source's table are the key's; None when it cannot have any."""
        there = set(self.project.keys if source.name == NAME else (column.name for column in source.columns))
        if not set(self.key) <= there:
            return None
        return " AND ".join(
            f"{self._value(source, name)} <=> {_quoted(value)}" for name, value in self.key.items()
        )

    def _value(self, source: Source, name: str) -> str:
        if source.name != NAME:
            return f"CAST(`{name}` AS STRING)"
        # Of predictions, what was asked: a value where a key has one column, an object where it has several.
        return (
            f"get_json_object(asked, {_quoted('$.key' if len(self.project.keys) == 1 else f'$.key.{name}')})"
        )

    def _named(self) -> str:
        """Which bad rows have the key in their text."""
        words = [rf"(?<![\w-]){re.escape(value)}(?![\w-])" for value in self.key.values()]
        return " AND ".join(f"coalesce(raw, '') RLIKE {_quoted(word)}" for word in words)

    def _is_there(self, path: str) -> bool:
        return DeltaTable.isDeltaTable(self.stores.spark, path)


def _quoted(text: str) -> str:
    """Text as a literal of Spark SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
