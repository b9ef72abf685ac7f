"""Names of columns: users' names and ours, which never meet.

In every frame, batch and SQL text that has columns of users, a column of ours begins with PRIVATE, which no
column of a source may. Tables for analysts have plain columns of ours; those names are reserved
(anabranch/declare/names.py), so that no key and no feature has one.
"""

import difflib
import re
from collections.abc import Iterable

from anabranch.errors import DeclarationError

PRIVATE = "_"
"""Begins the names of our columns beside those of users."""
LONGEST_NAME = 120
_FORBIDDEN = re.compile(r"[`\"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def quoted(name: str) -> str:
    """The name as a column in Spark's SQL and in `functions.col`, whatever characters it holds."""
    return "`" + name.replace("`", "``") + "`"


def folded(name: str) -> str:
    """The name as Spark compares it: upper and lower case are one, character by character."""
    upper = (big if len(big := letter.upper()) == 1 else letter for letter in name)
    return "".join(letter.lower()[0] for letter in upper)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The one of `known` that a writer of `name` probably meant; None when none is close."""
    names = {folded(str(one)): str(one) for one in known}
    found = difflib.get_close_matches(folded(str(name)), names, 1)
    return names[found[0]] if found else None


def listed(name: object, known: Iterable[str], there: str = "it has") -> str:
    """What there is instead of the unknown `name`, for an error: ``it has a, b: did you mean 'b'?``"""
    names = [str(one) for one in known]
    near = nearest(name, names)
    return f"{there} {', '.join(names) or 'none'}" + ("" if near is None else f": did you mean {near!r}?")


def check_column_names(names: Iterable[str]) -> None:
    """Raise DeclarationError for a name that no column of a source can have, and for a duplicate."""
    seen: dict[str, str] = {}
    for name in names:
        same = seen.get(folded(name))
        if same is not None:
            also = "" if same == name else f" (column {same!r} differs in case only)"
            raise DeclarationError(
                f"duplicate column {name!r} in the schema{also}: give each column its own name"
            )
        seen[folded(name)] = name
        if name.startswith(PRIVATE):
            raise DeclarationError(
                f"column {name!r} begins with an underscore, as Anabranch's own columns do: rename it"
            )
        if name != name.strip() or len(name) > LONGEST_NAME or _FORBIDDEN.search(name):
            raise DeclarationError(
                f"column {name[:LONGEST_NAME]!r} is not a good name: use up to {LONGEST_NAME} characters "
                "without backticks, double quotes and control characters, and no space at either end"
            )
