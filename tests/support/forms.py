"""Odd forms of values, as people, spreadsheets and programs write them: a table, and more that are drawn."""

import json
import random
import re
from collections.abc import Iterator

_NUMBERS = (
    "0", "-0", "7", "+7", "007", "7.", "7.0", "7.000", ".5", "-.5", "5.", "1e2", "1E2", "1e-2", "4.5e1",
    "45.5", "1.005", "0.004", "99999999.99", "99999999.995", "99999999.990000", "100000000", "1e400",
    "-1e400", "1e-400", "1e999999999", "1e-999999999", "0e5", "0.0e-999", "1e0002", "1200e-2",
    "1205e-3", "1_000", "1,5", "0x10", "0x1p3", "12d", "1f", "1D", "NaN", "nan", "+NaN", "+nan", "inf",
    "-Infinity", "Infinity", "INF", "+INF", "infinit", "--7", "+", "-", ".", "e5", "1e", "1e+",
    "2147483647", "2147483648", "-2147483648", "-2147483649", "127", "128", "-129", "32768",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775808.0",
    "9223372036854774784.0", "9" * 38, "9" * 39, "0" * 50 + "7", "0" * 999 + "7", "0" * 1000 + "7",
    "9" * 400, "3.4028235677973366e38", "3.4028235677973365e38", "3.5e38", "1.7976931348623157e308",
    "1.7976931348623159e308", "1.0000000000000000000000000001", "5.0000000000000000000001",
    "12345678901234567890.123456789012345678", "0.0000000000000000001", "1e-18", "1e-19", "1e19",
    "1e20", "0.1e1", "1e99999999999999999999", "-1e-99999999999999999999", "0e99999999999999999999",
)  # fmt: skip
_TIMES = (
    "2024-05-01", "2024-05-01T12:00", "2024-05-01T12:00Z", "2024-05-01T12:00z",
    "2024-05-01 12:00:00.123456789+02:00", "2024-05-01T12:00:00 UTC", "2024-05-01T12:00 UTC",
    "2024-05-01T12:00:00utc", "2024-05-01T12:00:00-0530", "2024-05-01T12:00:00+05",
    "2024-05-01T12:00+05:30", "2024-05-01T12:00:00+18:00", "2024-05-01T12:00:00+18:01",
    "2024-05-01T12:00:00+19:00", "2024-05-01T12:00:00-23:59", "2024-05-01T12:00:00+05:75",
    "2024-05-01T24:00:00Z", "2024-05-01T12:00:60Z", "2024-05-01T12:60", "2024-02-30", "2023-02-29",
    "2024-13-01", "2024-00-01", "2024-5-1", "0000-01-01", "0001-01-01", "0001-01-01T00:00:00+01:00",
    "0001-01-01T00:00:00-01:00", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-01:00",
    "9999-12-31T23:59:59+01:00", "10000-01-01", "+2024-05-01", "-2024-05-01", "20240501", "2024-W01-1",
    "2024-121", "12:00", "T12:00", "2024", "2024-05", "1714564800", "1714564800000", "today", "now",
    "epoch", "2024-05-01T12", "2024-05-01T12:00:00.", "2024-05-01T12:00:00.1",
    "2024-05-01T12:00:00.1234567890", "2024/05/01", "01.05.2024", "2024-05-01t12:00:00",
    "2024-05-01T12:00:00Europe/Oslo", "2024-05-01T12:00:00GMT", "2024-05-01T12:00:00 Z", "٢٠٢٤-٠٥-٠١",
    "2024-05-01T12:00:00.٥", "2024-05-01T12:00:00,5Z", "2024-05-01 12:00", "2024-05-01T12:00:00 Z",
    "1969-12-31T23:59:59.999999999Z", "1583-01-01", "1582-10-10", "2024-05-01Z", "2024-05-01+02:00",
)  # fmt: skip
_WORDS = (
    "", " ", "\t\n", "\x00", "\x7f", "\u00a0", "\u2003", "true", "TRUE", " True ", "t", "F", "yes",
    "NO", "y", "on", "off", "1", "1.0", "ｔｒｕｅ", "null", "NULL", "None", "abc", "é", "😀", "٧", "１２",
    "x\x1fy", "x" * 8192, "x" * 8193, "é" * 4097, '{"a":1}', "a,b", 'say "hi"', "two\nlines", "'7'",
)  # fmt: skip
_AROUND = (
    " ", "\t", "\n", "\r", "\x0b", "\x00", "\x1f", "\x7f", "\u0085", "\u00a0", "\u2003", "\u2028",
    "\ufeff", "'", "$",
)  # fmt: skip
_LETTERS = "0123456789" * 3 + "+-..eE TZ:/_,xXdDfFn\t٧é\x00"
_TOKENS = (
    "true", "false", "null", "{}", "[]", '{"a": 1}', "[1, 2]", '[{"a": "é"}]', '"\\ud83d\\ude00"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\\\ud800"',
)  # fmt: skip
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MOST_DIGITS = 4000
"""A JSON number of more is no JSON for Python."""


def tokens(seed: int, drawn: int) -> Iterator[str]:
    """JSON values: the odd texts of the tables and `drawn` more, and as numbers those that can be numbers."""
    texts = [*_NUMBERS, *_TIMES, *_WORDS, *_more(random.Random(seed), drawn)]
    for text in dict.fromkeys(texts):
        yield json.dumps(text, ensure_ascii=False)
        if _JSON_NUMBER.fullmatch(text) and len(text) <= _MOST_DIGITS:
            yield text
    yield from _TOKENS


def _more(draw: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        text = draw.choice((*_NUMBERS[:60], *_TIMES, *_TIMES, *_WORDS[:24]))
        match draw.randrange(4):
            case 0:
                text = draw.choice(_AROUND) + text + draw.choice(_AROUND)
            case 1:
                place = draw.randrange(len(text) + 1)
                text = text[:place] + draw.choice(_LETTERS) + text[place + draw.randrange(2) :]
            case 2:
                text = "".join(draw.choices(_LETTERS, k=draw.randrange(1, 12)))
            case _:
                whole, behind = (draw.randrange(10 ** draw.randrange(24)) for _ in range(2))
                text = f"{draw.choice('+- ')}{whole}.{behind}{draw.choice(('', '', 'e-3', 'E+2', 'e17'))}"
        yield text
