"""After release: look at a project's model, keep what was found, and tell what is beyond a declared threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch.alerts import Check, checks, tell
from batch.landing_topics import land
from batch.watch_report import page
from batch.watched import PERIODS, Watched
from batch.watching import Stores, watch
from features.declaration import Project
from features.times import SECOND, to_micros
from jobs.context import Context
from jobs.show import Steps
from stores.measures import Measure, Measures


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was found, and every declared threshold with whether it is crossed."""

    found: Watched
    checks: list[Check]


def watch_project(context: Context, project: Project, steps: Steps, since: int | None = None, html: Path | None = None, *, landed: bool = False) -> Looked:
    """Land (unless that was done), look, and keep it: measures, metrics of each version's run, alerts, and a page where `html` says."""
    if not landed:
        steps.step("landing what the topics hold")
        land(context.spark, context.lake, context.bus, project, context.settings.times, steps, context.gate(project))
    measures = Measures.of(context.settings.views)
    stores = Stores(spark=context.spark, lake=context.lake, views=context.views, models=context.models, measures=measures)
    found = watch(stores, project, steps, since)
    _log(context, found, _known_periods(measures, found))
    measures.write(found.measures())
    judged = tell(context.bus, measures, project, found.at, checks(project, found))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(found, judged), encoding="utf-8")
    return Looked(found=found, checks=judged)


def _known_periods(measures: Measures, found: Watched) -> list[Measure]:
    """Accuracy over time as the looks before left it."""
    starts = [one.period for one in found.accuracy if one.period is not None]
    names = (found.metric, "labels") if starts else ()
    return [one for name in names for one in measures.history(found.project, PERIODS, name, min(starts))]


def _log(context: Context, found: Watched, known: Sequence[Measure]) -> None:
    """Metrics of each version's run, of those that the registry still has."""
    there = {entry.version for entry in context.models.list(found.project)}
    for version, metrics in found.logged().items():
        if version in there:
            context.models.measured(found.project, version, metrics, found.at)
    # At the start of the period, with the moment of the look as step: what labels that came later correct is the latest.
    for (version, start), metrics in found.news_of_periods(known).items():
        if version in there:
            context.models.measured(found.project, version, metrics, to_micros(start), found.at // SECOND)
