"""Examples: what a few events make of the features of a key, declared beside these and run as tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from anabranch.errors import DeclarationError


@dataclass(frozen=True, kw_only=True)
class Example:
    """Events, and what they make of a key's features at a time: ``gives={"spent_1h": 3.5}``.

    An event is a dict of its source's columns and ``"source"``, the source's name, which may be left out when
    the project has one source. Times are ISO 8601 texts or datetimes. `gives` need not name every feature.
    """

    events: Sequence[Mapping[str, Any]] = field(hash=False)
    key: Mapping[str, Any] = field(hash=False)
    at: str | datetime
    gives: Mapping[str, Any] = field(hash=False)
    request: Mapping[str, Any] | None = field(default=None, hash=False)
    name: str = ""

    def __post_init__(self) -> None:
        place = f"example {self.name!r}" if self.name else "example"
        given: tuple[tuple[str, object, object, str], ...] = (
            ("events", self.events, (list, tuple), 'a list of dicts such as {"source": "payments", ...}'),
            ("key", self.key, Mapping, 'a dict such as {"card": "c1"}'),
            ("at", self.at, (str, datetime), "an ISO 8601 text or a datetime"),
            ("gives", self.gives, Mapping, 'a dict such as {"spent_1h": 3.5}'),
        )
        for name, value, kinds, shape in given:
            if not isinstance(value, kinds):  # type: ignore[arg-type]
                raise DeclarationError(f"{place}: {name} is {value!r}: it must be {shape}")
        if not self.gives:
            raise DeclarationError(f"{place} gives nothing: name at least one feature and its value")
