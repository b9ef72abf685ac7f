"""Tables of databases, read through JDBC by a column that grows with every new row.

A pin is the highest value of the column and the number of rows up to it. Rows above the last pin are new. A
database keeps no versions: rows that went, or came late below the pin, are noticed by their number; a value
that was changed in place is not noticed.
"""

from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.stores.lake.user_tables import ChangedTableError, Pin, UserTable
from anabranch.values.names import folded, listed

_DRIVERS = {
    "postgresql": "org.postgresql.Driver",
    "mysql": "com.mysql.cj.jdbc.Driver",
    "mariadb": "org.mariadb.jdbc.Driver",
    "sqlserver": "com.microsoft.sqlserver.jdbc.SQLServerDriver",
    "oracle": "oracle.jdbc.OracleDriver",
    "sqlite": "org.sqlite.JDBC",
}
"""Java does not find a driver among Spark's jars by itself; `driver` in `tables.properties` names another."""
_BYTES_A_ROW = 100  # a guess: a database does not tell
_NUMBERS, _TIMES = ("tinyint", "smallint", "int", "bigint", "decimal"), ("timestamp", "date")


@dataclass(frozen=True)
class DatabaseTable(UserTable):
    """A table or view of a database whose driver is in Spark's class path."""

    def look(self) -> Pin:
        """The highest value of the growing column, and the number of rows up to it."""
        column, _ = self._growing(self._table())
        row = self._asked(f"SELECT MAX({column}), COUNT({column}) FROM {self.address.table}")
        high = None if row[0] is None else str(row[0])
        return {"high": high, "rows": int(row[1]), "bytes": int(row[1]) * _BYTES_A_ROW}

    def rows(self, pin: Pin) -> DataFrame:
        """All rows up to the pin."""
        if self._count(pin) != pin["rows"]:
            raise self.gone(pin, f"it had {pin['rows']:,} rows up to there")
        return self._between(None, pin)

    def appended(self, before: Pin, pin: Pin) -> DataFrame | None:
        """The rows above the earlier pin."""
        count = self._count(before)
        if count != before["rows"]:
            raise ChangedTableError(
                f"{self.version(before)} had {before['rows']:,} rows and has {count:,}: "
                "some were deleted, or came late"
            )
        return None if pin["high"] == before["high"] else self._between(before, pin)

    def version(self, pin: Pin) -> str:
        """The highest value of the growing column."""
        return f"{self.address.column} up to {pin['high']}"

    def _between(self, before: Pin | None, pin: Pin) -> DataFrame:
        """The rows above one pin up to another; the database itself filters them."""
        table = self._table()
        name, kind = self._growing(table)
        if pin["high"] is None:
            return table.limit(0)
        rows = table.where(named(name) <= F.lit(pin["high"]).cast(kind))
        if before is None or before["high"] is None:
            return rows
        return rows.where(named(name) > F.lit(before["high"]).cast(kind))

    def _count(self, pin: Pin) -> int:
        if pin["high"] is None:
            return 0
        column, kind = self._growing(self._table())
        value = pin["high"] if kind.startswith(_NUMBERS) else f"'{pin['high']}'"
        return int(self._asked(f"SELECT COUNT(*) FROM {self.address.table} WHERE {column} <= {value}")[0])

    def _growing(self, table: DataFrame) -> tuple[str, str]:
        """The growing column as the table names it, and its type."""
        for column, kind in table.dtypes:
            if folded(column) == folded(self.address.column):
                if not kind.startswith((*_NUMBERS, *_TIMES)):
                    raise AnabranchError(
                        f"table {self.address}: column {column!r} is {kind.upper()}, which cannot be told to "
                        "grow: name one of whole numbers or times"
                    )
                return column, kind
        known = listed(self.address.column, table.columns)
        raise AnabranchError(f"table {self.address} has no column {self.address.column!r}: {known}")

    def _asked(self, query: str) -> Row:
        """The one row that the database itself answers."""
        try:
            (row,) = self._read(f"({query}) asked").collect()
        except (PySparkException, Py4JJavaError) as error:
            raise self._explained(error) from None
        return row

    def _table(self) -> DataFrame:
        try:
            return self._read(self.address.table)
        except (PySparkException, Py4JJavaError) as error:
            raise self._explained(error) from None

    def _read(self, table: str) -> DataFrame:
        driver = _DRIVERS.get(self.address.place.split(":")[1])
        options = {
            **({"driver": driver} if driver else {}),
            **self.settings.properties,
            "url": self.address.place,
            "dbtable": table,
            **({"user": self.settings.username} if self.settings.username else {}),
            **({"password": self.settings.password} if self.settings.password else {}),
        }
        return self.spark.read.format("jdbc").options(**options).load()

    def _explained(self, error: Exception) -> AnabranchError:
        """The database's error in one line, without what may hold a password."""
        text = str(error)
        if "No suitable driver" in text or "ClassNotFoundException" in text:
            return AnabranchError(
                f"table {self.address}: no JDBC driver for {self.address.place.split(':')[1]} is in Spark's "
                "class path: put its jar beside Spark's ([paths] jars, folder spark), and name "
                "its class (driver=...) in tables.properties if it is not a common one"
            )
        lines = [line.strip() for line in text.splitlines() if "Exception" in line or "ERROR" in line]
        why = (lines or text.splitlines() or [type(error).__name__])[0][:300]
        for secret in (self.settings.password, *self.settings.properties.values()):
            why = why.replace(secret, "***") if secret else why
        return AnabranchError(
            f"table {self.address} cannot be read ({why}): look whether the database answers, the table is "
            "there, and ANABRANCH__TABLES__USERNAME and ANABRANCH__TABLES__PASSWORD may read it"
        )
