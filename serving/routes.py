"""The route table of the REST API. To add an endpoint, add its row here and its handler."""

from functools import partial

from anabranch.answers.requests import MOST_SHOWN, SHOWN
from serving.api import about, endpoints
from serving.api.bodies import (
    AcceptedBody,
    AliveBody,
    CatalogueBody,
    CurrentRowBody,
    Event,
    FeaturesBody,
    Instance,
    InstancesBody,
    KeysBody,
    PredictionBody,
    PredictionsBody,
    ProjectBody,
    ReadinessBody,
    WhyBody,
)
from serving.api.openapi import Declared
from serving.api.routing import PROJECT, PROJECTS, Route
from serving.doors import inference, mlflow
from serving.doors.bodies import (
    ColumnsBody,
    InferenceBody,
    InferenceRequestBody,
    InvocationsBody,
    ModelMetadataBody,
    ModelReadyBody,
    RecordsFrameBody,
    RowsBody,
    ServerLiveBody,
    ServerMetadataBody,
    ServerReadyBody,
    SplitFrameBody,
)

_INVOKED = (SplitFrameBody, RecordsFrameBody, RowsBody, ColumnsBody)
_MODEL = "/v2/models/{project}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_SCORING = (400, 404, 409, 413, 415, 503)

_PREDICTED = PredictionBody(
    score=0.83, label=1, model_version="3", batch_version=12, as_of="2024-05-01T12:00:00Z", degraded=False
)

_READY = ReadinessBody(
    status="ready", store="ok", bus="ok", model="ok", projects={"card_fraud": "ok"}, broken={}
)

_mlflow = partial(Route, tag="MLflow's scoring protocol", errors=mlflow.ERRORS)
_inference = partial(Route, tag="Open Inference Protocol", errors=inference.ERRORS)
"""Routes of a protocol that are of no one project: these have the tag of their project."""

