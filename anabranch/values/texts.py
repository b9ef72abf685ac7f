"""Values as texts: what is ignored around them, how long they may be, and how JSON is written as a cell.

What a type reads is a pattern that Spark and Python take alike: without letters or digits of other scripts,
and linear in the length of the text.
"""

import json
import math
import re
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Self

AROUND = "".join(map(chr, range(33))) + "\x7f"
"""Spaces and control characters, which Spark's casts ignore around a value."""
AROUND_PATTERN = r"[\x00-\x20\x7f]*"
LONGEST_TEXT = 1000
"""Bytes of a text that can be a number or a time."""
_FARTHEST = 999_999_999
"""The exponent of a number whose own no Decimal has: beyond every type, as that is."""


class JsonNumber(Decimal):
    """A JSON number with a fraction or an exponent: all its digits, and the text that was sent, as `str`."""

    __slots__ = ("_sent",)
    _sent: str

    def __new__(cls, text: str) -> Self:
        """The number of a text that JSON allows."""
        try:
            self = super().__new__(cls, text)
        except InvalidOperation:
            self = super().__new__(cls, re.sub(r"[eE]\+?(-?)[0-9]+$", rf"e\g<1>{_FARTHEST}", text))
        self._sent = text
        return self

    def __str__(self) -> str:
        return self._sent


def bare_text(value: object) -> str:
    """A JSON value as the text of a cell without what is around it; empty if that is too long to be a value.

    Source: how Spark's from_json writes numbers and booleans as STRING.
    """
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST_TEXT:
        return ""  # Python refuses to write so many digits
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.strip(AROUND) if len(text.encode("utf-8", "replace")) <= LONGEST_TEXT else ""


def readable_sql(text: str, pattern: str) -> str:
    """SQL of whether the SQL expression `text` is of the pattern, which has no anchors, and not too long."""
    return (
        f"(octet_length({text}) <= {LONGEST_TEXT} "
        f"AND {text} RLIKE r'\\A{AROUND_PATTERN}(?:{pattern}){AROUND_PATTERN}\\z')"
    )


def json_text(value: object) -> str:
    """A JSON value as a STRING has it: a number as it was sent, a float, which was never text, as Java does.

    Source of objects and arrays: Spark's from_json.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _java_text(value)
    return (
        json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
        if isinstance(value, dict | list)
        else str(value)
    )


def cell_text(value: object) -> str:
    """A decoded value, which is not None, as the text of a cell."""
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, date) else json_text(value)


def _plain(value: object) -> object:
    """Within an object or array a value that JSON does not have: a number goes by way of a double."""
    if isinstance(value, Decimal):
        return number if math.isfinite(number := float(value)) else str(value)
    return value.decode() if isinstance(value, bytes) else str(value)


def _java_text(value: float) -> str:
    """Source: java.lang.Double.toString."""
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    shown = "".join(map(str, digits)).rstrip("0")
    power = len(digits) - 1 + int(exponent)
    return f"{'-' * sign}{shown[0]}.{shown[1:] or '0'}E{power}"
