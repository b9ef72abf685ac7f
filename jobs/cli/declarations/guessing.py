"""What the columns of some rows probably are: their types, the event's id, its time, the key, the label."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from anabranch.errors import DeclarationError, MisuseError
from anabranch.testing.files import FileRows
from anabranch.values.names import check_column_names, folded, listed, quoted
from anabranch.values.types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    STRING,
    TIMESTAMP,
    DataType,
    parse_type,
)

_TYPES = (BOOLEAN, BIGINT, DOUBLE, DATE, TIMESTAMP)
_ODD_SHARE, _ODD_ROWS = 0.05, 20
"""So many values of another type are errors in the data rather than another type."""
_ID_NAMES = ("id", "uuid", "guid")
_TIMES = "timestamp time ts at datetime date when created occurred measured paid ordered"
_KEYS = (
    "user customer client card account device sensor machine patient member player merchant driver vehicle "
    "pump store shop product item station household subscriber employee key"
)
_LABELS = (
    "label target outcome class y churn churned fraud failed failure default defaulted converted bad good "
    "survived diagnosis clicked returned cancelled canceled approved disease"
)
_TIME_NAMES, _KEY_NAMES, _LABEL_NAMES = _TIMES.split(), _KEYS.split(), _LABELS.split()
_OTHER_TIMES = re.compile(
    r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b.*|\d{4}/\d{1,2}/\d{1,2}\b.*|[A-Z][a-z]{2,8} \d.*"
)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_YES_OR_NO = ("true", "false", "yes", "no", "t", "f")
_EPOCHS = ((1e9, 4e9, "seconds"), (1e12, 4e12, "milliseconds"), (1e15, 4e15, "microseconds"))
_LEAVES = 3


@dataclass(frozen=True, kw_only=True)
class FoundColumn:
    """A column of the rows: `name` as declared, `given` as in the file, `path` within a nested object.

    `values` are those of the rows, None for none; `why` says why it has its type; `odd` are values that are
    of another type, with the number of their row.
    """

    name: str
    given: str
    type: DataType
    values: Sequence[Any]
    path: str | None = None
    why: str = ""
    odd: Sequence[tuple[int, Any]] = ()

    @cached_property
    def present(self) -> list[Any]:
        """The values that are there."""
        return [value for value in self.values if value is not None]

    @cached_property
    def distinct(self) -> list[Any]:
        """The different values, in the order in which they come."""
        return list(dict.fromkeys(map(str, self.present)))

    @property
    def whole(self) -> bool:
        """Whether every row has a value of the type."""
        return len(self.present) == len(self.values) and not self.odd

    @property
    def words(self) -> list[str]:
        """The parts of the name: ``card_id`` and ``CardId`` have two."""
        return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", self.name).lower())


@dataclass(frozen=True, kw_only=True)
class NamedColumns:
    """Columns that the user names himself; None: guess."""

    id: str | None = None
    time: str | None = None
    key: Sequence[str] = ()
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The columns, and the part each plays; `why` says by column why it has its part."""

    columns: Sequence[FoundColumn]
    id: str | None
    time: str
    key: Sequence[str]
    label: str | None
    why: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> FoundColumn:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def key_rows(self) -> list[tuple[str, ...]]:
        """The key of each row."""
        return list(zip(*(map(str, self.column(name).values) for name in self.key), strict=True))


def found_columns(rows: FileRows) -> list[FoundColumn]:
    """The columns of some rows, with names that a source can have and the narrowest types that fit."""
    if rows.schema is not None:
        return _of_parquet(rows, rows.schema)
    columns: list[FoundColumn] = []
    for place, given in enumerate(rows.names, 1):
        values = [row.get(given) for row in rows.rows]
        for path, leaf in _leaves((given,), values):
            name = _declared("_".join(path), place, columns)
            kind, why, odd = guess_type(leaf)
            inside = ".".join(each if each.isidentifier() else quoted(each) for each in path)
            nested = inside if rows.objects and name != given else None
            columns.append(
                FoundColumn(name=name, given=given, type=kind, values=leaf, path=nested, why=why, odd=odd)
            )
    return columns


def _of_parquet(rows: FileRows, schema: pa.Schema) -> list[FoundColumn]:
    try:
        check_column_names(rows.names)
    except DeclarationError as error:
        raise MisuseError(f"{error} in the file: write it anew with another name") from error
    return [
        FoundColumn(
            name=field.name,
            given=field.name,
            type=_arrow_type(field.type),
            values=[row[field.name] for row in rows.rows],
            why=f"{field.type} in the file",
        )
        for field in schema
    ]


