"""Where the columns of a source lie in its messages: the `fields` and `explode` of a declaration, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from anabranch.errors import DeclarationError
from anabranch.values.names import listed
from anabranch.values.paths import Path, parse_path, path_text
from anabranch.values.types import Column


@dataclass(frozen=True)
class Nesting:
    """The path of every column in the order of the schema, by default a field of the column's name.

    With `explode`, the path of an array, a message is one event for each of its items; a path that begins
    with it goes on within the one item.
    """

    paths: tuple[tuple[Column, Path], ...]
    explode: Path | None = None

    @cached_property
    def outside(self) -> tuple[tuple[Column, Path], ...]:
        """The columns that all events of a message share, with their paths."""
        return tuple(pair for pair in self.paths if not self._is_within(pair[1]))

    @cached_property
    def within(self) -> tuple[tuple[Column, Path], ...]:
        """The columns of an item, with their whole paths."""
        return tuple(pair for pair in self.paths if self._is_within(pair[1]))

    def _is_within(self, path: Path) -> bool:
        return self.explode is not None and path[: len(self.explode)] == self.explode

    @property
    def fields(self) -> frozenset[str]:
        """The fields at the root of a message that hold a column."""
        return frozenset(str(path[0]) for _, path in self.paths)

    def path(self, name: str) -> Path:
        """The path of the column `name`."""
        return next(path for column, path in self.paths if column.name == name)


@lru_cache(maxsize=256)
def nesting_of(
    columns: tuple[Column, ...], fields: tuple[tuple[str, str], ...], explode: str | None = None
) -> Nesting:
    """The nesting that a source declares; raises DeclarationError for one that contradicts itself."""
    given: Mapping[str, str] = dict(fields)
    known = [column.name for column in columns]
    for name in given:
        if name not in known:
            raise DeclarationError(f"fields: {name!r} is no column: {listed(name, known, 'the schema has')}")
    paths = tuple(
        (column, _parsed(column.name, given[column.name]) if column.name in given else (column.name,))
        for column in columns
    )
    nesting = Nesting(paths, None if explode is None else _parsed_explode(explode))
    _check_clashes(paths, nesting.explode or ())
    if nesting.explode is not None and not nesting.within:
        raise DeclarationError(
            f"explode: no column is taken from the items of {explode}: "
            f"give one a path such as {explode}.name in `fields`"
        )
    return nesting


def _parsed(name: str, text: str) -> Path:
    try:
        return parse_path(text)
    except DeclarationError as error:
        raise DeclarationError(f"fields: column {name!r}: {error}") from error


def _parsed_explode(text: str) -> Path:
    try:
        return parse_path(text)
    except DeclarationError as error:
        raise DeclarationError(f"explode: {error}") from error


def _check_clashes(paths: Sequence[tuple[Column, Path]], explode: Path) -> None:
    whole: dict[Path, Column] = {}
    kinds = {
        explode[:length]: ("explode", isinstance(explode[length], str)) for length in range(1, len(explode))
    }
    for column, path in paths:
        if path in whole:
            raise DeclarationError(
                f"fields: columns {whole[path].name!r} and {column.name!r} both lie at {path_text(path)}: "
                "give one of them another path, or leave it out"
            )
        whole[path] = column
        for length in range(1, len(path)):
            by_name = isinstance(path[length], str)
            other, also = kinds.setdefault(path[:length], (column.name, by_name))
            if also != by_name:
                raise DeclarationError(
                    f"fields: {path_text(path[:length])} is an array for one of {other!r} and "
                    f"{column.name!r} and an object for the other: it can be one of them only"
                )
    for path, column in whole.items():
        if path in kinds and not (column.type.text or column.type.nested):
            raise DeclarationError(
                f"fields: column {kinds[path][0]!r} lies within {path_text(path)}, where column "
                f"{column.name!r} is {column.type}, which holds nothing else: correct one of the two paths"
            )
