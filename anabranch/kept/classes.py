"""Which classes a kept declaration may be made of: those of declarations, and aggregates that are loaded."""

import sys
from collections.abc import Iterator

from anabranch.aggregates.base import Aggregate
from anabranch.declare.derived import Derived, Request
from anabranch.declare.models import Gate, Member, Model, Online, Search, Slice
from anabranch.declare.on_write import OnWrite
from anabranch.declare.operations import Freshness, Objectives, Schedule, Watch
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label, Source
from anabranch.declare.views import FeatureView, ViewUse
from anabranch.errors import DeclarationError

FORMAT = 1
"""Raise it when texts that were kept mean something else."""
NOT_KEPT = ("examples",)
"""Fields of a project that no answer depends on."""
IS, SOURCE, TUPLE, MAP = "is", "source", "tuple", "map"
CLASSES: dict[str, type[object]] = {
    each.__name__: each
    for each in (
        Derived, FeatureView, Freshness, Gate, Label, Member, Model, Objectives, OnWrite, Online, Project,
        Request, Schedule, Search, Slice, Source, ViewUse, Watch,
    )
}  # fmt: skip
_LIBRARY = "anabranch.aggregates."


def name_of(kind: type[object]) -> str | None:
    """The name of a class in a kept declaration; None for one that cannot be in any."""
    if CLASSES.get(kind.__name__) is kind:
        return kind.__name__
    if not issubclass(kind, Aggregate):
        return None
    return kind.__name__ if kind.__module__.startswith(_LIBRARY) else f"{kind.__module__}:{kind.__qualname__}"


def class_of(name: str) -> type[object]:
    """The class of that name. Nothing is imported for it: an aggregate of an author's must be loaded.

    Raises DeclarationError when there is none.
    """
    if name in CLASSES:
        return CLASSES[name]
    found = [kind for kind in _aggregates() if name_of(kind) == name]
    # A module that was loaded again leaves its former classes behind.
    module, _, qualified = name.partition(":")
    current = [kind for kind in found if getattr(sys.modules.get(module), qualified, kind) is kind]
    if not found:
        raise DeclarationError(
            f"the declaration that was kept uses {name!r}, which is not there: keep the class in the "
            "project's module until two batch versions were built without it"
        )
    return (current or found)[-1]


def _aggregates() -> Iterator[type[Aggregate]]:
    waiting = Aggregate.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        yield kind
        waiting += kind.__subclasses__()