def _arrow_type(kind: pa.DataType) -> DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _arrow_type(kind.value_type)
    simple = (
        (types.is_boolean, "BOOLEAN"),
        (types.is_uint64, "DECIMAL(20,0)"),
        (types.is_integer, "BIGINT"),
        (types.is_floating, "DOUBLE"),
        (types.is_date, "DATE"),
        (types.is_timestamp, "TIMESTAMP"),
        (types.is_binary, "BINARY"),
        (types.is_large_binary, "BINARY"),
    )
    if types.is_decimal(kind):
        return parse_type(f"DECIMAL({kind.precision},{max(kind.scale, 0)})")
    if types.is_list(kind) or types.is_large_list(kind):
        return parse_type(f"ARRAY<{_arrow_type(kind.value_type)}>")
    if types.is_struct(kind):
        return parse_type(f"STRUCT<{', '.join(f'`{f.name}`: {_arrow_type(f.type)}' for f in kind)}>")
    return parse_type(next((name for fits, name in simple if fits(kind)), "STRING"))


def _leaves(path: tuple[str, ...], values: list[Any]) -> list[tuple[tuple[str, ...], list[Any]]]:
    """The parts of nested objects that hold values, by their paths; a value that is no object by itself."""
    objects = [value for value in values if value is not None]
    names = list(dict.fromkeys(name for value in objects if isinstance(value, dict) for name in value))
    plain = all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in (*path, *names))
    if not names or not plain or len(path) > _LEAVES or not all(isinstance(one, dict) for one in objects):
        return [(path, values)]
    return [
        leaf
        for name in names
        for leaf in _leaves((*path, name), [None if value is None else value.get(name) for value in values])
    ]


def _declared(given: str, place: int, columns: Sequence[FoundColumn]) -> str:
    """The name as a source can have it: the given one if it can be."""
    taken = {folded(column.name) for column in columns}
    try:
        check_column_names([given])
        name = given if given else f"column_{place}"
    except DeclarationError:
        name = re.sub(r"\W+", "_", given).strip("_")[:100] or f"column_{place}"
    stem, number = name, 2
    while folded(name) in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def guess_type(values: Sequence[Any]) -> tuple[DataType, str, list[tuple[int, Any]]]:
    """The narrowest type of the values, why it is that one, and the few values that are of another."""
    present = [(row, value) for row, value in enumerate(values, 1) if value not in (None, "")]
    if not present:
        return STRING, "no row has a value", []
    few: tuple[DataType, str, list[tuple[int, Any]]] | None = None
    for kind in _TYPES:
        odd = [(row, value) for row, value in present if not _is(kind, value)]
        if not odd:
            return kind, "", []
        if few is None and len(present) >= _ODD_ROWS and len(odd) <= _ODD_SHARE * len(present):
            few = kind, f"{len(present) - len(odd):,} of {len(present):,} values are", odd
    if few is not None:
        return few
    sample = str(present[0][1])
    if isinstance(present[0][1], dict | list):
        return STRING, "nested: its JSON text", []
    if _OTHER_TIMES.fullmatch(sample):
        return STRING, f"times written as {sample!r} are not ISO 8601: write 2024-05-01T12:00:00Z", []
    if re.fullmatch(r"-?\d{1,3}(\.\d{3})*,\d+", sample):
        return STRING, f"numbers with a decimal comma are texts: write {sample!r} with a point", []
    return STRING, "" if not sample.isdigit() else "codes: some begin with 0, or are no numbers", []


def _is(kind: DataType, value: Any) -> bool:
    """Whether a value is meant as the type: stricter than what the type reads."""
    if isinstance(value, bool) or kind == BOOLEAN:
        text = str(value).strip().lower()
        return kind == BOOLEAN and (isinstance(value, bool) or text in _YES_OR_NO)
    if kind in (DATE, TIMESTAMP) and not isinstance(value, str):
        return False
    text = str(value).strip()
    if kind == DATE and not _DAY.fullmatch(text):
        return False
    if kind == BIGINT and ("." in text or "e" in text.lower()):
        return False
    if kind in (BIGINT, DOUBLE) and re.match(r"[+-]?0\d|\+", text):
        return False  # 007 and +49 are codes
    return kind.fault(value) is None


def guess(columns: Sequence[FoundColumn], wanted: NamedColumns) -> Guess:
    """The part that each column plays. Raises MisuseError when there is no time or no key."""
    names = [column.name for column in columns]
    given = [("--id", wanted.id), ("--time", wanted.time), *(("--key", key) for key in wanted.key)]
    for option, named in given:
        if named is not None and named not in names and (option, named) != ("--id", "none"):
            raise MisuseError(f"{option} {named!r} is no column: {listed(named, names, 'the columns are')}")
    why: dict[str, str] = {}
    time = _time(columns, wanted, why)
    identity = _identity(columns, wanted, time, why)
    key = _key(columns, wanted, [time, identity], why)
    label = _label(columns, wanted, [time, identity, *key], why)
    return Guess(columns=columns, id=identity, time=time, key=key, label=label, why=why)


