"""Functions and operators of compiled expressions that have a twin of numpy (anabranch/values/vectors).

`TWINNED` is the one table of functions; `docs/expressions.md` shows it, and a test that every function has
its twin, gives Spark's values and stands on the page.
"""

from sqlglot import exp

from anabranch.values.types import BIGINT, BOOLEAN, DATE, DOUBLE, INT, STRING, TIMESTAMP, DataType

EVALUATED = (BOOLEAN, INT, BIGINT, DOUBLE, STRING, DATE, TIMESTAMP)
"""Types that a program gives; it reads other numbers too."""
_BY_RESULT: dict[DataType, str] = {
    DOUBLE: """sqrt cbrt exp expm1 ln log10 log2 log1p rint sign signum:sign abs nanvl round pow power:pow
        try_divide:divide""",
    BIGINT: "floor ceil unix_micros:itself unix_seconds unix_millis",
    STRING: """lower lcase:lower upper ucase:upper trim ltrim rtrim substring substr:substring left right
        concat concat_ws replace""",
    INT: """length len:length char_length:length character_length:length instr year quarter month day
        dayofmonth:day dayofyear dayofweek weekday weekofyear hour minute second datediff:days_between
        date_diff:days_between unix_date:itself""",
    BOOLEAN: "contains startswith endswith isnull:is_null isnotnull:is_known isnan:is_nan",
    DATE: """date_add:days_later dateadd:days_later date_sub:days_between last_day
        date_from_unix_date:itself""",
    TIMESTAMP: "timestamp_seconds timestamp_millis:millis_to_time timestamp_micros:itself",
}
TWINNED: dict[str, tuple[str, DataType]] = {
    name.partition(":")[0]: (name.rpartition(":")[2], kind)
    for kind, names in _BY_RESULT.items()
    for name in names.split()
}
"""By function of the compiled text: its twin and the type of its result."""
_WRITTEN = """
    coalesce greatest least nullif nvl2 equal_null negative positive zeroifnull nullifzero try_add
    try_subtract try_multiply mod pmod log extract date_trunc trunc to_date to_timestamp unix_timestamp int
    bigint double string boolean date timestamp btrim
"""
ALLOWED = frozenset({*TWINNED, *_WRITTEN.split()})
"""Functions that an evaluated expression may call, without their aliases."""
BY_TYPE = {
    "try_add": ("add", "add_double"),
    "try_subtract": ("subtract", "subtract_double"),
    "try_multiply": ("multiply", "multiply_double"),
    "try_mod": ("remainder", "float_remainder"),
    "pmod": ("remainder_above", "float_remainder_above"),
}
"""Twins for whole numbers and for DOUBLE."""
CASTS: dict[tuple[DataType, DataType], str] = {
    (BIGINT, INT): "to_int",
    **{(kind, DOUBLE): "to_double" for kind in (BIGINT, BOOLEAN)},
    **{(kind, BOOLEAN): "is_not_zero" for kind in (BIGINT, DOUBLE)},
    **{(BOOLEAN, kind): "to_whole" for kind in (INT, BIGINT)},
    (DOUBLE, BIGINT): "double_to_bigint",
    (DOUBLE, INT): "double_to_int",
    (DOUBLE, TIMESTAMP): "double_to_time",
    (BIGINT, TIMESTAMP): "seconds_to_time",
    (BIGINT, STRING): "whole_to_text",
    (BOOLEAN, STRING): "boolean_to_text",
    (DATE, TIMESTAMP): "day_to_time",
    (DATE, STRING): "day_to_text",
    (TIMESTAMP, DATE): "time_to_day",
    (TIMESTAMP, STRING): "time_to_text",
    (TIMESTAMP, BIGINT): "unix_seconds",
    (TIMESTAMP, DOUBLE): "time_to_double",
    (STRING, BIGINT): "text_to_bigint",
    (STRING, DOUBLE): "text_to_double",
    (STRING, BOOLEAN): "text_to_boolean",
    (STRING, DATE): "text_to_day",
    (STRING, TIMESTAMP): "text_to_time",
}
COMPARED: dict[type[exp.Expr], str] = {
    exp.EQ: "equal",
    exp.NEQ: "unequal",
    exp.LT: "below",
    exp.LTE: "at_most",
    exp.GT: "above",
    exp.GTE: "at_least",
    exp.NullSafeEQ: "same",
    exp.And: "and",
    exp.Or: "or",
}
COMPUTED: dict[type[exp.Expr], str] = {
    exp.Add: "try_add",
    exp.Sub: "try_subtract",
    exp.Mul: "try_multiply",
    exp.IntDiv: "div",
}
REFUSED = (
    *(exp.RegexpLike, exp.Bracket, exp.HexString, exp.BitwiseNot, exp.BitwiseAnd, exp.BitwiseOr),
    *(exp.BitwiseXor, exp.BitwiseLeftShift, exp.BitwiseRightShift),
)
TRUNCATED = {"YYYY": "YEAR", "YY": "YEAR", "MM": "MONTH", "MON": "MONTH", "DD": "DAY"}
EXTRACTED = {"DOW": "dayofweek", "DOY": "dayofyear", "WEEK": "weekofyear"}
