"""Names in declarations: their form, reserved words, and digests of declarations."""

import hashlib
import re
from collections.abc import Iterable

from anabranch.errors import DeclarationError

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


_OF_ROWS = (
    "key",
    "score",
    "label",
    "scores",
    "interval_low",
    "interval_high",
    "online_score",
    "degraded",
    "slot",
)
_OF_VERSIONS = ("model_version", "batch_version", "as_of", "layer")
RESERVED = {*_OF_ROWS, *_OF_VERSIONS}
"""Columns of serving tables beside a project's own: no name for a feature or a key column."""

IDENTITY = "_identity"
"""The column that identifies events of a source without an id."""

RESULTS = ("score", "label", "model_version")
"""Columns that scoring adds to rows."""


INTERVAL = ("interval_low", "interval_high")
"""Columns that scoring adds to rows of a model of numbers with intervals."""


def reserve(name: str) -> None:
    """Reserve the name of a further column of serving tables."""
    RESERVED.add(name)


def check_name(name: object, what: str) -> None:
    """Raise DeclarationError, beginning with `what`, unless `name` can be part of a table's name."""
    if not isinstance(name, str) or len(name) > 40 or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{what} {name!r} is not a good name: "
            "use up to 40 small letters, digits and single underscores, a letter first"
        )


def digest(parts: Iterable[str]) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def check_unique(names: list[str], what: str) -> None:
    """Raise DeclarationError, beginning with `what`, for a duplicate name."""
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(f"{what} {name!r} is used twice: give each its own name")
