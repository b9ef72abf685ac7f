"""What a project is refused for: names, keys, the request, the model, scoring on write, examples."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from anabranch.declare.derived import Request, RequestColumn
from anabranch.declare.examples import Example
from anabranch.declare.models import METRICS, SMALLER_IS_BETTER, TASKS
from anabranch.declare.names import RESERVED, check_name, check_unique
from anabranch.declare.on_write import OnWrite
from anabranch.declare.operations import Freshness, Objectives, Schedule
from anabranch.declare.views import FeatureView
from anabranch.errors import DeclarationError
from anabranch.values.names import folded, listed
from anabranch.values.types import DataType

if TYPE_CHECKING:
    from anabranch.declare.projects import Project


def check_project(project: "Project") -> None:
    """Raises DeclarationError for the first thing of a project that cannot be."""
    check_name(project.name, "project")
    if re.search(r"_events(_|$)", project.name):
        raise DeclarationError(
            f"project {project.name!r} is not a good name: its tables in Spark would be named as the events "
            f"of a project {project.name[: project.name.index('_events')]!r}: leave out '_events'"
        )
    place = f"project {project.name!r}"
    for name, text in (("owner", project.owner), ("description", project.description)):
        if not isinstance(text, str):
            raise DeclarationError(f"{place}: {name} is {text!r}: it must be text")
    if not isinstance(project.freshness, Freshness | None):
        raise DeclarationError(
            f'{place}: freshness is {project.freshness!r}: it must be Freshness(batch="1d", stream="10s")'
        )
    _check_objectives(project, place)
    if not isinstance(project.schedule, Schedule):
        raise DeclarationError(
            f'{place}: schedule is {project.schedule!r}: it must be Schedule(build="@hourly")'
        )
    if not project.views:
        raise DeclarationError(f"{place} has no views: give at least one")
    if (project.label is None) != (project.model is None):
        raise DeclarationError(f"{place}: a label and a model belong together: give both or neither")
    project.schedule.check(learns=project.model is not None)
    _check_uses(project, place)
    check_unique([view.name for view in project.own_views], f"{place}: view")
    check_unique([column.name for column in project.view_columns], f"{place}: feature column")
    topics = [source.topic for source in project.sources.values() if source.topic]
    check_unique(topics, f"{place}: topic")
    taken = [
        name for name in project.keys if name.lower() in RESERVED and (name != "key" or len(project.keys) > 1)
    ]
    if taken:
        raise DeclarationError(
            f"{place}: key column {taken[0]!r} is a reserved word of serving tables: rename it in the source"
        )
    for view in project.views:
        _check_keys(view, project, place)
    _check_key_types(project, place)
    keys = {name.lower(): name for name in project.keys}
    same = [column.name for column in project.view_columns if column.name in keys]
    if same:
        raise DeclarationError(
            f"{place}: feature column {same[0]!r} is also a column of the key, {keys[same[0]]!r}: "
            "rename the feature"
        )
    _check_request(project, place)
    check_unique([column.name for column in project.columns], f"{place}: feature column")
    _check_own_event(project, place)
    _check_model(project, place)
    _check_on_write(project, place)
    _check_examples(project, place)


def _check_examples(project: "Project", place: str) -> None:
    declared: object = project.examples
    if not isinstance(declared, tuple) or not all(isinstance(one, Example) for one in declared):
        raise DeclarationError(
            f"{place}: examples is {project.examples!r}: write (Example(events=[...], ...),) with its comma"
        )
    for number, example in enumerate(project.examples, 1):
        which = f"{place}: example {example.name or number!r}"
        if set(example.key) != set(project.keys):
            shape = ", ".join(f"{name!r}: ..." for name in project.keys)
            raise DeclarationError(f"{which}: key {dict(example.key)} does not fit: write {{{shape}}}")
        unknown = [name for name in example.gives if name not in project.column_of]
        if unknown:
            hint = listed(unknown[0], project.column_of, "there are")
            raise DeclarationError(f"{which}: gives {unknown[0]!r}, which is no feature: {hint}")


def _check_request(project: "Project", place: str) -> None:
    given: object = project.request
    if not isinstance(given, Request | None):
        raise DeclarationError(f'{place}: request is {given!r}: write Request(schema="amount DOUBLE")')
    if not isinstance(project.derived, Mapping):
        raise DeclarationError(
            f'{place}: derived is {project.derived!r}: write derived={{"ratio": Derived("a / b")}}'
        )
    taken = {folded(name) for name in (*project.keys, *(column.name for column in project.view_columns))}
    for column in project.request_columns:
        if folded(column.name) in taken or column.name.lower() in RESERVED:
            raise DeclarationError(
                f"{place}: request column {column.name!r} is also a feature, a column of the key or a "
                "reserved word of serving tables: rename it"
            )
        _check_in_label(column, project, place)


def _check_in_label(column: RequestColumn, project: "Project", place: str) -> None:
    """In training the request is part of the label's own row."""
    if project.label is None:
        return
    source = project.label.source
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