def _time(columns: Sequence[FoundColumn], wanted: NamedColumns, why: dict[str, str]) -> str:
    times = [column for column in columns if column.type.time]
    if wanted.time is not None:
        chosen = next(column for column in columns if column.name == wanted.time)
        if chosen not in times:
            raise MisuseError(f"--time {wanted.time!r} is {chosen.type} ({chosen.why}): name a time or a day")
        why[chosen.name] = "as --time says"
        return chosen.name
    if not times:
        hints = [f"{column.name!r}: {hint}" for column in columns if (hint := _almost_time(column))]
        raise MisuseError(
            "no column is a time: an event needs the time when it happened, as ISO 8601 such as "
            f"2024-05-01T12:00:00Z{'; ' + '; '.join(hints) if hints else ''}"
        )

    def rank(column: FoundColumn) -> tuple[bool, bool, int]:
        named = [_TIME_NAMES.index(word) for word in column.words if word in _TIME_NAMES]
        return (not column.whole, column.type == DATE, min(named, default=len(_TIME_NAMES)))

    best = min(times, key=rank)
    others = ", ".join(column.name for column in times if column is not best)
    why[best.name] = f"a {best.type}{f'; rather than {others}' if others else ', the only one'}"
    return best.name


def _almost_time(column: FoundColumn) -> str:
    if "ISO 8601" in column.why:
        return column.why
    if not set(column.words) & set(_TIME_NAMES) or not column.type.numeric or not column.present:
        return ""
    first = float(column.present[0])
    unit = next((unit for low, high, unit in _EPOCHS if low <= first < high), None)
    return f"{unit} since 1970: write ISO 8601" if unit else ""


def _identity(
    columns: Sequence[FoundColumn], wanted: NamedColumns, time: str, why: dict[str, str]
) -> str | None:
    if wanted.id is not None:
        return None if wanted.id == "none" else wanted.id
    fitting = [
        column
        for column in columns
        if column.whole
        and column.type in (STRING, BIGINT)
        and column.name != time
        and column.name not in wanted.key
        and len(column.distinct) == len(column.values)
        and column.words[-1:]
        and (column.words[-1] in _ID_NAMES or (column.name.lower().endswith("id") and len(column.values) > 1))
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda column: column.words not in [[one] for one in _ID_NAMES])
    why[best.name] = "different in every row, and named so"
    return best.name


def _key(
    columns: Sequence[FoundColumn], wanted: NamedColumns, taken: Sequence[str | None], why: dict[str, str]
) -> tuple[str, ...]:
    if wanted.key:
        for name in wanted.key:
            why[name] = "as --key says"
        return tuple(wanted.key)
    fitting = [
        column
        for column in columns
        if column.type.in_keys
        and not column.type.time
        and not column.type.nested
        and column.type != BOOLEAN
        and column.name not in (*taken, wanted.label)
        and not set("=,") & set(column.name)
        and len(column.present) >= 0.9 * len(column.values)
        and len(column.distinct) > 1
    ]

    def rank(column: FoundColumn) -> tuple[bool, bool, bool, int]:
        """By name first: a key that comes several times, then the one with most values."""
        named = column.words[-1:] and (column.words[-1] in (*_ID_NAMES, "no", "number", "code"))
        meant = bool(set(column.words) & set(_KEY_NAMES))
        repeats = len(column.distinct) < len(column.present)
        return (not (named or meant), not repeats, column.type != STRING, -len(column.distinct))

    best = min(fitting, key=rank, default=None)
    named = best is not None and not rank(best)[0]
    repeated = best is not None and 2 * len(best.distinct) <= len(best.present) and best.type == STRING
    if best is None or not (named or repeated):
        raise MisuseError(
            "no column looks like a key, whose events belong together, such as a customer or a device: "
            f"name one with --key: {', '.join(column.name for column in columns)}"
        )
    rows = len(best.present) / len(best.distinct)
    why[best.name] = f"{len(best.distinct):,} different values, {rows:.1f} rows each" + (
        ", and named so" if named else ""
    )
    return (best.name,)


def _label(
    columns: Sequence[FoundColumn], wanted: NamedColumns, taken: Sequence[str | None], why: dict[str, str]
) -> str | None:
    if wanted.label == "none":
        return None
    if wanted.label is not None:
        names = [column.name for column in columns]
        if wanted.label not in names or wanted.label in taken:
            raise MisuseError(
                f"--label {wanted.label!r} is {'id, time or key' if wanted.label in names else 'no column'}: "
                f"{listed(wanted.label, [name for name in names if name not in taken], 'name one of')}"
            )
        why[wanted.label] = "as --label says"
        return wanted.label
    for column in columns:
        few = 2 <= len(column.distinct) <= 20 and not column.type.floating
        if few and column.name not in taken and set(column.words) & set(_LABEL_NAMES):
            why[column.name] = f"named so, with {len(column.distinct)} different values (--label none if not)"
            return column.name
    return None
