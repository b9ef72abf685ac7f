"""The catalogue: what each project is, where it can be reached and how fresh it is."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from msgspec import UNSET

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureColumn, FeatureView
from anabranch.events.predictions import predictions_topic
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.versions import ModelVersion
from anabranch.values.times import SECOND, format_time
from serving.api.bodies import (
    BatchLineageBody,
    ChannelBody,
    ColumnBody,
    FeatureBody,
    FreshnessBody,
    LabelBody,
    LineageBody,
    ModelBody,
    ModelLineageBody,
    ObjectiveBody,
    ProjectBody,
    PromisedBody,
    RequestColumnBody,
    SourceBody,
    TrialBody,
)
from serving.api.budgets import Budget
from serving.api.live import Served
from serving.api.promises import ChannelFreshness, judged, kept
from serving.api.routing import PROJECT, Route, listed

_TOPICS = ("predictions_topic", "scores_topic", "score_requests_topic", "models_topic")


def entry(
    served: Served,
    routes: Iterable[Route],
    now: int,
    model: ModelVersion | None = None,
    measures: Sequence[Measure] = (),
    counted: Sequence[Budget] = (),
) -> ProjectBody:
    """The entry of a project at `now` (microseconds).

    `model` is the registry's entry of the version that serves; `measures` are the project's latest;
    `counted` are its error budgets.
    """
    project = served.project
    return ProjectBody(
        name=project.name,
        owner=project.owner,
        description=project.description,
        keys=list(project.keys),
        sources=[_source(source) for source in project.sources.values()],
        features=features(project),
        request=request_columns(project),
        model=_model(served, model),
        label=_label(project),
        freshness=freshness(served, judged(served, measures, now)),
        objectives=[_objective(one) for one in counted],
        lineage=lineage(served, model),
        addresses=addresses(served, routes),
        troubles=dict(served.troubles),
    )


def _objective(budget: Budget) -> ObjectiveBody:
    return ObjectiveBody(
        name=budget.objective,
        promised=budget.promised,
        target=budget.target,
        kept=budget.kept,
        missed=budget.missed,
        share=budget.share,
        budget_left=budget.left,
        counted_by=budget.by,
    )


def _label(project: Project) -> LabelBody | None:
    label = project.label
    if label is None:
        return None
    return LabelBody(
        source=label.source.name,
        key=list(label.keys),
        target=label.target,
        description=label.description,
        own_event=label.own_event,
    )


def _source(source: Source) -> SourceBody:
    return SourceBody(
        name=source.name,
        description=source.description,
        topic=source.topic,
        id=source.id,
        time=source.time,
        columns=[ColumnBody(name=column.name, type=str(column.type)) for column in source.columns],
    )


def features(project: Project) -> list[FeatureBody]:
    """Every feature: what it is, over what, and how exact."""
    return [
        FeatureBody(
            name=column.name,
            type=str(column.type),
            view=view.full_name,
            source=view.feed,
            key=list(view.asked),
            window=column.window.name,
            aggregate=aggregate_text(view, column),
            exactness=view.layout.bounds[column.part].exactness,
        )
        for view in project.views
        for column in view.columns
    ] + [
        FeatureBody(
            name=column.name,
            type=str(column.type),
            view="",
            source="",
            key=list(project.keys),
            window="",
            aggregate=f"Derived({column.text!r})",
            exactness="As exact as what it is computed from",
        )
        for column in project.derived_columns
    ]


def request_columns(project: Project) -> list[RequestColumnBody]:
    """The columns of the request."""
    return [
        RequestColumnBody(name=one.name, type=str(one.type), required=one.required, default=one.default)
        for one in project.request_columns
    ]


_SCOPE = ("argument", "where", "by", "among")


def aggregate_text(view: FeatureView, column: FeatureColumn) -> str:
    """The aggregate as a declaration writes it, with the one category of the column."""
    aggregate = view.features[column.feature]
    arguments = [] if aggregate.argument in (None, "1") else [repr(aggregate.argument)]
    own = [field.name for field in fields(aggregate) if field.name not in _SCOPE]
    arguments += [f"{name}={value!r}" for name in own if (value := getattr(aggregate, name)) is not None]
    arguments += [f"where={aggregate.where!r}"] if aggregate.where else []
    arguments += [f"by={aggregate.by!r}"] if aggregate.by else []
    text = f"{type(aggregate).__name__}({', '.join(arguments)})"
    if not column.category:
        return text
    category = dict(aggregate.among).get(column.category)
    return f"{text}: {'none of the others' if category is None else repr(category)}"


def _model(served: Served, registered: ModelVersion | None) -> ModelBody | None:
    model, trial = served.project.model, served.trial
    if model is None:
        return None
    return ModelBody(
        trainer=model.trainer,
        metric=model.metric,
        description=model.description,
        features=list(served.project.model_features),
        version=served.scorer.version if served.scorer else None,
        created=registered.created if registered else None,
        metrics=dict(registered.metrics) if registered else {},
        gate=registered.gate if registered else None,
        intended_use=model.intended_use,
        limits=model.limits,
        card=f"/projects/{served.project.name}/card",
        trial=TrialBody(kind=trial.kind, version=trial.scorer.version, share=trial.share) if trial else None,
    )


def freshness(served: Served, channels: dict[str, ChannelFreshness]) -> FreshnessBody:
    """Promised and measured freshness, and whether the promises are kept."""
    manifest, promised = served.manifest, served.project.promised_freshness
    return FreshnessBody(
        cut=format_time(manifest.cut) if manifest else None,
        built_at=format_time(manifest.built_at) if manifest else None,
        batch_version=manifest.batch_version if manifest else None,
        model_version=served.scorer.version if served.scorer else None,
        promised=PromisedBody(batch=promised.batch, stream=promised.stream) if promised else None,
        batch_age_seconds=_seconds(channels["batch"].behind),
        kept=kept(channels),
        batch=_channel(channels["batch"]),
        stream=_channel(channels["stream"]),
    )


def _channel(channel: ChannelFreshness) -> ChannelBody:
    sources = {name: _seconds(behind) for name, behind in channel.sources.items()}
    return ChannelBody(
        promised_seconds=_seconds(channel.promised),
        seconds=_seconds(channel.behind),
        state=channel.state,
        since=None if channel.since is None else format_time(channel.since),
        sources=sources or UNSET,
    )


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else round(micros / SECOND, 3)


def lineage(served: Served, model: ModelVersion | None) -> LineageBody:
    """The versions behind an answer, from the lake on."""
    manifest = served.manifest
    return LineageBody(
        lake=dict(manifest.lake_versions) if manifest else {},
        batch=BatchLineageBody(
            version=manifest.batch_version, cut=format_time(manifest.cut), keys=dict(manifest.rows)
        )
        if manifest
        else None,
        model=ModelLineageBody(version=model.version, lake=dict(model.lake_versions), run=model.run)
        if model
        else None,
        shared={owner: each.batch_version for owner, each in manifest.lent.items()} if manifest else {},
        answers=["batch_version", "model_version", "as_of"],
    )


def addresses(served: Served, routes: Iterable[Route]) -> dict[str, Any]:
    """Where a project can be asked and read: its routes, topics, and tables in Cassandra and Spark SQL."""
    project, manifest, name = served.project, served.manifest, served.project.name
    sources = {source.name: source.topic for source in project.sources.values() if source.topic}
    key = "{key}" if len(project.keys) == 1 else ",".join(f"{part}={{{part}}}" for part in project.keys)
    known = listed(routes, project)
    rest: dict[str, Any] = {}
    for route in _addressed(routes):
        if "source" in route.parameters:
            rest[_member(route)] = {source: route.address(project=name, source=source) for source in sources}
        else:
            rest[_member(route)] = route.address(project=name, key=key) if route in known else None
    tables = ["current", "scores", *(f"events_{source}" for source in project.sources)]
    tables += [*(["predictions"] if project.model else []), "quarantine"]
    topics = (predictions_topic(name), f"scores.{name}", f"score-requests.{name}", f"models.{name}")
    return {
        "page": f"/projects/{name}",
        **rest,
        "topics": sources,
        "current_table": f"{name}_current",
        "batch_tables": dict(manifest.tables) if manifest else {},
        "spark": [f"anabranch.{name}_{table}" for table in tables],
        **dict(zip(_TOPICS, topics if project.model else [None] * len(topics), strict=True)),
    }


def addresses_schema(routes: Iterable[Route]) -> dict[str, Any]:
    """The JSON schema of `addresses`."""
    text = {"type": "string"}
    text_or_null = {"type": ["string", "null"]}
    by_source = {"type": "object", "description": "By source", "additionalProperties": text}
    properties = {
        "page": text,
        **{
            _member(route): by_source if "source" in route.parameters else text_or_null
            for route in _addressed(routes)
        },
        "topics": by_source,
        "current_table": {**text, "description": "In Cassandra"},
        "batch_tables": {**by_source, "description": "In Cassandra, by view"},
        "spark": {"type": "array", "items": {**text, "description": "In Spark SQL"}},
        **dict.fromkeys(_TOPICS, text_or_null),
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _addressed(routes: Iterable[Route]) -> list[Route]:
    """The documented routes of a project besides its entry here; those of one model version are left out."""
    return [
        route
        for route in routes
        if route.response is not None
        and "project" in route.parameters
        and "version" not in route.parameters
        and route.path != PROJECT
    ]


def _member(route: Route) -> str:
    return route.name.replace(" ", "_")
