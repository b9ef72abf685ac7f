"""Templates escape stored text, fail on missing names, and share one base page and style sheet."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from anabranch.pages import formats, rendering
from anabranch.pages.charts import bins, histogram, sparkline
from anabranch.pages.formats import plain
from anabranch.pages.rendering import environment, render, style
from anabranch.values.times import DAY, HOUR, MINUTE, SECOND

TEMPLATES = sorted((Path(rendering.__file__).parent / "templates").glob("*.html"))


def test_text_is_escaped() -> None:
    page = render("problem.html", status=404, detail="<script>alert('x')</script>")
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script" not in page


def test_a_name_that_the_context_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="detail"):
        render("problem.html", status=404)


def test_a_template_from_outside_becomes_a_page_with_the_style_sheet() -> None:
    source = (
        "{% extends 'report.html' %}{% import 'parts.html' as parts %}{% set title = name %}"
        "{% block main %}{{ parts.grid(['key', 'n'], rows, [1], name) }}{% endblock %}"
    )
    page = environment().from_string(source).render(name="a < b", rows=[("k", 12345), ("<i>", None)])
    assert page.count("<!doctype html>") == 1
    assert style() in page
    assert "<title>a &lt; b</title>" in page
    assert '<th scope="row">k</th><td class="number">12,345</td>' in page
    assert "<i>" not in page


@pytest.mark.parametrize("template", [file.name for file in TEMPLATES])
def test_every_template_compiles_and_only_the_base_has_a_doctype(template: str) -> None:
    environment().get_template(template)
    source = next(file for file in TEMPLATES if file.name == template).read_text(encoding="utf-8")
    assert ("<!doctype" in source) == (template == "base.html")
    assert "<style" not in source.replace("<style>{{ style | safe }}</style>", "")
    assert ("<script" in source) == (template == "docs.html")
    assert "http" not in source
    assert " style=" not in source


def test_lengths_of_time_are_in_the_unit_that_people_use() -> None:
    lengths = (-5, SECOND, 119 * SECOND, 2 * MINUTE, 119 * MINUTE, 2 * HOUR, 47 * HOUR, 2 * DAY)
    assert [formats.age(one) for one in lengths] == [
        "0 s",
        "1 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "47 h",
        "2 days",
    ]


def test_values_are_written_for_people() -> None:
    assert [formats.value(one) for one in (1234, 1234.5678, 2e6, True, "x", [1, 2.5])] == [
        *("1,234", "1,235", "2,000,000", "True", "x", "1, 2.5"),
    ]  # fmt: skip
    assert "–" in str(formats.value(None))
    assert formats.moment(0) == '<time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00:00 UTC</time>'
    assert formats.address("projects", "a/b?", "<x>") == "/projects/a%2Fb%3F/%3Cx%3E"


def test_bins_hold_every_value_and_lie_between_0_and_1_for_probabilities() -> None:
    edges, counts = bins([0.0, 0.1, 0.55, 1.0], 10)
    assert (edges[0], edges[-1], counts) == (0.0, 1.0, [1, 1, 0, 0, 0, 1, 0, 0, 0, 1])
    edges, counts = bins([-5.0, 10.0, 10.0], 3)
    assert (edges, counts) == ([-5.0, 0.0, 5.0, 10.0], [1, 0, 2])
    assert sum(bins([7.0, 7.0], 4)[1]) == 2
    assert histogram([], "x") == sparkline([], "x") == ""
    assert "nan" not in sparkline([(1.0, 5.0), (2.0, 5.0)], "x") + sparkline([(1.0, 5.0)], "x")
    assert "<title>&lt;x&gt;</title>" in histogram([1.0], "<x>")


def test_a_label_of_a_number_has_no_exponent() -> None:
    numbers = (1_209_600.0, 0.25, -3.0, 1987.0, 1e-3, 123.456789, -0.0, 2e20)
    assert [plain(one) for one in numbers] == [
        "1209600", "0.25", "-3", "1987", "0.001", "123.457", "0", "2e+20",
    ]  # fmt: skip
    assert plain(1_234_567, 3) == "1230000"
    assert "1210000" in histogram([1_209_600.0, 0.0], "values")