ROUTES = (
    Route(
        name="predict",
        method="POST",
        path=f"{PROJECT}/predict",
        right="predict",
        handler=endpoints.predict,
        summary="Score a key, features, or both; or up to 1,000 of them",
        model=True,
        request=(Instance, KeysBody, InstancesBody),
        examples=Declared.predict_examples,
        response=(PredictionBody, PredictionsBody),
        example=_PREDICTED,
        problems=(400, 404, 409, 413, 415, 422, 503),
        unknown_key=True,
        bounded=True,
    ),
    Route(
        name="features",
        method="GET",
        path=f"{PROJECT}/features/{{key:path}}",
        right="features",
        handler=endpoints.features,
        summary="Stored features of a key, merged as of now",
        response=FeaturesBody,
        problems=(404, 422, 503),
        bounded=True,
    ),
    Route(
        name="scores",
        method="GET",
        path=f"{PROJECT}/scores/{{key:path}}",
        right="scores",
        handler=endpoints.scores,
        summary="The current row of a key: score, versions, features",
        model=True,
        response=CurrentRowBody,
        problems=(404, 422, 503),
        unknown_key=True,
        bounded=True,
    ),
    Route(
        name="why",
        method="GET",
        path=f"{PROJECT}/why/{{key:path}}",
        right="why",
        handler=endpoints.why,
        summary="From the score of a key to the events behind it",
        query={
            "at": "As of this time (ISO 8601) instead of now, from the batch's cut on",
            "events": f"How many events of each view are shown: {SHOWN} by default, {MOST_SHOWN:,} at most",
        },
        response=WhyBody,
        problems=(404, 409, 422, 503),
        unknown_key=True,
        bounded=True,
    ),
    Route(
        name="events",
        method="POST",
        path=f"{PROJECT}/events/{{source:path}}",
        right="events",
        handler=endpoints.events,
        summary="Publish {source} events: all of them, or none",
        request=(Event, list[Event]),
        examples=Declared.event_examples,
        response=AcceptedBody,
        status=202,
        example=AcceptedBody(accepted=1),
        problems=(400, 404, 413, 415, 422, 503),
    ),
    Route(
        name="project",
        method="GET",
        path=PROJECT,
        handler=about.project,
        summary="Its entry in the catalogue",
        response=ProjectBody,
        problems=(404,),
    ),
    Route(
        name="projects",
        method="GET",
        path=PROJECTS,
        handler=about.projects,
        tag="catalogue",
        summary="All projects: schemas, features, freshness, addresses",
        response=CatalogueBody,
    ),
    Route(
        name="invocations",
        method="POST",
        path=f"{PROJECT}/invocations",
        right="predict",
        handler=mlflow.invocations,
        summary="Score rows by MLflow's scoring protocol",
        model=True,
        errors=mlflow.ERRORS,
        request=_INVOKED,
        further=("text/csv",),
        examples=mlflow.examples,
        response=InvocationsBody,
        problems=_SCORING,
        bounded=True,
    ),
    _mlflow(
        name="invocations of the only project",
        method="POST",
        path="/invocations",
        right="predict",
        handler=mlflow.invocations,
        summary="Score rows by MLflow's scoring protocol, on a server of one project with a model",
        model=True,
        only=True,
        request=_INVOKED,
        further=("text/csv",),
        examples=mlflow.examples,
        response=InvocationsBody,
        problems=_SCORING,
        bounded=True,
    ),
    *(
        _mlflow(
            name=path.removeprefix("/"),
            method="GET",
            path=path,
            right=None,
            handler=mlflow.ping,
            summary=f"Is there a model to score with? ({path})",
            response=AliveBody,
            problems=(503,),
        )
        for path in ("/ping", "/health")
    ),
    _mlflow(
        name="version",
        method="GET",
        path="/version",
        handler=mlflow.version,
        summary="The release of MLflow whose protocol this is",
        response="text/plain",
    ),
    _inference(
        name="v2",
        method="GET",
        path="/v2",
        handler=inference.server,
        summary="What this server is",
        response=ServerMetadataBody,
    ),
    _inference(
        name="v2 live",
        method="GET",
        path="/v2/health/live",
        right=None,
        handler=inference.live,
        summary="Is the process alive?",
        response=ServerLiveBody,
    ),
    _inference(
        name="v2 ready",
        method="GET",
        path="/v2/health/ready",
        right=None,
        handler=inference.ready,
        summary="Can store, bus and model be reached?",
        response=ServerReadyBody,
        problems=(503,),
    ),
    *(
        route
        for path, named in ((_MODEL, ""), (_VERSION, " of a version"))
        for route in (
            Route(
                name=f"v2 infer{named}",
                method="POST",
                path=f"{path}/infer",
                right="predict",
                handler=inference.infer,
                summary=f"Score rows by the Open Inference Protocol{named}",
                model=True,
                errors=inference.ERRORS,
                request=(InferenceRequestBody,),
                examples=inference.examples,
                response=InferenceBody,
                problems=_SCORING,
                bounded=True,
            ),
            Route(
                name=f"v2 model{named}",
                method="GET",
                path=path,
                right="predict",
                handler=inference.model,
                summary=f"The tensors that the model takes and gives{named}",
                model=True,
                errors=inference.ERRORS,
                response=ModelMetadataBody,
                problems=(404, 503),
            ),
            Route(
                name=f"v2 model ready{named}",
                method="GET",
                path=f"{path}/ready",
                right="predict",
                handler=inference.model_ready,
                summary=f"Can the model score?{named}",
                model=True,
                errors=inference.ERRORS,
                response=ModelReadyBody,
                problems=(404, 503),
            ),
        )
    ),
    Route(
        name="health",
        method="GET",
        path="/healthz",
        right=None,
        handler=about.health,
        summary="Is the process alive?",
        response=AliveBody,
        example=AliveBody(),
    ),
    Route(
        name="readiness",
        method="GET",
        path="/readyz",
        right=None,
        handler=about.ready,
        summary="Can store, bus and model be reached?",
        response=ReadinessBody,
        example=_READY,
        problems=(503,),
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        right="metrics",
        handler=about.metrics,
        summary="Counters for Prometheus",
        response="text/plain",
    ),
    Route(
        name="openapi",
        method="GET",
        path="/openapi.json",
        browser=True,
        handler=about.contract,
        summary="This document",
    ),
)
"""Every endpoint of the API; the pages for people are in serving/site."""
