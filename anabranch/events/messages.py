"""From a decoded message to the values of its columns, by the source's paths. Pure Python.

Landing, the stream and REST read nested messages by these functions alone, whatever the wire format.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

import msgspec

from anabranch.declare.nesting import Nesting
from anabranch.errors import EventError
from anabranch.values.datatype import DataType, show
from anabranch.values.paths import path_text, value_at

MOST_LEVELS = 64
"""Objects and arrays within one another in a nested message; one of more goes to quarantine."""
TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"

_FARTHEST = 999_999_999
"""The exponent of a number whose own no Decimal has: beyond every type, as that is."""
_ODD_ZERO = re.compile(r"-?0(?:\.0*)?[eE][+-]?0*[1-9][0-9]{3,}")


def json_number(text: str) -> Decimal:
    """A JSON number with a fraction or an exponent, with all its digits.

    A zero with an exponent of four digits is no DECIMAL for landing, and zero for a DOUBLE: as the least
    number is.
    """
    if _ODD_ZERO.fullmatch(text):
        return Decimal(f"1e-{_FARTHEST}")
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal(re.sub(r"[eE]\+?(-?)[0-9]+$", rf"e\g<1>{_FARTHEST}", text))


EXACT = msgspec.json.Decoder(float_hook=json_number)
"""Reads JSON; numbers with a fraction or an exponent are Decimal."""


def values_of(message: object, nesting: Nesting) -> dict[str, object]:
    """The values of the columns in a message.

    A value is None where the path leads to nothing. Raises EventError where a path leads through a scalar, or
    to an object or array for a column that takes none; the reason names column, path and what was found.
    """
    values: dict[str, object] = {}
    for column, path in nesting.paths:
        try:
            value = value_at(message, path)
        except EventError as error:
            raise EventError(f"{column.name}: {error}") from error
        if isinstance(value, Mapping | list | tuple) and not column.type.text:
            raise EventError(f"{column.name}: {path_text(path)} is {show(value)}, not {column.type}")
        values[column.name] = value
    return values


def number_of(value: object, kind: DataType) -> object:
    """A value of JSON, where numbers of other types than DECIMAL go by way of a double."""
    by_double = isinstance(value, Decimal) and not kind.decimal and math.isfinite(float(value))
    return float(value) if by_double and isinstance(value, Decimal) else value


def check_levels(message: object) -> None:
    """Raise EventError for a message of more than MOST_LEVELS levels."""
    within: list[object] = [message]
    for _ in range(MOST_LEVELS):
        inner: list[object] = []
        for one in within:
            if isinstance(one, Mapping):
                inner.extend(each for each in one.values() if isinstance(each, Mapping | list | tuple))
            elif isinstance(one, list | tuple):
                inner.extend(each for each in one if isinstance(each, Mapping | list | tuple))
        if not inner:
            return
        within = inner
    raise EventError(TOO_DEEP)
