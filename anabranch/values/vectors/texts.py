"""Texts over vectors: object arrays of Python's own texts, '' where they are NULL.

Letters are code points, as Spark's are; texts sort by code point, which is the order of their UTF-8 bytes.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from anabranch.values.vectors.numbers import LEAST, MOST, Twin, Vector, both

AROUND = "".join(map(chr, range(33))) + "\x7f"
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[dDfF]?")
_NAMED = {
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity"), float("inf")),
    **dict.fromkeys(("-inf", "-infinity"), float("-inf")),
    "nan": float("nan"),
}
_TRUE, _FALSE = {"t", "true", "y", "yes", "1"}, {"f", "false", "n", "no", "0"}
_LONGEST_NUMBER = 4000


def texts(values: list[Any]) -> np.ndarray[Any, Any]:
    """An object array of the values."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _over(function: Callable[..., Any], kind: Any) -> Twin:
    """The twin of a function of single values that is NULL only for NULL."""

    def run(*several: Vector, **settings: Any) -> Vector:
        arrays = np.broadcast_arrays(*(values for values, _ in several))
        found = [function(*one, **settings) for one in zip(*(a.tolist() for a in arrays), strict=True)]
        nulls = None
        for _, part in several:
            nulls = both(nulls, part)
        return (texts(found) if kind is object else np.array(found, dtype=kind)), nulls

    return run


def read_text(function: Callable[[str], Any], kind: Any) -> Twin:
    """The twin of a cast of a text: NULL where the function gives None."""

    def run(a: Vector) -> Vector:
        found = [function(text) for text in a[0].tolist()]
        nulls = np.array([one is None for one in found], dtype=np.bool_)
        values = np.array([0 if one is None else one for one in found], dtype=kind)
        return values, both(a[1], nulls if nulls.any() else None)

    return run


def part(text: str, start: int, length: int | None = None) -> str:
    """substring: letters from a place that counts from 1, or from the end where it is negative."""
    first = start - 1 if start > 0 else len(text) + start if start < 0 else 0
    end = len(text) if length is None else first + length
    return text[max(first, 0) : max(end, 0)]


def _left(text: str, length: int) -> str:
    return text[: max(length, 0)]


def _right(text: str, length: int) -> str:
    return text[-length:] if length > 0 else ""


def _replaced(text: str, searched: str, by: str = "") -> str:
    return text.replace(searched, by) if searched else text


def _with_separator(separator: Vector, *several: Vector) -> Vector:
    """concat_ws: without what is NULL."""
    arrays = np.broadcast_arrays(separator[0], *(values for values, _ in several))
    masks = np.broadcast_arrays(
        *(np.zeros(1, np.bool_) if nulls is None else nulls for _, nulls in several), arrays[0]
    )[:-1]
    rows = zip(*(a.tolist() for a in arrays), strict=True)
    absent = zip(*(m.tolist() for m in masks), strict=True) if several else iter([()] * len(arrays[0]))
    found = [
        between.join(text for text, null in zip(rest, none, strict=True) if not null)
        for (between, *rest), none in zip(rows, absent, strict=True)
    ]
    return texts(found), separator[1]


def whole(text: str) -> int | None:
    """A text as BIGINT; None for any other text."""
    bare = text.strip(AROUND)
    if len(bare) > _LONGEST_NUMBER or not _WHOLE.fullmatch(bare):
        return None
    value = int(bare)
    return value if LEAST <= value <= MOST else None


def double(text: str) -> float | None:
    """A text as DOUBLE; None for any other text."""
    bare = text.strip(AROUND)
    if bare.lower() in _NAMED:
        return _NAMED[bare.lower()]
    return float(bare.rstrip("dDfF")) if _DOUBLE.fullmatch(bare) else None


def truth(text: str) -> bool | None:
    """A text as BOOLEAN; None for any other text."""
    bare = text.strip(AROUND).lower()
    return True if bare in _TRUE else False if bare in _FALSE else None


def _like(a: Vector, pattern: str, *, lower: bool = False) -> Vector:
    found = _pattern(pattern)
    values = [found.fullmatch(text.lower() if lower else text) is not None for text in a[0].tolist()]
    return np.array(values, dtype=np.bool_), a[1]


def _pattern(pattern: str) -> "re.Pattern[str]":
    return re.compile(pattern, re.DOTALL)  # Python keeps the compiled ones


def _begins_with_a_year(a: Vector) -> Vector:
    values = [re.match(r"\s*[0-9]{4}", text, re.ASCII) is not None for text in a[0].tolist()]
    return np.array(values, dtype=np.bool_), a[1]


TEXTS: dict[str, Twin] = {
    "lower": _over(str.lower, object),
    "upper": _over(str.upper, object),
    "trim": _over(lambda text: text.strip(" "), object),
    "trim_of": _over(lambda text, letters: text.strip(letters) if letters else text, object),
    "ltrim": _over(lambda text: text.lstrip(" "), object),
    "rtrim": _over(lambda text: text.rstrip(" "), object),
    "length": _over(len, np.int64),
    "substring": _over(part, object),
    "left": _over(_left, object),
    "right": _over(_right, object),
    "concat": _over(lambda *several: "".join(several), object),
    "concat_ws": _with_separator,
    "replace": _over(_replaced, object),
    "contains": _over(lambda text, searched: searched in text, np.bool_),
    "startswith": _over(str.startswith, np.bool_),
    "endswith": _over(str.endswith, np.bool_),
    "instr": _over(lambda text, searched: text.find(searched) + 1, np.int64),
    "like": _like,
    "begins_with_a_year": _begins_with_a_year,
    "text_to_bigint": read_text(whole, np.int64),
    "text_to_double": read_text(double, np.float64),
    "text_to_boolean": read_text(truth, np.bool_),
    "whole_to_text": _over(str, object),
    "boolean_to_text": _over(lambda value: str(value).lower(), object),
}
"""Twins by the names that programs call them by."""
