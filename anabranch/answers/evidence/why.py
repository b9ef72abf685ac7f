"""From a score to the features, from them to their windows, and from those to the very events."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.answers.evidence.readers import EventReader, Evidence
from anabranch.answers.features import Answer
from anabranch.answers.predict import shown_key, unknown_key
from anabranch.answers.requests import SHOWN
from anabranch.answers.service import AnswerService
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn, FeatureView
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.reads import states_of
from anabranch.stores.models.versions import Scorer
from anabranch.stores.opened import Stores
from anabranch.values.keys import key_text
from anabranch.values.times import format_time


@dataclass(frozen=True, kw_only=True)
class WhyQuestion:
    """A key of a project, and the answer that is to be traced.

    `scorer` is None without a model. Of each view the newest `most` events are shown.
    """

    project: Project
    key: Mapping[str, str]
    stored: Answer
    scorer: Scorer | None
    manifest: Manifest | None
    most: int = SHOWN


def trace(stores: Stores, service: AnswerService, asked: WhyQuestion) -> dict[str, Any]:
    """The answer, for each feature its window and how many events lie in it, for each view the events.

    The events of a view are those of its widest window, newest first. Raises ProblemError (404) for a key of
    which nothing is known, MisuseError for a lake that only Spark reads.
    """
    project, stored, scorer = asked.project, asked.stored, asked.scorer
    if not stored.known:
        raise unknown_key(project, dict(asked.key))
    described = service.describe(project, stored, scorer, explain=scorer is not None and scorer.explained)
    contributions: Mapping[str, float] = described.get("explanation", {}).get("contributions", {})
    features: list[dict[str, Any]] = []
    views: list[dict[str, Any]] = []
    for view in project.views:
        evidence = _evidence(stores, asked, view)
        features += [_feature(view, column, stored, evidence, contributions) for column in view.columns]
        views.append(_view(view, asked, evidence))
    features += [
        {
            "name": column.name,
            "value": column.type.to_json(stored.values.get(column.name)),
            "contribution": contributions.get(column.name),
            "expression": column.text,
            "of": sorted(column.needs),
        }
        for column in project.derived_columns
    ]
    return {"key": shown_key(dict(asked.key)), **described, "features": features, "views": views}


def _evidence(stores: Stores, asked: WhyQuestion, view: FeatureView) -> Evidence:
    project, at = asked.project, asked.stored.as_of
    _, manifest = states_of(project, view, asked.manifest)
    owner = project if view.use.owner is None else project.lenders[view.use.owner]
    tails = [span.tail(at) for span in view.spans]
    known = [tail for tail in tails if tail is not None]
    since = min(known) if len(known) == len(tails) else None
    reader = EventReader(stores, owner, view.unused, key_text(view.asked, asked.key), manifest)
    return reader.evidence(since, at)


def _feature(
    view: FeatureView,
    column: FeatureColumn,
    stored: Answer,
    evidence: Evidence,
    contributions: Mapping[str, float],
) -> dict[str, Any]:
    since, until = column.window.tail(stored.as_of), column.window.head(stored.as_of)
    inside = Counter(
        event.channel
        for event in evidence.events
        if event.time < until and (since is None or event.time >= since)
    )
    aggregate = view.features[column.feature]
    return {
        "name": column.name,
        "value": column.type.to_json(stored.values.get(column.name)),
        "contribution": contributions.get(column.name),
        "view": view.full_name,
        "aggregate": repr(aggregate),
        "window": column.window.name,
        "since": None if since is None else format_time(since),
        "until": format_time(until),
        "events": sum(inside.values()),
        "by_channel": dict(inside),
    }


def _view(view: FeatureView, asked: WhyQuestion, evidence: Evidence) -> dict[str, Any]:
    shown: Sequence[Any] = evidence.events[: asked.most]
    document: dict[str, Any] = {
        "view": view.full_name,
        "role": view.use.prefix or None,
        "source": view.feed,
        "key": {name: asked.key[column] for name, column in zip(view.keys, view.asked, strict=True)},
        "found": len(evidence.events),
        "shown": len(shown),
        "events": [event.document() for event in shown],
    }
    if evidence.missing is not None:
        document["incomplete"] = evidence.missing
    return document
