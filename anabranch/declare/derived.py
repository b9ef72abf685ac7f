"""Derived features: SQL expressions over features, columns of the key and the request, and one another.

Each is compiled once, for Spark and for a program of numpy alike (anabranch/values/sql/programs.py), so that
answers, training sets and edge exports have one meaning.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from anabranch.declare.names import RESERVED, check_name
from anabranch.errors import DeclarationError
from anabranch.values.names import folded, listed
from anabranch.values.sql.expressions import Expression, columns_used
from anabranch.values.sql.programs import Programmer, evaluated
from anabranch.values.types import BOOLEAN, STRING, Column, DataType, parse_schema
from anabranch.values.vectors.programs import Program


@dataclass(frozen=True)
class Derived:
    """A feature that is a SQL expression, such as ``Derived("spent_1h / nullif(spent_7d, 0)")``.

    The expression may name features of the project, columns of its key, columns of its request and other
    derived features. docs/expressions.md has the table of what it may use.
    """

    expression: str
    description: str = ""

    def __post_init__(self) -> None:
        given: object = self.expression
        if not isinstance(given, str) or not given.strip():
            raise DeclarationError(f"derived: expression {given!r} is no text: write SQL")


@dataclass(frozen=True)
class DerivedColumn:
    """One derived feature of a project: its type, the columns that it names, what it is computed from.

    `needs` are features, columns of the key and of the request, through other derived features too.
    `asked` is whether it needs the request.
    """

    name: str
    type: DataType
    text: str
    expression: Expression
    reads: tuple[str, ...]
    needs: tuple[str, ...]
    asked: bool
    description: str = ""


@dataclass(frozen=True)
class RequestColumn:
    """A column of the request; `default` is the JSON value where it is left out, unless it is `required`."""

    name: str
    type: DataType
    required: bool
    default: object = None


_DEFAULT = re.compile(r"\s+DEFAULT\s+('(?:[^']|'')*'|[^\s,']+)\s*$", re.IGNORECASE)
_PART = re.compile(r"(?:'(?:[^']|'')*'|`[^`]*`|\([^)]*\)|[^,'`(]|\()+")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Columns that come with a question only: ``"amount DOUBLE, channel STRING DEFAULT 'web'"``.

    A column without a default is required. In training its values are those of the label's own row.
    """

    schema: str

    def __post_init__(self) -> None:
        for column in self.columns:
            if column.type.nested or not column.type.trainable:
                raise DeclarationError(
                    f"request: column {column.name!r} is {column.type}: "
                    "use a number, BOOLEAN, STRING, DATE or TIMESTAMP"
                )

    @cached_property
    def columns(self) -> tuple[RequestColumn, ...]:
        """The columns, in order."""
        parts = _PART.findall(self.schema)
        found = [_DEFAULT.search(part) for part in parts]
        plain = [part if one is None else part[: one.start()] for part, one in zip(parts, found, strict=True)]
        try:
            columns = parse_schema(",".join(plain))
        except DeclarationError as error:
            raise DeclarationError(f"request: {error}") from error
        return tuple(
            RequestColumn(column.name, column.type, one is None, _default(column, one and one[1]))
            for column, one in zip(columns, found, strict=True)
        )


