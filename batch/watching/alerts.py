"""Alerts: declared thresholds are checked; a message is published when an alert begins and when it ends.

Whether an alert stands is itself a measure (subject ``alerts``: 1 while it stands), so it outlives the
process that raised it.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from anabranch.declare.operations import Watch
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.opened import Stores
from anabranch.stores.webhooks.addresses import WATCH_ALERT
from anabranch.stores.webhooks.sending import Notice
from anabranch.values.times import format_time, from_micros
from batch.watching.findings import Findings

REQUESTS = "training-requests"
_MOVED = (
    "anabranch watch {project} --html report.html shows how the values moved; "
    "anabranch train {project} learns from the new ones"
)
_NEXT = {
    "psi": _MOVED,
    "js": _MOVED,
    "score_psi": "anabranch watch {project} --html report.html shows which features moved the scores",
    "skew": "anabranch verify {project} compares the values that are served now with the lake",
    "disparity": (
        "anabranch watch {project} shows the rates by slice with their intervals; "
        "anabranch train {project} with Gate(disparity=...) refuses such a model"
    ),
    "flips": (
        "approximate scores are far from those of the batch: look at the stream's delay in anabranch status, "
        "or build more often"
    ),
}
_NEXT_OF_METRIC = (
    "anabranch watch {project} shows the metric by slice and over time; "
    "anabranch train {project} learns from the new labels"
)


@dataclass(frozen=True, kw_only=True)
class ThresholdCheck:
    """A declared threshold and the measured value; `which` is a feature, or "" for the model as a whole."""

    what: str
    which: str
    version: str
    value: float
    threshold: float
    crossed: bool
    news: str = ""
    """``raised`` or ``cleared`` when the alert began or ended with this look."""


def alerts_topic(project: str) -> str:
    """The topic of a project's alerts."""
    return f"alerts.{project}"


def checks(project: Project, found: Findings) -> list[ThresholdCheck]:
    """The champion against every declared threshold for which there are enough rows."""
    return list(_checks(project, found))


def _checks(project: Project, found: Findings) -> Iterator[ThresholdCheck]:
    watch, version = project.watch, found.champion
    drifts = [one for one in found.features.get(version, ()) if one.rows >= watch.rows]
    for what, bound in (("psi", watch.psi_above), ("js", watch.js_above)):
        for one in drifts if bound is not None else ():
            yield _check(what, one.feature, version, getattr(one, what), bound)
    scores = found.scores.get(version)
    if scores is not None and scores.rows >= watch.rows:
        yield from _optional("score_psi", version, scores.psi, watch.score_psi_above)
    for value in _whole_metric(found, watch.rows):
        yield from _optional(found.metric, version, value, watch.metric_above)
        if watch.metric_below is not None:
            bound = watch.metric_below
            yield replace(_check(found.metric, "", version, value, bound), crossed=value < bound)
    if found.skew is not None and found.skew.values:
        yield from _optional("skew", version, found.skew.share, watch.skew_above)
    yield from _disparities(found, watch, version)
    flips, count = found.approximation.get("flips"), found.approximation.get("count")
    if flips is not None and count is not None and count.value >= watch.rows:
        yield from _optional("flips", version, flips.value, watch.flips_above)


def _disparities(found: Findings, watch: Watch, version: str) -> Iterator[ThresholdCheck]:
    """The differences between the parts of slices, by the lower end of their intervals."""
    fair, bound = found.fairness.get(version), watch.disparity_above
    if fair is None or bound is None:
        return
    for gap in fair.disparities:
        labels = sum(one.selection_rate.rows for one in fair.rates if one.feature == gap.feature)
        if labels >= watch.rows:
            yield _check("disparity", f"{gap.feature} {gap.rate}", version, gap.low, bound)


def _whole_metric(found: Findings, rows: int) -> list[float]:
    """The champion's metric over all labels, if there are enough labels."""
    whole = [one for one in found.accuracy if not one.part and one.period is None and one.labels >= rows]
    return [one.value for one in whole if one.version == found.champion and one.value is not None]


