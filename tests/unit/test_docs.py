"""The page of aggregates is true: its examples run, and it names every aggregate there is."""

import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from anabranch import AGGREGATES

PAGE = Path(__file__).parents[2] / "docs" / "aggregates.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks() -> list[CodeType]:
    """Every Python block, with the line numbers of the page."""
    found = re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [
        compile("\n" * TEXT.count("\n", 0, match.start(1)) + match[1], str(PAGE), "exec") for match in found
    ]


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


def test_the_declarations_on_the_page_of_models_can_be_made() -> None:
    text = (PAGE.parent / "models.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "models.md", "exec"), {})  # noqa: S102 - the page's own examples
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    from batch.trainers.registry import TRAINERS

    assert [name for name in TRAINERS if f"`{name}`" not in prose] == []


def test_the_declaration_on_the_page_of_watching_can_be_made() -> None:
    text = (PAGE.parent / "watching.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(example, "watching.md", "exec"), {})  # noqa: S102 - the page's own example
