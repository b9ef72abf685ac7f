"""Logical types of binary formats as texts: days, times and decimals that are written as whole numbers.

Names are Avro's. Kafka Connect and Debezium have names of their own for the same, in the `connect.name` of an
Avro schema and the `name` of a JSON schema.
"""

import datetime
import uuid
from typing import Any

from anabranch.errors import EventError
from anabranch.values.times import FIRST, LAST, SECOND

_DAY_ONE = datetime.date(1970, 1, 1).toordinal()
PER_SECOND = {"millis": 1000, "micros": 1_000_000, "nanos": 1_000_000_000}
_DIGITS = {"millis": 3, "micros": 6, "nanos": 9}
MOMENTS = {f"{local}timestamp-{unit}": unit for local in ("", "local-") for unit in PER_SECOND}
CLOCKS = {f"time-{unit}": unit for unit in PER_SECOND}
CONNECT = {
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time-millis",
    "org.apache.kafka.connect.data.Timestamp": "timestamp-millis",
    "org.apache.kafka.connect.data.Decimal": "decimal",
    "io.debezium.time.Date": "date",
    "io.debezium.time.Time": "time-millis",
    "io.debezium.time.MicroTime": "time-micros",
    "io.debezium.time.NanoTime": "time-nanos",
    "io.debezium.time.Timestamp": "timestamp-millis",
    "io.debezium.time.MicroTimestamp": "timestamp-micros",
    "io.debezium.time.NanoTimestamp": "timestamp-nanos",
    "io.debezium.data.VariableScaleDecimal": "variable-decimal",
}
"""Avro's name of each; Debezium's times without a zone are UTC, as all times without one are here."""


def logical_text(value: object, logical: str, scale: int = 0) -> object:
    """The value as text; one that the logical type does not have, such as the year 40000, stays as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        if logical == "date":
            return day_text(value)
        if logical in MOMENTS:
            return moment_text(value, MOMENTS[logical])
        if logical in CLOCKS:
            return clock_text(value, CLOCKS[logical])
    if isinstance(value, bytes):
        if logical == "decimal":
            return decimal_text(int.from_bytes(value, "big", signed=True), scale)
        if logical == "uuid" and len(value) == 16:
            return str(uuid.UUID(bytes=value))
    return value


def plain_json(value: Any) -> Any:
    """A value of objects and arrays as JSON has it: bytes are UTF-8. Raises EventError for other bytes."""
    if isinstance(value, dict):
        return {name: plain_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain_json(one) for one in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise EventError("the text is not UTF-8") from None


def day_text(days: int) -> object:
    """The ISO 8601 text of days since 1970."""
    ordinal = _DAY_ONE + days
    within = 1 <= ordinal <= datetime.date.max.toordinal()
    return datetime.date.fromordinal(ordinal).isoformat() if within else days


def moment_text(value: int, unit: str) -> object:
    """The ISO 8601 text of a time since 1970 UTC in `unit`, with as many digits as the unit has."""
    per_second = PER_SECOND[unit]
    seconds, rest = divmod(value, per_second)
    if not FIRST <= seconds * SECOND <= LAST:
        return value
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)  # noqa: DTZ001 - the Z follows
    return f"{moment.isoformat()}.{rest:0{_DIGITS[unit]}d}Z"


def clock_text(value: int, unit: str) -> object:
    """The text of a time of day in `unit`, such as ``23:59:59.000``."""
    seconds, rest = divmod(value, PER_SECOND[unit])
    if not 0 <= seconds < 86_400:
        return value
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{_DIGITS[unit]}d}"


def decimal_text(unscaled: int, scale: int) -> str:
    """The text of the number unscaled / 10 ** scale, all digits kept."""
    if unscaled.bit_length() > 4000:  # Python refuses to write so many digits
        return f"{unscaled:#x}"
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    whole, fraction = (digits[:-scale], digits[-scale:]) if scale > 0 else (digits + "0" * -scale, "")
    return f"{'-' if unscaled < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"
