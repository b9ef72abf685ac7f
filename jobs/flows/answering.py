"""An answer for the command line: from the serving store where that is exact, else from the lake."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from anabranch.answers.derived import asked_values
from anabranch.answers.requests import Asked, request_values
from anabranch.answers.service import AnswerService
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.own_events import OwnEvent
from anabranch.values.keys import key_text
from anabranch.values.times import format_time, now_micros
from jobs.show import Steps
from jobs.wiring.context import Context

T = TypeVar("T")


def by_served(context: Context, declared: Project, read: Callable[[Project], T]) -> tuple[Project, T]:
    """The declaration that a question is answered by, and what `read` makes of the question by it.

    Raises what `read` raises before a store is asked, unless another declaration serves than the one of now.
    """
    found, wrong = None, None
    try:
        found = read(declared)
    except AnabranchError as error:
        wrong = error
    try:
        served, _ = context.answers.served(declared)
    except AnabranchError:
        served = declared
    if served != declared:
        return served, read(served)
    if wrong is not None or found is None:
        raise wrong or MisuseError("there is no question")
    return declared, found


def answer_key(
    context: Context,
    project: Project,
    key: dict[str, str],
    at: int | None,
    request: object = None,
    events: tuple[OwnEvent, ...] = (),
    *,
    explain: bool = False,
) -> dict[str, Any]:
    """Features and score of a key at `at` (microseconds) or now, with the columns of the `request` if given.

    With `explain` the score comes with what each feature contributed. `events` count as if they had arrived;
    they are for an answer as of now.

    The serving store keeps states for the present; a time before the cut is folded from the lake, after
    landing. An unknown key has the features of no events, and no score.
    """
    service = AnswerService(context.answers)
    project, manifest = context.answers.served(project)
    (stored,) = service.features(project, [key], at, [events] if events else (), manifest)
    layer = "serving"
    if at is not None and at < now_micros() and stored.degraded is not None:
        values, layer = from_lake(context, project, key, at), "lake"
        known = stored.known or values != stored.values
        stored = replace(stored, values=values, degraded=None, known=known)
    version = context.models.usable_champion(project)
    scorer = None if version is None else context.models.scorer(project.name, version)
    types = project.inputs
    if request is not None:
        asked = Asked(key, {}, request=request_values(request, project))
        (added,) = asked_values(project, [asked], [stored])
        stored = replace(stored, values={**stored.values, **added}, known=stored.known or bool(request))
    return {
        "key": key,
        "features": {name: types[name].to_json(value) for name, value in stored.values.items()},
        "known": stored.known,
        **service.describe(project, stored, scorer, requested=request is not None, explain=explain),
        "degraded_reason": stored.degraded,
        "layer": layer,
    }


def from_lake(context: Context, project: Project, key: dict[str, str], at: int) -> dict[str, object]:
    """Features of a key at a time in the past, folded from every event that was landed."""
    from batch.building.recomputing import recompute
    from batch.landing.topics import land

    steps, spark = Steps(), context.spark
    steps.step(f"{format_time(at)} is in the past: reading the lake")
    for one in (project, *(context.project(owner) for owner in project.lenders)):
        land(context, one, steps, context.gate(one))
    events = context.lake.distinct_events(spark, project)
    text = key_text(project.keys, key)
    return recompute(project, events, spark.createDataFrame([(text,)], "key STRING"), at)[text]
