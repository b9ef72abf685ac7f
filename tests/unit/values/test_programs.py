"""Programs of compiled expressions: what has a twin, what is refused, and what extreme values give."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.errors import DeclarationError
from anabranch.values.sql.calls import known_functions
from anabranch.values.sql.functions import ALIASES
from anabranch.values.sql.programs import Programmer, evaluated
from anabranch.values.sql.twins import ALLOWED, BY_TYPE, CASTS, COMPARED, TWINNED
from anabranch.values.times import DAY, SECOND
from anabranch.values.types import STRING, Column, parse_schema, parse_type
from anabranch.values.vectors.programs import TWINS, Program
from tests.support.evaluated import Evaluated

COLUMNS = parse_schema(
    "x DOUBLE, y DOUBLE, n INT, big BIGINT, name STRING, flag BOOLEAN, day DATE, at TIMESTAMP, "
    "price DECIMAL(10,2)"
)
PAGE = Path("docs/expressions.md")


def values(text: str, *rows: Any) -> list[Any]:
    """The expression's values for rows of `x` and `y`, or of the one column that it reads."""
    found = evaluated(text, COLUMNS, "here")
    programmer = Programmer(COLUMNS)
    programmer.add("it", found, "here")
    program = Program(json.loads(json.dumps(programmer.described)))
    reads = program.reads
    columns = {name: [row[i] if len(reads) > 1 else row for row in rows] for i, name in enumerate(reads)}
    return program.run(columns, len(rows))["it"]


def test_every_function_that_is_allowed_exists_and_every_twin_that_is_named_too() -> None:
    assert set(known_functions()) >= ALLOWED
    named = [twin for twin, _ in TWINNED.values()] + [*CASTS.values(), *COMPARED.values()]
    assert set(named) | {twin for pair in BY_TYPE.values() for twin in pair} <= set(TWINS)


def test_every_function_that_is_allowed_is_compared_with_spark_and_stands_on_the_page() -> None:
    drawn = " ".join(Evaluated(0).every()).lower()
    aliases = {name: {name, *(alias for alias, of in ALIASES.items() if of == name)} for name in ALLOWED}
    twins = {name: twin for name, (twin, _) in TWINNED.items()}
    same = {name: [other for other in twins if twins[other] == twins.get(name)] for name in ALLOWED}
    missing = [
        name
        for name in ALLOWED - set(BY_TYPE) - {"nvl2", "mod", "negative", "positive", "try_divide"}
        if not any(f"{one}(" in drawn for one in (*aliases[name], *same[name])) and f"as {name})" not in drawn
    ]
    assert missing == []
    table = PAGE.read_text(encoding="utf-8").partition("## Derived features")[2]
    assert {name for name in ALLOWED if f"`{name}`" not in table} == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("soundex(name)", "calls soundex, which derived features cannot compute: the nearest that they can"),
        ("regexp_replace(name, 'a', 'b')", "the nearest that they can is replace"),
        ("name RLIKE 'a'", "has \"name RLIKE 'a'\", which derived features do not support"),
        ("n & 3", "'n & 3', which derived features do not support"),
        ("CAST(x AS STRING)", "DOUBLE as STRING; cast it to BIGINT first, which derived features"),
        ("concat(name, x)", "DOUBLE as STRING"),
        ("CAST(x AS DECIMAL(10,2))", "is DECIMAL(10,2), which derived features do not support"),
        ("extract(SECOND FROM at) + x", "write second(...)"),
        ("round(n, -1)", "DECIMAL"),
        ("lowr(name)", "calls lowr"),
        ("nope + 1", "no column"),
    ],
)
def test_what_has_no_twin_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=r"^here: ") as raised:
        evaluated(text, COLUMNS, "here")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_zero_overflow_and_null_give_null_and_nan_is_no_value() -> None:
    nan = math.nan
    assert values("x / nullif(y, 0)", (1.0, 2.0), (1.0, 0.0), (None, 1.0)) == [0.5, None, None]
    assert values("big * 2", 1, (1 << 63) - 1, None) == [2, None, None]
    assert values("big + 1", (1 << 63) - 1, -1) == [None, 0]
    assert values("big DIV -1", -(1 << 63), 7) == [None, -7]
    assert values("x > 1", 2.0, nan, None) == [True, None, None]
    assert values("x > 1 OR flag", (None, True), (None, False), (2.0, None)) == [True, None, True]
    assert values("coalesce(x, 0)", None, 3.0) == [0.0, 3.0]
    assert values("round(x, 2)", 1.005, 2.675, -0.125) == [1.01, 2.68, -0.13]
    assert values("1.5", None) == [1.5]


def test_a_key_is_read_as_its_type_and_decimals_as_double() -> None:
    columns = (*COLUMNS, Column("card", STRING))
    found = evaluated("card % 10 + price", columns, "here", {"card": parse_type("BIGINT")})
    programmer = Programmer(columns)
    programmer.add("it", found, "here")
    program = Program(programmer.described)
    assert program.run({"card": ["42", "x"], "price": [0.5, 1.0]}, 2) == {"it": [2.5, None]}


def test_equal_parts_of_several_expressions_are_one_step() -> None:
    programmer = Programmer(COLUMNS)
    for name, text in (("a", "ln(x) + 1"), ("b", "ln(x) * 2"), ("c", "ln(x)")):
        programmer.add(name, evaluated(text, COLUMNS, "here"), "here")
    assert [step[0] for step in programmer.described["steps"]] == ["ln", "add_double", "multiply_double"]


@pytest.mark.parametrize(
    ("day", "text"),
    [
        (-720_260, "-0003-12-30"),
        (-800_000, "-0221-09-04"),
        (-719_528, "0000-01-01"),
        (2_932_897, "+10000-01-01"),
    ],
)
def test_days_and_times_of_any_year_are_written_as_java_writes_them(day: int, text: str) -> None:
    values = np.array([day]), np.array([True])
    assert TWINS["day_to_text"](values)[0].tolist() == [text]
    moments = np.array([day * DAY + SECOND]), np.array([True])
    assert TWINS["time_to_text"](moments)[0].tolist() == [f"{text} 00:00:01"]


@pytest.mark.parametrize(
    ("seconds", "millis"),
    [
        (2**63 - 1, 9_223_372_036_854_775),
        (-(2**63), -9_223_372_036_854_776),
        (9_223_372_036_854, 9_223_372_036_854_000),
        (-9_223_372_036_854, -9_223_372_036_854_000),
        (-9_223_372_036_855, -9_223_372_036_854_776),
    ],
)
def test_seconds_beyond_all_times_are_the_first_or_the_last_one(seconds: int, millis: int) -> None:
    assert values("unix_millis(CAST(big AS TIMESTAMP))", seconds) == [millis]
