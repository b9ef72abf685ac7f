"""Projects: views, a label and a model. Declarations are frozen, and checked when constructed."""

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
from anabranch.declare.examples import Example
from anabranch.declare.models import Model
from anabranch.declare.names import INTERVAL, RESULTS, digest
from anabranch.declare.on_write import OnWrite
from anabranch.declare.operations import Freshness, Objectives, Schedule, Watch
from anabranch.declare.project_checks import check_project
from anabranch.declare.sources import Label, Source
from anabranch.declare.views import FeatureColumn, FeatureView, ViewUse
from anabranch.errors import DeclarationError
from anabranch.values.names import listed
from anabranch.values.numbers import WholeType
from anabranch.values.types import DataType
from anabranch.values.vectors.programs import Program


@dataclass(frozen=True, kw_only=True)
class Project:
    """Views, and a label and a model unless the project has features only.

    `shared_with` names the projects that may use its views by `shared`.
    `derived` are features computed from others, by name; `request` has the columns that come with a question.
    `examples` say what a few events give; `anabranch test` and pytest run them.
    """

    name: str
    views: tuple[FeatureView, ...]
    label: Label | None = None
    model: Model | None = None
    owner: str = ""
    description: str = ""
    freshness: Freshness | None = None
    objectives: Objectives | None = None
    watch: Watch = field(default_factory=Watch)
    schedule: Schedule = field(default_factory=Schedule)
    score_on_write: tuple[OnWrite, ...] = ()
    shared_with: tuple[str, ...] = ()
    derived: Mapping[str, Derived] = field(default_factory=dict, hash=False)
    request: Request | None = None
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        check_project(self)

    @property
    def promised_freshness(self) -> Freshness | None:
        """What is promised of the age of answers: by `freshness`, or by the objectives."""
        given = None if self.objectives is None else self.objectives.freshness
        return given if isinstance(given, Freshness) else self.freshness

    @property
    def typed_keys(self) -> Iterator[tuple[str, DataType, str]]:
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
                else listed(view, own)
                if own
                else "it has no view of its own"
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
        for name, kind, _ in self.typed_keys:
            known = types.get(name, kind)
            types[name] = known if _range(known) >= _range(kind) else kind
        return types

    @property
    def task(self) -> str:
        """What the model learns: ``class`` (0 or 1), ``classes`` (named) or ``number``; else ``class``.

        A label names classes when it is a text, when it lists them, or when the metric is for nothing else.
        """
        if self.label is None or self.model is None:
            return "class"
        if self.label.type.text or self.label.classes:
            return "classes"
        return self.model.task

    @property
    def results(self) -> tuple[str, ...]:
        """Columns that scoring adds to rows."""
        if self.task == "classes":
            return (*RESULTS, "scores")
        return (*RESULTS, *INTERVAL) if self.model is not None and self.model.interval else RESULTS

    @property
    def model_features(self) -> tuple[str, ...]:
        """Feature columns that the model reads, in order."""
        chosen = (
            self.model.features
            if self.model and self.model.features
            else tuple(name for name, kind in self.inputs.items() if not kind.nested)
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
            parts += [repr(label.classes)] if label.classes else []
            parts += ["own event"] if label.own_event else []
        return digest(parts)


def _range(kind: DataType) -> int:
    """Bits of a whole number; 0 for any other type."""
    return kind.bits if isinstance(kind, WholeType) else 0
