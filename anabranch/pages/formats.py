"""How pages write values: lengths of time, moments, numbers, addresses."""

import base64
import json
from urllib.parse import quote

from markupsafe import Markup

from anabranch.values.times import DAY, HOUR, MINUTE, SECOND, format_time

NOTHING = Markup('<span class="soft">–</span>')
"""A dash for a value that does not exist."""


def age(micros: int) -> str:
    """A length of time (microseconds) in the largest unit of which it has two."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if micros >= 2 * unit:
            return f"{micros // unit} {name}"
    return f"{max(micros, 0) / SECOND:.0f} s"


def moment(micros: int) -> Markup:
    """A time (microseconds) to the second, in UTC."""
    text = format_time(micros)
    return Markup('<time datetime="{}">{} {} UTC</time>').format(text, text[:10], text[11:19])


def number(value: object) -> str:
    """A number with thousands separators, floats to four significant digits; any other value as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def plain(value: float, digits: int = 6) -> str:
    """A number to so many significant digits, without an exponent unless it is very large or small."""
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    text = f"{float(f'{value:.{digits}g}'):.10f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def value(cell: object) -> object:
    """A value of any type, lists and maps joined by commas; a dash for None."""
    if cell is None:
        return NOTHING
    if isinstance(cell, dict):
        return ", ".join(f"{name}: {number(one)}" for name, one in cell.items()) or NOTHING
    return ", ".join(number(one) for one in cell) if isinstance(cell, list) else number(cell)


def address(*parts: str) -> str:
    """An address of the REST server from path segments of any text."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def data_address(png: bytes) -> str:
    """A PNG picture as a ``data:`` address, so that a page needs no further file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def indented_json(value: object) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)
