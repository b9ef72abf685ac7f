"""After release: look at a project's model, keep what was found, and tell what is beyond a declared threshold."""

from dataclasses import dataclass
from pathlib import Path

from batch.alerts import Check, checks, tell
from batch.landing_topics import land
from batch.watch_report import page
from batch.watched import Watched
from batch.watching import Stores, watch
from features.declaration import Project
from jobs.context import Context
from jobs.show import Steps
from stores.measures import Measures


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
    measures.write(found.measures())
    known = {entry.version for entry in context.models.list(project.name)}
    for version, metrics in found.logged().items():
        if version in known:
            context.models.measured(project.name, version, metrics, found.at)
    judged = tell(context.bus, measures, project, found.at, checks(project, found))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(found, judged), encoding="utf-8")
    return Looked(found=found, checks=judged)
