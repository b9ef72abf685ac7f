"""Tables of the lake read without a JVM: the rows of one key, for a server that shows single events.

Delta keeps which files a table has as a log, of which a checkpoint sums up the beginning:

    _delta_log/00000000000000000010.checkpoint.parquet    every file at version 10
    _delta_log/00000000000000000011.json                  a line an action: {"add": {"path": ..., ...}}

Only what Anabranch's own tables have is understood; anything else is refused, never read wrongly. A lake in
HDFS is not read.
"""

import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.stores.files.objects import Objects, is_object
from anabranch.values.datatype import DataType
from anabranch.values.times import SECOND, format_time, parse_time, to_micros

MOST_FILES = 2_000
"""Files of a table that are looked through, the newest first."""
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")
_ACTIONS = ("add", "metaData")
_UNSTORABLE = re.compile(r"[ ,;{}()=%]")
Mask = Callable[[pa.Table], pa.Array]


def stored_name(name: str) -> str:
    """The name of a column of users in a Delta table, which takes no space and none of `,;{}()=`.

    Such a character is written as in an address: ``Unit%20Price``. Most names are unchanged.
    """
    return _UNSTORABLE.sub(lambda found: f"%{ord(found[0]):02X}", name)


def lake_place(root: str, project: Project, kind: str, source: Source) -> str:
    """The path of a source's `kind` of data in the lake below `root`, as lake.py lists them."""
    return f"{root.rstrip('/')}/{project.name}/{kind}/{source.name}"


def light_place(place: str) -> tuple[Any, str]:
    """The file system of an address of the lake, and the path in it; raises MisuseError for HDFS."""
    if is_object(place):
        return Objects(place).filesystem
    scheme, separator, path = place.partition("://")
    if separator and scheme != "file":
        raise MisuseError(
            f"the lake is at {place}, which only Spark reads: single events are shown of lakes on this "
            "machine and in S3"
        )
    return fs.LocalFileSystem(), path if separator else place


def key_part(kind: DataType, value: Any) -> str | None:
    """The text in a key of a value that Arrow read of a column of the key; None for one that is no key."""
    if isinstance(value, datetime):
        value = format_time(to_micros(value))
    return None if value in (None, "") else kind.key_text(value)


def among_parts(column: pa.ChunkedArray, kind: DataType, texts: Collection[str]) -> pa.Array:
    """Which values of a key's column have one of the `texts` in a key."""
    rows = column.combine_chunks()
    if kind.text:
        return pc.is_in(rows, value_set=pa.array(sorted(texts), rows.type))
    fit = [value for value in pc.unique(rows).to_pylist() if key_part(kind, value) in texts]
    return pc.is_in(rows, value_set=pa.array(fit, rows.type))


@dataclass(frozen=True, kw_only=True)
class LightFile:
    """A file of a table; `earliest` and `latest` bound its event times, None where that is not known.

    `count` is its number of rows, 0 where that is not known, and `size` its bytes.
    """

    path: str
    changed: int
    count: int = 0
    size: int = 0
    earliest: int | None = None
    latest: int | None = None

    def may_have(self, since: int | None, until: int) -> bool:
        """Whether it may have events of [since, until)."""
        return (self.earliest is None or self.earliest < until) and (
            since is None or self.latest is None or self.latest >= since
        )


