"""Files on this machine, and at URLs of every file system that Hadoop knows (hdfs://, s3a://).

This machine's files are read without a JVM; all others through the session's own Hadoop, with its
configuration.
"""

import glob
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch.stores.jvm import hadoop_path, hadoop_system, parquet_schema
from anabranch.values.names import quoted

_GLOB = re.compile(r"([\[\]{}*?\\])")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file: `path` is absolute and without a scheme, or a URL; `modified` is in milliseconds since 1970."""

    path: str
    size: int
    modified: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


class Files(Protocol):
    """One kind of file system."""

    def find(self, pattern: str) -> tuple[list[FoundFile], bool]:
        """The files of a path, folder (all below it) or glob, in order; whether it is a folder or glob.

        A path at which nothing exists has none, and is neither.
        """
        ...

    def look(self, path: str) -> FoundFile | None:
        """The file as it is now; None when it does not exist."""
        ...

    def start(self, path: str, most: int) -> bytes:
        """The first bytes of a file, at most `most`. Raises OSError when it cannot be read."""
        ...

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files, and folders with all below them; a missing one is no error."""
        ...


def files_at(path: str, spark: SparkSession | None) -> Files:
    """The file system of `path`; a URL needs a session."""
    if is_local(path) or spark is None:
        return _LocalFiles()
    return _HadoopFiles(spark)


def is_local(path: str) -> bool:
    """Whether the path lies on this machine."""
    return "://" not in path or path.startswith("file://")


def spark_path(path: str) -> str:
    """The path for Spark's readers: glob characters escaped, the local file system named explicitly."""
    escaped = _GLOB.sub(r"\\\1", path)
    return escaped if "://" in path else f"file://{escaped}"


