"""The page of aggregates is true: its examples run, and it names every aggregate there is."""

import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from features import AGGREGATES

PAGE = Path(__file__).parents[2] / "docs" / "aggregates.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks() -> list[CodeType]:
    """Every Python block, with the line numbers of the page."""
    found = re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [compile("\n" * TEXT.count("\n", 0, match.start(1)) + match[1], str(PAGE), "exec") for match in found]


def test_every_example_runs_one_after_the_other() -> None:
    names: dict[str, Any] = {}
    examples = blocks()
    assert examples
    for block in examples:
        exec(block, names)  # noqa: S102 - the page's own examples


@pytest.mark.parametrize("name", [kind.__name__ for kind in AGGREGATES])
def test_every_aggregate_is_named_on_the_page(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert re.search(rf"`{name}\b", prose), f"{PAGE.name} says nothing of {name}"


@pytest.mark.parametrize("name", [kind.__name__ for kind in AGGREGATES])
def test_every_aggregate_has_an_example(name: str) -> None:
    assert any(name in block.co_names for block in blocks()), f"{PAGE.name} has no example of {name}"
