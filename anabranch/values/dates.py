"""Types of time: DATE, passed on as days since 1970, and TIMESTAMP, as microseconds since 1970 UTC."""

import re
from datetime import date, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from anabranch.errors import MisuseError
from anabranch.values.datatype import DataType, JsonSchema
from anabranch.values.times import DAY, format_time, from_micros, parse_time, to_micros

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?)?")
_CELL = (
    r"^\s*(?!0000)\d{4}-\d{2}-\d{2}"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s?([Zz]|UTC|[+-]\d{2}(:?\d{2})?)?)?\s*$"
)
_NO_SECONDS = r"^(.{16})\s?([ZU+-])"
_FIRST_DAY = date(1970, 1, 1)


def _timestamp_sql(text: str) -> str:
    # Spark does not read a zone right after the minutes, nor a small z.
    full = f"regexp_replace(upper(trim({text})), r'{_NO_SECONDS}', '$1:00$2')"
    return f"coalesce(try_cast({text} AS TIMESTAMP), try_cast({full} AS TIMESTAMP))"


class TimestampType(DataType):
    """Instants, to the microsecond."""

    name, aliases = "TIMESTAMP", ("TIMESTAMP_LTZ",)
    time = True
    categorical = False
    cql = "timestamp"
    model_kind = "timestamp"
    hint = "ISO 8601, such as 2024-05-01T12:00:00Z"
    example = "2024-05-01T12:00:00Z"
    arrow = pa.timestamp("us", tz="UTC")
    json_schema: ClassVar[JsonSchema] = {"type": "string", "format": "date-time"}

    def cell_sql(self, text: str) -> str:
        # Spark alone reads '12:00' as today at noon and 2024 as New Year's Day.
        return f"CASE WHEN {text} RLIKE r'{_CELL}' THEN {_timestamp_sql(text)} END"

    def reads(self, value: object) -> bool:
        if not isinstance(value, str) or not _TIME.fullmatch(value.strip()):
            return False
        try:
            parse_time(value)
        except MisuseError:
            return False
        return True

    def value(self, raw: Any) -> Any:
        if isinstance(raw, datetime):
            return to_micros(raw)
        if isinstance(raw, str):
            return parse_time(raw)
        return raw.item() if isinstance(raw, np.generic) else raw

    def to_json(self, value: Any) -> Any:
        return None if value is None else format_time(self.value(value))

    @property
    def event_schema(self) -> JsonSchema:
        return self.json_schema

    def to_cql(self, value: Any) -> Any:
        return from_micros(value) if isinstance(value, int) else value

    def number_sql(self, argument: str) -> str:
        return f"unix_micros({argument})"


class DateType(DataType):
    """Days."""

    name = "DATE"
    time = True
    cql = "date"
    model_kind = "date"
    hint = "ISO 8601, such as 2024-05-01"
    example = "2024-05-01"
    state_array = np.int32
    arrow = pa.date32()
    json_schema: ClassVar[JsonSchema] = {"type": "string", "format": "date"}

    def cell_sql(self, text: str) -> str:
        readable = f"{text} RLIKE r'{_CELL}' AND {_timestamp_sql(text)} IS NOT NULL"
        return f"CASE WHEN {readable} THEN try_cast({text} AS DATE) END"

    def reads(self, value: object) -> bool:
        if isinstance(value, str) and _DATE.fullmatch(value.strip()):
            try:
                date.fromisoformat(value.strip())
            except ValueError:
                return False
            return True
        return TIMESTAMP.reads(value)

    def value(self, raw: Any) -> Any:
        if isinstance(raw, str):
            return parse_time(raw) // DAY
        if isinstance(raw, datetime):
            return to_micros(raw) // DAY
        if isinstance(raw, date):
            return (raw - _FIRST_DAY).days
        return raw.item() if isinstance(raw, np.generic) else raw

    def to_json(self, value: Any) -> Any:
        return None if value is None else format_time(self.value(value) * DAY)[:10]

    @property
    def event_schema(self) -> JsonSchema:
        return self.json_schema

    def to_cql(self, value: Any) -> Any:
        return _FIRST_DAY + timedelta(days=value) if isinstance(value, int) else value

    def number_sql(self, argument: str) -> str:
        return f"unix_date({argument})"


DATE, TIMESTAMP = DateType(), TimestampType()
