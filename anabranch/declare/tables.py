"""Addresses of tables that stay where they lie: what `Source(table=)` may say.

delta:PATH                                  a Delta table: a folder, or a URL that Spark can read
parquet:PATH                                a folder of Parquet files that are only ever added
jdbc:URL#SCHEMA.TABLE?column=COLUMN         a table of a database whose COLUMN grows with every new row
"""

import re
from dataclasses import dataclass

from anabranch.errors import DeclarationError

KINDS = ("delta", "parquet", "jdbc")
_FORMS = '"delta:PATH", "parquet:PATH" or "jdbc:URL#SCHEMA.TABLE?column=COLUMN"'
_SECRET = re.compile(r"//[^/?#]*@|[?&;](?:user(?:name)?|password|pwd)=", re.IGNORECASE)
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)"


@dataclass(frozen=True, kw_only=True)
class TableAddress:
    """Where a table lies: a path, or a database's URL with `table` and `column`."""

    kind: str
    place: str
    table: str = ""
    column: str = ""

    def __str__(self) -> str:
        """The table for people, in one word."""
        return f"{self.kind}:{self.table or self.place}"


def read_address(text: object) -> TableAddress:
    """The address that `text` writes. Raises DeclarationError, which repeats no text that has a password."""
    kind, colon, place = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or kind not in KINDS or not place.strip():
        shown = "" if isinstance(text, str) and _SECRET.search(text) else f" {text!r}"
        raise DeclarationError(f"table{shown} is no address of a table: write {_FORMS}")
    if kind == "jdbc":
        return _database_table(place)
    if not place.startswith("/") and "://" not in place:
        raise DeclarationError(
            f"table '{kind}:{place}' is a relative path: write an absolute one or a URL, "
            "which means the same wherever a job is started"
        )
    return TableAddress(kind=kind, place=place.rstrip("/") or "/")


def _database_table(place: str) -> TableAddress:
    url, _, rest = place.partition("#")
    if _SECRET.search(place):
        raise DeclarationError(
            "table 'jdbc:...' has a user or a password in its URL: leave both out, and set "
            "ANABRANCH__TABLES__USERNAME and ANABRANCH__TABLES__PASSWORD"
        )
    found = re.fullmatch(rf"(?P<table>{_DOTTED}*)\?column=(?P<column>[^\W\d]\w*)", rest)
    if ":" not in url or found is None:
        raise DeclarationError(
            f"table 'jdbc:{place}' is no table of a database: write jdbc:URL#SCHEMA.TABLE?column=COLUMN, "
            "where COLUMN grows with every new row, such as "
            "jdbc:postgresql://host:5432/shop#public.payments?column=payment_no"
        )
    return TableAddress(kind="jdbc", place=f"jdbc:{url}", table=found["table"], column=found["column"])
