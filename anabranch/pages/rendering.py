"""HTML pages from templates: one Jinja2 environment, base template and style sheet for site and reports.

Autoescape is on: only templates hold markup, so stored text cannot become part of a page. A name that a
template uses and its context lacks is an error.
"""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anabranch.pages import charts, formats

_FOLDER = Path(__file__).parent
STYLE_PATH = "/style.css"
"""Where the REST server serves the style sheet."""


@cache
def style() -> str:
    """The style sheet. It is read on first use: Spark's workers import this module without its files."""
    return (_FOLDER / "style.css").read_text(encoding="utf-8")


def render(template: str, **context: object) -> str:
    """The page that `template`, a file of the folder ``templates``, makes of `context`.

    A template that extends ``report.html`` carries the style sheet with it and needs no other file.
    """
    return environment().get_template(template).render(context)


@cache
def environment() -> Environment:
    """The environment of every template, with the filters and the functions that draw charts."""
    found = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters.update(
        age=formats.age,
        moment=formats.moment,
        number=formats.number,
        value=formats.value,
        data_address=formats.data_address,
        indented_json=formats.indented_json,
    )
    found.globals.update(
        address=formats.address,
        beside=charts.beside,
        contributions=charts.contributions,
        curve=charts.curve,
        histogram=charts.histogram,
        sparkline=charts.sparkline,
        style=style(),
        # The query changes with the content, so that browsers may cache the sheet.
        style_address=f"{STYLE_PATH}?v={hashlib.sha256(style().encode()).hexdigest()[:10]}",
    )
    return found
