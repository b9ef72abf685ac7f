"""Tables of users that are read where they lie: one class a kind, each with the four questions that a reading
asks (readings.py).

A **pin** is what names one version of a table: JSON that a reading keeps, so that the version can be read
again. Nothing here writes to a table of a user.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from anabranch.declare.sources import Source
from anabranch.declare.tables import TableAddress
from anabranch.errors import AnabranchError
from anabranch.settings import TableSettings
from anabranch.values.names import folded, listed

Pin = Mapping[str, Any]
_TIMES = ("timestamp", "timestamp_ntz", "date", "string")
_NESTED = ("struct", "array", "map")


class ChangedTableError(AnabranchError):
    """Rows of a table changed or went, or it cannot be told; the text is the reason alone."""


@dataclass(frozen=True)
class UserTable(ABC):
    """A table of a user, at any of its versions."""

    spark: SparkSession = field(repr=False)
    address: TableAddress
    settings: TableSettings = field(repr=False)

    @abstractmethod
    def look(self) -> Pin:
        """The version that the table has now. Raises AnabranchError when there is no such table."""

    @abstractmethod
    def rows(self, pin: Pin) -> DataFrame:
        """All rows of a version. Raises AnabranchError when the version cannot be read any more."""

    @abstractmethod
    def appended(self, before: Pin, pin: Pin) -> DataFrame | None:
        """The rows that a version has beside those of an earlier one; None when it has the same rows.

        Raises ChangedTableError when rows of the earlier one went or changed.
        """

    @abstractmethod
    def version(self, pin: Pin) -> str:
        """The version for people, such as ``version 7``."""

    def size(self, pin: Pin) -> int:
        """Bytes of a version, about."""
        return int(pin.get("bytes", 0))

    def gone(self, pin: Pin, why: str) -> AnabranchError:
        """The error to raise for a version that can no longer be read."""
        return AnabranchError(
            f"{self.version(pin)} of table {self.address} can no longer be read ({why}): what was made of it "
            "cannot be made again; build or train anew from its present version"
        )


def check_columns(table: TableAddress, source: Source, rows: DataFrame) -> None:
    """Raise AnabranchError for a table without a declared column, or with one that can never be read as it is
    declared.
    """
    found = {folded(each.name): each.dataType.simpleString() for each in rows.schema.fields}
    place = f"source {source.name!r}: table {table}"
    for column in source.columns:
        role = {source.id: "id ", source.time: "time "}.get(column.name, "")
        kind = found.get(folded(column.name))
        if kind is None:
            known = listed(column.name, [each.name for each in rows.schema.fields])
            raise AnabranchError(
                f"{place} has no {role}column {column.name!r}: {known}; "
                "declare its columns as the table names them"
            )
        if column.type.time and kind not in _TIMES:
            raise AnabranchError(
                f"{place}: {role}column {column.name!r} is {kind.upper()} and declared {column.type}: "
                "declare the type that the table has, or give the table a column of times"
            )
        if kind.startswith(_NESTED) and not column.type.nested:
            raise AnabranchError(
                f"{place}: {role}column {column.name!r} is {kind}, which is no {column.type}: "
                "declare single values, or give the table a column of them"
            )
