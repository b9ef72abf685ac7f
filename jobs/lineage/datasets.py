"""What a verb reads and writes, as datasets of OpenLineage with their schemas and where columns come from.

A dataset is named as OpenLineage's conventions have it: a topic below ``kafka://<brokers>``, a folder of the
lake below ``file`` or its own scheme, a table below ``cassandra://<hosts>``, a model below ``mlflow``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.settings import StoreSettings
from anabranch.stores.cassandra.tables import current_table, table_name
from anabranch.values.sql.expressions import columns_used

Kind = Literal[
    "topics", "tables", "events", "quarantine", "states", "views", "tiles", "current", "model", "predictions",
    "measures",
]  # fmt: skip
_FLOWS: dict[str, tuple[tuple[Kind, ...], tuple[Kind, ...]]] = {
    "ingest": ((), ("events", "quarantine")),
    "publish": ((), ("topics",)),
    "land": (("topics", "tables"), ("events", "quarantine")),
    "build": (("topics", "tables", "events", "model"), ("events", "states", "views", "current")),
    "rollback": (("views", "model"), ("current",)),
    "stream": (("topics", "model"), ("tiles", "current")),
    "train": (("events", "tables"), ("model",)),
    "trainer": (("events", "tables"), ("model",)),
    "evaluate": (("events", "tables"), ()),
    "reproduce": (("events", "tables", "model"), ()),
    "promote": (("model",), ("current",)),
    "export": (("model",), ()),
    "features": (("events", "tables"), ()),
    "score": (("events", "tables", "model"), ()),
    "verify": (("events", "views", "tiles"), ()),
    "watch": (("predictions", "events", "model"), ("measures",)),
    "quarantine": (("quarantine",), ("events",)),
    "erase": (("events",), ("events", "states", "views", "current")),
    "upkeep": (("events", "states"), ("events", "states")),
}
"""The kinds of datasets that each verb reads and writes; a verb that is not here leaves no lineage."""
CONTINUOUS = ("stream", "trainer")
"""Verbs that run until they are stopped."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One dataset; `of` is the source or view it belongs to. `fields` are (name, type).

    `columns` say of each column from which columns of which dataset it is computed.
    """

    namespace: str
    name: str
    kind: Kind
    of: str = ""
    fields: Sequence[tuple[str, str]] = ()
    columns: Mapping[str, Sequence[tuple["Dataset", str]]] = field(default_factory=dict, hash=False)


def has_lineage(verb: str) -> bool:
    """Whether runs of a verb are told."""
    return verb in _FLOWS


def flow_of(verb: str, project: Project, settings: StoreSettings) -> tuple[list[Dataset], list[Dataset]]:
    """What the verb reads and what it writes for a project."""
    found = _Datasets(project, settings)
    reads, writes = _FLOWS[verb]
    return [each for kind in reads for each in found.of(kind)], [
        each for kind in writes for each in found.of(kind)
    ]


class _Datasets:
    def __init__(self, project: Project, settings: StoreSettings) -> None:
        # It imports Spark, which a verb without lineage never needs.
        from anabranch.stores.lake.lake import Lake

        self._project, self._settings, self._lake = project, settings, Lake(settings.lake)

    def of(self, kind: Kind) -> Iterable[Dataset]:
        made: Any = getattr(self, f"_{kind}")
        found: Iterable[Dataset] = made()
        return found

    def _sources(self) -> Iterable[Source]:
        return self._project.sources.values()

    def _topics(self) -> Iterable[Dataset]:
        place = f"kafka://{self._settings.bus.bootstrap_servers}"
        return [
            Dataset(namespace=place, name=each.topic, kind="topics", of=each.name, fields=_schema(each))
            for each in self._sources()
            if each.topic is not None
        ]

    def _tables(self) -> Iterable[Dataset]:
        return [
            _at(each.table, "tables", each.name, _schema(each))
            for each in self._sources()
            if each.table is not None
        ]

    def _event(self, source: Source) -> Dataset:
        """The events of a source; of one whose table is read in place, that table."""
        if source.table is not None and source.topic is None:
            return _at(source.table, "tables", source.name, _schema(source))
        before = [each for each in self._topics() if each.of == source.name]
        columns = {name: [(each, name) for each in before] for name, _ in _schema(source)} if before else {}
        found = _at(self._lake.path(self._project, source), "events", source.name, _schema(source))
        return replace(found, columns=columns)

    def _events(self) -> Iterable[Dataset]:
        return [found for each in self._sources() if (found := self._event(each)).kind == "events"]

    def _quarantine(self) -> Iterable[Dataset]:
        return [
            _at(self._lake.quarantine_path(self._project, each), "quarantine", each.name)
            for each in self._sources()
        ]

    def _states(self) -> Iterable[Dataset]:
        return [
            _at(self._lake.state_path(self._project.name, each.name), "states", each.name)
            for each in self._project.own_views
        ]

    def _views(self) -> Iterable[Dataset]:
        return [self._of_view(each, "views", "b") for each in self._project.own_views]

    def _tiles(self) -> Iterable[Dataset]:
        return [self._of_view(each, "tiles", "w") for each in self._project.own_views]

    def _of_view(self, view: FeatureView, kind: Kind, suffix: str) -> Dataset:
        """A table of states: of all versions one dataset, whose fields are the features that answers have."""
        columns = {
            column.name: [(self._event(view.source), name) for name in self._read_by(view, column.part)]
            for column in view.columns
        }
        fields = [(column.name, str(column.type)) for column in view.columns]
        name = self._table(table_name(self._project.name, view.name, suffix))
        return Dataset(
            namespace=self._cassandra, name=name, kind=kind, of=view.name, fields=fields, columns=columns
        )

    def _read_by(self, view: FeatureView, part: str) -> list[str]:
        """The columns of the source that a feature is computed from."""
        aggregate = view.parts[part]
        texts = (getattr(aggregate, "argument", None), aggregate.where, aggregate.by)
        used = [name for text in texts if text for name in columns_used(text)]
        return list(dict.fromkeys([*used, *view.keys, view.source.time]))

    def _current(self) -> Iterable[Dataset]:
        fields = [(column.name, str(column.type)) for column in self._project.columns]
        before = {name: [(table, name)] for table in self._views() for name, _ in table.fields}
        return [
            Dataset(
                namespace=self._cassandra,
                name=self._table(current_table(self._project.name)),
                kind="current",
                fields=fields,
                columns={name: before[name] for name, _ in fields if name in before},
            )
        ]

    def _model(self) -> Iterable[Dataset]:
        if self._project.model is None:
            return []
        types = self._project.inputs
        fields = [(name, str(types.get(name, "DOUBLE"))) for name in self._project.model_features]
        before = {
            column.name: [(self._event(view.source), name) for name in self._read_by(view, column.part)]
            for view in self._project.own_views
            for column in view.columns
        }
        columns = {name: before[name] for name, _ in fields if name in before}
        name = f"models/{self._project.name}"
        return [Dataset(namespace="mlflow", name=name, kind="model", fields=fields, columns=columns)]

    def _predictions(self) -> Iterable[Dataset]:
        place = f"kafka://{self._settings.bus.bootstrap_servers}"
        return [Dataset(namespace=place, name=f"predictions.{self._project.name}", kind="predictions")]

    def _measures(self) -> Iterable[Dataset]:
        return [Dataset(namespace=self._cassandra, name=self._table("measures"), kind="measures")]

    @property
    def _cassandra(self) -> str:
        views = self._settings.views
        return f"cassandra://{','.join(f'{host}:{views.port}' for host in views.hosts)}"

    def _table(self, name: str) -> str:
        return f"{self._settings.views.keyspace}.{name}"


def _schema(source: Source) -> list[tuple[str, str]]:
    return [(column.name, str(column.type)) for column in source.columns]


def _at(text: str, kind: Kind, of: str, fields: Sequence[tuple[str, str]] = ()) -> Dataset:
    """The dataset at a path, or at a URL without what follows its question mark and before its host."""
    plain = text.removeprefix("delta:").removeprefix("parquet:")
    scheme, found, rest = plain.partition("://")
    if not found:
        return Dataset(namespace="file", name=plain, kind=kind, of=of, fields=fields)
    host, _, name = rest.partition("?")[0].partition("/")
    place = f"{scheme}://{host.rpartition('@')[2]}"
    return Dataset(namespace=place, name=name or host, kind=kind, of=of, fields=fields)
