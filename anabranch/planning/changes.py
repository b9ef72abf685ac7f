"""What differs between two declarations of a project: features, sources, views, label and model.

Features are compared by meaning, not by name: one that comes with the meaning of one that goes is renamed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from anabranch.declare.derived import DerivedColumn
from anabranch.declare.models import Model
from anabranch.declare.names import digest
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureColumn, FeatureView
from anabranch.values.sql.expressions import columns_used
from anabranch.values.times import format_duration

SAME, COMES, GOES, CHANGES, RENAMED = "same", "comes", "goes", "changes", "renamed"
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOR_PEOPLE = ("description", "intended_use", "limits", "reasons")
_TYPE, _COLUMN = "type of ", "column "
Parts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What determines a feature's values: `parts` in words by name, and a `digest` without any name."""

    name: str
    view: str
    type: str
    parts: Parts
    digest: str


@dataclass(frozen=True, kw_only=True)
class DeclaredChange:
    """One thing that differs: `what` it is (feature, source, ...), its name, and if renamed that `before`.

    `parts` are the parts that changed, with their texts before and after; empty for one that comes or goes.
    """

    what: str
    kind: str
    name: str
    before: str | None = None
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    about: str = ""

    @property
    def text(self) -> str:
        """The change in words, without the name."""
        if self.parts:
            return "; ".join(
                f"{part}: {old or 'none'} → {new or 'none'}" for part, (old, new) in self.parts.items()
            )
        return f"was {self.before}" if self.kind == RENAMED else self.about

    def document(self) -> dict[str, Any]:
        """The change as JSON."""
        changed = {part: {"before": old, "after": new} for part, (old, new) in self.parts.items()}
        found = {"what": self.what, "change": self.kind, "name": self.name}
        return {**found, "before": self.before, "parts": changed, "about": self.about}


@dataclass(frozen=True, kw_only=True)
class Changes:
    """All that differs between two declarations; `same` counts the features of one name and meaning."""

    features: Sequence[DeclaredChange]
    others: Sequence[DeclaredChange]
    same: int

    @property
    def all(self) -> Sequence[DeclaredChange]:
        """Features first."""
        return (*self.features, *self.others)

    def names(self, kind: str) -> list[str]:
        """The names now of the features that changed in a way."""
        return [change.name for change in self.features if change.kind == kind]


def compare(old: Project | None, new: Project) -> Changes:
    """The differences between two declarations; without an old one every feature comes."""
    features, same = _features({} if old is None else meanings(old), meanings(new))
    if old is None:
        return Changes(features=features, others=(), same=0)
    others = [*_sources(old, new), *_request(old, new), *_model(old, new)]
    return Changes(features=features, others=others, same=same)


def refused_columns(changes: Changes) -> list[str]:
    """A sentence for each column that the lake has and that goes or gets another type: landing refuses it."""
    found = []
    for change in changes.others:
        if change.what != "source" or change.kind != CHANGES:
            continue
        for part, (before, after) in change.parts.items():
            if part.startswith(_COLUMN) and before:
                what = f"becomes {after}" if after else "goes"
                found.append(
                    f"source {change.name!r}: {part} ({before}) {what}, which landing refuses once the lake "
                    "has events: declare it as before, or give the source a new name"
                )
    return found


def meanings(project: Project) -> dict[str, Meaning]:
    """The meaning of each feature column and derived feature, by name, in order."""
    found = {column.name: _of_column(view, column) for view in project.views for column in view.columns}
    known = {name: one.digest for name, one in found.items()}
    known |= {name: f"key {name} {kind}" for name, kind in project.key_types.items()}
    known |= {column.name: f"request {column.name} {column.type}" for column in project.request_columns}
    for column in project.derived_columns:
        found[column.name] = one = _of_derived(column, known)
        known[column.name] = one.digest
    return found


def _of_column(view: FeatureView, column: FeatureColumn) -> Meaning:
    source, aggregate = view.source, view.parts[column.part]
    used = {name.lower() for text in aggregate.texts for name in columns_used(text)}
    used |= {name.lower() for name in (*view.keys, source.time, source.id or "")}
    types = [each for each in source.columns if each.name.lower() in used]
    said = {one.name: getattr(aggregate, one.name) for one in fields(aggregate)}
    parts = {
        "aggregate": type(aggregate).__name__,
        **{name: str(value) for name, value in said.items() if value not in (None, ())},
        "window": column.window.name,
        "hop": format_duration(column.window.hop),
        "source": view.feed,
        "topic": source.topic or "",
        "id": source.id or "",
        "time": source.time,
        "key": _key(view),
        **{f"{_TYPE}{each.name}": str(each.type) for each in types},
    }
    exact = [
        view.feed, source.topic or "", source.id or "", source.time, _key(view), repr(types),
        aggregate.meaning(), type(column.window).__name__, repr(column.window.meaning),
    ]  # fmt: skip
    return Meaning(
        name=column.name, view=view.full_name, type=str(column.type), parts=parts, digest=digest(exact)
    )


def _key(view: FeatureView) -> str:
    pairs = zip(view.asked, view.keys, strict=True)
    return ", ".join(asked if asked == name else f"{asked} as {name}" for asked, name in pairs)


