"""A project in brief, for the page at / and the head of a project's own page: context of templates."""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.answers.delays import STREAM
from anabranch.pages.rendering import render
from anabranch.stores.cassandra.measures import Measure
from serving.api.facts import Missing, ProjectFacts
from serving.api.promises import kept

ALERTS = "alerts"
"""The subject of measures that are 1 while an alert stands."""
DRIFT = "psi"
"""The name of measures that say how far a distribution has moved."""
_MOVED, _FAR = 0.1, 0.25  # as is customary for the population stability index


def home_page(projects: Sequence[ProjectFacts], broken: Mapping[str, str]) -> str:
    """The page at /: a card for each project; `broken` has the errors of declarations that failed to load."""
    cards = [summary(one) for one in sorted(projects, key=lambda one: one.served.project.name)]
    return render("home.html", projects=cards, broken=broken)


def summary(facts: ProjectFacts) -> dict[str, Any]:
    """A project's names, versions and state."""
    served, project = facts.served, facts.served.project
    metric, value = _metric(facts)
    cut = served.manifest.cut if served.manifest else None
    return {
        "name": project.name,
        "owner": project.owner,
        "description": project.description,
        "key_names": project.keys,
        "state": _state(facts),
        "batch_version": served.manifest.batch_version if served.manifest else None,
        "cut": cut,
        "cut_age": None if cut is None else facts.now - cut,
        "trains": project.model is not None,
        "serves": served.scorer is not None,
        "model_version": served.scorer.version if served.scorer else "none yet",
        "metric": metric,
        "metric_value": value,
        "features": len(project.columns),
        "views": len(project.stored_views),
        "sources": len(project.sources),
        "drift": _worst_drift(facts),
        "alerts": _alerts(facts),
    }


def _state(facts: ProjectFacts) -> tuple[str, str]:
    """The state in a word or two, and the colour of its pill."""
    if facts.served.troubles:
        return "trouble", "bad"
    if facts.served.manifest is None:
        return "no batch yet", "warn"
    fresh = kept(facts.freshness)
    return ("fresh", "good") if fresh else ("stale", "bad") if fresh is False else ("serving", "")


def _metric(facts: ProjectFacts) -> tuple[str, str | None]:
    """Name and value of the metric that the project is judged by."""
    declared, model = facts.served.project.model, facts.model
    if (
        declared is None
        or model is None
        or isinstance(model, Missing)
        or declared.metric not in model.metrics
    ):
        return "", None
    return declared.metric, f"{model.metrics[declared.metric]:.4f}"


def _alerts(facts: ProjectFacts) -> list[str]:
    """The alerts that stand: measures beyond their declared thresholds."""
    return [
        f"{one.name} of {one.slice}" if one.slice else one.name
        for one in facts.known_measures
        if one.subject == ALERTS and one.value
    ]


def _worst_drift(facts: ProjectFacts) -> dict[str, Any] | None:
    """The largest drift among the latest measures; None when none was measured."""
    drifts = [
        one for one in facts.known_measures if one.name == DRIFT and one.subject not in (ALERTS, STREAM)
    ]
    if not drifts:
        return None
    worst = max(drifts, key=lambda one: one.value)
    name = f"{DRIFT} of {worst.slice}" if worst.slice else DRIFT
    return {"name": name, "value": worst.value, "kind": drift_kind(worst)}


def drift_kind(measure: Measure) -> str:
    """The colour of a measure's pill; empty for measures other than drift."""
    if measure.name != DRIFT:
        return ""
    return "bad" if measure.value > _FAR else "warn" if measure.value > _MOVED else "good"
