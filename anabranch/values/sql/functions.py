"""Functions of Spark SQL that expressions may call: what they take and give, and SQL that never raises.

A signature is written as `parameters -> result`. Parameters are types to which arguments are converted, or

    WHOLE     a whole number, taken as BIGINT            #   a whole number as a literal
    BYTES     STRING or BINARY                           '   a text as a literal
    ANY       a value of any type that is not nested     ~   a regular expression as a literal
    ARRAY     an array                                   @   a pattern of dates as a literal

with `?` for an optional one and `*` for any number of the last. In a template `{0}` is the first argument and
`{}` all of them; one that is left out is ''. Functions that need more than a signature are in expressions.py.
"""

import re
from typing import NamedTuple


class Signature(NamedTuple):
    """A function: its parameters, how many are required, whether the last repeats, result and SQL."""

    parameters: tuple[str, ...]
    required: int
    repeats: bool
    result: str
    template: str


_PLAIN = {
    "DOUBLE -> DOUBLE": """acos acosh asin asinh atan atanh cbrt cos cosh cot csc degrees exp expm1 ln log10
        log1p log2 radians rint sec sign signum sin sinh sqrt tan tanh""",
    "DOUBLE, DOUBLE -> DOUBLE": "atan2 hypot pow power",
    "DOUBLE, DOUBLE? -> DOUBLE": "log",
    "-> DOUBLE": "e pi",
    "INT -> BIGINT": "factorial",
    "WHOLE -> STRING": "bin chr char",
    "STRING -> STRING": "upper lower ucase lcase initcap reverse soundex trim ltrim rtrim url_encode",
    "STRING, STRING? -> STRING": "btrim",
    "STRING -> INT": "ascii json_array_length",
    "STRING -> BOOLEAN": "luhn_check",
    "STRING -> ARRAY<STRING>": "json_object_keys",
    "BYTES -> INT": "length len char_length character_length octet_length bit_length",
    "BYTES -> STRING": "md5 sha sha1 base64",
    "BYTES, # -> STRING": "sha2",
    "BYTES -> BIGINT": "crc32",
    "STRING, INT, INT? -> STRING": "substring substr",
    "STRING, INT -> STRING": "left right",
    "STRING, STRING, STRING -> STRING": "translate",
    "STRING, STRING* -> STRING": "concat_ws",
    "STRING, STRING -> INT": "instr find_in_set",
    "STRING, STRING, INT? -> INT": "locate position",
    "STRING, STRING -> BOOLEAN": "contains startswith endswith",
    "STRING, ' -> STRING": "get_json_object",
    "STRING, ~, #? -> ARRAY<STRING>": "split",
    "STRING, ~ -> INT": "regexp_count regexp_instr",
    "STRING, ~ -> STRING": "regexp_substr",
    "ANY* -> INT": "hash",
    "ANY* -> BIGINT": "xxhash64",
    "ANY -> BOOLEAN": "isnull isnotnull",
    "DOUBLE -> BOOLEAN": "isnan",
    "ARRAY -> INT": "array_size",
    "DATE -> INT": """year quarter month day dayofmonth dayofweek weekday weekofyear dayofyear unix_date""",
    "DATE -> STRING": "dayname monthname",
    "DATE -> DATE": "last_day",
    "TIMESTAMP -> INT": "hour minute second",
    "TIMESTAMP -> BIGINT": "unix_seconds unix_millis unix_micros",
    "DATE, DATE -> INT": "datediff date_diff",
    "TIMESTAMP, TIMESTAMP, BOOLEAN? -> DOUBLE": "months_between",
    "TIMESTAMP, @ -> STRING": "date_format",
}
_DAYS, _MONTHS = 4_000_000, 120_000  # more than lie between the years 1 and 9999
_SECONDS = 400_000_000_000
_SHIFTED = "CASE WHEN ({1}) BETWEEN -%d AND %d THEN ({1}) END"
_SPAN = "CASE WHEN ({0}) BETWEEN -%d AND %d THEN ({0}) END"
LARGEST = 1_000_000
"""The letters to which a text may grow; NULL beyond."""


def _bounded(letters: str, sql: str) -> str:
    return f"CASE WHEN {letters} <= {LARGEST} THEN {sql} END"


