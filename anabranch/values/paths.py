"""Paths into nested messages: names divided by dots, arrays by position, such as ``payload.items[0].price``.

A name with a dot, a bracket or a backtick stands in backticks, a backtick within it doubled. Names are
compared as they are written, upper and lower case apart, as JSON does.
"""

import re
from collections.abc import Mapping
from typing import Any

from anabranch.errors import DeclarationError, EventError
from anabranch.values.datatype import show

Path = tuple[str | int, ...]
"""Steps from the root of a message: a name for an object, a position for an array."""
OBJECTS, ARRAYS = (dict, Mapping), (list, tuple)
"""What decoded objects and arrays are; `dict` first, which is found at once."""
MOST_STEPS = 32
_NAME = r"`(?:[^`]|``)+`|[^.\[\]`\s](?:[^.\[\]`]*[^.\[\]`\s])?"
_STEP = re.compile(rf"(?P<dot>\.)?(?:(?P<name>{_NAME})|\[(?P<place>[0-9]{{1,9}})\])")
_PLAIN = re.compile(r"[^.\[\]`\s](?:[^.\[\]`]*[^.\[\]`\s])?")


def parse_path(text: str) -> Path:
    """The steps of a path; raises DeclarationError, which says how a path is written."""
    steps: list[str | int] = []
    place = 0
    while place < len(text):
        found = _STEP.match(text, place)
        named = found is not None and found["name"] is not None
        # A dot stands between a step and a name, and nowhere else.
        if found is None or bool(found["dot"]) != (named and place > 0):
            break
        steps.append(_name(found["name"]) if named else int(found["place"]))
        place = found.end()
    if not steps or place < len(text) or not isinstance(steps[0], str) or len(steps) > MOST_STEPS:
        raise DeclarationError(
            f"{text!r} is not a path: write names divided by dots and arrays by position, such as "
            f"payload.items[0].price, at most {MOST_STEPS} steps, and a name with other signs in backticks"
        )
    return tuple(steps)


def _name(text: str) -> str:
    return text[1:-1].replace("``", "`") if text.startswith("`") else text


def path_text(path: Path) -> str:
    """The path as it is written."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _PLAIN.fullmatch(step) else "`" + step.replace("`", "``") + "`"
            text += f".{name}" if text else name
    return text


def value_at(message: object, path: Path, root: Path = ()) -> Any:
    """What lies at the path; None where a name or position is missing, or something on the way is NULL.

    Objects are mappings, arrays are lists or tuples. Raises EventError where the path leads by a name
    through anything but an object, or by a position through anything but an array; the reason names the path
    with `root`, the path of `message` itself, before it.
    """
    found: Any = message
    for number, step in enumerate(path):
        if found is None:
            return None
        if isinstance(step, str):
            if not isinstance(found, OBJECTS):
                raise _astray(found, path, number, root, "an object")
            found = found.get(step)
        else:
            if not isinstance(found, ARRAYS):
                raise _astray(found, path, number, root, "an array")
            found = found[step] if step < len(found) else None
    return found


def _astray(found: object, path: Path, number: int, root: Path, wanted: str) -> EventError:
    where = path_text((*root, *path[:number])) or "the message"
    return EventError(f"{path_text((*root, *path))}: {where} is {show(found)}, not {wanted}")