def _default(column: Column, text: str | None) -> object:
    if text is None or text.upper() == "NULL":
        return None
    value = text[1:-1].replace("''", "'") if text[0] == "'" else text
    quoted = text[0] == "'"
    if column.type.fault(value) is not None or quoted != (column.type == STRING or column.type.time):
        hint = "a text in quotes" if column.type == STRING or column.type.time else "a value without quotes"
        raise DeclarationError(
            f"request: column {column.name!r}: default {text} is no {column.type}: write {hint}"
        )
    if quoted:
        return value
    if column.type == BOOLEAN:
        return value.lower() in ("true", "t", "yes", "y", "1")
    return int(value) if column.type.integral else float(value)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What derived features may name: features by type, columns of the key, columns of the request."""

    features: Mapping[str, DataType]
    keys: Mapping[str, DataType]
    request: Mapping[str, DataType]

    @cached_property
    def types(self) -> dict[str, DataType]:
        """All by name."""
        return {**self.keys, **self.features, **self.request}


def derived_columns(declared: Mapping[str, Derived], ground: Ground, place: str) -> tuple[DerivedColumn, ...]:
    """The derived features, each after those that it reads.

    Raises DeclarationError, beginning with `place`, for a name that is taken, a name in an expression that is
    unknown, a circle, and for what `evaluated` refuses.
    """
    taken = {folded(name): what for what, names in _taken(ground) for name in names}
    for name, one in declared.items():
        check_name(name, f"{place}: derived feature")
        if not isinstance(one, Derived):
            raise DeclarationError(f'{place}: derived feature {name!r} is {one!r}: write Derived("...")')
        if name in RESERVED or name in taken:
            what = taken.get(name, "a reserved word of serving tables")
            raise DeclarationError(f"{place}: derived feature {name!r} is also {what}: rename it")
    done: dict[str, DerivedColumn] = {}
    for name in declared:
        _add(name, declared, ground, place, done, [])
    return tuple(done.values())


def _taken(ground: Ground) -> list[tuple[str, Mapping[str, DataType]]]:
    return [
        ("a column of the request", ground.request),
        ("a feature column of a view", ground.features),
        ("a column of the key", ground.keys),
    ]


def _add(
    name: str,
    declared: Mapping[str, Derived],
    ground: Ground,
    place: str,
    done: dict[str, DerivedColumn],
    above: list[str],
) -> None:
    if name in done:
        return
    if name in above:
        circle = " -> ".join([*above[above.index(name) :], name])
        raise DeclarationError(f"{place}: derived features are a circle: {circle}: break it")
    known = {folded(one): one for one in (*ground.types, *declared)}
    where = f"{place}: derived feature {name!r}"
    reads = []
    for used in columns_used(declared[name].expression):
        if folded(used) not in known:
            raise DeclarationError(
                f"{where}: {declared[name].expression!r} names {used!r}, which is no feature and no column "
                f"of the key or the request: {listed(used, known.values(), 'there are')}"
            )
        reads.append(known[folded(used)])
        if reads[-1] in declared:
            _add(reads[-1], declared, ground, place, done, [*above, name])
    done[name] = _column(name, declared[name], reads, ground, where, done)


def _column(
    name: str,
    one: Derived,
    reads: Sequence[str],
    ground: Ground,
    where: str,
    done: Mapping[str, DerivedColumn],
) -> DerivedColumn:
    found = evaluated(one.expression, schema_of(ground, done), where, ground.keys)
    needs = [need for read in reads for need in (done[read].needs if read in done else (read,))]
    return DerivedColumn(
        name=name,
        type=found.type,
        text=one.expression,
        expression=found,
        reads=tuple(dict.fromkeys(reads)),
        needs=tuple(dict.fromkeys(needs)),
        asked=any(need in ground.request for need in needs),
        description=one.description,
    )


def schema_of(ground: Ground, done: Mapping[str, DerivedColumn]) -> tuple[Column, ...]:
    """The columns that an expression is compiled over; those of the key are texts, as they are stored."""
    types = {**ground.types, **dict.fromkeys(ground.keys, STRING)}
    types |= {name: column.type for name, column in done.items()}
    return tuple(Column(name, kind) for name, kind in types.items())


def program_of(columns: Sequence[DerivedColumn], ground: Ground) -> Program:
    """The program that computes the derived features, all at once."""
    programmer = Programmer(schema_of(ground, {column.name: column for column in columns}))
    for column in columns:
        programmer.add(column.name, column.expression, f"derived feature {column.name!r}")
    return Program(programmer.described)
