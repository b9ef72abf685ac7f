"""Projects: views, a label and a model. Declarations are frozen, and checked when constructed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from anabranch.declare.derived import (
    Derived,
    DerivedColumn,
    Ground,
    Request,
    RequestColumn,
    derived_columns,
    program_of,
)
from anabranch.declare.models import SMALLER_IS_BETTER, Model
from anabranch.declare.names import RESERVED, RESULTS, check_name, check_unique, digest
from anabranch.declare.sources import Label, Source
from anabranch.declare.views import FeatureColumn, FeatureView, ViewUse
from anabranch.declare.watch import Freshness, Watch
from anabranch.errors import DeclarationError
from anabranch.values.names import folded
from anabranch.values.numbers import WholeType
from anabranch.values.types import DataType
from anabranch.values.vectors.programs import Program


@dataclass(frozen=True, kw_only=True)
class OnWrite:
    """Rows that are scored as they arrive: events of `source` (a name), or rows appended to `table` (a path).

    Scores go to the Delta table `to`, or with ``to="serving"`` to the serving table.
    """

    to: str
    source: str | None = None
    table: str | None = None

    def __post_init__(self) -> None:
        if not self.to or (self.source is None) == (self.table is None):
            raise DeclarationError(f"score_on_write: {self}: give to= and one of source= and table=")


@dataclass(frozen=True, kw_only=True)
class Project:
    """Views, and a label and a model unless the project has features only.

    `shared_with` names the projects that may use its views by `shared`.
    `derived` are features computed from others, by name; `request` has the columns that come with a question.
    """

    name: str
    views: tuple[FeatureView, ...]
    label: Label | None = None
    model: Model | None = None
    owner: str = ""
    description: str = ""
    freshness: Freshness | None = None
    watch: Watch = field(default_factory=Watch)
    score_on_write: tuple[OnWrite, ...] = ()
    shared_with: tuple[str, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=dict, hash=False)
    request: Request | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "project")
        if re.search(r"_events(_|$)", self.name):
            raise DeclarationError(
                f"project {self.name!r} is not a good name: its tables in Spark would be named as the events "
                f"of a project {self.name[: self.name.index('_events')]!r}: leave out '_events'"
            )
        object.__setattr__(self, "views", tuple(self.views))
        place = f"project {self.name!r}"
        for name, text in (("owner", self.owner), ("description", self.description)):
            if not isinstance(text, str):
                raise DeclarationError(f"{place}: {name} is {text!r}: it must be text")
        if not isinstance(self.freshness, Freshness | None):
            raise DeclarationError(
                f'{place}: freshness is {self.freshness!r}: it must be Freshness(batch="1d", stream="10s")'
            )
        if not self.views:
            raise DeclarationError(f"{place} has no views: give at least one")
        if (self.label is None) != (self.model is None):
            raise DeclarationError(f"{place}: a label and a model belong together: give both or neither")
        self._check_uses(place)
        check_unique([view.name for view in self.own_views], f"{place}: view")
        check_unique([column.name for column in self.view_columns], f"{place}: feature column")
        topics = [source.topic for source in self.sources.values() if source.topic]
        check_unique(topics, f"{place}: topic")
        taken = [
            name for name in self.keys if name.lower() in RESERVED and (name != "key" or len(self.keys) > 1)
        ]
        if taken:
            raise DeclarationError(
                f"{place}: key column {taken[0]!r} is a reserved word of serving tables: "
                "rename it in the source"
            )
        for view in self.views:
            self._check_keys(view, place)
        self._check_key_types(place)
        keys = {name.lower() for name in self.keys}
        same = [column.name for column in self.view_columns if column.name in keys]
        if same:
            raise DeclarationError(
                f"{place}: feature column {same[0]!r} is also a column of the key: rename the feature"
            )
        self._check_request(place)
        check_unique([column.name for column in self.columns], f"{place}: feature column")
        self._check_model(place)
        self._check_on_write(place)

    def _check_request(self, place: str) -> None:
        given: object = self.request
        if not isinstance(given, Request | None):
            raise DeclarationError(f'{place}: request is {given!r}: write Request(schema="amount DOUBLE")')
        if not isinstance(self.derived, Mapping):
            raise DeclarationError(
                f'{place}: derived is {self.derived!r}: write derived={{"ratio": Derived("a / b")}}'
            )
        taken = {folded(name) for name in (*self.keys, *(column.name for column in self.view_columns))}
        for column in self.request_columns:
            if folded(column.name) in taken or column.name.lower() in RESERVED:
                raise DeclarationError(
                    f"{place}: request column {column.name!r} is also a feature, a column of the key or a "
                    "reserved word of serving tables: rename it"
                )
            self._check_in_label(column, place)

    def _check_in_label(self, column: RequestColumn, place: str) -> None:
        """In training the request is part of the label's own row."""
        if self.label is None:
            return
        source = self.label.source
        kinds = {one.name: one.type for one in source.columns}
        kind = kinds.get(column.name)
        if kind is None and column.required:
            raise DeclarationError(
                f"{place}: request column {column.name!r} is no column of {source.name!r}, the label's "
                "source, whose rows are the requests of training: add it there, or give it a DEFAULT"
            )
        if kind is not None and kind != column.type and not (kind.numeric and column.type.numeric):
            raise DeclarationError(
                f"{place}: request column {column.name!r} is {column.type}, but {kind} in {source.name!r}, "
                "the label's source: declare one type"
            )

    def _check_on_write(self, place: str) -> None:
        declared: object = self.score_on_write
        if not isinstance(declared, tuple) or not all(isinstance(one, OnWrite) for one in declared):
            raise DeclarationError(
                f"{place}: score_on_write is {self.score_on_write!r}: "
                "write (OnWrite(source=..., to=...),) with its comma"
            )
        if self.score_on_write and self.model is None:
            raise DeclarationError(
                f"{place}: score_on_write needs a model to score with: give a label and a model"
            )
        check_unique([one.to for one in self.score_on_write], f"{place}: score_on_write: to")
        unknown = [
            one.source
            for one in self.score_on_write
            if one.source is not None and one.source not in self.sources
        ]
        if unknown:
            raise DeclarationError(
                f"{place}: score_on_write: source {unknown[0]!r} is none of {', '.join(self.sources)}"
            )
        for name in (one.source for one in self.score_on_write if one.source is not None):
            if self.sources[name].table is not None and self.sources[name].topic is None:
                raise DeclarationError(
                    f"{place}: score_on_write: source {name!r} is a table, whose rows are not copied "
                    "to the lake: give table=PATH, if it is a Delta table"
                )
            taken = [one.name for one in self.sources[name].columns if one.name.lower() in RESULTS]
            if taken:
                raise DeclarationError(
                    f"{place}: score_on_write: column {taken[0]!r} of source {name!r} has the name of a "
                    f"result ({', '.join(RESULTS)}): rename it in the source"
                )

    def _check_model(self, place: str) -> None:
        if self.model is not None:
            self.watch.check(self.model.metric in SMALLER_IS_BETTER, self.model.metric)
        named = self.model.named if self.model else {}
        types = self.inputs
        unknown = [name for name in named if name not in types]
        if unknown:
            known = ", ".join(types)
            raise DeclarationError(
                f"{place}: model {named[unknown[0]]} {unknown[0]!r} is in no view: there are {known}"
            )
        unfit = [name for name in self.model_features if not types[name].trainable]
        if self.model and (unfit or not self.model_features):
            which = f"model feature {unfit[0]!r} is {types[unfit[0]]}" if unfit else "every feature is a list"
            raise DeclarationError(
                f"{place}: {which}, which no trainer takes: give Model(features=...) of single values"
            )
        aside = [
            name for name in (self.model.categories if self.model else ()) if name not in self.model_features
        ]
        if aside:
            raise DeclarationError(
                f"{place}: model category {aside[0]!r} is not among Model(features=...): add it there"
            )
        lists = [
            part.feature
            for part in (self.model.declared_slices if self.model else ())
            if types[part.feature].array
        ]
        if self.model and self.model.online:
            self._check_online(place)
        if lists:
            raise DeclarationError(
                f"{place}: model slice {lists[0]!r} is {types[lists[0]]}: a slice needs single values"
            )

    def _check_online(self, place: str) -> None:
        if "online" in self.sources:
            raise DeclarationError(
                f"{place}: source 'online' has the name of the query that learns online: rename the source"
            )
        if self.label is not None and self.label.source.topic is None:
            raise DeclarationError(
                f"{place}: online learning reads labels from a topic, "
                f"and source {self.label.source.name!r} has none: give it one"
            )
        if self.asks(self.model_features):
            raise DeclarationError(
                f"{place}: the online model scores current rows, which have no request, and the model's "
                "features need it: name others in Model(features=...), or leave Model(online=...) out"
            )
        if all(self.inputs[name].text for name in self.model_features):
            raise DeclarationError(
                f"{place}: online learning needs a feature that is a number, and the model's are all texts: "
                "leave Model(online=...) out"
            )

    def _check_uses(self, place: str) -> None:
        declared: object = self.shared_with
        if not isinstance(declared, tuple) or not all(isinstance(one, str) and one for one in declared):
            raise DeclarationError(
                f"{place}: shared_with is {self.shared_with!r}: "
                'write the names of projects, ("card_fraud",) with its comma'
            )
        for view in (view for view in self.views if view.use.owner is not None):
            if self.name not in view.use.shared_with:
                raise DeclarationError(
                    f"{place}: project {view.use.owner!r} does not share view {view.name!r} with it: "
                    f"its owner consents by shared_with=({self.name!r},) in its declaration"
                )
        for position, view in enumerate(self.views):
            again = [
                other
                for other in self.views[:position]
                if other.full_name == view.full_name and other.use.prefix == view.use.prefix
            ]
            if again and again[0].unused == view.unused:
                raise DeclarationError(
                    f"{place}: view {view.full_name!r} is used twice and its columns would have the same "
                    'names: give each use its own prefix, such as .on(card="buyer_card", prefix="buyer")'
                )

    def _check_keys(self, view: FeatureView, place: str) -> None:
        missing = [name for name in view.asked if name not in self.keys]
        if missing:
            known = ", ".join(self.keys)
            raise DeclarationError(
                f"{place}: key {missing[0]!r} of view {view.full_name!r} is not among the label's keys "
                f"{known}: add it to Label(key=...), or say which of them it is with "
                f'.on({view.keys[view.asked.index(missing[0])]}="...")'
            )

    def _check_key_types(self, place: str) -> None:
        declared: dict[str, tuple[DataType, str]] = {}
        for name, kind, column in self._typed_keys:
            known, other = declared.setdefault(name, (kind, column))
            if known != kind and not (known.integral and kind.integral):
                raise DeclarationError(
                    f"{place}: key {name!r} is {known} in {other} and {kind} in {column}, "
                    "where one key is two texts (0042 and 42): declare one type"
                )

    @property
    def _typed_keys(self) -> Iterator[tuple[str, DataType, str]]:
        """Each column of the key with a type that it has in a source, and words for where."""
        for view in self.views:
            for name, column in zip(view.asked, view.keys, strict=True):
                role = "" if name == column else f", column {column!r}"
                yield name, view.source.column(column, "key").type, f"source {view.feed!r}{role}"
        if self.label is not None:
            source = self.label.source
            for name in self.label.keys:
                yield name, source.column(name, "key").type, f"source {source.name!r}"

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every source by name; raises DeclarationError when different sources have one name."""
        sources: dict[str, Source] = {}
        for source in [
            *(view.source for view in self.own_views),
            *([self.label.source] if self.label else []),
        ]:
            if sources.setdefault(source.name, source) != source:
                raise DeclarationError(
                    f"project {self.name!r}: two different sources are named {source.name!r}: rename one"
                )
        return sources

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns of the key that is scored: the label's, or those of all views when there is no label."""
        return (
            self.label.keys
            if self.label
            else tuple(dict.fromkeys(name for view in self.views for name in view.asked))
        )

    @cached_property
    def own_views(self) -> tuple[FeatureView, ...]:
        """The project's own views, each once whatever the roles it is used in: those that have states."""
        views: list[FeatureView] = []
        for view in (view.unused for view in self.views if view.use.owner is None):
            views += [] if view in views else [view]
        return tuple(views)

    def lend(self, view: str) -> FeatureView:
        """An own view for another project. Raises DeclarationError when there is none of that name."""
        own = {each.name: each for each in self.own_views}
        if view not in own:
            other = [each for each in self.views if each.name == view]
            why = (
                f"it uses {other[0].full_name!r} of another project itself: share that one"
                if other
                else f"it has {', '.join(own) or 'no view of its own'}"
            )
            raise DeclarationError(f"project {self.name!r} has no view {view!r} to share: {why}")
        return replace(own[view], use=ViewUse(owner=self.name, shared_with=self.shared_with))

    @cached_property
    def lenders(self) -> Mapping[str, "Project"]:
        """Projects whose views this one uses, by name, each with those views alone."""
        views: dict[str, list[FeatureView]] = {}
        for view, _ in self.stored_views:
            if view.use.owner is not None:
                views.setdefault(view.use.owner, []).append(replace(view, use=ViewUse()))
        return {owner: Project(name=owner, views=tuple(each)) for owner, each in views.items()}

    @cached_property
    def stored_views(self) -> tuple[tuple[FeatureView, tuple[int, ...]], ...]:
        """Each view of which answers read states, once, with its positions in `views`."""
        names = [view.full_name for view in self.views]
        return tuple(
            (
                self.views[names.index(name)].unused,
                tuple(position for position, other in enumerate(names) if other == name),
            )
            for name in dict.fromkeys(names)
        )

    @cached_property
    def view_columns(self) -> tuple[FeatureColumn, ...]:
        """Feature columns of all views, in order."""
        return tuple(column for view in self.views for column in view.columns)

    @cached_property
    def derived_columns(self) -> tuple[DerivedColumn, ...]:
        """Derived features, each after those that it reads."""
        return derived_columns(self.derived, self._ground, f"project {self.name!r}")

    @cached_property
    def columns(self) -> tuple[FeatureColumn | DerivedColumn, ...]:
        """Feature columns of all views, then the derived features: the values of an answer, in order."""
        return (*self.view_columns, *self.derived_columns)

    @cached_property
    def request_columns(self) -> tuple[RequestColumn, ...]:
        """The columns of the request; none for a project without."""
        return self.request.columns if self.request is not None else ()

    @cached_property
    def column_of(self) -> Mapping[str, FeatureColumn | DerivedColumn]:
        """Feature columns and derived features by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def inputs(self) -> Mapping[str, DataType]:
        """Types of all that a model may read, by name: features, derived features, columns of the request."""
        return {column.name: column.type for column in (*self.columns, *self.request_columns)}

    @cached_property
    def _ground(self) -> Ground:
        return Ground(
            features={column.name: column.type for column in self.view_columns},
            keys=dict(self.key_types),
            request={column.name: column.type for column in self.request_columns},
        )

    @cached_property
    def program(self) -> Program:
        """Computes every derived feature, from features, stored texts of the key and the request."""
        return program_of(self.derived_columns, self._ground)

    @cached_property
    def program_without_request(self) -> Program:
        """Computes the derived features that need no request."""
        return program_of([column for column in self.derived_columns if not column.asked], self._ground)

    def asks(self, names: Iterable[str]) -> bool:
        """Whether one of the features or inputs `names` needs the request."""
        return self.request is not None and not self.needed(names).isdisjoint(
            column.name for column in self.request_columns
        )

    def needed(self, names: Iterable[str]) -> frozenset[str]:
        """What the features, derived features and columns of the request `names` are computed from."""
        columns = {column.name: column for column in self.derived_columns}
        needs = (columns[name].needs if name in columns else (name,) for name in names)
        return frozenset(need for found in needs for need in found)

    @cached_property
    def key_types(self) -> Mapping[str, DataType]:
        """Types of the key's columns; of several whole numbers the widest."""
        types: dict[str, DataType] = {}
        for name, kind, _ in self._typed_keys:
            known = types.get(name, kind)
            types[name] = known if _range(known) >= _range(kind) else kind
        return types

    @property
    def model_features(self) -> tuple[str, ...]:
        """Feature columns that the model reads, in order."""
        chosen = (
            self.model.features
            if self.model and self.model.features
            else tuple(name for name, kind in self.inputs.items() if not kind.array)
        )
        return tuple(chosen)

    def views_of(self, source: str) -> tuple[FeatureView, ...]:
        """The project's own views that are fed by the source, each once."""
        return tuple(view for view in self.own_views if view.source.name == source)

    def key_columns_in(self, source: Source) -> tuple[str, ...]:
        """The columns of a source that hold the project's key, in the order of `keys`; () without them all.

        Where a view of the source stands for the whole key under other names, they are the view's.
        """
        for view in self.views:
            if view.feed == source.name and set(view.asked) == set(self.keys):
                return tuple(view.keys[view.asked.index(name)] for name in self.keys)
        there = {column.name for column in source.columns}
        return self.keys if there >= set(self.keys) else ()

    def key_sets(self, source: Source) -> tuple[tuple[str, ...], ...]:
        """The keys for which events of the source are used, by its views and by the label."""
        keys = [view.keys for view in self.views_of(source.name)]
        if self.label is not None and self.label.source == source:
            keys.append(self.label.keys)
        return tuple(dict.fromkeys(keys))

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the model's input or target would."""
        label, model = self.label, self.model
        parts = [f"{view.name}:{view.fingerprint}" for view in self.views] + [c.name for c in self.columns]
        parts += [column.text for column in self.derived_columns]
        parts += [] if self.request is None else [self.request.schema]
        parts += [aggregate.meaning() for view in self.views for aggregate in view.features.values()]
        parts += [
            f"{view.full_name}:{view.asked!r}"
            for view in self.views
            if view.full_name != view.name or view.use.columns
        ]
        if label and model:
            parts += [label.source.name, repr(label.keys), label.target, *model.meaning()]
        return digest(parts)


def _range(kind: DataType) -> int:
    """Bits of a whole number; 0 for any other type."""
    return kind.bits if isinstance(kind, WholeType) else 0
