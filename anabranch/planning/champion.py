"""Whether the model version that serves fits a changed declaration, and what its metric becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.typed_rows import typed, typed_row
from anabranch.planning.changes import CHANGES, Changes
from anabranch.planning.samples import MOST_STEPS, Folding
from anabranch.stores.lake.light import key_part
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.versions import Scorer
from anabranch.testing.rows import evaluate

Floats = NDArray[np.float64]
Measure = Callable[[str, Floats, Floats, float], float]
"""The value of a metric by its name, the targets, the scores and the threshold."""


@dataclass(frozen=True, kw_only=True)
class RecentLabel:
    """A label from the lake: its key, its time (microseconds), its value, its request, and its event's id."""

    key: Mapping[str, str]
    at: int
    target: Any
    request: Mapping[str, Any] | None
    own: Any = None


@dataclass(frozen=True, kw_only=True)
class ChampionPlan:
    """What a change means for the champion `version`.

    `fits` is whether it can score by the new declaration, else `why` not. `reads` are the features it reads
    whose meaning changes. Over `labels` recent labels, `before` and `after` are the metric with the features
    of both declarations; None, and `unknown` why, where they cannot be told.
    """

    version: str
    fits: bool
    why: str = ""
    reads: Sequence[str] = ()
    metric: str = ""
    labels: int = 0
    before: float | None = None
    after: float | None = None
    unknown: str = ""

    def document(self) -> dict[str, Any]:
        """The champion's part of a plan as JSON."""
        return {**asdict(self), "reads": list(self.reads)}


def fitness(project: Project, scorer: Scorer, changes: Changes | None) -> ChampionPlan:
    """Whether the version fits, and which features that it reads change."""
    changed = set() if changes is None else set(changes.names(CHANGES))
    why = ""
    try:
        check_fits(project, scorer.version, scorer.kinds)
    except MisuseError as error:
        why = str(error)
    return ChampionPlan(
        version=scorer.version,
        fits=not why,
        why=why,
        reads=tuple(name for name in scorer.features if name in changed),
        metric="" if project.model is None else project.model.metric,
    )


def recent_labels(project: Project, rows: Sequence[Mapping[str, Any]]) -> list[RecentLabel]:
    """Labels from rows of the label's source (JSON values); without those whose key or target is NULL."""
    label = project.label
    if label is None or not rows:
        return []
    source = label.source
    kinds = {column.name: column.type for column in source.columns}
    plain = [typed_row(source, row) for row in rows]
    targets = evaluate(source, plain, [label.target], "the label's target")[label.target]
    found = []
    for row, values, target in zip(rows, plain, targets, strict=True):
        texts = {name: key_part(kinds[name], row[name]) for name in label.keys}
        key = {name: text for name, text in texts.items() if text is not None}
        if target is None or len(key) < len(texts):
            continue
        found.append(
            RecentLabel(
                key=key,
                at=source.event_time(values[source.time]),
                target=target,
                request=_request(project, row) if project.request is not None else None,
                own=values[source.id] if label.own_event and source.id is not None else None,
            )
        )
    return found


def _request(project: Project, row: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a label: the columns of its own row."""
    return {
        column.name: typed(column.type, column.type.given(row.get(column.name, column.default)))
        for column in project.request_columns
    }


def scored(folding: Folding, scorer: Scorer, labels: Sequence[RecentLabel]) -> Floats:
    """The scores of labels by the features of a declaration strictly before them."""
    types = folding.project.inputs
    rows = [folding.values(label.key, label.at, label.request, label.own) for label in labels]
    columns = {
        name: [None if row[name] is None else types[name].to_model(row[name]) for row in rows]
        for name in scorer.features
    }
    return np.asarray(scorer.score(columns))


def affordable(folding: Folding, labels: Sequence[RecentLabel]) -> list[RecentLabel]:
    """The first labels whose features can be folded in a few seconds."""
    left = MOST_STEPS
    found: list[RecentLabel] = []
    for label in labels:
        left -= folding.steps(label.key, label.at)
        if left < 0 and found:
            break
        found.append(label)
    return found


def targets(scorer: Scorer, labels: Sequence[RecentLabel]) -> Floats:
    """The targets as metrics take them: numbers, or positions among the version's classes (-1 for others)."""
    if not scorer.classes:
        return np.array([float(label.target) for label in labels])
    places = {str(name): place for place, name in enumerate(scorer.classes)}
    return np.array([float(places.get(str(label.target), -1)) for label in labels])


def metric_of(
    measure: Measure, project: Project, scorer: Scorer, labels: Sequence[RecentLabel], scores: Floats
) -> float | None:
    """The declared metric; None where these labels are of one class, or the project declares no model."""
    truth = targets(scorer, labels)
    one_class = project.task == "class" and len(set(truth.tolist())) < 2
    if one_class or project.model is None:
        return None
    return measure(project.model.metric, truth, scores, scorer.threshold)
