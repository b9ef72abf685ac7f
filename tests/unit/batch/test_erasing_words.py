"""The words by which broken rows of a key are found when it is erased."""

import csv
import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.values.types import BIGINT, BOOLEAN, STRING
from batch.upkeep.erasing import word_pattern

VALUES = ("Jörg", "a/b", 'say "x"', "back\\slash", "naïve café", "😀 smile", "t1", "x.y+z", "tab\there")


def written(value: str) -> dict[str, str]:
    """A broken row with the value, in each way to write it."""
    row = io.StringIO()
    csv.writer(row).writerow(["7", value, "broken"])
    every = "".join(f"\\u{unit:04X}" for unit in memoryview(value.encode("utf-16-le")).cast("H"))
    return {
        "JSON": json.dumps({"key": value, "x": 1})[:-1],
        "JSON as it is": json.dumps({"key": value}, ensure_ascii=False),
        "JSON with slashes escaped": json.dumps({"key": value}).replace("/", "\\/"),
        "JSON, everything escaped": f'{{"key": "{every}"',
        "JSON after a line break": f'{{"note": "first\\n{json.dumps(value)[1:-1]}"',
        "JSON after an escaped space": f'{{"note": "first\\u0020{json.dumps(value)[1:-1]}\\u002c"',
        "CSV": row.getvalue(),
        "UTF-16": f'{{"key": "{value}"}}'.encode("utf-16-le").decode("latin-1") if value.isascii() else value,
        "a code page": f"7,{value},x".encode("cp1252", "replace").decode("utf-8", "replace")
        if "😀" not in value
        else value,
    }


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_found_however_it_is_written(value: str) -> None:
    pattern = re.compile(word_pattern(value, STRING))
    assert [how for how, text in written(value).items() if not pattern.search(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"t12"',
        '"t1-2"',
        '"at1"',
        r'"\u0061t1"',
        '"öt1"',
        r'"t1\u00f6"',
        r'"\u0074\u0031\u0032"',
        '"T1"',
        "",
        '"t 1"',
    ],
)
def test_a_longer_or_other_word_is_not_found(text: str) -> None:
    assert not re.search(word_pattern("t1", STRING), f'{{"key": "{text}"')


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("7", "007,x", True),
        ("7", "+7", True),
        ("7", "7.0", True),
        ("7", "70", False),
        ("7", "17", False),
        ("-7", "-7.0", True),
        ("-7", "7", False),
    ],
)
def test_numbers_are_found_in_their_other_forms(value: str, text: str, found: bool) -> None:
    assert bool(re.search(word_pattern(value, BIGINT), text)) is found


def test_truths_are_found_in_any_case() -> None:
    assert re.search(word_pattern("true", BOOLEAN), "x,TRUE,y")


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_text_is_found_in_json_and_csv(value: str) -> None:
    pattern = re.compile(word_pattern(value, STRING))
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), f'"{value}"'):
        assert pattern.search(text), text