def _optional(what: str, version: str, value: float, bound: float | None) -> Iterator[ThresholdCheck]:
    if bound is not None:
        yield _check(what, "", version, value, bound)


def _check(what: str, which: str, version: str, value: float, bound: float | None) -> ThresholdCheck:
    threshold = 0.0 if bound is None else bound
    return ThresholdCheck(
        what=what, which=which, version=version, value=value, threshold=threshold, crossed=value > threshold
    )


def raise_alerts(
    stores: Stores, project: Project, at: int, found: Sequence[ThresholdCheck]
) -> list[ThresholdCheck]:
    """Publish alerts that began or ended on `alerts.<project>`; returns the checks with their news.

    When the declaration says so, alerts that began ask for a training. Messages are published before the
    state is stored: a look that is killed in between publishes them again rather than never.
    """
    standing = {
        (one.name, one.slice, one.version)
        for one in stores.measures.latest(project.name)
        if one.subject == "alerts" and one.value
    }
    judged = [_with_news(one, (one.what, one.which, one.version) in standing) for one in found]
    news = [one for one in judged if one.news]
    if news:
        topic = alerts_topic(project.name)
        stores.bus.ensure_topics([topic])
        notices = [notice(project.name, at, one) for one in news]
        messages = [json.dumps(each.document).encode() for each in notices]
        stores.bus.publish(topic, list(zip([_name(one).encode() for one in news], messages, strict=True)))
        stores.webhooks.send(notices)
    raised = [one for one in news if one.news == "raised"]
    if raised and project.watch.retrain:
        stores.bus.ensure_topics([REQUESTS])
        stores.bus.publish(REQUESTS, [(project.name.encode(), _request(project.name, raised))])
    states = {(one.what, one.which, one.version): float(one.crossed) for one in judged}
    versions = {one.version for one in found}
    # Alerts of a version that no longer serves end.
    states |= {key: 0.0 for key in standing - states.keys() if versions and key[2] not in versions}
    moment = from_micros(at)
    stores.measures.write(
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
            for (what, which, version), value in states.items()
        ]
    )
    return judged


def _with_news(one: ThresholdCheck, stands: bool) -> ThresholdCheck:
    return one if one.crossed == stands else replace(one, news="raised" if one.crossed else "cleared")


def _name(one: ThresholdCheck) -> str:
    return "/".join(filter(None, (one.what, one.which, one.version)))


def notice(project: str, at: int, one: ThresholdCheck) -> Notice:
    """The message that an alert began or ended; its labels are those of Prometheus' rule over such alerts."""
    next_step = _NEXT.get(one.what, _NEXT_OF_METRIC).format(project=project)
    document = {
        "project": project,
        "status": one.news,
        "what": one.what,
        "which": one.which or None,
        "model_version": one.version,
        "value": one.value,
        "threshold": one.threshold,
        "at": format_time(at),
        "next": next_step,
    }
    labels = {
        "alertname": WATCH_ALERT,
        "severity": "ticket",
        "project": project,
        "name": one.what,
        "slice": one.which,
        "version": one.version,
    }
    what = f"{one.what} {one.which}".strip()
    value = f"{what} of version {one.version} is {one.value:.4g}, the threshold {one.threshold:g}"
    return Notice(
        labels=labels,
        raised=one.news == "raised",
        summary=f"{project}: {value}. Next: {next_step}",
        at=at,
        document=document,
    )


def _request(project: str, raised: Sequence[ThresholdCheck]) -> bytes:
    why = "; ".join(f"{_name(one)} is {one.value:.4g}, beyond {one.threshold:g}" for one in raised)
    return json.dumps(
        {"request_id": f"watch-{uuid.uuid4().hex}", "project": project, "reason": f"alert: {why}"}
    ).encode()
