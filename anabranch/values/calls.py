"""Calls of functions in SQL expressions as safe Spark SQL."""

import difflib
import zoneinfo
from collections.abc import Callable
from typing import TYPE_CHECKING

from anabranch.values.functions import LONGEST, SIGNATURES, Signature, is_date_pattern, pattern_fault
from anabranch.values.numbers import DecimalType, WholeType
from anabranch.values.terms import Term, common_type, convert, exact, rounded
from anabranch.values.types import (
    BIGINT,
    BINARY,
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    STRING,
    TIMESTAMP,
    ArrayType,
    DataType,
    parse_type,
)

if TYPE_CHECKING:
    from anabranch.values.operators import Compiler

Handler = Callable[["Compiler", str, list[Term]], Term]


def call(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    """The call of a function by its name; raises for an unknown one and for arguments that do not fit."""
    if name in _HANDLERS:
        least, most, handler = _HANDLERS[name]
        if not least <= len(terms) <= most:
            raise compiler.error(f"calls {name} with {len(terms)} arguments")
        return handler(compiler, name, terms)
    if name not in SIGNATURES:
        near = difflib.get_close_matches(name, known_functions(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "docs/expressions.md lists those that are"
        raise compiler.error(f"calls {name}, which is not a supported function: {hint}")
    return _signed(compiler, name, SIGNATURES[name], terms)


def known_functions() -> list[str]:
    """Names of all functions that expressions may call, without their aliases."""
    return sorted({*SIGNATURES, *_HANDLERS})


def _signed(compiler: "Compiler", name: str, signature: Signature, terms: list[Term]) -> Term:
    kinds = list(signature.parameters)
    if signature.repeats:
        kinds += kinds[-1:] * (len(terms) - len(kinds))
    if not signature.required <= len(terms) <= len(kinds):
        raise compiler.error(f"calls {name} with {len(terms)} arguments, not {len(signature.parameters)}")
    sql = [
        _argument(compiler, name, kind, term).sql
        for kind, term in zip(kinds[: len(terms)], terms, strict=True)
    ]
    text = signature.template.replace("{}", ", ".join(sql))
    for position, one in enumerate(sql):
        text = text.replace(f"{{{position}}}", one)
    return Term(text, _type(signature.result))


def _type(text: str) -> DataType:
    return ArrayType(parse_type(text[6:-1])) if text.startswith("ARRAY<") else parse_type(text)


def _argument(compiler: "Compiler", name: str, kind: str, term: Term) -> Term:
    if kind in "#'~@":
        _check_literal(compiler, name, kind, term)
        return term
    array = term.type is not None and term.type.array
    if kind == "ARRAY":
        if not array:
            raise compiler.error(f"calls {name} with {term.type}, not with an array")
        return term
    if array:
        raise compiler.error(f"calls {name} with {term.type}, which it does not take")
    if kind == "ANY":
        return term
    if kind == "BYTES":
        return term if term.type == BINARY else convert(term, STRING)
    if kind == "STRING" and term.type == BINARY:
        raise compiler.error(f"calls {name} with BINARY: convert it with CAST")
    wanted = BIGINT if kind == "WHOLE" else parse_type(kind)
    if wanted.integral and term.type is not None and not term.type.integral:
        raise compiler.error(f"calls {name} with {term.type}, not with a whole number")
    if wanted.numeric and term.type is not None and not (term.type.numeric or term.type == STRING):
        raise compiler.error(f"calls {name} with {term.type}, not with a number")
    if wanted.time and term.type is not None and not (term.type.time or term.type == STRING):
        raise compiler.error(f"calls {name} with {term.type}, not with a time")
    return compiler.as_type(term, wanted, name)


def _check_literal(compiler: "Compiler", name: str, kind: str, term: Term) -> None:
    value = term.literal
    if kind == "#":
        if not isinstance(value, int) or abs(value) > LONGEST:
            raise compiler.error(
                f"calls {name} with {term.sql}: write a whole number up to {LONGEST:,} in its place"
            )
        return
    if not isinstance(value, str):
        raise compiler.error(f"calls {name} with {term.sql}: write a text in quotes in its place")
    fault = pattern_fault(value) if kind == "~" else None
    if fault is not None:
        raise compiler.error(f"has the regular expression {value!r}, which {fault}")
    if kind == "@" and not is_date_pattern(value):
        raise compiler.error(f"has {value!r}, which is not a pattern of dates such as 'yyyy-MM-dd HH:mm'")


def _together(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    joined = compiler.compared if name in ("greatest", "least") else compiler.together
    found = joined(terms, name)
    return Term(f"{name}({', '.join(term.sql for term in found)})", found[0].type)


def _nullif(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = compiler.compared(terms, "nullif")
    return Term(f"CASE WHEN {left.sql} = {right.sql} THEN NULL ELSE {terms[0].sql} END", terms[0].type)


def _nvl2(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    return compiler.chosen([f"{terms[0].sql} IS NOT NULL"], terms[1:])


def _nanvl(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = (compiler.as_type(term, DOUBLE, "nanvl") for term in terms)
    return Term(f"nanvl({left.sql}, {right.sql})", DOUBLE)


def _equal_null(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    left, right = compiler.compared(terms, "equal_null")
    return Term(f"({left.sql} <=> {right.sql})", BOOLEAN)


def _signed_number(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    negated = compiler.negated(terms[0])
    return negated if name == "negative" else terms[0]


def _or_zero(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    zero = Term("0", INT, 0)
    return (
        _together(compiler, "coalesce", [terms[0], zero])
        if name == "zeroifnull"
        else _nullif(compiler, name, [terms[0], zero])
    )


def _arithmetic(operator: str) -> Handler:
    return lambda compiler, _name, terms: compiler.calculated(operator, *terms)


def _pmod(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    kind = common_type(terms[0].type, terms[1].type)
    if kind is None or not kind.numeric:
        raise compiler.error(f"calls {name} with {terms[0].type} and {terms[1].type}, not with two numbers")
    kind = BIGINT if kind.integral else DOUBLE
    left, right = convert(terms[0], kind), convert(terms[1], kind)
    return Term(f"pmod({left.sql}, nullif({right.sql}, {convert(Term('0', INT, 0), kind).sql}))", kind)


def _size(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    if term.type is None or not term.type.numeric:
        raise compiler.error(f"calls {name} with {term.type}, not with a number")
    if term.type.floating:
        return Term(f"abs({term.sql})", term.type)
    value = convert(term, BIGINT) if isinstance(term.type, WholeType) else term
    return Term(
        f"CASE WHEN {value.sql} < 0 THEN {compiler.negated(value).sql} ELSE {value.sql} END", value.type
    )


def _edge(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    if term.type is not None and term.type.integral:
        return convert(term, BIGINT)
    if isinstance(term.type, DecimalType):
        scale = term.type.scale
        kind = DecimalType(min(term.type.precision - scale + 1, 38)) if scale else term.type
        return Term(f"{name}({term.sql})", kind)
    number = _argument(compiler, name, "DOUBLE", term).sql
    return Term(f"{name}(CASE WHEN abs({number}) < 9.2E18D THEN {number} END)", BIGINT)


def _round(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term, places = terms[0], terms[1].literal if len(terms) > 1 else 0
    if not isinstance(places, int) or abs(places) > 38:
        raise compiler.error(f"calls {name} with {terms[1].sql}: write a whole number from -38 to 38")
    if term.type is not None and term.type.floating:
        return Term(f"{name}({term.sql}, {places})", term.type)
    decimal = exact(term)
    if decimal is None:
        return Term(f"{name}({_argument(compiler, name, 'DOUBLE', term).sql}, {places})", DOUBLE)
    whole = isinstance(term.type, WholeType)
    if whole and places >= 0:
        return term
    kind = rounded(decimal, places)
    if kind is None:
        raise compiler.error(f"rounds {term.type}, which gives more than 38 digits: cast it to fewer")
    found = Term(f"{name}({convert(term, decimal).sql}, {places})", kind)
    return convert(found, BIGINT) if whole else found


def _concat(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    if all(term.type == BINARY for term in terms):
        return Term(f"concat({', '.join(term.sql for term in terms)})", BINARY)
    texts = [_argument(compiler, name, "STRING", term).sql for term in terms]
    return Term(f"concat({', '.join(texts)})", STRING)


def _hex(_compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    term = terms[0]
    whole = term.type is not None and term.type.integral
    kept = term if term.type == BINARY else convert(term, BIGINT if whole else STRING)
    return Term(f"{name}({kept.sql})", STRING)


def _array_of(compiler: "Compiler", name: str, terms: list[Term]) -> tuple[Term, DataType]:
    if not isinstance(terms[0].type, ArrayType):
        raise compiler.error(f"calls {name} with {terms[0].type}, not with an array")
    return terms[0], terms[0].type.inner


def _array(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    found = compiler.together(terms, "array")
    if found[0].type is None or found[0].type.array:
        raise compiler.error("makes an array of no values or of arrays")
    return Term(f"array({', '.join(term.sql for term in found)})", ArrayType(found[0].type))


def _item(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    array, inner = _array_of(compiler, name, terms)
    place = _argument(compiler, name, "INT", terms[1]).sql
    if name == "get":
        return Term(f"get({array.sql}, {place})", inner)
    return Term(f"try_element_at({array.sql}, nullif(nullif({place}, 0), -2147483648))", inner)


def _search(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    array, inner = _array_of(compiler, name, terms)
    value = compiler.as_type(terms[1], inner, name)
    return Term(f"{name}({array.sql}, {value.sql})", BOOLEAN if name == "array_contains" else BIGINT)


def _of_items(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    array, inner = _array_of(compiler, name, terms)
    return Term(f"{name}({array.sql})", array.type if name in ("array_distinct", "sort_array") else inner)


def _matches(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    text = _argument(compiler, "rlike", "STRING", terms[0])
    _check_literal(compiler, "rlike", "~", terms[1])
    return Term(f"({text.sql} RLIKE {terms[1].sql})", BOOLEAN)


def _groups(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    text = _argument(compiler, name, "STRING", terms[0])
    _check_literal(compiler, name, "~", terms[1])
    group = terms[2].literal if len(terms) > 2 else 1
    if not isinstance(group, int) or group < 0:
        raise compiler.error(f"calls {name} with {terms[2].sql}: write the number of a group in its place")
    fault = pattern_fault(str(terms[1].literal), group)
    if fault is not None:
        raise compiler.error(f"has the regular expression {terms[1].literal!r}, which {fault}")
    kind = STRING if name == "regexp_extract" else ArrayType(STRING)
    return Term(f"{name}({text.sql}, {terms[1].sql}, {group})", kind)


def _replaced(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    text = _argument(compiler, name, "STRING", terms[0])
    _check_literal(compiler, name, "~", terms[1])
    _check_literal(compiler, name, "'", terms[2])
    by = str(terms[2].literal)
    used = [int(one) if one.isdigit() else -1 for one in _after_marks(by)]
    if -1 in used or pattern_fault(str(terms[1].literal), max(used, default=0)) is not None:
        raise compiler.error(f"replaces by {by!r}, which names a group that the regular expression has not")
    return Term(f"{name}({text.sql}, {terms[1].sql}, {terms[2].sql})", STRING)


def _after_marks(text: str) -> list[str]:
    """What follows each `$` that is not escaped; `x` after a backslash at the end."""
    out, place = [], 0
    while place < len(text):
        if text[place] == "\\":
            out += [] if place + 1 < len(text) else ["x"]
            place += 1
        elif text[place] == "$":
            out.append(text[place + 1 : place + 2] or "x")
        place += 1
    return out


_FIELDS = ["YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DAYOFWEEK", "DOW", "DOY", "HOUR", "MINUTE", "SECOND"]


def _extract(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    field = str(terms[0].literal).upper()
    if field not in _FIELDS:
        raise compiler.error(f"extracts {terms[0].literal}: use one of {', '.join(_FIELDS)}")
    moment = _argument(compiler, "extract", "TIMESTAMP", terms[1])
    return Term(f"extract({field} FROM {moment.sql})", DecimalType(8, 6) if field == "SECOND" else INT)


_PARTS = ["YEAR", "YYYY", "YY", "QUARTER", "MONTH", "MM", "MON", "WEEK"]
_SMALL_PARTS = ["DAY", "DD", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND"]


def _date_trunc(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    part = _one_of(compiler, terms[0], [*_PARTS, *_SMALL_PARTS])
    return Term(
        f"date_trunc({part}, {_argument(compiler, 'date_trunc', 'TIMESTAMP', terms[1]).sql})", TIMESTAMP
    )


def _trunc(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    return Term(
        f"trunc({_argument(compiler, 'trunc', 'DATE', terms[0]).sql}, {_one_of(compiler, terms[1], _PARTS)})",
        DATE,
    )


def _one_of(compiler: "Compiler", term: Term, names: list[str]) -> str:
    if str(term.literal).upper() not in names:
        raise compiler.error(f"has {term.sql} where one of {', '.join(names)} stands in quotes")
    return term.sql


_WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")


def _next_day(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    days = [day[:letters] for day in _WEEK for letters in (2, 3, 9)]
    day = _one_of(compiler, terms[1], days)
    return Term(f"next_day({_argument(compiler, 'next_day', 'DATE', terms[0]).sql}, {day})", DATE)


def _read_time(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    kind = DATE if name == "to_date" else TIMESTAMP
    if len(terms) == 1:
        return _argument(compiler, name, str(kind), terms[0])
    text = _argument(compiler, name, "STRING", terms[0])
    _check_literal(compiler, name, "@", terms[1])
    found = Term(f"try_to_timestamp({text.sql}, {terms[1].sql})", TIMESTAMP)
    return convert(found, kind)


def _unix(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    if len(terms) == 2 and terms[0].type != STRING:
        terms = terms[:1]  # a pattern is for texts
    return Term(f"unix_seconds({_read_time(compiler, 'to_timestamp', terms).sql})", BIGINT)


def _from_unix(compiler: "Compiler", _name: str, terms: list[Term]) -> Term:
    seconds = _argument(compiler, "from_unixtime", "WHOLE", terms[0]).sql
    if len(terms) > 1:
        _check_literal(compiler, "from_unixtime", "@", terms[1])
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
    return Term(f"{name}({_argument(compiler, name, 'TIMESTAMP', terms[0]).sql}, {terms[1].sql})", TIMESTAMP)


def _cast(compiler: "Compiler", name: str, terms: list[Term]) -> Term:
    return compiler.as_type(terms[0], parse_type(name), name)


_MANY = 1000
_CASTS = "tinyint smallint int bigint float double decimal string binary boolean date timestamp"
_HANDLERS: dict[str, tuple[int, int, Handler]] = {
    **dict.fromkeys(("coalesce", "greatest", "least"), (2, _MANY, _together)),
    "nullif": (2, 2, _nullif),
    "nvl2": (3, 3, _nvl2),
    "equal_null": (2, 2, _equal_null),
    **dict.fromkeys(("negative", "positive"), (1, 1, _signed_number)),
    **dict.fromkeys(("zeroifnull", "nullifzero"), (1, 1, _or_zero)),
    "nanvl": (2, 2, _nanvl),
    "try_add": (2, 2, _arithmetic("+")),
    "try_subtract": (2, 2, _arithmetic("-")),
    "try_multiply": (2, 2, _arithmetic("*")),
    "mod": (2, 2, _arithmetic("%")),
    "try_divide": (2, 2, lambda compiler, _name, terms: compiler.quotient(*terms)),
    "pmod": (2, 2, _pmod),
    "abs": (1, 1, _size),
    **dict.fromkeys(("ceil", "floor"), (1, 1, _edge)),
    **dict.fromkeys(("round", "bround"), (1, 2, _round)),
    "concat": (1, _MANY, _concat),
    "hex": (1, 1, _hex),
    "array": (1, _MANY, _array),
    **dict.fromkeys(("get", "element_at"), (2, 2, _item)),
    **dict.fromkeys(("array_contains", "array_position"), (2, 2, _search)),
    **dict.fromkeys(("array_distinct", "sort_array", "array_min", "array_max"), (1, 1, _of_items)),
    "rlike": (2, 2, _matches),
    **dict.fromkeys(("regexp_extract", "regexp_extract_all"), (2, 3, _groups)),
    "regexp_replace": (3, 3, _replaced),
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
