"""The catalogue: what each project is, where it can be reached and how fresh it is."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from anabranch import Aggregate
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.events.predictions import predictions_topic
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND, format_time
from serving.api.context import ModelEntry
from serving.api.live import Served
from serving.api.promises import ChannelFreshness, judged, kept


def entry(
    served: Served, now: int, model: ModelEntry | None = None, measures: Sequence[Measure] = ()
) -> dict[str, Any]:
    """One project's page at `now` (microseconds); `model` is what the registry has of the version that serves, `measures` its latest ones."""
    project = served.project
    return {
        "name": project.name,
        "owner": project.owner,
        "description": project.description,
        "keys": list(project.keys),
        "sources": [_source(source) for source in project.sources.values()],
        "features": features(project),
        "model": _model(served, model),
        "label": _label(project),
        "freshness": freshness(served, judged(served, measures, now)),
        "lineage": lineage(served, model),
        "addresses": addresses(served),
        "troubles": dict(served.troubles),
    }


def _source(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "description": source.description,
        "topic": source.topic,
        "id": source.id,
        "time": source.time,
        "schema": [{"name": column.name, "type": str(column.type)} for column in source.columns],
    }


def features(project: Project) -> list[dict[str, Any]]:
    """Every feature: what it is, over what, and how exact."""
    return [feature for view in project.views for feature in _features(view)]


def _features(view: FeatureView) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "view": view.name,
            "source": view.source.name,
            "key": list(view.keys),
            "window": column.window.name,
            "aggregate": aggregate_text(view.features[column.feature]),
            "exactness": view.layout.bounds[column.feature].exactness,
        }
        for column in view.columns
    ]


def aggregate_text(aggregate: Aggregate) -> str:
    """The aggregate as a declaration writes it."""
    arguments = [] if aggregate.argument in (None, "1") else [repr(aggregate.argument)]
    own = [field.name for field in fields(aggregate) if field.name not in ("argument", "where")]
    arguments += [f"{name}={getattr(aggregate, name)!r}" for name in own]
    arguments += [f"where={aggregate.where!r}"] if aggregate.where else []
    return f"{type(aggregate).__name__}({', '.join(arguments)})"


def _model(served: Served, found: ModelEntry | None) -> dict[str, Any] | None:
    model = served.project.model
    if model is None:
        return None
    return {
        "trainer": model.trainer,
        "metric": model.metric,
        "description": model.description,
        "features": list(served.project.model_features),
        "version": served.scorer.version if served.scorer else None,
        "created": found.created if found else None,
        "metrics": dict(found.metrics) if found else {},
        "gate": found.gate if found else None,
        "intended_use": model.intended_use,
        "limits": model.limits,
        "card": f"/projects/{served.project.name}/card",
        "trial": {"kind": trial.kind, "version": trial.scorer.version, "share": trial.share}
        if (trial := served.trial)
        else None,
    }


def _label(project: Project) -> dict[str, Any] | None:
    label = project.label
    if label is None:
        return None
    return {
        "source": label.source.name,
        "key": list(label.keys),
        "target": label.target,
        "description": label.description,
    }


def freshness(served: Served, channels: dict[str, ChannelFreshness]) -> dict[str, Any]:
    """What is promised, what is measured, and whether the promises are kept; None where there is none or nothing is known."""
    manifest = served.manifest
    promised = served.project.freshness
    return {
        "cut": format_time(manifest.cut) if manifest else None,
        "built_at": format_time(manifest.built_at) if manifest else None,
        "batch_version": manifest.batch_version if manifest else None,
        "model_version": served.scorer.version if served.scorer else None,
        "promised": {"batch": promised.batch, "stream": promised.stream} if promised else None,
        "batch_age_seconds": _seconds(channels["batch"].behind),
        "kept": kept(channels),
        **{name: _channel(channel) for name, channel in channels.items()},
    }


def _channel(found: ChannelFreshness) -> dict[str, Any]:
    """Seconds behind the present, and how the promise stands since when."""
    sources = (
        {"sources": {name: _seconds(behind) for name, behind in found.sources.items()}}
        if found.sources
        else {}
    )
    since = None if found.since is None else format_time(found.since)
    return {
        "promised_seconds": _seconds(found.promised),
        "seconds": _seconds(found.behind),
        "state": found.state,
        "since": since,
        **sources,
    }


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else round(micros / SECOND, 3)


def lineage(served: Served, model: ModelEntry | None) -> dict[str, Any]:
    """From the lake to an answer: which version was made of which."""
    manifest = served.manifest
    batch = (
        {"version": manifest.batch_version, "cut": format_time(manifest.cut), "keys": dict(manifest.rows)}
        if manifest
        else None
    )
    return {
        "lake": dict(manifest.lake_versions) if manifest else {},
        "batch": batch,
        "model": {"version": model.version, "lake": dict(model.lake_versions), "run": model.run}
        if model
        else None,
        "answers": ["batch_version", "model_version", "as_of"],
    }


def addresses(served: Served) -> dict[str, Any]:
    """Where a project can be asked and read: REST, topics, tables of Cassandra, tables of Spark SQL."""
    project, manifest = served.project, served.manifest
    base, name = f"/v1/projects/{project.name}", project.name
    key = "{key}" if len(project.keys) == 1 else ",".join(f"{part}={{{part}}}" for part in project.keys)
    tables = [
        "current",
        "scores",
        *(f"events_{source}" for source in project.sources),
        *(["predictions"] if project.model else []),
        "quarantine",
    ]
    topics = {source.name: source.topic for source in project.sources.values() if source.topic}
    return {
        "page": f"/projects/{name}",
        "predict": f"{base}/predict" if project.model else None,
        "features": f"{base}/features/{key}",
        "scores": f"{base}/scores/{key}" if project.model else None,
        "events": {source: f"{base}/events/{source}" for source in topics},
        "topics": topics,
        "current_table": f"{name}_current",
        "batch_tables": dict(manifest.tables) if manifest else {},
        "spark": [f"anabranch.{name}_{table}" for table in tables],
        "predictions_topic": predictions_topic(name) if project.model else None,
        "scores_topic": f"scores.{name}" if project.model else None,
        "score_requests_topic": f"score-requests.{name}" if project.model else None,
        "models_topic": f"models.{name}" if project.model else None,
    }
