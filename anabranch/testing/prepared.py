"""A view whose expressions are columns: its states are those of the view itself, without SQL of authors."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from anabranch.aggregates.base import Aggregate
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.testing.elements import compile_sql
from anabranch.testing.rows import GivenEvent
from anabranch.values.sql.expressions import columns_used, expression_type

_KEY, _TIME = "key", "time"


@dataclass(frozen=True)
class StoredEvent:
    """An event with the values of a prepared view's columns."""

    id: Any
    key: str
    time: int
    arrival: int
    row: Mapping[str, Any]

    def value(self, text: str) -> Any:
        """The value of a column, or of what aggregates make of one."""
        return compile_sql(text)(self.row)


@dataclass(frozen=True)
class PreparedView:
    """`view`, and the same aggregates over columns that hold the values of its expressions."""

    view: FeatureView

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns by the expressions of the view."""
        texts = [text for each in self.view.features.values() for text in each.texts if columns_used(text)]
        return {text: f"c{number}" for number, text in enumerate(dict.fromkeys(texts))}

    @cached_property
    def prepared(self) -> FeatureView:
        """The view over those columns."""
        place = f"view {self.view.name!r}"
        types = {
            name: expression_type(text, self.view.source.columns, place)
            for text, name in self.columns.items()
        }
        declared = [f"{_KEY} STRING", f"{_TIME} TIMESTAMP"]
        declared += [f"{name} {kind}" for name, kind in types.items()]
        source = Source(name="prepared", id=None, time=_TIME, schema=", ".join(declared))
        features = {name: self._over_columns(each) for name, each in self.view.features.items()}
        return replace(self.view.unused, source=source, key=_KEY, features=features)

    def _over_columns(self, aggregate: Aggregate) -> Aggregate:
        made = copy(aggregate)
        for name in (*aggregate.written, "by"):
            text = getattr(aggregate, name)
            object.__setattr__(made, name, self.columns.get(text, text))
        return made

    def stored(self, events: Sequence[GivenEvent]) -> list[StoredEvent]:
        """The events, as states are made of them."""
        return [
            StoredEvent(
                event.id,
                event.key,
                event.time,
                event.arrival,
                {name: event.values[text] for text, name in self.columns.items()},
            )
            for event in events
        ]
