"""Aggregates by category: one for each category of `among`, and one for all other events.

    Sum("amount", by="kind", among=("food", "travel"))

is three aggregates of their own filter: `food`, `travel` and `other`. An event whose category is NULL is in
no category, so it counts in `other`.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypedDict

from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import expression_type
from anabranch.values.sql.terms import in_quotes
from anabranch.values.types import BINARY, Column

MOST_CATEGORIES = 100
OTHER = "other"
Category = str | int
Among = Sequence[Category] | Mapping[str, Category]
Named = tuple[tuple[str, Category], ...]
"""Categories by the names that end their feature columns."""
_LONGEST_NAME = 40
_HINT = "name it yourself: among={'name': category}"


class Counted(TypedDict, total=False):
    """Which events count, and whether there is a feature for each category: arguments of every aggregate."""

    where: str | None
    by: str | None
    among: Among


def named_categories(among: Among, place: str) -> Named:
    """The categories with the ends of their columns' names; raises DeclarationError, beginning with `place`.

    A text is named by itself: in small letters without accents, other characters as underscores.
    """
    given: object = among
    if not isinstance(given, Mapping | list | tuple):
        raise DeclarationError(f"{place}: among={among!r}: give categories, such as among=('food', 'travel')")
    pairs = list(among.items()) if isinstance(among, Mapping) else [(None, one) for one in among]
    if len(pairs) > MOST_CATEGORIES:
        raise DeclarationError(
            f"{place}: among has {len(pairs)} categories, at most {MOST_CATEGORIES} are allowed: keep those "
            "that matter (the rest is in 'other'), or count them in a map: Count(by=..., most=...)"
        )
    named: dict[str, Category] = {}
    for given_name, category in pairs:
        typed: object = category
        if isinstance(typed, bool) or not isinstance(typed, str | int):
            raise DeclarationError(f"{place}: among: {category!r} is no text and no whole number")
        name = _made(category, place) if given_name is None else _given(given_name, place)
        if name == OTHER:
            raise DeclarationError(
                f"{place}: among: {category!r} is named 'other', as what is in no category: leave it out, "
                f"or {_HINT}"
            )
        if name in named:
            raise DeclarationError(
                f"{place}: among: {named[name]!r} and {category!r} are both named {name!r}: {_HINT}"
            )
        if category in named.values():
            raise DeclarationError(f"{place}: among: duplicate category {category!r}")
        named[name] = category
    if not named:
        raise DeclarationError(f"{place}: among is empty: give a category, such as among=('food',)")
    return tuple(named.items())


def _given(name: str, place: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name) or len(name) > _LONGEST_NAME:
        raise DeclarationError(
            f"{place}: among: {name!r} is not a good name of a category: "
            f"use up to {_LONGEST_NAME} small letters, digits and single underscores"
        )
    return name


def _made(category: Category, place: str) -> str:
    if isinstance(category, int):
        return f"minus_{-category}" if category < 0 else str(category)
    letters = unicodedata.normalize("NFKD", category.casefold())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^a-z0-9]+", "_", bare).strip("_")
    if not name or len(name) > _LONGEST_NAME or any(one.isalnum() and not one.isascii() for one in bare):
        raise DeclarationError(
            f"{place}: among: {category!r} makes no name for a column "
            f"(up to {_LONGEST_NAME} small letters and digits): {_HINT}"
        )
    return name


def check_categories(by: str, named: Named, schema: tuple[Column, ...], place: str) -> None:
    """Raises DeclarationError, beginning with `place`, unless `by` has values such as the categories."""
    kind = expression_type(by, schema, f"{place}, by")
    if not kind.integral and (not kind.text or kind == BINARY):
        raise DeclarationError(
            f"{place}: by={by!r} is {kind}: among= needs a STRING or a whole number; for others declare "
            "one feature each with where="
        )
    for _, category in named:
        if isinstance(category, str) != kind.text or kind.fault(category, strict=True) is not None:
            raise DeclarationError(f"{place}: among: {category!r} is no {kind}, the type of by={by!r}")


def conditions(by: str, named: Named, where: str | None) -> dict[str, str]:
    """The filter of each category, by its name, and that of `other`."""
    before = f"({where}) AND " if where else ""
    literals = {name: _literal(category) for name, category in named}
    found = {name: f"{before}({by}) = {literal}" for name, literal in literals.items()}
    # IN is NULL for a NULL category, which is in none.
    return found | {OTHER: f"{before}(({by}) IN ({', '.join(literals.values())})) IS NOT TRUE"}


def _literal(category: Category) -> str:
    return str(category) if isinstance(category, int) else f"'{in_quotes(category)}'"
