"""What may soon answer for a project: a declaration that waits for its build, and a version on trial."""

from collections.abc import Mapping
from typing import Any

from anabranch.pages.formats import age
from anabranch.planning.changes import compare
from anabranch.planning.views import plan_views, told
from anabranch.stores.cassandra.measures import by_outcomes
from anabranch.values.times import to_micros
from serving.api.facts import ProjectFacts


def waiting(facts: ProjectFacts) -> dict[str, Any] | None:
    """How the declaration that waits for its build differs from the one that serves."""
    served = facts.served
    if served.waiting is None:
        return None
    manifest = served.manifest
    against = "what serves" if manifest is None else f"batch version {manifest.batch_version}"
    slack = 0 if manifest is None else manifest.slack
    changes = compare(served.project, served.waiting)
    views = plan_views(served.waiting, served.project, manifest, sizes={}, rates={}, slack=slack)
    return {
        "summary": told(served.project.name, against, changes, views),
        "changes": [(one.what, one.name, one.kind, one.text) for one in changes.all],
    }


def trial(facts: ProjectFacts) -> dict[str, Any]:
    """The version on trial, and what labels have said of those that were, the newest first."""
    running, champion = facts.served.trial, facts.served.scorer
    rows = [
        (
            one["version"],
            one["beside"],
            one.get("tried"),
            one.get("champion"),
            f"{one['gain']:+.4f}" if "gain" in one else None,
            _ends(one),
            int(one.get("labels", 0)),
            _needed(one),
            f"{age(facts.now - to_micros(one['at']))} ago",
        )
        for one in reversed(by_outcomes(facts.known_measures))
    ]
    under_way = (running and running.scorer.version, champion and champion.version)
    judged = any(row[:2] == under_way for row in rows)
    return {"running": running, "judged": judged, "rows": rows}


def _needed(outcome: Mapping[str, Any]) -> str:
    """Whether the labels that came tell the versions apart, and else how many more do."""
    needed = outcome.get("needed")
    if needed is None:
        return "not known yet" if "gain" not in outcome else "no difference to prove"
    return f"about {needed:,.0f}" if needed else "none: these are enough"


def _ends(outcome: Mapping[str, Any]) -> str | None:
    low, high = outcome.get("gain_low"), outcome.get("gain_high")
    return None if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
