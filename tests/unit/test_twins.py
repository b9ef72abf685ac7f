"""batch/views.py and speed/views.py are twins: the same steps, short enough to read side by side."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWINS = ("batch/views.py", "speed/views.py")
MOST_LINES = 80


def steps(source: str) -> list[str]:
    """The public functions of a module, in their order."""
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if not name.startswith("_")]


def test_both_layers_take_the_same_steps_in_the_same_order() -> None:
    batch, speed = (steps((ROOT / name).read_text(encoding="utf-8")) for name in TWINS)
    assert batch == speed
    assert batch == ["sources_of", "events_of", "states_of", "write_states", "refresh_current"]


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_short_enough_to_be_read_beside_the_other(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_a_step_that_one_twin_lacks_is_noticed() -> None:
    one, other = "def a(): ...\ndef b(): ...\n", "def b(): ...\ndef a(): ...\ndef _c(): ...\n"
    assert steps(one) == ["a", "b"]
    assert steps(other) == ["b", "a"]
