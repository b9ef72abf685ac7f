"""One answer for the command line: from the serving store when it can say it exactly, else from the lake."""

from typing import Any

from anabranch.declare.projects import Project
from anabranch.values.keys import key_text
from anabranch.values.times import format_time, now_micros
from batch.building.recomputing import recompute
from batch.landing.topics import land
from jobs.show import Steps
from jobs.wiring.context import Context


def answer_key(context: Context, project: Project, key: dict[str, str], at: int | None) -> dict[str, Any]:
    """Features and score of a key at `at` (microseconds) or now.

    The store keeps states for the present; a time before the cut is folded from the lake, after landing what the
    topics hold, so that both give what the law says. Of a key of which nothing is `known` the features are those of no events, and there is no score.
    """
    served = context.answers.features(project, [key], at)[0]
    values, degraded, layer = dict(served.values), served.degraded, "serving"
    if at is not None and at < now_micros() and degraded is not None:
        values, degraded, layer = from_lake(context, project, key, at), None, "lake"
    # Of a key that the store does not know the served values are those of no events.
    known = served.known or values != served.values
    version = context.models.fitting_champion(project)
    score: float | None = None
    label: object = None
    if version is not None and known:
        scorer = context.models.scorer(project.name, version)
        raw = scorer.score({name: [values[name]] for name in scorer.features})
        score, label = float(raw[0]), scorer.label(raw)[0]
    return {
        "key": key,
        "features": values,
        "known": known,
        "score": score,
        "label": label,
        "model_version": version,
        "batch_version": served.batch_version,
        "as_of": format_time(served.as_of),
        "degraded": degraded is not None,
        "degraded_reason": degraded,
        "layer": layer,
    }


def from_lake(context: Context, project: Project, key: dict[str, str], at: int) -> dict[str, object]:
    """Features of a key at a time in the past, folded from every event that was landed."""
    steps, spark = Steps(), context.spark
    steps.step(f"{format_time(at)} is in the past: reading the lake")
    land(spark, context.lake, context.bus, project, context.settings.times, steps, context.gate(project))
    events = context.lake.distinct_events(spark, project)
    text = key_text(project.keys, key)
    return recompute(project, events, spark.createDataFrame([(text,)], "key STRING"), at)[text]
