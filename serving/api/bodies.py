"""Types of the bodies of requests and responses, from which their JSON schemas are generated.

Parts that a project's declaration types (its key, its features, its events) are marked by `declared`:
serving/api/openapi.py has their schemas.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from anabranch.answers.requests import MOST_EXPLAINED, MOST_INSTANCES
from serving.api.budgets import CountedBy
from serving.api.promises import State

DECLARED = "x-declared"
"""Member of a schema that is replaced by the part of this name."""


def declared(part: str, description: str | None = None) -> Meta:
    """Marks a value whose schema comes from a project's declaration."""
    return Meta(extra_json_schema={DECLARED: part}, description=description)


Key = Annotated[str | int | float | bool | dict[str, Any], declared("key")]
ShownKey = Annotated[str | dict[str, str] | None, declared("shown_key")]
Features = Annotated[dict[str, Any], declared("features")]
Event = Annotated[dict[str, Any], declared("event")]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""A time in ISO 8601."""
Score = Annotated[
    float | None,
    Meta(
        description="Probability of class 1, of the label among several classes, or the number that the "
        "model predicts"
    ),
]
Explain = Annotated[
    bool | None,
    Meta(description=f"Whether each score is explained; {MOST_EXPLAINED} of one request at most"),
]
Scores = (
    Annotated[dict[str, float], Meta(description="Present only with several classes: probability by class")]
    | UnsetType
)
IntervalEnds = (
    Annotated[
        list[float],
        Meta(min_length=2, max_length=2, description="Present only with Model(interval=...): its two ends"),
    ]
    | UnsetType
)
Degraded = Annotated[bool, Meta(description="Whether stored features may be wrong")]
DegradedReason = Annotated[str, Meta(description="Present only when degraded")] | UnsetType

Broken = Annotated[dict[str, str], Meta(description="Declarations that never loaded, and why")]
LakeVersions = Annotated[dict[str, int], Meta(description="Version of the lake's table, by source")]


class ProblemBody(Struct, kw_only=True, rename={"kind": "type"}):
    """A problem by RFC 9457."""

    kind: Annotated[
        str,
        Meta(
            description="Names the kind of problem for programs",
            examples=["urn:anabranch:problem:wrong-type"],
        ),
    ]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What is wrong with what, what was expected, what to do")]
    field: (
        Annotated[str, Meta(description="The field to blame, when one is", examples=["features.age"])]
        | UnsetType
    ) = UNSET


class InstanceBody(Struct, forbid_unknown_fields=True):
    """A key whose stored features are read, features that win over them, or both; the request, and events."""

    key: Annotated[str | int | float | bool | dict[str, Any] | None, declared("key")] = None
    features: Annotated[dict[str, Any] | None, declared("given_features")] = None
    request: Annotated[dict[str, Any] | None, declared("request")] = None
    explain: Explain = None
    event: Annotated[dict[str, Any] | list[Any] | None, declared("own_events")] = None


# A null counts as left out; one of the two must remain.
Instance = Annotated[
    InstanceBody,
    Meta(
        extra_json_schema={
            "anyOf": [
                {"required": ["key"], "properties": {"key": {DECLARED: "key"}}},
                {
                    "required": ["features"],
                    "properties": {"features": {"type": "object", "minProperties": 1}},
                },
            ]
        }
    ),
]


class KeysBody(Struct, forbid_unknown_fields=True):
    """Several keys, each answered as if it were asked alone."""

    keys: Annotated[list[Key], Meta(min_length=1, max_length=MOST_INSTANCES)]
    explain: Explain = None


class InstancesBody(Struct, forbid_unknown_fields=True):
    """Several keys, features, or both."""

    instances: Annotated[list[Instance], Meta(min_length=1, max_length=MOST_INSTANCES)]
    explain: Explain = None


class ReasonBody(Struct, kw_only=True):
    """A declared reason for a score."""

    text: str
    features: Annotated[list[str], Meta(description="The strongest first")]
    contribution: Annotated[float, Meta(description="What they raise the score by, together")]


class ExplanationBody(Struct, kw_only=True):
    """What each feature contributed to a score: base and contributions add up to the margin."""

    label: Annotated[
        int | str | UnsetType, Meta(description="The class whose probability is explained, of several")
    ] = UNSET
    method: Annotated[
        Literal["trees", "linear", "sampled"], Meta(description="Exact for trees and linear models")
    ]
    space: Annotated[
        Literal["log-odds", "probability", "number"],
        Meta(description="What is added up: for log-odds the score is 1 / (1 + exp(-margin))"),
    ]
    base: Annotated[float, Meta(description="The margin where nothing is known of a row")]
    margin: float
    before_calibration: Annotated[
        bool | UnsetType,
        Meta(description="True where the margin stands for the score as it is before its calibration"),
    ] = UNSET
    contributions: Annotated[dict[str, float], Meta(description="By feature that the model reads")]
    standard_errors: Annotated[
        dict[str, float] | UnsetType, Meta(description="Of sampled contributions, by feature")
    ] = UNSET
    reasons: Annotated[
        list[ReasonBody] | UnsetType,
        Meta(description="Declared reasons that raised the score, the strongest first, four at most"),
    ] = UNSET


class CountedEventBody(Struct, kw_only=True):
    """An event that came with the question and that the answer counts."""

    source: str
    id: Annotated[str | None, Meta(description="Null for a source without ids")]
    known: Annotated[bool, Meta(description="Whether it was counted already, as it had been published")]


class PredictionBody(Struct, kw_only=True):
    """A score, with the versions and the time behind it."""

    score: Score
    label: Annotated[
        Any,
        Meta(
            description="0 or 1, or the most probable of several classes; null for a model of numbers",
        ),
    ]
    model_version: str
    batch_version: Annotated[int | None, Meta(description="Null when no stored feature was read")]
    as_of: Moment
    degraded: Degraded
    scores: Scores = UNSET
    interval: IntervalEnds = UNSET
    degraded_reason: DegradedReason = UNSET
    explanation: Annotated[
        ExplanationBody | UnsetType, Meta(description="Present only when it was asked for")
    ] = UNSET
    events: (
        Annotated[list[CountedEventBody], Meta(description="Where events came with the question")] | UnsetType
    ) = UNSET


class KeyPredictionBody(PredictionBody, kw_only=True):
    """The prediction of one key among several."""

    key: ShownKey


class KeyProblemBody(Struct, kw_only=True):
    """A key of which nothing is known, with the problem that a request for it alone gets."""

    key: ShownKey
    error: ProblemBody


KEY_ANSWERS = (KeyPredictionBody, KeyProblemBody)


class PredictionsBody(Struct):
    """Predictions in the order of the request."""

    predictions: list[Annotated[dict[str, Any], declared("key_answer")]]


class FeaturesBody(Struct, kw_only=True):
    """Stored features of a key, merged."""

    key: ShownKey
    features: Features
    known: Annotated[
        bool,
        Meta(description="Whether anything is known of the key; if not, these are the features of no events"),
    ]
    as_of: Moment
    degraded: Degraded
    batch_version: int | None = None
    degraded_reason: DegradedReason = UNSET


class CurrentRowBody(Struct, kw_only=True):
    """The current row of a key."""

    key: ShownKey
    score: Score
    label: Any
    model_version: str | None
    batch_version: int | None
    as_of: Moment | None
    layer: Annotated[str | None, Meta(description="Which channel wrote the row last: batch or speed")]
    degraded: Degraded
    features: Features
    scores: Scores = UNSET
    interval: IntervalEnds = UNSET
    degraded_reason: DegradedReason = UNSET


class TracedFeatureBody(Struct, kw_only=True):
    """A feature, and the events that it is made of; a derived one has what it is computed from instead."""

    name: str
    value: Any
    contribution: Annotated[float | None, Meta(description="To the score; null where it has none")]
    view: str | UnsetType = UNSET
    aggregate: str | UnsetType = UNSET
    window: str | UnsetType = UNSET
    since: Moment | UnsetType | None = UNSET
    until: Moment | UnsetType = UNSET
    events: Annotated[int | UnsetType, Meta(description="Events of its window, before its where=")] = UNSET
    by_channel: Annotated[dict[str, int] | UnsetType, Meta(description="batch, speed, next build")] = UNSET
    expression: str | UnsetType = UNSET
    of: list[str] | UnsetType = UNSET


class TracedEventBody(Struct, kw_only=True):
    """An event, where it came from, and what counts it."""

    id: str
    time: Moment
    arrival: Moment
    channel: Annotated[
        Literal["batch", "speed", "next build"], Meta(description="What counts it in answers of now")
    ]
    landed: Annotated[bool, Meta(description="Whether it is in the lake")]
    event: Annotated[dict[str, Any], Meta(description="Its columns")]
    topic: str | UnsetType = UNSET
    partition: int | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    file: str | UnsetType | None = UNSET


class TracedViewBody(Struct, kw_only=True):
    """A view with the events of its widest window, newest first."""

    view: str
    role: str | None
    source: str
    key: dict[str, str]
    found: int
    shown: int
    events: list[TracedEventBody]
    incomplete: Annotated[
        str | UnsetType, Meta(description="Why there may be more events, where there may be")
    ] = UNSET


class WhyBody(Struct, kw_only=True):
    """From a score to its features, to their windows, to the very events."""

    key: ShownKey
    score: Score
    label: Any
    model_version: str | None
    batch_version: int | None
    as_of: Moment
    degraded: Degraded
    degraded_reason: DegradedReason = UNSET
    explanation: Annotated[
        ExplanationBody | UnsetType, Meta(description="Present where the version can be explained")
    ] = UNSET
    features: list[TracedFeatureBody]
    views: list[TracedViewBody]


class AcceptedBody(Struct):
    """How many events were published."""

    accepted: int
    ignored: Annotated[
        list[str] | UnsetType,
        Meta(description="Fields that are no columns of the source: names of up to 20, if there are any"),
    ] = UNSET


class AliveBody(Struct):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadinessBody(Struct, kw_only=True):
    """Whether the server can answer; a check is ``ok`` or what is wrong."""

    status: Literal["ready", "down"]
    store: str
    bus: str
    model: str
    keys: Annotated[str, Meta(description="Can the API keys be read? Those read before stay in force")] = "ok"
    projects: Annotated[dict[str, str], Meta(description="ok or what is wrong, by project")]
    broken: Broken


class ColumnBody(Struct, kw_only=True):
    """A column of a source."""

    name: str
    type: Annotated[str, Meta(description="As in SQL")]


class SourceBody(Struct, kw_only=True):
    """A source of events."""

    name: str
    description: str
    topic: str | None
    id: Annotated[str | None, Meta(description="Column that names an event")]
    time: Annotated[str, Meta(description="Column of its event time")]
    columns: list[ColumnBody] = field(name="schema")


class FeatureBody(Struct, kw_only=True):
    """A feature: what it is, over what, and how exact."""

    name: str
    type: Annotated[str, Meta(description="As in SQL")]
    view: str
    source: str
    key: list[str]
    window: str
    aggregate: Annotated[str, Meta(description="As it is declared")]
    exactness: Annotated[str, Meta(description="Exact, or how far it may be off")]


class RequestColumnBody(Struct, kw_only=True):
    """A column of the request, which comes with a question only."""

    name: str
    type: Annotated[str, Meta(description="As in SQL")]
    required: bool
    default: Annotated[Any, Meta(description="The value where it is left out and not required")]


class TrialBody(Struct, kw_only=True):
    """A version that is tried beside the champion."""

    kind: Annotated[str, Meta(description="shadow or canary")]
    version: str
    share: Annotated[float, Meta(description="Share of the keys")]


class ModelBody(Struct, kw_only=True):
    """The model of a project, and the version of it that answers."""

    trainer: str
    metric: Annotated[str, Meta(description="What versions are compared by")]
    description: str
    features: list[str]
    version: Annotated[str | None, Meta(description="The version that answers")]
    created: Moment | None
    metrics: Annotated[
        dict[str, float], Meta(description="On held-out rows; those of training rows: train_...")
    ]
    gate: Annotated[str | None, Meta(description="Verdict of the promotion gate")]
    intended_use: str
    limits: str
    card: Annotated[str, Meta(description="Address of its model card")]
    trial: TrialBody | None


class LabelBody(Struct, kw_only=True):
    """The label that the model predicts."""

    source: str
    key: list[str]
    target: Annotated[str, Meta(description="SQL that gives the class or number")]
    description: str
    own_event: Annotated[
        bool, Meta(description="Whether the model learns from features that count the label's own event")
    ]


class PromisedBody(Struct, kw_only=True):
    """Freshness as it is declared."""

    batch: str | None
    stream: str | None


class ChannelBody(Struct, kw_only=True):
    """Freshness of one channel."""

    promised_seconds: Annotated[float | None, Meta(description="Null where nothing is promised")]
    seconds: Annotated[
        float | None,
        Meta(description="Measured: the age of the batch's cut, or how far the stream is behind arrival"),
    ]
    state: Annotated[State | None, Meta(description="How the promise stands; null without one")]
    since: Annotated[Moment | None, Meta(description="When the promise began to stand so")]
    sources: (
        Annotated[dict[str, float | None], Meta(description="Seconds, by source of the stream")] | UnsetType
    ) = UNSET


class FreshnessBody(Struct, kw_only=True):
    """Promised and measured freshness; null without a promise or a measurement."""

    cut: Annotated[Moment | None, Meta(description="All that arrived before is in the batch")]
    built_at: Moment | None
    batch_version: int | None
    model_version: str | None
    promised: PromisedBody | None
    batch_age_seconds: float | None
    kept: Annotated[bool | None, Meta(description="Whether every promise that can be judged is kept")]
    batch: ChannelBody
    stream: ChannelBody


class ObjectiveBody(Struct, kw_only=True):
    """One objective of a project over 30 days, and what is left of its error budget."""

    name: Annotated[str, Meta(description="availability, latency, freshness or quality")]
    promised: str
    target: Annotated[float, Meta(description="The share that is promised to be kept")]
    kept: Annotated[float | None, Meta(description="Null where nobody has counted")]
    missed: float | None
    share: Annotated[float | None, Meta(description="The share that was kept; null without any")]
    budget_left: Annotated[
        float | None, Meta(description="1: nothing missed; 0: as much as is promised; below 0: more")
    ]
    counted_by: Annotated[
        CountedBy, Meta(description="Prometheus for 30 days, or this server since it started")
    ]


class BatchLineageBody(Struct, kw_only=True):
    """The batch version that serves."""

    version: int
    cut: Moment
    keys: Annotated[dict[str, int], Meta(description="Number of keys, by view")]


class ModelLineageBody(Struct, kw_only=True):
    """The training of the model version that serves."""

    version: str
    lake: LakeVersions
    run: Annotated[str, Meta(description="Its run on the tracking server")]


class LineageBody(Struct, kw_only=True):
    """The versions behind an answer, from the lake on."""

    lake: LakeVersions
    batch: BatchLineageBody | None
    model: ModelLineageBody | None
    shared: Annotated[
        dict[str, int], Meta(description="Batch versions that are read of other projects, by project")
    ]
    answers: Annotated[list[str], Meta(description="Versions that every answer carries")]


class ProjectBody(Struct, kw_only=True):
    """One project in the catalogue."""

    name: str
    owner: str
    description: str
    keys: list[str]
    sources: list[SourceBody]
    features: list[FeatureBody]
    request: Annotated[list[RequestColumnBody], Meta(description="Columns that a question brings")]
    model: ModelBody | None
    label: LabelBody | None
    freshness: FreshnessBody
    objectives: list[ObjectiveBody]
    lineage: LineageBody
    addresses: Annotated[dict[str, Any], declared("addresses")]
    troubles: Annotated[dict[str, str], Meta(description="What is wrong now, and why")]


class CatalogueBody(Struct, kw_only=True):
    """All projects that the caller may see."""

    projects: list[ProjectBody]
    broken: Broken
