"""The catalogue: what each project is, where it can be reached and how fresh it is."""

from dataclasses import fields
from typing import Any

from features import Aggregate
from features.declaration import FeatureView, Project, Source
from features.times import format_time
from serving.context import Manifest
from serving.live import Served
from stores.predictions import predictions_topic


def entry(served: Served) -> dict[str, Any]:
    """One project's page."""
    project = served.project
    return {
        "name": project.name,
        "owner": project.owner,
        "description": project.description,
        "keys": list(project.keys),
        "sources": [_source(source) for source in project.sources.values()],
        "features": [feature for view in project.views for feature in _features(view)],
        "model": _model(served),
        "label": _label(project),
        "freshness": _freshness(served),
        "addresses": _addresses(project),
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


def _model(served: Served) -> dict[str, Any] | None:
    model = served.project.model
    if model is None:
        return None
    return {
        "trainer": model.trainer,
        "metric": model.metric,
        "description": model.description,
        "features": list(served.project.model_features),
        "version": served.scorer.version if served.scorer else None,
    }


def _label(project: Project) -> dict[str, Any] | None:
    label = project.label
    if label is None:
        return None
    return {"source": label.source.name, "key": list(label.keys), "target": label.target, "description": label.description}


def _freshness(served: Served) -> dict[str, Any]:
    manifest: Manifest | None = served.manifest
    return {
        "cut": format_time(manifest.cut) if manifest else None,
        "built_at": format_time(manifest.built_at) if manifest else None,
        "batch_version": manifest.batch_version if manifest else None,
        "model_version": served.scorer.version if served.scorer else None,
    }


def _addresses(project: Project) -> dict[str, Any]:
    base = f"/v1/projects/{project.name}"
    key = "{key}" if len(project.keys) == 1 else ",".join(f"{name}={{{name}}}" for name in project.keys)
    topics = [source.name for source in project.sources.values() if source.topic]
    return {
        "predict": f"{base}/predict" if project.model else None,
        "features": f"{base}/features/{key}",
        "scores": f"{base}/scores/{key}" if project.model else None,
        "events": {name: f"{base}/events/{name}" for name in topics},
        "current_table": f"{project.name}_current",
        "predictions_topic": predictions_topic(project.name) if project.model else None,
        "scores_topic": f"scores.{project.name}" if project.model else None,
    }
