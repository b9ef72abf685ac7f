"""Sources of events, and labels over them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from anabranch.declare.models import MOST_CLASSES
from anabranch.declare.names import IDENTITY, check_name
from anabranch.declare.nesting import Nesting, nesting_of
from anabranch.declare.tables import read_address
from anabranch.declare.wire_formats import format_names, found_schema
from anabranch.errors import DeclarationError
from anabranch.values.names import listed
from anabranch.values.sql.expressions import compiled, expression_type
from anabranch.values.times import DAY
from anabranch.values.types import BOOLEAN, DATE, STRING, Column, DataType, parse_schema


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of events of one schema. `id` is the column that identifies an event: its first arrival wins.

    With ``id=None`` a message is identified by its place in the topic, and a row of a file by its values.
    A source without a `topic` is read from files, or from a `table` that stays where it lies, written
    ``"delta:PATH"``, ``"parquet:PATH"`` or ``"jdbc:URL#SCHEMA.TABLE?column=COLUMN"``. With both, history
    comes by table and news by topic, and what both bring counts once. `format` is the format of the topic's
    messages: ``"json"`` (one object), ``"csv"`` (one line, the columns in the order of the schema),
    ``"avro"``, ``"protobuf"``, ``"debezium"``, or a name given to `register_format`. `fields` says by column
    where its value lies in a nested message, as a path such as ``"payload.items[0].price"``; a column without
    one is the field of its own name. `explode` is the path of an array: a message is one event for each of
    its items, whose id is ``<id>#<position>``, and the paths of `fields` that begin with it go on within the
    one item, such as ``"items.sku"``. `wire_schema` is the file of a binary format's schema, from the folder
    of the project's module; Avro without one asks the schema registry.
    """

    name: str
    schema: str
    id: str | None
    time: str
    topic: str | None = None
    format: str = "json"
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    explode: str | None = None
    wire_schema: str | None = None
    table: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "source")
        if self.topic is not None and not re.fullmatch(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", self.topic):
            raise DeclarationError(
                f"source {self.name!r}: topic {self.topic!r} is not a Kafka topic name: "
                "use letters, digits, '.', '_' and '-'"
            )
        if self.format not in format_names():
            known = listed(self.format, format_names(), "register it, or use")
            raise DeclarationError(f"source {self.name!r}: format {self.format!r} is unknown: {known}")
        if not all(isinstance(path, str) for path in dict(self.fields).values()):
            raise DeclarationError(
                f"source {self.name!r}: fields must give a path by column, such as "
                "{'amount': 'payload.amount'}"
            )
        if self.wire_schema is not None:
            try:
                object.__setattr__(self, "wire_schema", found_schema(self.format, self.wire_schema))
            except DeclarationError as error:
                raise DeclarationError(f"source {self.name!r}: {error}") from error
        object.__setattr__(self, "fields", dict(self.fields))
        try:
            if self.table is not None:
                read_address(self.table)
            parse_schema(self.schema)
            _ = self.nesting
        except DeclarationError as error:
            raise DeclarationError(f"source {self.name!r}: {error}") from error
        if self.by_path and self.format == "csv":
            raise DeclarationError(
                f"source {self.name!r}: messages of format 'csv' are rows without nesting: "
                "leave `fields` and `explode` out"
            )
        self._check_id()
        kind = self.column(self.time, "time").type
        if not kind.time:
            raise DeclarationError(
                f"source {self.name!r}: time {self.time!r} is {kind}: it must be TIMESTAMP or DATE"
            )

    def _check_id(self) -> None:
        if self.id is None:
            if self.table is not None and self.topic is not None:
                raise DeclarationError(
                    f"source {self.name!r}: what its table and its topic bring is told apart by an id: give "
                    "the column, or declare two sources"
                )
            if self.explode is not None:
                raise DeclarationError(
                    f"source {self.name!r}: with explode an event's id is the message's and the item's "
                    "position: give the column of the message's id"
                )
            return
        identity = self.column(self.id, "id")
        if identity.type.nested:
            raise DeclarationError(
                f"source {self.name!r}: id {self.id!r} is {identity.type}, which identifies nothing: "
                "take one of its parts as a column of its own by `fields`"
            )
        if self.explode is not None and (identity.type != STRING or identity in dict(self.nesting.within)):
            raise DeclarationError(
                f"source {self.name!r}: with explode an event's id is the message's and the item's position, "
                f"such as 'order-7#0': column {self.id!r} must be STRING and lie outside of {self.explode}"
            )

    @property
    def identity(self) -> str:
        """The column that identifies an event: the id, or one that is made where there is none."""
        return IDENTITY if self.id is None else self.id

    @property
    def columns(self) -> tuple[Column, ...]:
        """The schema's columns, in order."""
        return parse_schema(self.schema)

    @cached_property
    def nesting(self) -> Nesting:
        """Where the columns lie in a message."""
        return nesting_of(self.columns, tuple(self.fields.items()), self.explode)

    @property
    def by_path(self) -> bool:
        """Whether a message has columns elsewhere than in fields of their names."""
        return bool(self.fields) or self.explode is not None

    @property
    def nested(self) -> bool:
        """Whether messages are nested: by paths, or by columns of nested types."""
        return self.by_path or any(column.type.nested for column in self.columns)

    def event_time(self, value: int) -> int:
        """The microseconds of a value of the time's column: microseconds themselves, or days of a DATE."""
        return value * (DAY if self.column(self.time, "time").type == DATE else 1)

    def column(self, name: str, role: str) -> Column:
        """The column `name`; raises DeclarationError, naming its `role`, when it does not exist."""
        for column in self.columns:
            if column.name == name:
                return column
        known = listed(name, [column.name for column in self.columns])
        raise DeclarationError(f"source {self.name!r}: {role} {name!r} is no column: {known}")


def key_columns(key: str | tuple[str, ...], source: Source, place: str) -> tuple[str, ...]:
    """The key's columns; raises DeclarationError, beginning with `place`, when one cannot be in a key."""
    names = (key,) if isinstance(key, str) else tuple(key)
    if not names or len(set(names)) != len(names):
        raise DeclarationError(f"{place}: key {key!r} must name one column or several different ones")
    for name in names:
        kind = source.column(name, f"key of {place}").type
        if set("=,") & set(name):
            raise DeclarationError(
                f"{place}: column {name!r} cannot be in a key, where '=' and ',' divide columns: rename it"
            )
        if not kind.in_keys:
            raise DeclarationError(
                f"{place}: key {name!r} cannot be {kind}: use STRING, a whole number, DATE or BOOLEAN"
            )
    return names


@dataclass(frozen=True, kw_only=True)
class Label:
    """The target of a model: SQL over events of `source`, with features from strictly before the event.

    With `own_event` a label's features also count its own event, which must be one that views read: as the
    answer to a question that brings the event.

    A condition has two classes, a text the classes that its values name, up to 100. A number is a number, or
    0 and 1, as the model's metric says; the numbers name classes when `classes` lists them or the metric is
    for several classes alone. `classes` are in the order in which they are shown.
    """

    source: Source
    key: str | tuple[str, ...]
    target: str
    description: str = ""
    classes: tuple[str | int, ...] = ()
    own_event: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key if isinstance(self.key, str) else tuple(self.key))
        key_columns(self.key, self.source, "label")
        kind = self.type
        if kind != BOOLEAN and not kind.numeric and not kind.text:
            raise DeclarationError(
                f"label, target: {self.target!r} gives {kind}: "
                "it must give a number, a text that names a class, or a condition such as 'num > 0'"
            )
        self._check_classes(kind)
        own: object = self.own_event
        if not isinstance(own, bool):
            raise DeclarationError(f"label: own_event is {own!r}: write True or False")

    def _check_classes(self, kind: DataType) -> None:
        declared: object = self.classes
        if not isinstance(declared, tuple | list) or not all(
            isinstance(one, str | int) and not isinstance(one, bool) for one in declared
        ):
            raise DeclarationError(
                f"label: classes is {declared!r}: list texts or whole numbers, such as ('good', 'bad')"
            )
        object.__setattr__(self, "classes", tuple(declared))
        if not self.classes:
            return
        if len(set(self.classes)) != len(self.classes) or not 2 <= len(self.classes) <= MOST_CLASSES:
            raise DeclarationError(
                f"label: classes lists {len(self.classes)} classes, {len(set(self.classes))} of them "
                f"different: give 2 to {MOST_CLASSES} different ones"
            )
        wanted = str if kind.text else int
        if not kind.text and not kind.integral:
            raise DeclarationError(
                f"label, target: {self.target!r} gives {kind}, and classes are listed: "
                "the target must give a text or a whole number"
            )
        if not all(isinstance(one, wanted) for one in self.classes):
            raise DeclarationError(
                f"label: classes are {self.classes!r}, and {self.target!r} gives {kind}: "
                f"list {'texts' if kind.text else 'whole numbers'}"
            )

    @cached_property
    def type(self) -> DataType:
        """The type of the target."""
        return expression_type(self.target, self.source.columns, "label, target")

    @property
    def target_sql(self) -> str:
        """Spark SQL of the target that no event can make fail."""
        return compiled(self.target, self.source.columns, "label, target").sql

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key's columns."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)
