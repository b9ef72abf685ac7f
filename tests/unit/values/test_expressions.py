"""Expressions are typed as Spark types them and made safe, or refused; tests/spark/values asks Spark."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Last, Mean, Source
from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import compiled, expression_type
from anabranch.values.sql.patterns import most_letters, pattern_fault, sought
from anabranch.values.types import parse_schema
from tests.support.expressions import SCHEMA, Expressions

COLUMNS = parse_schema(SCHEMA)
TYPES = {
    "x * 0.19": "DOUBLE",
    "round(x, 2)": "DOUBLE",
    "date_trunc('HOUR', at)": "TIMESTAMP",
    "CASE WHEN n > 3 THEN 1 ELSE 0 END": "INT",
    "substring(name, 1, 3)": "STRING",
    "at > '2024-01-01'": "BOOLEAN",
    "datediff(at, day)": "INT",
    "n DIV 2": "BIGINT",
    "n * n": "BIGINT",
    "s + s": "BIGINT",
    "-n": "BIGINT",
    "n / 2": "DOUBLE",
    "dec / 3": "DOUBLE",
    "coalesce(n, 0)": "INT",
    "greatest(n, big)": "BIGINT",
    "if(n > 1, 2, 3.5)": "DECIMAL(11,1)",
    "dec * n": "DECIMAL(21,2)",
    "dec + x": "DOUBLE",
    "dec * dec": "DECIMAL(21,4)",
    "floor(dec)": "DECIMAL(9,0)",
    "ceil(x)": "BIGINT",
    "n * 1.5": "DECIMAL(13,1)",
    "nvl(dec, 0)": "DECIMAL(12,2)",
    "to_date(at)": "DATE",
    "at + INTERVAL 1 DAY": "TIMESTAMP",
    "element_at(split(name, ','), 2)": "STRING",
    "split(name, ',')[0]": "STRING",
    "size(split(name, ','))": "INT",
    "name || n": "STRING",
    "CAST(x AS DECIMAL(12,3))": "DECIMAL(12,3)",
    "months_between(at, day)": "DOUBLE",
    "hour(at)": "INT",
    "extract(SECOND FROM at)": "DECIMAL(8,6)",
    "md5(bytes)": "STRING",
}
REFUSED = {
    "Distinct of a struct": ("(n, name)", "not supported in expressions"),
    "struct": ("struct(n)", "calls struct, which is not a supported function"),
    "cast to a struct": ("CAST(name AS STRUCT<a INT>)", "only single values can be cast"),
    "misspelt": ("uper(name)", "did you mean upper"),
    "aggregate": ("max(n)", "is not a row expression"),
    "aggregate without a class": ("n + median(n)", "is not a row expression"),
    "window": ("lag(n) OVER (ORDER BY at)", "is not a row expression"),
    "generator": ("explode(split(name, ','))", "is not a row expression"),
    "clock": ("current_date", "changes from run to run"),
    "clock, called": ("datediff(now(), day)", "changes from run to run"),
    "chance": ("x * rand()", "changes from run to run"),
    "identity": ("uuid()", "changes from run to run"),
    "text of no length": ("repeat(name, n)", "write a whole number up to 10,000"),
    "pattern of a column": ("name RLIKE name", "write a text in quotes"),
    "bad pattern": ("name RLIKE '(a'", "which is not understood"),
    "group": ("regexp_extract(name, '(a)', 2)", "has 1 groups, not 2"),
    "group of a replacement": ("regexp_replace(name, '(a)', '$2')", "names a group"),
    "no number in a sum": ("n + 'x'", "has 'x' where + takes BIGINT"),
    "no DOUBLE in a product": ("x * '1e400'", "which is no DOUBLE"),
    "a number beyond DOUBLE": ("x > 1e400", "which no DOUBLE holds"),
    "a number below DOUBLE": ("x > 1e-99999999999999999999", "which no DOUBLE holds"),
    "a comparison with NaN": ("x IN (1, 'NaN')", "use isnan"),
    "deep parentheses": ("(" * 500 + "n" + ")" * 500, "nested too deeply"),
    "a long sum": ("n" + " + n" * 2000, "nested too deeply"),
    "lost backslash": (r"name RLIKE '\d'", "Spark would drop a backslash"),
    "a choice that is repeated": ("name RLIKE '^(a|b)*$'", "write [ab]* for (a|b)*"),
    "the same without a group": ("name RLIKE '(?:a|b)+'", "write [ab]* for (a|b)*"),
    "letters of one and two units in a group": ("name RLIKE '^([^,])*$'", ".* for (.)*"),
    "line ends of one and two letters": (r"name RLIKE r'^(\R)*$'", ".* for (.)*"),
    "graphemes": (r"name RLIKE r'\X*'", ".* for (.)*"),
    "a dot at least twice": ("name RLIKE '.{2,}'", ".{5}.* for .{5,}"),
    "many calls a repeat": ("name RLIKE '^((((((((((a|b)))))))))){0,500}$'", "few repeats"),
    "comments": ("name RLIKE '(?x)a* a* a* a* a*'", "the flag x"),
    "one letter in two cases": ("name RLIKE '(?iu)é*É*é*É*é*x'", "in too many ways"),
    "a repeat that is repeated": ("regexp_replace(name, '(a+)+$', '')", "write [ab]* for (a|b)*"),
    "texts in many ways": ("split(name, '(a|aa){0,50}$')", "in too many ways"),
    "texts in many ways, one by one": ("name RLIKE '.*x.*y.*z'", "in too many ways"),
    "a class within a class": ("name RLIKE '[a-z&&[^x]]'", "a class within a class"),
    "bad date pattern": ("date_format(at, 'foo')", "not a pattern of dates"),
    "too many letters": ("date_format(at, 'MMMMM')", "not a pattern of dates"),
    "pattern that reads nothing": ("to_date(name, 'EEEE dd')", "must not have the letters"),
    "bad zone": ("from_utc_timestamp(at, 'Mars')", "has the time zone"),
    "bad literal": ("at > 'soon'", "has 'soon' where a comparison takes TIMESTAMP"),
    "month 13": ("at > '2024-13-01'", "has '2024-13-01' where a comparison takes TIMESTAMP: write ISO 8601"),
    "day 30 of February": ("day = date '2024-02-30'", "where CAST takes DATE"),
    "hour 25": ("at BETWEEN '2024-01-01' AND '2024-01-01 25:00'", "where BETWEEN takes TIMESTAMP"),
    "a number that is none": ("n IN (1, 'two')", "has 'two' where IN takes BIGINT, which is no BIGINT"),
    "a double that is none": ("x > 'high'", "has 'high' where a comparison takes DOUBLE"),
    "a condition that is none": ("flag = 'maybe'", "has 'maybe' where a comparison takes BOOLEAN"),
    "a cast that gives nothing": ("CAST('abc' AS DECIMAL(9,2))", "has 'abc' where CAST takes DECIMAL(9,2)"),
    "DATE of a number": ("CAST(n AS DATE)", "has INT where CAST takes DATE"),
    "types apart": ("coalesce(n, day)", "uses INT and DATE together in coalesce"),
    "sum of times": ("at - until", "use datediff, unix_micros, or INTERVAL"),
    "bits": ("n & 1 | 2", "write parentheses"),
    "arguments": ("upper(name, 1)", "calls upper with 2 arguments"),
    "condition": ("n AND flag", "where a condition stands"),
    "nothing": ("NULL", "is always NULL"),
    "map": ("map('a', 1)['a']", "calls map, which is not a supported function"),
    "option of BETWEEN": ("n BETWEEN SYMMETRIC 2 AND 1", "not supported in expressions"),
    "option of a cast": ("CAST(name AS DATE FORMAT 'YYYY')", "not supported in expressions"),
    "lambda": ("filter(split(name, ','), v -> v = 'a')", "not supported"),
}


@pytest.mark.parametrize(("text", "kind"), TYPES.items())
def test_expressions_have_sparks_types_but_that_whole_numbers_have_64_bits(text: str, kind: str) -> None:
    assert str(expression_type(text, COLUMNS, "here")) == kind


@pytest.mark.parametrize("fault", REFUSED)
def test_what_spark_would_refuse_or_an_event_could_break_is_refused(fault: str) -> None:
    text, said = REFUSED[fault]
    with pytest.raises(DeclarationError) as raised:
        compiled(text, COLUMNS, "here")
    assert said in str(raised.value)
    assert str(raised.value).startswith("here")


PATTERNS = {
    r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$": 10_000,
    r"^(\d{1,3}\.){3}\d{1,3}$": 10_000,
    r"^(https?)://([^/]+)(/.*)?$": 3169,
    r"(?i)(bot|crawl|spider)": 10_000,
    r"(a|b){0,20}": 10_000,
    r"\S{5,50}": 10_000,
    r"(ab)*": 4483,
    r"(a|b)*+": 4483,
    r"^.*x.*y.*z": 270,
    r"^.*x.*y": 4482,
    r".*x.*y": 271,
    r".*foo.*": 4482,
    r"\p{L}+\w+$": 271,
}


@pytest.mark.parametrize(("pattern", "letters"), PATTERNS.items())
def test_what_a_regular_expression_may_search_is_bounded_by_its_ways(pattern: str, letters: int) -> None:
    assert pattern_fault(pattern) is None
    assert most_letters(pattern) == letters
    assert f"length(`name`) <= {letters} " in compiled(f"regexp_count(name, r'{pattern}')", COLUMNS, "x").sql


@pytest.mark.parametrize(
    ("pattern", "found"),
    {
        ".*foo.*": "foo",
        "(?i).*?foo.*": "(?i)foo",
        ".*+foo": ".*+foo",
        r"foo\\.*": r"foo\\.*",
        "a.*|.*b": "a.*|.*b",
        "foo.*\n": "foo.*\n",
        ".*": ".*",
    }.items(),
)
def test_what_costs_most_is_left_out_of_a_search_that_finds_the_same(pattern: str, found: str) -> None:
    assert sought(pattern) == found


def test_filters_and_arguments_are_made_safe_where_they_are_bound() -> None:
    source = Source(name="s", schema=SCHEMA, id="id", time="at")
    features = {"m": Mean("n / big", where="n % big = 1"), "c": Count(), "l": Last("name")}
    view = FeatureView(name="v", source=source, key="k", features=features)
    sql = " ".join(view.layout.sql())
    assert "try_divide(" in sql
    assert "try_mod(" in sql
    assert features["m"].argument == "n / big"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_a_random_expression_compiles_or_is_refused_in_a_sentence(seed: int) -> None:
    text = Expressions(seed).any(4)
    try:
        said = compiled(text, COLUMNS, "here: ").sql
    except DeclarationError as error:
        said = str(error).removeprefix("here: ")
    assert said
