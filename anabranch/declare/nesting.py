"""Where the columns of a source lie in its messages: the `fields` and `explode` of a declaration, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from anabranch.errors import DeclarationError
from anabranch.values.paths import Path, parse_path, path_text
from anabranch.values.types import Column


@dataclass(frozen=True)
class Nesting:
    """The path of every column in the order of the schema, by default a field of the column's name."""

    paths: tuple[tuple[Column, Path], ...]

    @property
    def fields(self) -> frozenset[str]:
        """The fields at the root of a message that hold a column."""
        return frozenset(str(path[0]) for _, path in self.paths)

    def path(self, name: str) -> Path:
        """The path of the column `name`."""
        return next(path for column, path in self.paths if column.name == name)


@lru_cache(maxsize=256)
def nesting_of(columns: tuple[Column, ...], fields: tuple[tuple[str, str], ...]) -> Nesting:
    """The nesting that a source declares; raises DeclarationError for one that contradicts itself."""
    given: Mapping[str, str] = dict(fields)
    known = [column.name for column in columns]
    for name in given:
        if name not in known:
            raise DeclarationError(f"fields: {name!r} is no column: the schema has {', '.join(known)}")
    paths = tuple(
        (column, _parsed(column.name, given[column.name]) if column.name in given else (column.name,))
        for column in columns
    )
    _check_clashes(paths)
    return Nesting(paths)


def _parsed(name: str, text: object) -> Path:
    if not isinstance(text, str):
        raise DeclarationError(f"fields: the path of column {name!r} is no text but {text!r}")
    try:
        return parse_path(text)
    except DeclarationError as error:
        raise DeclarationError(f"fields: column {name!r}: {error}") from error


def _check_clashes(paths: Sequence[tuple[Column, Path]]) -> None:
    whole: dict[Path, Column] = {}
    kinds: dict[Path, tuple[str, bool]] = {}
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
                    f"fields: {path_text(path[:length])} is an array for one of the columns {other!r} and "
                    f"{column.name!r} and an object for the other: it can be one of them only"
                )
    for path, column in whole.items():
        if path in kinds and not column.type.text:
            raise DeclarationError(
                f"fields: column {kinds[path][0]!r} lies within {path_text(path)}, where column "
                f"{column.name!r} is {column.type}, which holds nothing else: correct one of the two paths"
            )
