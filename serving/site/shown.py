"""How pages write values: ages, numbers, states of freshness, troubles."""

from collections.abc import Mapping
from typing import Any

from anabranch.values.times import DAY, HOUR, MINUTE, SECOND, format_time
from serving.api.context import ModelEntry
from serving.api.facts import Missing, ProjectFacts
from serving.api.live import Served
from serving.api.promises import kept
from serving.site.markup import Markup, tag

NOTHING = tag("span", "–", class_="soft")


def age(micros: int) -> str:
    """A length of time in the unit that people would use."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if micros >= 2 * unit:
            return f"{micros // unit} {name}"
    return f"{max(micros, 0) / SECOND:.0f} s"


def moment(micros: int) -> Markup:
    """A time, to the second."""
    text = format_time(micros)
    return tag("time", f"{text[:10]} {text[11:19]} UTC", datetime=text)


def number(value: object) -> str:
    """A number in as many digits as tell something; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def value(of: object) -> object:
    """A feature's value, or a dash."""
    if of is None:
        return NOTHING
    return ", ".join(number(one) for one in of) if isinstance(of, list) else number(of)


def state(found: ProjectFacts) -> Markup:
    """Fresh or not, as one word."""
    if found.served.troubles:
        return pill("trouble", "bad")
    if found.served.manifest is None:
        return pill("no batch yet", "warn")
    fresh = kept(found.freshness)
    return pill("fresh", "good") if fresh else pill("stale", "bad") if fresh is False else pill("serving", "")


def pill(text: str, kind: str) -> Markup:
    """A word in colour; the word says it too."""
    return tag("span", text, class_=f"pill {kind}".strip())


def batch_age(served: Served, now: int) -> str:
    """How long ago the cut of the batch was."""
    return age(now - served.manifest.cut) if served.manifest is not None else ""


def metric(served: Served, model: ModelEntry | Missing | None) -> tuple[str, str]:
    """Name and value of the metric that the project is judged by; empty when there is none."""
    declared = served.project.model
    if (
        declared is None
        or model is None
        or isinstance(model, Missing)
        or declared.metric not in model.metrics
    ):
        return "", ""
    return declared.metric, f"{model.metrics[declared.metric]:.4f}"


def troubles(found: ProjectFacts) -> list[Markup]:
    """What is wrong now, on top of a page."""
    said: Mapping[str, Any] = found.served.troubles
    return [tag("p", tag("b", f"{what}: "), why, class_="note", role="status") for what, why in said.items()]


def missing(found: Missing) -> Markup:
    """A part that could not be read."""
    return tag("p", f"Not known now: {found.why}", class_="note", role="status")
