"""The declaration by which a batch version answers while another one is declared already."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import DeclarationError
from anabranch.kept.reading import read
from anabranch.kept.writing import written

log = logging.getLogger(__name__)
_ABOUT = ("description", "owner", "freshness", "objectives", "schedule", "shared_with")
"""What says something about a project, and nothing about its values."""
_LEARNT = ("label", "model", "watch")
"""What a training is made by: a model that fits the version answers without a build."""


@lru_cache(maxsize=512)
def standing(text: str, declared: Project) -> Project:
    """The declaration kept as `text`, with what needs no build as it is `declared` now.

    Views, derived features and the request are those that were kept, over sources as they are declared where
    that changes no state: a column more, another format of the messages. Label, model and watch are the
    declared ones where there is a model, they fit these and the key stays; else those that were kept too.
    Where the text cannot be read it is `declared`, whose answers are refused unless its views mean the same.
    """
    if same(text, declared):
        return declared
    try:
        kept = read(text)
    except DeclarationError as error:
        log.warning("project %s: answers are by the declaration of now: %s", declared.name, error)
        return declared
    kept = _as_landed(kept, declared)
    about = {name: getattr(declared, name) for name in _ABOUT}
    if declared.model is not None or kept.model is None:
        learnt = _changed(kept, {**about, **{name: getattr(declared, name) for name in _LEARNT}})
        if learnt is not None and learnt.keys == kept.keys:
            return learnt
    return _changed(kept, about) or kept


def _as_landed(kept: Project, declared: Project) -> Project:
    """The project over the sources by which events are landed and judged now, where its states stay."""
    views = tuple(
        view
        if view.use.owner is not None or view.source.name not in declared.sources
        else _over(view, declared.sources[view.source.name])
        for view in kept.views
    )
    label = kept.label
    if label is not None and label.source.name in declared.sources:
        label = replace(label, source=declared.sources[label.source.name])
    return _changed(kept, {"views": views, "label": label}) or _changed(kept, {"views": views}) or kept


def _over(view: FeatureView, source: Source) -> FeatureView:
    try:
        other = replace(view, source=source)
        return other if (other.promise, other.columns) == (view.promise, view.columns) else view
    except DeclarationError:
        return view


def same(text: str, declared: Project) -> bool:
    """Whether a declaration was kept as `text`."""
    try:
        return written(declared) == text
    except DeclarationError:
        return False


def _changed(kept: Project, changes: Mapping[str, Any]) -> Project | None:
    try:
        return replace(kept, **changes)
    except DeclarationError:
        return None
