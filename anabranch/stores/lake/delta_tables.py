"""Delta tables of users. What was appended is told by the table's own log.

A commit that removes data files and says that it changed data is an update, a delete, an overwrite or a
restore; one that moves rows into other files without changing any (OPTIMIZE) is none of these.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame

from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import hadoop, hadoop_exists, is_local, read_text
from anabranch.stores.jvm import java_packages, scala_none, scala_seq
from anabranch.stores.lake.staging import delta_log, snapshot, snapshot_at
from anabranch.stores.lake.user_tables import ChangedTableError, Pin, UserTable

_MOST_LOOKED_AT = 1_000  # files of an older version, to see whether they are still there


@dataclass(frozen=True)
class DeltaUserTable(UserTable):
    """A Delta table at a path or URL. A pin is its identity, its version and its fields."""

    def look(self) -> Pin:
        """The latest version."""
        path = self.address.place
        found = snapshot(self.spark, path)
        if found is None:
            raise AnabranchError(_no_table(path, there=self._exists(path)))
        return _pin(found)

    def rows(self, pin: Pin) -> DataFrame:
        """All rows of a version."""
        path, version = self.address.place, int(pin["version"])
        now = snapshot(self.spark, path)
        if now is None:
            raise self.gone(pin, "the table is gone")
        if str(now.metadata().id()) != pin["id"]:
            raise self.gone(pin, "the table was made anew")
        try:
            if int(now.version()) != version:
                self._look_for_files(pin, now)
            return self.spark.read.format("delta").option("versionAsOf", version).load(path)
        except AnalysisException as error:
            raise self.gone(pin, "its log or its files were cleaned up") from error

    def appended(self, before: Pin, pin: Pin) -> DataFrame | None:
        """The rows of the files that commits added since."""
        if before["id"] != pin["id"]:
            raise ChangedTableError("it was made anew")
        if before["version"] > pin["version"]:
            raise ChangedTableError(f"it went back from version {before['version']} to {pin['version']}")
        changed = [name for name, kind in before["fields"].items() if pin["fields"].get(name) != kind]
        if changed:
            raise ChangedTableError(f"its column {changed[0]!r} was dropped or changed")
        added, moved = dict[str, str](), set[str]()
        for version, commit in self._commits(before["version"] + 1, pin["version"]):
            operation = next(
                (each["commitInfo"].get("operation") for each in commit if "commitInfo" in each), ""
            )
            for action in commit:
                removed = action.get("remove")
                if removed is not None and removed.get("dataChange", True):
                    raise ChangedTableError(f"version {version} ({operation}) changed or deleted rows")
                if removed is not None:
                    moved.add(removed["path"])
                if action.get("add", {}).get("dataChange"):
                    added[action["add"]["path"]] = json.dumps(action)
        if not added:
            return None
        gone = [path for path in moved & set(added) if not self._exists(self._file(path))]
        if gone:
            raise ChangedTableError("files of appended rows were moved and removed since")
        return self._frame(pin, list(added.values()))

    def version(self, pin: Pin) -> str:
        """The number of the version."""
        return f"version {pin['version']}"

    def _commits(self, first: int, last: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        for version in range(first, last + 1):
            place = f"{self.address.place}/_delta_log/{version:020d}.json"
            if not self._exists(place):
                raise ChangedTableError(f"its log no longer has version {version}")
            lines = read_text(self.spark, place).splitlines()
            yield version, [json.loads(line) for line in lines if line.strip()]

    def _frame(self, pin: Pin, actions: list[str]) -> DataFrame:
        """The rows of files that commits added, with the table's own schema and partitions."""
        spark, path = self.spark, self.address.place
        read = getattr(java_packages(spark).org.apache.spark.sql.delta.actions, "Action$")
        files = [getattr(read, "MODULE$").fromJson(each) for each in actions]
        of_version = snapshot_at(spark, path, pin["version"])
        log = delta_log(spark, path)
        return DataFrame(
            log.createDataFrame(of_version, scala_seq(spark, files), False, scala_none(spark)), spark
        )

    def _look_for_files(self, pin: Pin, now: Any) -> None:
        """Raise the error for a version of which VACUUM has removed files."""
        then = snapshot_at(self.spark, self.address.place, pin["version"])
        paths, kept = (DataFrame(each.allFiles().toDF(), self.spark).select("path") for each in (then, now))
        replaced = paths.join(kept, "path", "left_anti").limit(_MOST_LOOKED_AT).collect()
        if any(not self._exists(self._file(row["path"])) for row in replaced):
            raise self.gone(pin, "VACUUM has removed its files")

    def _file(self, path: str) -> str:
        plain = unquote(path)
        return plain if plain.startswith("/") or ":/" in plain else f"{self.address.place}/{plain}"

    def _exists(self, path: str) -> bool:
        return hadoop_exists(*hadoop(self.spark, path))


def _pin(found: Any) -> Pin:
    fields = json.loads(found.schema().json())["fields"]
    # A field that was dropped and added again has another id, where columns are mapped.
    kinds = {each["name"]: json.dumps([each["type"], _mapped(each)], sort_keys=True) for each in fields}
    return {
        "id": str(found.metadata().id()),
        "version": int(found.version()),
        "fields": kinds,
        "bytes": int(found.sizeInBytes()),
    }


def _mapped(one: dict[str, Any]) -> object:
    return one.get("metadata", {}).get("delta.columnMapping.id")


def _no_table(path: str, *, there: bool) -> str:
    if there:
        return f'{path} is no Delta table: write table="parquet:{path}" if it is a folder of Parquet files'
    where = " (on this machine)" if is_local(path) else ""
    return f'there is no table at {path}{where}: check the path of table="delta:..."'


def is_delta_table(path: str, spark: Any) -> bool:
    """Whether a Delta table lies at the path."""
    return bool(DeltaTable.isDeltaTable(spark, path))
