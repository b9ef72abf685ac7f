"""What a data scientist declares: sources, feature views, a label, a model, a project. Frozen, checked when constructed."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from features.aggregates.base import Aggregate
from features.errors import DeclarationError
from features.freshness import Freshness
from features.layout import Alike, Layout
from features.modelling import SMALLER_IS_BETTER, Model
from features.schema import BOOLEAN, Column, DataType, columns_used, expression_type, parse_schema
from features.times import HOUR, format_duration
from features.watching import Watch
from features.windows import Window, make_window

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_RESERVED = {"key", "score", "model_version", "batch_version", "as_of", "layer", "label", "online_score", "degraded", "slot"}


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or len(name) > 40 or not _NAME.fullmatch(name):
        raise DeclarationError(f"{what} {name!r} is not a good name: use up to 40 small letters, digits and single underscores, a letter first")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where events of one kind come from. `topic` None: files only. `id` names an event: its first arrival wins."""

    name: str
    schema: str
    id: str
    time: str
    topic: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name, "source")
        if self.topic is not None and not re.fullmatch(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", self.topic):
            raise DeclarationError(f"source {self.name!r}: topic {self.topic!r} is not a Kafka topic name: use letters, digits, '.', '_' and '-'")
        self.column(self.id, "id")
        if self.column(self.time, "time").type.name not in ("TIMESTAMP", "DATE"):
            raise DeclarationError(f"source {self.name!r}: time {self.time!r} is {self.column(self.time, 'time').type}: it must be TIMESTAMP or DATE")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The schema's columns, in order."""
        return parse_schema(self.schema)

    def column(self, name: str, role: str) -> Column:
        """The column `name`; raises DeclarationError naming the `role` it was wanted for."""
        for column in self.columns:
            if column.name == name:
                return column
        raise DeclarationError(f"source {self.name!r}: {role} {name!r} is no column: it has {', '.join(c.name for c in self.columns)}")


def _key_columns(key: str | tuple[str, ...], source: Source, place: str) -> tuple[str, ...]:
    names = (key,) if isinstance(key, str) else tuple(key)
    if not names or len(set(names)) != len(names):
        raise DeclarationError(f"{place}: key {key!r} must name one column or several different ones")
    for name in names:
        if source.column(name, f"key of {place}").type.name in ("FLOAT", "DOUBLE", "DECIMAL", "BINARY"):
            raise DeclarationError(f"{place}: key {name!r} cannot be {source.column(name, 'key').type}: use STRING, a whole number, DATE or BOOLEAN")
    return names


@dataclass(frozen=True)
class FeatureColumn:
    """One column that answers and training sets have: a feature over one window."""

    name: str
    feature: str
    window: Window
    type: DataType


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """Features of one key over one source; `windows` empty means the key's whole life."""

    name: str
    source: Source
    key: str | tuple[str, ...]
    features: Mapping[str, Aggregate] = field(hash=False)
    windows: tuple[str, ...] | str = ()
    hop: str | None = None
    description: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name, "view")
        if not self.features:
            raise DeclarationError(f"view {self.name!r} has no features: give at least one")
        object.__setattr__(self, "windows", (self.windows,) if isinstance(self.windows, str) else tuple(self.windows))
        _unique(list(self.windows), f"view {self.name!r}: window")
        _key_columns(self.key, self.source, f"view {self.name!r}")
        for name, aggregate in self.features.items():
            _check_name(name, f"view {self.name!r}: feature")
            if not isinstance(aggregate, Aggregate):
                raise DeclarationError(f"view {self.name!r}: feature {name!r} is {aggregate!r}: it must be an aggregate such as Count() or Mean('price')")
            self._check_windows(name, aggregate)
        self._check_columns()

    def _check_windows(self, name: str, aggregate: Aggregate) -> None:
        place = f"view {self.name!r}: feature {name!r}: {type(aggregate).__name__}"
        finite = [span for span in self.spans if span.width is not None]
        if aggregate.windows == "none" and finite:
            raise DeclarationError(f"{place} has no window (it forgets by its half-life), but the view has {finite[0].name!r}: give it a view without windows=")
        if aggregate.longest_tile is not None and self.tile > aggregate.longest_tile:
            longest, tile = format_duration(aggregate.longest_tile), format_duration(self.tile)
            raise DeclarationError(f"{place} fades too fast for states of {tile}: give its view hop={longest!r} or less")
        if aggregate.windows == "finite" and len(finite) < len(self.spans):
            raise DeclarationError(f"{place} needs a window of finite length: give its view windows= without a lifetime")

    def _check_columns(self) -> None:
        seen: set[str] = set()
        for column in self.columns:
            if column.name in seen:
                raise DeclarationError(f"view {self.name!r}: feature column {column.name!r} comes about twice: rename a feature")
            if column.name in _RESERVED:
                raise DeclarationError(f"view {self.name!r}: feature {column.name!r} is a word kept for serving tables: rename it")
            seen.add(column.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key's columns."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @cached_property
    def layout(self) -> Layout:
        """How this view's states are stored."""
        place = f"view {self.name!r}"
        return Layout({name: found.bind(self.source.columns, f"{place}, feature {name!r}") for name, found in self.features.items()})

    @cached_property
    def spans(self) -> tuple[Window, ...]:
        """The windows with their hops; one lifetime when none are declared."""
        return tuple(make_window(text, self.hop, f"view {self.name!r}") for text in self.windows or ("lifetime",))

    @cached_property
    def tile(self) -> int:
        """Width of the stream's tiles in microseconds: the smallest hop."""
        return min(span.hop for span in self.spans)

    @cached_property
    def tiers(self) -> tuple[int, ...]:
        """Widths of the stream's tiles in microseconds: wide ones, an hour or a hop, and, where a window's tail may lie within one, fine ones of a hop."""
        longest = [aggregate.longest_tile for aggregate in self.features.values() if aggregate.longest_tile is not None]
        wide = self.tile * max(1, min(HOUR, *longest) // self.tile) if longest else self.tile * max(1, HOUR // self.tile)
        return (wide, self.tile) if any(span.width is not None and span.hop % wide for span in self.spans) else (wide,)

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """Feature columns, windows within features: ``bpm_mean_1h``, ``bpm_mean_1d``, ... or ``age``."""
        bounds = self.layout.bounds
        return tuple(
            FeatureColumn(f"{name}_{span.name}" if self.windows else name, name, span, bounds[name].type) for name in self.features for span in self.spans
        )

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def finished(self) -> tuple[tuple[Alike, tuple[str, ...]], ...]:
        """Groups of features that are finished together, each with the names of its columns: windows within features."""
        names: dict[str, list[str]] = {}
        for column in self.columns:
            names.setdefault(column.feature, []).append(column.name)
        return tuple((group, tuple(name for feature in group.names for name in names[feature])) for group in self.layout.alike)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything that changes the meaning or layout of stored states; names of features do not."""
        return _digest([*self._ground(self.features.values()), *self.layout.sql(), *(extra.sql() for extra in self.layout.extras)])

    def feature_fingerprint(self, name: str) -> str:
        """Changes with anything that changes the values of one feature; its name does not."""
        return _digest([*self._ground([self.features[name]]), self.features[name].meaning()])

    def _ground(self, aggregates: Iterable[Aggregate]) -> list[str]:
        """What every state depends on: the source, the key, the windows, and the types of the columns that are read."""
        source = self.source
        used = {name.lower() for name in (*self.keys, source.time, source.id)}
        used.update(name.lower() for aggregate in aggregates for text in aggregate.texts for name in columns_used(text))
        types = [f"{c.name}:{c.type}" for c in source.columns if c.name.lower() in used]
        return [source.name, source.topic or "", source.id, source.time, repr(self.keys), repr([(s.width, s.hop) for s in self.spans]), *types]


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is to be learnt: `target` over events of `source`; features are taken strictly before the event's time."""

    source: Source
    key: str | tuple[str, ...]
    target: str
    description: str = ""

    def __post_init__(self) -> None:
        _key_columns(self.key, self.source, "label")
        kind = expression_type(self.target, self.source.columns, "label, target")
        if kind is not None and kind != BOOLEAN and not kind.numeric:
            raise DeclarationError(f"label, target: {self.target!r} gives {kind}: it must give a number or a condition such as 'num > 0'")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the key's columns."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)


@dataclass(frozen=True, kw_only=True)
class OnWrite:
    """Rows that are scored as they arrive: the events of a `source`, by its name, or what is appended to `table`, a path; into the Delta table `to`,
    or with ``to="serving"`` into the serving table.
    """

    to: str
    source: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if not self.to or (self.source is None) == (self.table is None):
            raise DeclarationError(f"score_on_write: {self}: give to= and one of source= and table=")


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything declared for one purpose. A project may have no model (features only)."""

    name: str
    views: tuple[FeatureView, ...]
    label: Label | None = None
    model: Model | None = None
    owner: str = ""
    description: str = ""
    freshness: Freshness | None = None
    watch: Watch = field(default_factory=Watch)
    score_on_write: tuple[OnWrite, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name, "project")
        object.__setattr__(self, "views", tuple(self.views))
        place = f"project {self.name!r}"
        for said, text in (("owner", self.owner), ("description", self.description)):
            if not isinstance(text, str):
                raise DeclarationError(f"{place}: {said} is {text!r}: it must be text")
        if not isinstance(self.freshness, Freshness | None):
            raise DeclarationError(f'{place}: freshness is {self.freshness!r}: it must be Freshness(batch="1d", stream="10s")')
        if not self.views:
            raise DeclarationError(f"{place} has no views: give at least one")
        if (self.label is None) != (self.model is None):
            raise DeclarationError(f"{place}: a label and a model belong together: give both or neither")
        _unique([view.name for view in self.views], f"{place}: view")
        _unique([column.name for column in self.columns], f"{place}: feature column")
        topics = [source.topic for source in self.sources.values() if source.topic]
        _unique(topics, f"{place}: topic")
        taken = [name for name in self.keys if name.lower() in _RESERVED and (name != "key" or len(self.keys) > 1)]
        if taken:
            raise DeclarationError(f"{place}: key column {taken[0]!r} is a word kept for serving tables: rename it in the source")
        for view in self.views:
            self._check_keys(view, place)
        same = [column.name for column in self.columns if column.name in {name.lower() for name in self.keys}]
        if same:
            raise DeclarationError(f"{place}: feature column {same[0]!r} is also a column of the key: rename the feature")
        self._check_model(place)
        self._check_on_write(place)

    def _check_on_write(self, place: str) -> None:
        given: object = self.score_on_write
        if not isinstance(given, tuple) or not all(isinstance(one, OnWrite) for one in given):
            raise DeclarationError(f"{place}: score_on_write is {self.score_on_write!r}: write (OnWrite(source=..., to=...),) with its comma")
        if self.score_on_write and self.model is None:
            raise DeclarationError(f"{place}: score_on_write needs a model to score with: give a label and a model")
        _unique([one.to for one in self.score_on_write], f"{place}: score_on_write: to")
        unknown = [one.source for one in self.score_on_write if one.source is not None and one.source not in self.sources]
        if unknown:
            raise DeclarationError(f"{place}: score_on_write: source {unknown[0]!r} is none of {', '.join(self.sources)}")

    def _check_model(self, place: str) -> None:
        if self.model is not None:
            self.watch.check(self.model.metric in SMALLER_IS_BETTER, self.model.metric)
        named = self.model.named if self.model else {}
        unknown = [name for name in named if name not in {c.name for c in self.columns}]
        if unknown:
            raise DeclarationError(f"{place}: model {named[unknown[0]]} {unknown[0]!r} is in no view: there are {', '.join(c.name for c in self.columns)}")
        types = {column.name: column.type for column in self.columns}
        unfit = [name for name in self.model_features if types[name].array or types[name].name == "BINARY"]
        if self.model and (unfit or not self.model_features):
            which = f"model feature {unfit[0]!r} is {types[unfit[0]]}" if unfit else "every feature is a list"
            raise DeclarationError(f"{place}: {which}, which no trainer takes: give Model(features=...) of single values")
        aside = [name for name in (self.model.categories if self.model else ()) if name not in self.model_features]
        if aside:
            raise DeclarationError(f"{place}: model category {aside[0]!r} is not among Model(features=...): add it there")
        lists = [part.feature for part in (self.model.declared_slices if self.model else ()) if types[part.feature].array]
        if self.model and self.model.online:
            self._check_online(place)
        if lists:
            raise DeclarationError(f"{place}: model slice {lists[0]!r} is {types[lists[0]]}: a slice needs single values")

    def _check_online(self, place: str) -> None:
        if self.label is not None and self.label.source.topic is None:
            raise DeclarationError(f"{place}: online learning reads labels from a topic, and source {self.label.source.name!r} has none: give it one")
        if all(self.column_of[name].type.text for name in self.model_features):
            raise DeclarationError(f"{place}: online learning needs a feature that is a number, and the model's are all texts: leave Model(online=...) out")

    def _check_keys(self, view: FeatureView, place: str) -> None:
        missing = [name for name in view.keys if name not in self.keys]
        if missing:
            known = ", ".join(self.keys)
            raise DeclarationError(f"{place}: key {missing[0]!r} of view {view.name!r} is not among the label's keys {known}: add it to Label(key=...)")

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every source by name; two different ones of one name are an error."""
        found: dict[str, Source] = {}
        for source in [*(view.source for view in self.views), *([self.label.source] if self.label else [])]:
            if found.setdefault(source.name, source) != source:
                raise DeclarationError(f"project {self.name!r}: two different sources are named {source.name!r}: rename one")
        return found

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that name one thing to be scored: the label's, or all the views' when there is no label."""
        return self.label.keys if self.label else tuple(dict.fromkeys(name for view in self.views for name in view.keys))

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """Feature columns of all views, in order."""
        return tuple(column for view in self.views for column in view.columns)

    @cached_property
    def column_of(self) -> Mapping[str, FeatureColumn]:
        """Feature columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def key_types(self) -> Mapping[str, DataType]:
        """Types of the key's columns, as the first source that has each declares it."""
        found: dict[str, DataType] = {}
        for source in self.sources.values():
            for column in source.columns:
                if column.name in self.keys:
                    found.setdefault(column.name, column.type)
        return found

    @property
    def model_features(self) -> tuple[str, ...]:
        """Feature columns that the model reads, in order."""
        chosen = self.model.features if self.model and self.model.features else tuple(column.name for column in self.columns if not column.type.array)
        return tuple(chosen)

    def views_of(self, source: str) -> tuple[FeatureView, ...]:
        """Views fed by the source."""
        return tuple(view for view in self.views if view.source.name == source)

    def key_sets(self, source: Source) -> tuple[tuple[str, ...], ...]:
        """The keys that events of the source are used with: its views' and, for the label's source, the label's."""
        found = [view.keys for view in self.views_of(source.name)]
        if self.label is not None and self.label.source == source:
            found.append(self.label.keys)
        return tuple(dict.fromkeys(found))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything that changes what the model is fed or told to learn."""
        label, model = self.label, self.model
        parts = [f"{view.name}:{view.fingerprint}" for view in self.views] + [c.name for c in self.columns]
        parts += [aggregate.meaning() for view in self.views for aggregate in view.features.values()]
        if label and model:
            parts += [label.source.name, repr(label.keys), label.target, *model.meaning()]
        return _digest(parts)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(f"{what} {name!r} comes about twice: give each its own name")
