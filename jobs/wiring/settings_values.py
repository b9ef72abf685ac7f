"""How one setting is read from text or TOML. Pure; where the text comes from is jobs/wiring/settings.py's business."""

import re
from collections.abc import Callable, Mapping

from anabranch.errors import MisuseError

Parser = Callable[[object], object]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class SettingsError(MisuseError):
    """A setting is unknown or its value is of the wrong kind."""


def text(value: object) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def whole(value: object) -> int:
    """A whole number, not negative."""
    if isinstance(value, str) and re.fullmatch(r"\d+", value.strip()):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number")
    return value


def positive(value: object) -> int:
    """A whole number above zero."""
    try:
        number = whole(value)
    except ValueError:
        number = 0
    if number == 0:
        raise ValueError("a whole number above 0")
    return number


def port(value: object) -> int:
    """A TCP port."""
    try:
        number = whole(value)
    except ValueError:
        number = 0
    if not 0 < number < 65_536:
        raise ValueError("a port, 1 to 65535")
    return number


def port_or_none(value: object) -> int:
    """A TCP port, or 0 for none."""
    number = whole(value)
    if number > 65_535:
        raise ValueError("a port, 1 to 65535, or 0 for none")
    return number


def seconds_fraction(value: object) -> float:
    """A number of seconds that may have a fraction, above zero."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("a number above 0")
    return number


def share(value: object) -> float:
    """A share, 0 to 1."""
    try:
        number = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
        )
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("a share, 0 to 1")
    return number


def one_of(*words: str) -> Parser:
    """One of a few words."""

    def read(value: object) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(value)

    return read


def duration(value: object) -> int:
    """Seconds of "90s", "15m", "1h" or "2d"."""
    found = re.fullmatch(r"(\d+)([smhd])", value.strip()) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError('a duration such as "90s", "15m", "1h" or "2d"')
    return int(found[1]) * _UNITS[found[2]]


def memory(value: object) -> str:
    """A JVM memory size such as "512m"."""
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d*[mg]", value):
        raise ValueError('a memory size such as "512m" or "2g"')
    return value


def identifier(value: object) -> str:
    """A lower-case name Cassandra takes unquoted."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", value):
        raise ValueError("a name of lower-case letters, digits and _, starting with a letter")
    return value


def names(value: object) -> tuple[str, ...]:
    """A list of text, or text with commas; not empty."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of names, or names with commas between them")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise ValueError("at least one name")
    return found


def names_or_none(value: object) -> tuple[str, ...]:
    """A list of text, or text with commas; it may be empty."""
    return () if value in ("", []) else names(value)


def boolean(value: object) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() not in ("true", "false"):
        raise ValueError("true or false")
    return str(value).strip().lower() == "true"


def pairs(value: object) -> dict[str, str]:
    """A table of text, or text as "key=value,key=value"."""
    if isinstance(value, str):
        split = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(equals for _, equals, _ in split):
            raise ValueError('"key=value,key=value"')
        return {key.strip(): rest.strip() for key, _, rest in split}
    if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("a table of text")
    return {str(key): str(item) for key, item in value.items()}