def _of_derived(column: DerivedColumn, known: Mapping[str, str]) -> Meaning:
    """A derived feature means its expression over the meanings of what it reads, whatever their names."""
    read = _WORD.sub(lambda word: known.get(word[0], word[0]), column.text)
    inputs = [known[name] for name in column.reads if name in known]
    return Meaning(
        name=column.name,
        view="derived",
        type=str(column.type),
        parts={"expression": column.text, "reads": ", ".join(column.reads), "type": str(column.type)},
        digest=digest(["derived", read, *sorted(inputs)]),
    )


def _features(
    before: Mapping[str, Meaning], after: Mapping[str, Meaning]
) -> tuple[list[DeclaredChange], int]:
    gone = {name: one for name, one in before.items() if name not in after}
    found: list[DeclaredChange] = []
    same = 0
    for name, one in after.items():
        was = before.get(name)
        if was is not None and was.digest == one.digest:
            same += 1
        elif was is not None:
            found.append(DeclaredChange(what="feature", kind=CHANGES, name=name, parts=_parts(was, one)))
        elif (
            other := next((name for name, each in gone.items() if each.digest == one.digest), None)
        ) is not None:
            del gone[other]
            found.append(DeclaredChange(what="feature", kind=RENAMED, name=name, before=other))
        else:
            found.append(DeclaredChange(what="feature", kind=COMES, name=name, about=_words(one)))
    found += [
        DeclaredChange(what="feature", kind=GOES, name=name, about=_words(one)) for name, one in gone.items()
    ]
    return found, same


def _parts(was: Meaning, now: Meaning) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys([*was.parts, *now.parts])
    pairs = {name: (was.parts.get(name, ""), now.parts.get(name, "")) for name in names}
    # A column that only one of them reads has its type on one side: what reads it tells more.
    changed = {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1] and (all(pair) or not name.startswith(_TYPE))
    }
    # The text is the same, so what it reads means something else.
    return changed or {"inputs": ("as before", f"of another meaning: {now.parts.get('reads', '')}")}


def _words(one: Meaning) -> str:
    if "expression" in one.parts:
        return one.parts["expression"]
    argument = ", ".join(value for name, value in one.parts.items() if name in ("argument", "other", "by"))
    where = f" where {one.parts['where']}" if "where" in one.parts else ""
    kind, window = one.parts["aggregate"], one.parts["window"]
    return f"{kind}({argument}){where}, {window}, of {one.parts['source']} by {one.parts['key']}"


def _sources(old: Project, new: Project) -> list[DeclaredChange]:
    before, after = old.sources, new.sources
    found = [_change("source", name, _source(before.get(name)), _source(one)) for name, one in after.items()]
    found += [
        _change("source", name, _source(one), None) for name, one in before.items() if name not in after
    ]
    return [change for change in found if change is not None]


def _source(source: Source | None) -> Parts | None:
    if source is None:
        return None
    columns = {f"{_COLUMN}{column.name}": str(column.type) for column in source.columns}
    return {
        "topic": source.topic or "",
        "table": source.table or "",
        "id": source.id or "",
        "time": source.time,
        "format": source.format,
        "fields": ", ".join(f"{name}={path}" for name, path in source.fields.items()),
        "explode": source.explode or "",
        **columns,
    }


def _request(old: Project, new: Project) -> list[DeclaredChange]:
    sides = [
        {
            column.name: f"{column.type}{'' if column.required else f' default {column.default}'}"
            for column in one.request_columns
        }
        for one in (old, new)
    ]
    found = [
        _change("request", name, *({"type": side[name]} if name in side else None for side in sides))
        for name in dict.fromkeys([*sides[0], *sides[1]])
    ]
    return [change for change in found if change is not None]


def _model(old: Project, new: Project) -> list[DeclaredChange]:
    found = (
        _change("key", "key", *({"columns": ", ".join(one.keys)} for one in (old, new))),
        _change("label", "label", *map(_label, (old, new))),
        _change("model", "model", *map(_trained, (old, new))),
    )
    return [change for change in found if change is not None]


def _label(project: Project) -> Parts | None:
    label = project.label
    if label is None:
        return None
    return {
        "source": label.source.name,
        "key": ", ".join(label.keys),
        "target": label.target,
        "classes": ", ".join(map(str, label.classes)),
        "own_event": str(label.own_event),
    }


def _trained(project: Project) -> Parts | None:
    return None if project.model is None else {**_said(project.model), "task": project.task}


def _said(model: Model) -> Parts:
    """What determines the trained model, and how it is judged; texts for people change neither."""
    said = {one.name: getattr(model, one.name) for one in fields(model) if one.name not in _FOR_PEOPLE}
    return {name: str(value) for name, value in said.items() if value not in (None, (), {}, False)}


def _change(what: str, name: str, before: Parts | None, after: Parts | None) -> DeclaredChange | None:
    if before is None or after is None:
        return (
            None
            if before is after
            else DeclaredChange(what=what, kind=COMES if before is None else GOES, name=name)
        )
    names = dict.fromkeys([*before, *after])
    changed = {
        part: (before.get(part, ""), after.get(part, ""))
        for part in names
        if before.get(part, "") != after.get(part, "")
    }
    return DeclaredChange(what=what, kind=CHANGES, name=name, parts=changed) if changed else None