def _check_own_event(project: "Project", place: str) -> None:
    """A label's own event must count in a view, and be one that an answer can count."""
    label = project.label
    if label is None or not label.own_event:
        return
    fed = [view for view in project.views if view.source == label.source]
    if not fed:
        read = ", ".join(dict.fromkeys(view.feed for view in project.views))
        raise DeclarationError(
            f"{place}: label: own_event=True, and no view reads the label's source {label.source.name!r}: "
            f"views read {read}: leave own_event out, or give a view of {label.source.name!r}"
        )
    if project.model is not None and project.model.online:
        raise DeclarationError(
            f"{place}: label: own_event=True, and the online model learns from answers, which may count the "
            "label's own event or not: leave one of both out"
        )
    for view in fed:
        try:
            _ = view.lifter
        except DeclarationError as error:
            raise DeclarationError(
                f"{place}: label: own_event=True, and no question can bring an event of "
                f"{label.source.name!r}: {error}: leave own_event out, or state the feature otherwise"
            ) from error


def _check_on_write(project: "Project", place: str) -> None:
    declared: object = project.score_on_write
    if not isinstance(declared, tuple) or not all(isinstance(one, OnWrite) for one in declared):
        raise DeclarationError(
            f"{place}: score_on_write is {project.score_on_write!r}: "
            "write (OnWrite(source=..., to=...),) with its comma"
        )
    if project.score_on_write and project.model is None:
        raise DeclarationError(
            f"{place}: score_on_write needs a model to score with: give a label and a model"
        )
    check_unique([one.to for one in project.score_on_write], f"{place}: score_on_write: to")
    unknown = [
        one.source
        for one in project.score_on_write
        if one.source is not None and one.source not in project.sources
    ]
    if unknown:
        raise DeclarationError(
            f"{place}: score_on_write: source {unknown[0]!r} is none of the project's: "
            f"{listed(unknown[0], project.sources, 'there are')}"
        )
    for name in (one.source for one in project.score_on_write if one.source is not None):
        if project.sources[name].table is not None and project.sources[name].topic is None:
            raise DeclarationError(
                f"{place}: score_on_write: source {name!r} is a table, whose rows are not copied "
                "to the lake: give table=PATH, if it is a Delta table"
            )
        taken = [one.name for one in project.sources[name].columns if one.name.lower() in project.results]
        if taken:
            raise DeclarationError(
                f"{place}: score_on_write: column {taken[0]!r} of source {name!r} has the name of a "
                f"result ({', '.join(project.results)}): rename it in the source"
            )


def _check_model(project: "Project", place: str) -> None:
    model, types = project.model, project.inputs
    if model is None:
        return
    project.watch.check(model.metric in SMALLER_IS_BETTER, model.metric)
    _check_task(project, place)
    unknown = [name for name in model.named if name not in types]
    if unknown:
        known = listed(unknown[0], types, "there are")
        raise DeclarationError(
            f"{place}: model {model.named[unknown[0]]} {unknown[0]!r} is in no view: {known}"
        )
    unfit = [name for name in project.model_features if not types[name].trainable]
    if unfit or not project.model_features:
        which = f"model feature {unfit[0]!r} is {types[unfit[0]]}" if unfit else "every feature is a list"
        raise DeclarationError(
            f"{place}: {which}, which no trainer takes: give Model(features=...) of single values"
        )
    aside = [name for name in model.categories if name not in project.model_features]
    if aside:
        raise DeclarationError(
            f"{place}: model category {aside[0]!r} is not among Model(features=...): add it there"
        )
    unread = [name for name in model.reasons if name not in project.model_features]
    if unread:
        raise DeclarationError(
            f"{place}: model reason for {unread[0]!r}, which the model does not read: "
            "leave it out, or add the feature to Model(features=...)"
        )
    if model.online:
        _check_online(project, place)
    lists = [part.feature for part in model.declared_slices if types[part.feature].nested]
    if lists:
        raise DeclarationError(
            f"{place}: model slice {lists[0]!r} is {types[lists[0]]}: a slice needs single values"
        )


