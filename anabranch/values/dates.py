"""Types of time: DATE, passed on as days since 1970, and TIMESTAMP, as microseconds since 1970 UTC."""

from datetime import date, datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.errors import MisuseError
from anabranch.values.datatype import DataType, Decoded, JsonSchema, counted, from_halves, halves_sql
from anabranch.values.texts import AROUND_PATTERN, bare_text, readable_sql
from anabranch.values.times import (
    DAY,
    FIRST,
    LAST,
    TIME_PATTERN,
    format_time,
    from_micros,
    parse_time,
    to_micros,
)

_NO_SECONDS = rf"^{AROUND_PATTERN}(.{{16}}) ?([ZU+-])"
_FIRST_DAY = date(1970, 1, 1)


def _timestamp_sql(text: str) -> str:
    """SQL of the instant that a text is, the twin of `parse_time`; NULL for no instant."""
    # Spark does not read a zone right after the minutes, nor a small z. It alone would read '12:00' as today
    # at noon, 2024 as New Year's Day, and times out of the years 1 to 9999, which only two days are near.
    full = f"regexp_replace(upper({text}), r'{_NO_SECONDS}', '$1:00$2')"
    instant = f"coalesce(try_cast({text} AS TIMESTAMP), try_cast({full} AS TIMESTAMP))"
    inside = f"unix_micros({instant}) BETWEEN {FIRST} AND {LAST}"
    edge = f"contains({text}, '0001-01-01') OR contains({text}, '9999-12-31')"
    return f"CASE WHEN {readable_sql(text, TIME_PATTERN)} AND (NOT ({edge}) OR {inside}) THEN {instant} END"


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
        return _timestamp_sql(text)

    def reads(self, value: object) -> bool:
        try:
            return isinstance(value, str) and parse_time(value) is not None
        except MisuseError:
            return False

    def key_text(self, value: object) -> str | None:
        if self.fault(value) is not None:
            return None
        text = format_time(self.value(value)).removesuffix("Z").replace("T", " ")
        return text.rstrip("0") if "." in text else text

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

    def state_sql(self, argument: str, where: str | None) -> tuple[str, ...]:
        # One double would lose microseconds after 2255 and before 1684.
        return halves_sql(counted(f"unix_micros({argument})", where))

    def from_state(self, rows: NDArray[np.float64]) -> Decoded:
        wholes, valid = from_halves(rows)
        return wholes[:, 0], valid


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
        return f"CASE WHEN {_timestamp_sql(text)} IS NOT NULL THEN try_cast({text} AS DATE) END"

    def reads(self, value: object) -> bool:
        return TIMESTAMP.reads(value)

    def key_text(self, value: object) -> str | None:
        return None if self.fault(value) is not None else str(self.to_json(self.value(value)))

    def value(self, raw: Any) -> Any:
        if isinstance(raw, str):
            # The day that the text names, in whatever zone.
            return parse_time(bare_text(raw)[:10]) // DAY
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
