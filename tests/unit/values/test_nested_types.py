"""Columns of nested types: how they are declared and read, and SQL over their parts."""

from decimal import Decimal
from typing import Any

import pytest

from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import columns_used, compiled, expression_type
from anabranch.values.types import parse_schema, parse_type

SCHEMA = parse_schema(
    "tags ARRAY<STRING>, sizes ARRAY<INT>, days MAP<STRING, DATE>, "
    "payload STRUCT<kind: STRING, Amount: DECIMAL(10,2), at TIMESTAMP, more: STRUCT<`deep`: ARRAY<DOUBLE>>>, "
    "items ARRAY<STRUCT<sku: STRING, count: INT>>, name STRING, n INT"
)
TYPES = {
    "size(tags)": "INT",
    "array_contains(tags, 'x')": "BOOLEAN",
    "tags[0]": "STRING",
    "sizes[n]": "INT",
    "element_at(sizes, -1) + 1": "BIGINT",
    "payload.kind": "STRING",
    "PAYLOAD.amount": "DECIMAL(10,2)",
    "`payload`.`at`": "TIMESTAMP",
    "payload.more.deep[0] / 2": "DOUBLE",
    "items[0].sku": "STRING",
    "items.count": "ARRAY<INT>",
    "array_max(items.count)": "INT",
    "days['monday']": "DATE",
    "element_at(days, name)": "DATE",
    "map_keys(days)": "ARRAY<STRING>",
    "map_values(days)[0]": "DATE",
    "map_contains_key(days, 'x')": "BOOLEAN",
    "size(days) + size(items)": "BIGINT",
    "array_join(tags, ',')": "STRING",
    "payload IS NULL": "BOOLEAN",
    "coalesce(payload.more, payload.more).deep": "ARRAY<DOUBLE>",
    "tags": "ARRAY<STRING>",
}
REFUSED = {
    "payload.kinds": "takes the field 'kinds' of a STRUCT that has kind, Amount, at, more",
    "payload.kind.x": "takes the field 'x' of STRING, which has no fields",
    "days.monday": "takes the field 'monday' of MAP<STRING, DATE>, which has no fields: write ['monday']",
    "name.x": "no column 'name.x'",
    "other.kind": "no column 'other.kind'",
    "tags = tags": "compares nested values in a comparison",
    "payload IN (payload)": "compares nested values in IN",
    "CAST(payload AS STRING)": "has STRUCT<",
    "CAST(name AS ARRAY<STRING>)": "only single values can be cast",
    "concat(tags, tags)": "calls concat with ARRAY<STRING>, which it does not take",
    "hash(days)": "calls hash with MAP<STRING, DATE>, which it does not take",
    "array_distinct(items)": "calls array_distinct with an array of STRUCT",
    "array_join(items, ',')": "calls array_join with an array of STRUCT",
    "array_contains(items, 'x')": "calls array_contains with an array of STRUCT",
    "size(payload)": "calls size with STRUCT",
    "transform(tags, t -> upper(t))": "not supported",
    "days[1]['x']": "calls get with DATE, not with an array",
    "sizes + 1": "computes with ARRAY<INT> and INT",
}


@pytest.mark.parametrize(("text", "kind"), TYPES.items())
def test_parts_of_nested_columns_are_typed_without_spark(text: str, kind: str) -> None:
    assert str(expression_type(text, SCHEMA, "here")) == kind


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_what_nested_columns_do_not_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as error:
        compiled(text, SCHEMA, "here")
    assert said in str(error.value)


def test_an_expression_reads_the_column_of_which_it_takes_a_part() -> None:
    used = columns_used("items[0].sku = payload.more.deep[0] AND size(tags) > n")
    assert set(used) == {"items", "payload", "tags", "n"}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("ARRAY<INT>", [[], [1, None, " 2 ", "3.0", " "], "[1, 2]", " "],
         {"[1.5]": "[0]: 1.5 is not an INT", "5": "5 is not an array", "{}": "an object is not an array"}),
        ("STRUCT<a: INT, b: ARRAY<BOOLEAN>>", [{}, {"a": "7", "c": [1]}, {"b": [True, "no", None]}],
         {'{"a": {}}': "a: an object is not an INT", '{"b": [2]}': "b: [0]: 2 is not a BOOLEAN",
          "[]": "an array is not an object"}),
        ("MAP<STRING, DECIMAL(10,2)>", [{}, {"x.y": Decimal("1.50"), "": None}],
         {'{"x": 0.001}': "['x']: 0.001 is not a DECIMAL(10,2)", '"x"': "'x' is not an object"}),
        ("ARRAY<ARRAY<INT>>", [[[1], [], None, "[2]"]], {"[[1], 2]": "[1]: 2 is not an array"}),
    ],
)  # fmt: skip
def test_nested_values_are_judged_by_the_types_of_their_parts(
    kind: str, good: list[Any], bad: dict[str, str]
) -> None:
    found = parse_type(kind)
    for value in good:
        given = found.given(value)
        assert given is None or found.fault(given) is None, value
    for text, reason in bad.items():
        assert reason in str(found.fault(found.given(text))), text


def test_an_array_or_map_of_too_many_items_is_refused() -> None:
    assert parse_type("ARRAY<INT>").fault([1] * 10_001) == "10,001 items, where an array may have 10,000"
    many = {str(number): 1 for number in range(10_001)}
    assert parse_type("MAP<STRING, INT>").fault(many) == "10,001 names, where a map may have 10,000"


def test_a_nested_type_reads_as_it_is_written() -> None:
    for column in SCHEMA:
        assert parse_type(str(column.type)) == column.type
        assert parse_type(column.type.spark) == column.type