def _check_task(project: "Project", place: str) -> None:
    """The metric must be for what the label is, and so must the weights."""
    label, model, task = project.label, project.model, project.task
    if label is None or model is None:
        return
    if task not in METRICS[model.metric]:
        why = "classes are listed" if label.classes else f"{label.target!r} gives {label.type}"
        fitting = ", ".join(name for name, tasks in METRICS.items() if task in tasks)
        raise DeclarationError(
            f"{place}: the label has {TASKS[task]} ({why}), and the metric {model.metric!r} is for "
            f"{' or '.join(TASKS[one] for one in METRICS[model.metric])}: use Model(metric=...) of {fitting}"
        )
    if task == "classes" and model.gate.disparity is not None:
        raise DeclarationError(
            f"{place}: gate's disparity compares rates of class 1, and the label has several classes: "
            "leave it out"
        )
    if task == "classes" and not (label.type.text or label.type.integral):
        raise DeclarationError(
            f"{place}: the metric {model.metric!r} is for several classes, and {label.target!r} gives "
            f"{label.type}: the target must give a text or a whole number, or use another metric"
        )
    weight = model.class_weight
    if task == "class" and isinstance(weight, Mapping) and set(weight) != {0, 1}:
        raise DeclarationError(
            f"{place}: class_weight is {weight!r}, and the label has two classes: "
            "give a weight above 0 for both, such as {0: 1, 1: 5}"
        )
    strange = (
        [name for name in weight if label.classes and name not in label.classes]
        if isinstance(weight, Mapping) and task == "classes"
        else []
    )
    if strange:
        raise DeclarationError(
            f"{place}: class_weight names {strange[0]!r}, which is none of the label's classes "
            f"{', '.join(map(str, label.classes))}"
        )


def _check_online(project: "Project", place: str) -> None:
    if project.task == "classes":
        raise DeclarationError(
            f"{place}: the online model learns two classes or numbers, and the label has several classes: "
            "leave Model(online=...) out"
        )
    if "online" in project.sources:
        raise DeclarationError(
            f"{place}: source 'online' has the name of the query that learns online: rename the source"
        )
    if project.label is not None and project.label.source.topic is None:
        raise DeclarationError(
            f"{place}: online learning reads labels from a topic, "
            f"and source {project.label.source.name!r} has none: give it one"
        )
    if project.asks(project.model_features):
        raise DeclarationError(
            f"{place}: the online model scores current rows, which have no request, and the model's "
            "features need it: name others in Model(features=...), or leave Model(online=...) out"
        )
    if all(project.inputs[name].text for name in project.model_features):
        raise DeclarationError(
            f"{place}: online learning needs a feature that is a number, and the model's are all texts: "
            "leave Model(online=...) out"
        )


def _check_objectives(project: "Project", place: str) -> None:
    objectives = project.objectives
    if not isinstance(objectives, Objectives | None):
        raise DeclarationError(
            f"{place}: objectives are {objectives!r}: they must be Objectives(availability=0.999, ...)"
        )
    promised = None if objectives is None else objectives.freshness
    if promised is not None and project.freshness is not None:
        raise DeclarationError(
            f"{place}: freshness is promised twice: leave out freshness=, or that of the objectives"
        )


def _check_uses(project: "Project", place: str) -> None:
    declared: object = project.shared_with
    if not isinstance(declared, tuple) or not all(isinstance(one, str) and one for one in declared):
        raise DeclarationError(
            f"{place}: shared_with is {project.shared_with!r}: "
            'write the names of projects, ("card_fraud",) with its comma'
        )
    for view in (view for view in project.views if view.use.owner is not None):
        if project.name not in view.use.shared_with:
            raise DeclarationError(
                f"{place}: project {view.use.owner!r} does not share view {view.name!r} with it: "
                f"its owner consents by shared_with=({project.name!r},) in its declaration"
            )
    for position, view in enumerate(project.views):
        again = [
            other
            for other in project.views[:position]
            if other.full_name == view.full_name and other.use.prefix == view.use.prefix
        ]
        if again and again[0].unused == view.unused:
            raise DeclarationError(
                f"{place}: view {view.full_name!r} is used twice and its columns would have the same "
                'names: give each use its own prefix, such as .on(card="buyer_card", prefix="buyer")'
            )


def _check_keys(view: FeatureView, project: "Project", place: str) -> None:
    missing = [name for name in view.asked if name not in project.keys]
    if missing:
        known = ", ".join(project.keys)
        raise DeclarationError(
            f"{place}: key {missing[0]!r} of view {view.full_name!r} is not among the label's keys "
            f"{known}: add it to Label(key=...), or say which of them it is with "
            f'.on({view.keys[view.asked.index(missing[0])]}="...")'
        )


def _check_key_types(project: "Project", place: str) -> None:
    declared: dict[str, tuple[DataType, str]] = {}
    for name, kind, column in project.typed_keys:
        known, other = declared.setdefault(name, (kind, column))
        if known != kind and not (known.integral and kind.integral):
            raise DeclarationError(
                f"{place}: key {name!r} is {known} in {other} and {kind} in {column}, "
                "where one key is two texts (0042 and 42): declare one type"
            )
