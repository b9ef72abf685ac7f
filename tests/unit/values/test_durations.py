"""Durations that are written in another form suggest the right one."""

import re

import pytest

from anabranch.errors import DeclarationError
from anabranch.values.times import parse_duration


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7 days", "7d"),
        ("1.5h", "90m"),
        ("2w", "14d"),
        ("3 mins", "3m"),
        ("90 Seconds", "90s"),
        ("1 wk", "7d"),
    ],
)
def test_a_duration_of_another_form_suggests_the_right_one(text: str, meant: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(f"did you mean {meant!r}?")):
        parse_duration(text)


@pytest.mark.parametrize("text", ["5 ms", "1 month", "90", "week", "-1h", "0 days", "0.0001s"])
def test_a_text_that_means_no_duration_suggests_none(text: str) -> None:
    with pytest.raises(DeclarationError, match=r"or '7d'$"):
        parse_duration(text)
