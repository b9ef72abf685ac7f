"""Values that come as JSON, checked against declared types, and JSON that goes out: by HTTP or in topics. Pure Python.

The rules are those of the landing and the stream: a value may also come as text that reads as its type (``"45"``).
"""

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal, InvalidOperation

import msgspec
import numpy as np

from anabranch.errors import MisuseError
from anabranch.values.times import parse_time
from anabranch.values.types import DataType

_BITS = {"TINYINT": 8, "SMALLINT": 16, "INT": 32, "BIGINT": 64}
_WHOLE = re.compile(r"[+-]?\d{1,40}(\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?)?")
_BOOLEANS = {"true", "false", "t", "f", "yes", "no", "y", "n", "1", "0"}


def value_fault(value: object, kind: DataType) -> str | None:
    """Why `value`, not None, is not of type `kind`; None when it is."""
    if isinstance(value, dict | list):
        return f"{show(value)} is not {_article(kind)}"
    if kind.text:
        return None if _encodable(str(value)) else "the text is not Unicode"
    return None if _CHECKS[kind.name](value, kind) else f"{show(value)} is not {_article(kind)}{_hint(kind)}"


def show(value: object) -> str:
    """A short text of a JSON value, for messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = (
        {None: "null", True: "true", False: "false"}.get(value)
        if value is None or value is True or value is False
        else None
    )
    text = text if text is not None else (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _article(kind: DataType) -> str:
    return f"{'an' if kind.name[0] in 'AEIOU' else 'a'} {kind}"


def _hint(kind: DataType) -> str:
    if kind.name == "TIMESTAMP":
        return ": write ISO 8601 such as 2024-05-01T12:00:00Z"
    return ": write 2024-05-01" if kind.name == "DATE" else ""


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _number_text(value: object) -> str:
    """Text of a number or of a text; booleans are neither."""
    return "" if isinstance(value, bool) else str(value).strip()


def _is_whole(value: object, kind: DataType) -> bool:
    if isinstance(value, float):
        number = int(value) if value.is_integer() else None
    else:
        text = _number_text(value)
        number = int(text.partition(".")[0] or "0") if _WHOLE.fullmatch(text) else None
    edge = 1 << (_BITS[kind.name] - 1)
    return number is not None and -edge <= number < edge


def _is_double(value: object, kind: DataType) -> bool:  # noqa: ARG001 - one signature for all checks
    text = _number_text(value)
    return bool(_NUMBER.fullmatch(text)) and abs(float(text)) < float("inf")


def _is_decimal(value: object, kind: DataType) -> bool:
    text = _number_text(value)
    try:
        number = Decimal(text) if _NUMBER.fullmatch(text) else None
    except InvalidOperation:  # an exponent beyond all bounds
        return False
    return number is not None and (number == 0 or number.adjusted() < kind.precision - kind.scale)


def _is_boolean(value: object, kind: DataType) -> bool:  # noqa: ARG001
    return str(value).strip().lower() in _BOOLEANS


def _is_date(value: object, kind: DataType) -> bool:
    if isinstance(value, str) and _DATE.fullmatch(value.strip()):
        try:
            date.fromisoformat(value.strip())
        except ValueError:
            return False
        return True
    return _is_timestamp(value, kind)


def _is_timestamp(value: object, kind: DataType) -> bool:  # noqa: ARG001
    if not isinstance(value, str) or not _TIME.fullmatch(value.strip()):
        return False
    try:
        parse_time(value)
    except MisuseError:
        return False
    return True


_CHECKS: dict[str, Callable[[object, DataType], bool]] = {
    "TINYINT": _is_whole, "SMALLINT": _is_whole, "INT": _is_whole, "BIGINT": _is_whole,
    "FLOAT": _is_double, "DOUBLE": _is_double, "DECIMAL": _is_decimal,
    "BOOLEAN": _is_boolean, "DATE": _is_date, "TIMESTAMP": _is_timestamp,
}  # fmt: skip


def encode(document: object) -> bytes:
    """JSON, numbers of numpy and dates of drivers included."""
    return msgspec.json.encode(document, enc_hook=_plain)


def _plain(value: object) -> object:
    # Drivers have types of their own for dates; their text is ISO 8601.
    return value.item() if isinstance(value, np.generic) else str(value)
