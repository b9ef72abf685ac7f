"""Folders of Parquet files to which files are only ever added. A pin is the list of files, each with its size
and the time of its last change; a file that went or has another size or time since is a change of rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import FoundFile, files_at, spark_path
from anabranch.stores.lake.user_tables import ChangedTableError, Pin, UserTable


@dataclass(frozen=True)
class ParquetFolder(UserTable):
    """A folder of Parquet files, partitioned (`column=value`) or not."""

    def look(self) -> Pin:
        """The files that are there now."""
        place = self.address.place
        found, several = files_at(place, self.spark).find(place)
        if not found and not several:
            raise AnabranchError(f'there is no folder {place}: check the path of table="parquet:..."')
        if files_at(place, self.spark).find(f"{place}/_delta_log")[0]:
            raise AnabranchError(
                f"{place} is a Delta table, whose files also hold rows that were deleted: "
                f'write table="delta:{place}"'
            )
        files = [each for each in found if each.name.endswith(".parquet")]
        if not files:
            raise AnabranchError(f"{place} has no .parquet file yet: write one, or check the path")
        return {
            "files": [[each.path, each.size, each.modified] for each in files],
            "bytes": sum(each.size for each in files),
        }

    def rows(self, pin: Pin) -> DataFrame:
        """All rows of the files."""
        there = {
            each.path: each for each in files_at(self.address.place, self.spark).find(self.address.place)[0]
        }
        for path, size, modified in pin["files"]:
            if there.get(path) != FoundFile(path=path, size=size, modified=modified):
                raise self.gone(pin, f"{path} {'was changed' if path in there else 'is gone'}")
        return self._read([path for path, _, _ in pin["files"]])

    def appended(self, before: Pin, pin: Pin) -> DataFrame | None:
        """The rows of new files."""
        known = {path: (size, modified) for path, size, modified in before["files"]}
        now = {path: (size, modified) for path, size, modified in pin["files"]}
        for path, state in known.items():
            if now.get(path) != state:
                raise ChangedTableError(f"its file {path} {'was changed' if path in now else 'is gone'}")
        new = [path for path in now if path not in known]
        return self._read(new) if new else None

    def version(self, pin: Pin) -> str:
        """The number of files."""
        count = len(pin["files"])
        return f"the state of {count:,} file{'' if count == 1 else 's'}"

    def _read(self, paths: Sequence[str]) -> DataFrame:
        # Files of other schemas must not hide columns: all reads of one file give the same rows.
        options = {"mergeSchema": "true", "basePath": spark_path(self.address.place)}
        try:
            return self.spark.read.options(**options).parquet(*_named(paths))
        except PySparkException as error:
            raise AnabranchError(
                f"files of {self.address.place} cannot be read as Parquet of one schema "
                f"({str(error).splitlines()[0][:300]}): rewrite the file that differs"
            ) from error


def _named(paths: Iterable[str]) -> list[str]:
    return [spark_path(path) for path in paths]