class _LocalFiles:
    """This machine's files."""

    def find(self, pattern: str) -> tuple[list[FoundFile], bool]:
        path = Path(_plain(pattern))
        if path.is_dir():
            below = sorted(Path(top, name) for top, _, names in os.walk(path) for name in names)
            shown = (each for each in below if not _hidden(each.relative_to(path).parts))
            return _files(shown), True
        if path.exists():
            return [found for found in (_found(path),) if found], False
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        return _files(map(Path, sorted(names))), glob.has_magic(str(path))

    def look(self, path: str) -> FoundFile | None:
        return next(iter(_files([Path(path)])), None)

    def start(self, path: str, most: int) -> bytes:
        with Path(path).open("rb") as content:
            return content.read(most)

    def remove(self, paths: Sequence[str]) -> None:
        for path in map(Path, map(_plain, paths)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class _HadoopFiles:
    """Files at URLs."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark

    def find(self, pattern: str) -> tuple[list[FoundFile], bool]:
        system, place = hadoop(self.spark, pattern)
        named = (
            [system.getFileStatus(place)]
            if hadoop_exists(system, place)
            else list(system.globStatus(place) or [])
        )
        found: dict[str, FoundFile] = {}
        for status in named:
            if status.isFile():
                found[_status(status).path] = _status(status)
                continue
            top, below = status.getPath().toString().rstrip("/"), system.listFiles(status.getPath(), True)
            while below.hasNext():
                each = _status(below.next())
                if not _hidden(each.path.removeprefix(top).strip("/").split("/")):
                    found[each.path] = each
        one = len(named) == 1 and named[0].isFile()
        return [found[path] for path in sorted(found)], not one if named else glob.has_magic(pattern)

    def look(self, path: str) -> FoundFile | None:
        system, place = hadoop(self.spark, path)
        return _status(system.getFileStatus(place)) if hadoop_exists(system, place) else None

    def start(self, path: str, most: int) -> bytes:
        system, place = hadoop(self.spark, path)
        stream = system.open(place)
        try:
            return bytes(stream.readNBytes(most))
        finally:
            stream.close()

    def remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            system, place = hadoop(self.spark, path)
            system.delete(place, True)


def hadoop(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """Hadoop's file system of `path`, which Spark has no Python name for, and the absolute path in it."""
    place = hadoop_path(spark, path)
    system = hadoop_system(spark, place)
    return system, system.makeQualified(place)


def hadoop_exists(system: Any, place: Any) -> bool:
    """Whether a file or folder exists at a path.

    Below a file nothing exists, for which local files and HDFS raise different errors.
    """
    try:
        return bool(system.exists(place))
    except Py4JJavaError as error:
        if "Not a directory" in str(error.java_exception):
            return False
        raise


def hadoop_child(spark: SparkSession, place: Any, name: str) -> Any:
    """The path `name` below the folder `place`."""
    return hadoop_path(spark, place, name)


def read_text(spark: SparkSession, path: str) -> str:
    """The whole of a small file."""
    system, place = hadoop(spark, path)
    stream = system.open(place)
    try:
        return bytes(stream.readAllBytes()).decode()
    finally:
        stream.close()


def write_text(spark: SparkSession, path: str, text: str) -> None:
    """Write a small file whole or not at all, over an older one of the name."""
    system, place = hadoop(spark, path)
    unfinished = hadoop_child(spark, place.getParent(), f".{place.getName()}.unfinished")
    stream = system.create(unfinished, True)
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()
    system.delete(place, False)
    system.rename(unfinished, place)


def remove_folder(spark: SparkSession, path: str) -> None:
    """Remove a folder whole or not at all: what is cut off leaves none of its name."""
    system, place = hadoop(spark, path)
    leaving = hadoop_child(spark, place.getParent(), f".{place.getName()}.leaving")
    system.delete(leaving, True)
    system.rename(place, leaving)
    system.delete(leaving, True)


_NANOSECONDS = re.compile(r"^\s*\w+ int64 (.+) \(TIMESTAMP\(NANOS,", re.MULTILINE)


def nanosecond_columns(spark: SparkSession, path: str) -> list[str]:
    """Columns of a Parquet file that Spark reads as whole numbers of nanoseconds since 1970."""
    return _NANOSECONDS.findall(parquet_schema(spark, path))


def in_microseconds(table: DataFrame, columns: Iterable[str]) -> DataFrame:
    """The table with `nanosecond_columns` as times; the rest of a microsecond is cut off."""
    for name in columns:
        nanos = quoted(name)
        micros = f"{nanos} DIV 1000 - IF({nanos} % 1000 < 0, 1, 0)"  # rounded down, without an overflow
        table = table.withColumn(name, F.expr(f"timestamp_micros({micros})"))
    return table


def file_names(spark: SparkSession, folder: str) -> list[str]:
    """Names of the files in a folder, in order; none when it is not there."""
    system, place = hadoop(spark, folder)
    if not hadoop_exists(system, place):
        return []
    names = [status.getPath().getName() for status in system.listStatus(place) if status.isFile()]
    return sorted(name for name in names if not _hidden([name]))


def _files(paths: Iterable[Path]) -> list[FoundFile]:
    """Those of the paths that are files, and are still there."""
    return [found for path in paths if path.is_file() and (found := _found(path))]


def _found(path: Path) -> FoundFile | None:
    """A file as it is now; None when it is gone since it was listed."""
    try:
        known = path.resolve()
        status = known.stat()
    except FileNotFoundError:
        return None
    return FoundFile(path=str(known), size=status.st_size, modified=status.st_mtime_ns // 1_000_000)


def _status(status: Any) -> FoundFile:
    return FoundFile(
        path=status.getPath().toString(),
        size=int(status.getLen()),
        modified=int(status.getModificationTime()),
    )


def _hidden(parts: Sequence[str]) -> bool:
    """What writers keep for themselves: names that begin with a dot or an underscore."""
    return any(part[0] in "._" for part in parts if part)


def _plain(path: str) -> str:
    return re.sub("^file:/+", "/", path)
