"""Thresholds of a declaration against what was found: an alert is told when it begins and when it ends, and not in between.

Whether one stands is itself a measure (subject ``alerts``: 1 while it stands), so it outlives the process that raised it.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anabranch.declare.projects import Project
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.kafka.bus import Bus
from anabranch.values.times import format_time, from_micros
from batch.watching.findings import Watched

REQUESTS = "training-requests"
_NEXT = {
    "psi": "anabranch watch {project} --html report.html shows how its values moved; if the world changed, anabranch train {project}",
    "js": "anabranch watch {project} --html report.html shows how its values moved; if the world changed, anabranch train {project}",
    "score_psi": "anabranch watch {project} --html report.html shows which features moved the scores",
    "skew": "anabranch verify {project} compares what is served with the lake now",
    "flips": "anabranch status and the stream's lag: approximate scores are far from the batch's; builds may be too seldom",
}


@dataclass(frozen=True, kw_only=True)
class ThresholdCheck:
    """One threshold: `crossed` says whether `value` is beyond it. `which` is a feature, "" the model as a whole."""

    what: str
    which: str
    version: str
    value: float
    threshold: float
    crossed: bool
    news: str = ""
    """``raised`` or ``cleared`` when that was not so at the look before."""


def alerts_topic(project: str) -> str:
    """The topic of a project's alerts."""
    return f"alerts.{project}"


def checks(project: Project, found: Watched) -> list[ThresholdCheck]:
    """Every declared threshold that enough rows were there for, of the champion."""
    return list(_checks(project, found))


def _checks(project: Project, found: Watched) -> Iterator[ThresholdCheck]:
    watch, version = project.watch, found.champion
    drifts = [one for one in found.features.get(version, ()) if one.rows >= watch.rows]
    for what, bound in (("psi", watch.psi_above), ("js", watch.js_above)):
        for one in drifts if bound is not None else ():
            yield _check(what, one.feature, version, getattr(one, what), bound)
    scores = found.scores.get(version)
    if scores is not None and scores.rows >= watch.rows:
        yield from _optional("score_psi", version, scores.psi, watch.score_psi_above)
    for whole in found.accuracy:
        if (
            whole.version == version
            and not whole.part
            and whole.period is None
            and whole.labels >= watch.rows
            and whole.value is not None
        ):
            yield from _optional(found.metric, version, whole.value, watch.metric_above)
            if watch.metric_below is not None:
                low = watch.metric_below
                yield ThresholdCheck(
                    what=found.metric,
                    which="",
                    version=version,
                    value=whole.value,
                    threshold=low,
                    crossed=whole.value < low,
                )
    if found.skew is not None and found.skew.values:
        yield from _optional("skew", version, found.skew.share, watch.skew_above)
    flips, count = found.approximation.get("flips"), found.approximation.get("count")
    if flips is not None and count is not None and count.value >= watch.rows:
        yield from _optional("flips", version, flips.value, watch.flips_above)


def _optional(what: str, version: str, value: float, bound: float | None) -> Iterator[ThresholdCheck]:
    if bound is not None:
        yield _check(what, "", version, value, bound)


def _check(what: str, which: str, version: str, value: float, bound: float | None) -> ThresholdCheck:
    threshold = 0.0 if bound is None else bound
    return ThresholdCheck(
        what=what, which=which, version=version, value=value, threshold=threshold, crossed=value > threshold
    )


def tell(
    bus: Bus, measures: Measures, project: Project, at: int, found: Sequence[ThresholdCheck]
) -> list[ThresholdCheck]:
    """Publish what began and what ended on `alerts.<project>`, ask for a training if the declaration says so; the checks with their news.

    Messages go out before the state is kept: a look that was cut off in between tells again rather than never.
    """
    standing = {
        (one.name, one.slice, one.version)
        for one in measures.latest(project.name)
        if one.subject == "alerts" and one.value
    }
    told = []
    for one in found:
        stands = (one.what, one.which, one.version) in standing
        told.append(
            one if one.crossed == stands else replace(one, news="raised" if one.crossed else "cleared")
        )
    news = [one for one in told if one.news]
    if news:
        bus.ensure_topics([alerts_topic(project.name)])
        bus.publish(
            alerts_topic(project.name),
            [(_name(one).encode(), _message(project.name, at, one)) for one in news],
        )
    raised = [one for one in news if one.news == "raised"]
    if raised and project.watch.retrain:
        bus.ensure_topics([REQUESTS])
        bus.publish(REQUESTS, [(project.name.encode(), _request(project.name, raised))])
    kept = {(one.what, one.which, one.version): float(one.crossed) for one in told}
    versions = {one.version for one in found}
    # Of a version that no longer serves nothing stands any more.
    kept |= {key: 0.0 for key in standing - kept.keys() if versions and key[2] not in versions}
    moment = from_micros(at)
    measures.write(
        [
            Measure(
                project=project.name,
                subject="alerts",
                name=what,
                slice=which,
                version=version,
                at=moment,
                value=value,
            )
            for (what, which, version), value in kept.items()
        ]
    )
    return told


def _name(one: ThresholdCheck) -> str:
    return "/".join(filter(None, (one.what, one.which, one.version)))


def _message(project: str, at: int, one: ThresholdCheck) -> bytes:
    document = {
        "project": project,
        "status": one.news,
        "what": one.what,
        "which": one.which or None,
        "model_version": one.version,
        "value": one.value,
        "threshold": one.threshold,
        "at": format_time(at),
        "next": _NEXT.get(
            one.what,
            "anabranch watch {project} shows it by slice and over time; anabranch train {project} learns from the new labels",
        ).format(project=project),
    }
    return json.dumps(document).encode()


def _request(project: str, raised: Sequence[ThresholdCheck]) -> bytes:
    why = "; ".join(f"{_name(one)} is {one.value:.4g}, beyond {one.threshold:g}" for one in raised)
    return json.dumps(
        {"request_id": f"watch-{uuid.uuid4().hex}", "project": project, "reason": f"alert: {why}"}
    ).encode()
