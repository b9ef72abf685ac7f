"""Measures on pages: the latest of each as a table, what they have been of late as lines."""

from collections import defaultdict
from collections.abc import Sequence

from anabranch.answers.delays import STREAM
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import to_micros
from serving.api.facts import Missing, ProjectFacts
from serving.site.charts import sparkline
from serving.site.markup import Content, Markup, section, table, tag
from serving.site.shown import age, missing, number, pill

_MOST = 100
ALERTS = "alerts"
"""The subject of measures that are 1 while an alert stands."""
DRIFT = "psi"
"""The name of measures that say how far a distribution has moved."""
_MOVED, _FAR = 0.1, 0.25  # as is customary for the population stability index


def measured(found: ProjectFacts) -> Markup:
    """The latest measures, with what they were before."""
    if isinstance(found.measures, Missing):
        return section("Measures", missing(found.measures), name="measures")
    told = [one for one in found.measures if one.subject not in (ALERTS, STREAM)]
    if not told:
        return section("Measures", tag("p", "Nothing has been measured yet.", class_="soft"), name="measures")
    lines = _lines(() if isinstance(found.histories, Missing) else found.histories)
    rows: list[tuple[Content, ...]] = [
        (
            f"{one.subject}: {one.name}",
            one.slice or "all",
            one.version,
            _value(one),
            sparkline(lines[_which(one)], title=f"{one.name} of {one.slice or one.subject} over time"),
            f"{age(found.now - to_micros(one.at))} ago",
        )
        for one in told[:_MOST]
    ]
    left = len(told) - len(rows)
    more = tag("p", f"{left} more are in /metrics.", class_="soft") if left > 0 else None
    heads = ("measure", "of", "version", "latest", "30 days", "measured")
    return section(
        "Measures",
        table(heads, rows, numbers=(3,), caption="Accuracy, drift, skew and approximation, as last measured"),
        more,
        name="measures",
    )


def standing(found: ProjectFacts) -> list[str]:
    """The alerts that stand: what crossed its declared threshold, and has not come back since."""
    if isinstance(found.measures, Missing):
        return []
    return [
        f"{one.name} of {one.slice}" if one.slice else one.name
        for one in found.measures
        if one.subject == ALERTS and one.value
    ]


def worst_drift(found: ProjectFacts) -> Markup | None:
    """The largest drift among the latest measures; None where none was measured."""
    moved = (
        []
        if isinstance(found.measures, Missing)
        else [one for one in found.measures if one.name == DRIFT and one.subject != ALERTS]
    )
    if not moved:
        return None
    worst = max(moved, key=lambda one: one.value)
    return tag(
        "span",
        _value(worst),
        tag("span", f" {DRIFT}{f' of {worst.slice}' if worst.slice else ''}", class_="soft"),
    )


def _value(one: Measure) -> Content:
    if one.name != DRIFT:
        return number(one.value)
    return pill(number(one.value), "bad" if one.value > _FAR else "warn" if one.value > _MOVED else "good")


def _which(one: Measure) -> tuple[str, str, str]:
    # A line goes on from one version to the next.
    return one.subject, one.name, one.slice


def _lines(history: Sequence[Measure]) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for one in history:
        found[_which(one)].append((one.at.timestamp(), one.value))
    return found