_FORMED = {
    "repeat": ("STRING, # -> STRING", _bounded("length({0}) * CAST({1} AS BIGINT)", "repeat({})")),
    "replace": (
        "STRING, STRING, STRING? -> STRING",
        _bounded("length({0}) * CAST(greatest(length({2}) - length({1}), 0) AS BIGINT)", "replace({})"),
    ),
    "array_join": (
        "ARRAY, STRING, STRING? -> STRING",
        _bounded("size({0}) * CAST(length({1}) + length({2}) AS BIGINT)", "array_join({})"),
    ),
    "space": ("# -> STRING", "space({})"),
    "lpad": ("STRING, #, STRING? -> STRING", "lpad({})"),
    "rpad": ("STRING, #, STRING? -> STRING", "rpad({})"),
    "split_part": (
        "STRING, STRING, INT -> STRING",
        "split_part({0}, {1}, nullif(nullif({2}, 0), -2147483648))",
    ),
    # The least INT has no opposite, and would be the length of an array.
    "substring_index": (
        "STRING, STRING, INT -> STRING",
        "substring_index({0}, {1}, nullif({2}, -2147483648))",
    ),
    "unbase64": ("STRING -> BINARY", "try_to_binary({0}, 'base64')"),
    "unhex": ("STRING -> BINARY", "try_to_binary({0}, 'hex')"),
    "parse_url": ("STRING, ', '? -> STRING", "try_parse_url({})"),
    "width_bucket": ("DOUBLE, DOUBLE, DOUBLE, WHOLE -> BIGINT", "width_bucket({})"),
    "url_decode": ("STRING -> STRING", "try_url_decode({0})"),
    "bit_count": ("WHOLE -> INT", "bit_count({0})"),
    "shiftleft": ("WHOLE, INT -> BIGINT", "shiftleft({})"),
    "shiftright": ("WHOLE, INT -> BIGINT", "shiftright({})"),
    "shiftrightunsigned": ("WHOLE, INT -> BIGINT", "shiftrightunsigned({})"),
    "date_add": ("DATE, INT -> DATE", f"date_add({{0}}, {_SHIFTED % (_DAYS, _DAYS)})"),
    "dateadd": ("DATE, INT -> DATE", f"date_add({{0}}, {_SHIFTED % (_DAYS, _DAYS)})"),
    "date_sub": ("DATE, INT -> DATE", f"date_sub({{0}}, {_SHIFTED % (_DAYS, _DAYS)})"),
    "add_months": ("DATE, INT -> DATE", f"add_months({{0}}, {_SHIFTED % (_MONTHS, _MONTHS)})"),
    "date_from_unix_date": ("INT -> DATE", f"date_from_unix_date({_SPAN % (_DAYS, _DAYS)})"),
    "timestamp_seconds": ("DOUBLE -> TIMESTAMP", f"timestamp_seconds({_SPAN % (_SECONDS, _SECONDS)})"),
    "timestamp_millis": (
        "WHOLE -> TIMESTAMP",
        f"timestamp_millis({_SPAN % (_SECONDS * 1000, _SECONDS * 1000)})",
    ),
    "timestamp_micros": ("WHOLE -> TIMESTAMP", "timestamp_micros({0})"),
    "make_date": ("INT, INT, INT -> DATE", "CAST(try_make_timestamp({}, 0, 0, 0) AS DATE)"),
    "make_timestamp": (
        "INT, INT, INT, INT, INT, DECIMAL(8,6) -> TIMESTAMP",
        "try_make_timestamp({})",
    ),
}
ALIASES = {
    "ceiling": "ceil",
    "date_part": "extract",
    "datepart": "extract",
    "ifnull": "coalesce",
    "nvl": "coalesce",
    "regexp": "rlike",
    "regexp_like": "rlike",
    "to_timestamp_ltz": "to_timestamp",
    "try_parse_url": "parse_url",
    "to_unix_timestamp": "unix_timestamp",
    "try_mod": "mod",
    "try_element_at": "element_at",
    "try_to_timestamp": "to_timestamp",
    "try_to_date": "to_date",
    "try_url_decode": "url_decode",
    "try_make_timestamp": "make_timestamp",
}
"""Other names of functions; what a `try_` function gives in Spark, the function without it gives here."""

_OF_SEVERAL_ROWS = """
    any any_value approx_count_distinct approx_percentile array_agg avg bit_and bit_or bit_xor bool_and
    bool_or collect_list collect_set corr count count_if count_min_sketch covar_pop covar_samp cume_dist
    dense_rank every explode explode_outer first first_value grouping grouping_id histogram_numeric
    inline inline_outer json_tuple kurtosis lag last last_value lead listagg max max_by mean median min
    min_by mode nth_value ntile percent_rank percentile percentile_approx percentile_cont
    percentile_disc posexplode posexplode_outer rank regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy row_number skewness some stack std stddev stddev_pop
    stddev_samp string_agg sum try_avg try_sum var_pop var_samp variance
"""
_OF_THE_RUN = """
    curdate current_catalog current_database current_date current_path current_schema current_time
    current_timestamp current_timezone current_user input_file_block_length input_file_block_start
    input_file_name localtimestamp monotonically_increasing_id now rand randn random randstr
    session_user shuffle spark_partition_id uniform user uuid version
"""
AGGREGATES = frozenset(_OF_SEVERAL_ROWS.split())
"""Functions of several rows: aggregates, window functions and generators."""
UNSTEADY = frozenset(_OF_THE_RUN.split())
"""Functions whose values are no function of the event."""


def _signature(text: str, template: str) -> Signature:
    left, _, result = text.partition("->")
    parts = [part.strip() for part in re.split(r",\s(?![^(]*\))", left) if part.strip()]
    names = tuple(part.rstrip("?*") for part in parts)
    needed = sum(not part.endswith("?") for part in parts)
    return Signature(names, needed, bool(parts) and parts[-1].endswith("*"), result.strip(), template)


SIGNATURES: dict[str, Signature] = {
    **{name: _signature(text, f"{name}({{}})") for text, names in _PLAIN.items() for name in names.split()},
    **{name: _signature(text, template) for name, (text, template) in _FORMED.items()},
}

LONGEST = 10_000
"""The largest whole number that a literal `#` may be: lengths, and times that a text is repeated."""

_LETTERS = {
    "y": 4,
    "M": 4,
    "L": 4,
    "d": 2,
    "D": 3,
    "a": 1,
    "E": 4,
    "Q": 2,
    "S": 9,
    **dict.fromkeys("HhkKms", 2),
}
"""Letters in patterns of dates, and how often Spark takes each in a row."""
_ONLY_WRITTEN = "LEQ"  # letters of patterns that read no times


def is_date_pattern(text: str, *, reading: bool = False) -> bool:
    """Whether Spark writes dates by this pattern, or reads them."""
    runs = [f"{one}{{1,{most}}}(?!{one})" for one, most in _LETTERS.items()]
    allowed = [run for run in runs if not reading or run[0] not in _ONLY_WRITTEN]
    rest = r"'[^']*'|[^A-Za-z'\[\]{}#]"
    return bool(text) and re.fullmatch(f"(?:{'|'.join([*allowed, rest])})*", text) is not None