class LightTable:
    """A Delta table as it is now; a missing one has no files. `time` is its column of event times."""

    def __init__(self, place: str, time: str) -> None:
        self._store, self._root = light_place(place.rstrip("/"))
        self._time = time
        self.files = sorted(self._files(), key=lambda one: -one.changed)

    def rows(
        self, files: Sequence[LightFile], keys: Sequence[str], mask: Mask, names: Sequence[str]
    ) -> Iterator[Any]:
        """Rows of `files` as dicts with `names`; those for which `mask` of the columns `keys` holds.

        A column that a file was written without is None.
        """
        for file in files:
            path = posixpath.join(self._root, file.path)
            with pq.ParquetFile(path, filesystem=self._store, coerce_int96_timestamp_unit="us") as content:
                there = set(content.schema_arrow.names)
                if not there.issuperset(keys):
                    continue
                wanted = mask(content.read(columns=list(keys)))
                if not wanted.true_count:
                    continue
                found = content.read(columns=[name for name in names if name in there]).filter(wanted)
            for row in found.to_pylist():
                yield {name: row.get(name) for name in names}

    def _files(self) -> Iterator[LightFile]:
        kept: dict[str, LightFile] = {}
        for action in self._actions():
            added, removed, about = (action.get(name) for name in ("add", "remove", "metaData"))
            if (
                about
                and dict(about.get("configuration") or ()).get("delta.columnMapping.mode", "none") != "none"
            ):
                raise self._unknown("maps its columns to other names")
            if removed:
                kept.pop(removed["path"], None)
            if added:
                if added.get("deletionVector"):
                    raise self._unknown("marks rows as deleted beside its files")
                kept[added["path"]] = self._file(added)
        return iter(kept.values())

    def _file(self, added: Mapping[str, Any]) -> LightFile:
        stats = json.loads(added.get("stats") or "{}")
        low, high = (stats.get(name, {}).get(self._time) for name in ("minValues", "maxValues"))
        return LightFile(
            path=unquote(added["path"]),
            changed=int(added.get("modificationTime") or 0),
            count=int(stats.get("numRecords") or 0),
            size=int(added.get("size") or 0),
            earliest=None if low is None else parse_time(low),
            # Delta keeps milliseconds, rounded down.
            latest=None if high is None else parse_time(high) + SECOND // 1000,
        )

    def _actions(self) -> Iterator[Mapping[str, Any]]:
        """The actions of the log in order, from the newest checkpoint on."""
        log = posixpath.join(self._root, "_delta_log")
        listed = self._store.get_file_info(fs.FileSelector(log, allow_not_found=True))
        names = [posixpath.basename(each.path) for each in listed if each.is_file]
        commits = sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)))
        parts: dict[int, list[str]] = {}
        for name in sorted(names):
            if found := _CHECKPOINT.fullmatch(name):
                parts.setdefault(int(found[1]), []).append(name)
        whole = [
            number
            for number, each in parts.items()
            if len(each) == int((_CHECKPOINT.fullmatch(each[0]) or ("", "", "1"))[2] or 1)
        ]
        last = max(whole, default=-1)
        rest = [number for number in commits if number > last]
        if rest != list(range(last + 1, last + 1 + len(rest))):
            raise self._unknown("has a log with gaps, or with checkpoints of another kind")
        for name in parts.get(last, ()):
            with pq.ParquetFile(posixpath.join(log, name), filesystem=self._store) as content:
                for batch in content.iter_batches(columns=list(_ACTIONS)):
                    yield from batch.to_pylist()
        for number in rest:
            with self._store.open_input_stream(posixpath.join(log, f"{number:020}.json")) as content:
                for line in content.read().splitlines():
                    yield json.loads(line)

    def _unknown(self, what: str) -> AnabranchError:
        return AnabranchError(f"the table at {self._root} {what}: its events are read by Spark alone")


def landed_offsets(place: str, topic: str, topic_id: str) -> dict[int, int]:
    """By partition the first offset of a topic that has not landed, as landing keeps it below `place`.

    Empty for a topic of which nothing has landed, as for one that was made again since.
    """
    store, root = light_place(place.rstrip("/"))
    first = _text(store, f"{root}.topic")
    folder = root if first in (None, topic_id) else f"{root}-{topic_id}"
    listed = store.get_file_info(fs.FileSelector(f"{folder}/commits", allow_not_found=True))
    done = [int(name) for each in listed if (name := posixpath.basename(each.path)).isdigit()]
    lines = (_text(store, f"{folder}/offsets/{max(done)}") or "").splitlines() if done else []
    found: Mapping[str, int] = json.loads(lines[-1]).get(topic, {}) if lines else {}
    return {int(partition): int(offset) for partition, offset in found.items()}


def _text(store: Any, path: str) -> str | None:
    if store.get_file_info(path).type is not fs.FileType.File:
        return None
    with store.open_input_stream(path) as content:
        return str(content.read().decode())
