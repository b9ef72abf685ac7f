"""Keys as one text: the values of the key's columns, joined by the unit separator (U+001F)."""

from collections.abc import Mapping

from anabranch.errors import EventError

SEPARATOR = "\x1f"
LONGEST_KEY = 8192
"""Bytes of one key column. Cassandra limits a whole partition key to 64 KiB."""
KEY_RULE = f"a key may have {LONGEST_KEY} bytes and not the control character U+001F"


def key_text(names: tuple[str, ...], values: Mapping[str, object]) -> str:
    """The stored text of a key ``{column: value}``; raises EventError when a column is missing or empty."""
    parts = []
    for name in names:
        value = values.get(name)
        if value is None or str(value) == "" or isinstance(value, (dict, list)):
            raise EventError(f"key {name!r} is missing: give {' and '.join(names)}")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if SEPARATOR in text:
            raise EventError(
                f"key {name!r} holds the control character U+001F, which keys must not contain: remove it"
            )
        parts.append(text)
    return SEPARATOR.join(parts)


def key_values(names: tuple[str, ...], text: str) -> dict[str, str]:
    """The columns of a key from its stored text."""
    return dict(zip(names, text.split(SEPARATOR), strict=True))


def show_key(names: tuple[str, ...], text: str) -> str:
    """A key for people: the bare value of a single column, or ``tailnum=N14228 origin=EWR`` for several."""
    values = key_values(names, text)
    return text if len(names) == 1 else " ".join(f"{name}={value}" for name, value in values.items())


def read_key(names: tuple[str, ...], words: list[str]) -> dict[str, str]:
    """A key from the command line: one bare value, or ``name=value`` for each column."""
    bare = len(names) == 1 and len(words) == 1 and not words[0].startswith(f"{names[0]}=")
    values = {names[0]: words[0]} if bare else dict(word.split("=", 1) for word in words if "=" in word)
    if set(values) != set(names) or len(words) != len(names):
        raise EventError(
            f"key {' '.join(words)!r} does not fit: write {' '.join(f'{name}=VALUE' for name in names)}"
        )
    key_text(names, values)  # raises for an empty value
    return values
