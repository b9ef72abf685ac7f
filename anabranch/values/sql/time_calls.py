"""Calls of functions of times, and casts that are written as functions."""

import zoneinfo
from typing import TYPE_CHECKING

from anabranch.values.numbers import DecimalType
from anabranch.values.sql.arguments import Handlers, argument, check_literal, one_of
from anabranch.values.sql.functions import is_date_pattern
from anabranch.values.sql.terms import Term, convert, in_years
from anabranch.values.types import (
    BIGINT,
    DATE,
    INT,
    STRING,
    TIMESTAMP,
    parse_type,
)

if TYPE_CHECKING:
    from anabranch.values.sql.operators import Compiler

_FIELDS = ["YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DAYOFWEEK", "DOW", "DOY", "HOUR", "MINUTE", "SECOND"]


def _extract(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    field = str(terms[0].literal).upper()
    if field not in _FIELDS:
        raise compiler.error(f"extracts {terms[0].literal}: use one of {', '.join(_FIELDS)}")
    moment = argument(compiler, "extract", "TIMESTAMP", terms[1])
    return Term(f"extract({field} FROM {moment.sql})", DecimalType(8, 6) if field == "SECOND" else INT)


_PARTS = ["YEAR", "YYYY", "YY", "QUARTER", "MONTH", "MM", "MON", "WEEK"]
_SMALL_PARTS = ["DAY", "DD", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND"]


def _date_trunc(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    part = one_of(compiler, terms[0], [*_PARTS, *_SMALL_PARTS])
    # Of the first instants that Spark has, which no event has but an expression may, it overflows.
    moment = in_years(argument(compiler, "date_trunc", "TIMESTAMP", terms[1]))
    return Term(f"date_trunc({part}, {moment.sql})", TIMESTAMP)


def _trunc(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    return Term(
        f"trunc({argument(compiler, 'trunc', 'DATE', terms[0]).sql}, {one_of(compiler, terms[1], _PARTS)})",
        DATE,
    )


_WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")


def _next_day(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    days = [day[:letters] for day in _WEEK for letters in (2, 3, 9)]
    day = one_of(compiler, terms[1], days)
    return Term(f"next_day({argument(compiler, 'next_day', 'DATE', terms[0]).sql}, {day})", DATE)


def _read_time(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    kind = DATE if name == "to_date" else TIMESTAMP
    if len(terms) == 1:
        return argument(compiler, name, str(kind), terms[0])
    text = argument(compiler, name, "STRING", terms[0])
    check_literal(compiler, name, "@", terms[1])
    if not is_date_pattern(str(terms[1].literal), reading=True):
        raise compiler.error(f"reads times by {terms[1].literal!r}: it must not have the letters E, L and Q")
    found = Term(f"try_to_timestamp({text.sql}, {terms[1].sql})", TIMESTAMP)
    return convert(found, kind)


def _unix(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    if len(terms) == 2 and terms[0].type != STRING:
        terms = terms[:1]  # a pattern is for texts
    return Term(f"unix_seconds({_read_time(compiler, 'to_timestamp', terms).sql})", BIGINT)


def _from_unix(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    seconds = argument(compiler, "from_unixtime", "WHOLE", terms[0]).sql
    if len(terms) > 1:
        check_literal(compiler, "from_unixtime", "@", terms[1])
    moment = (
        f"timestamp_seconds(CASE WHEN {seconds} BETWEEN -62135596800L AND 253402300799L THEN {seconds} END)"
    )
    return Term(
        f"date_format({moment}, {terms[1].sql if len(terms) > 1 else repr('yyyy-MM-dd HH:mm:ss')})", STRING
    )


def _zoned(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    zone = terms[1].literal
    if not isinstance(zone, str) or zone not in zoneinfo.available_timezones():
        raise compiler.error(f"has the time zone {terms[1].sql}: write one such as 'Europe/Berlin'")
    return Term(f"{name}({argument(compiler, name, 'TIMESTAMP', terms[0]).sql}, {terms[1].sql})", TIMESTAMP)


def _cast(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    return compiler.as_type(terms[0], parse_type(name), name)


_CASTS = "tinyint smallint int bigint float double decimal string binary boolean date timestamp"
TIME_CALLS: Handlers = {
    "extract": (2, 2, _extract),
    "date_trunc": (2, 2, _date_trunc),
    "trunc": (2, 2, _trunc),
    "next_day": (2, 2, _next_day),
    **dict.fromkeys(("to_date", "to_timestamp"), (1, 2, _read_time)),
    "unix_timestamp": (1, 2, _unix),
    "from_unixtime": (1, 2, _from_unix),
    **dict.fromkeys(("from_utc_timestamp", "to_utc_timestamp"), (2, 2, _zoned)),
    **dict.fromkeys(_CASTS.split(), (1, 1, _cast)),
}
