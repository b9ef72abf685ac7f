"""After release: look at a project's model, keep what was found, and tell what is beyond a declared threshold."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.jvm import has_ended
from anabranch.values.times import SECOND, from_micros, now_micros, to_micros
from batch.landing.topics import land
from batch.watching.alerts import ThresholdCheck, checks, tell
from batch.watching.findings import PERIODS, Watched
from batch.watching.look import Stores, watch
from batch.watching.page import page
from jobs.show import Steps
from jobs.wiring.context import Context

log = logging.getLogger(__name__)
WATCH = "watch"
"""The subject of measures of the looks themselves."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was found, and every declared threshold with whether it is crossed."""

    found: Watched
    checks: list[ThresholdCheck]


def watch_project(
    context: Context,
    project: Project,
    steps: Steps,
    since: int | None = None,
    html: Path | None = None,
    *,
    landed: bool = False,
) -> Looked:
    """Land (unless that was done), look, and keep it: measures, metrics of each version's run, alerts, and a page where `html` says."""
    if not landed:
        steps.step("landing what the topics hold")
        land(
            context.spark,
            context.lake,
            context.bus,
            project,
            context.settings.times,
            steps,
            context.gate(project),
        )
    measures = Measures.of(context.settings.views)
    stores = Stores(
        spark=context.spark, lake=context.lake, views=context.views, models=context.models, measures=measures
    )
    found = watch(stores, project, steps, since)
    _log(context, found, _known_periods(measures, found))
    measures.write(found.measures())
    judged = tell(context.bus, measures, project, found.at, checks(project, found))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(found, judged), encoding="utf-8")
    return Looked(found=found, checks=judged)


@dataclass(kw_only=True)
class Watching:
    """Looks on a schedule: what goes wrong with one is logged, measured and told, and is not the end of the
    next.

    Kept as measures of the subject ``watch``: ``failed`` (1 or 0) and ``seconds`` of each project's last
    look.
    """

    context: Context
    steps: Steps
    html: Path | None = None
    looks: int = 0
    failed: int = 0

    def look(self, name: str) -> None:
        """Look at a project, if it has a champion. Raises AnabranchError when Spark is gone: no look can come any more."""
        started, why = time.monotonic(), None
        self.looks += 1
        try:
            project = self.context.project(name)
            if project.model is None or self.context.models.champion(name) is None:
                self.steps.step(f"{name} has no champion to look at yet")
                return
            looked = watch_project(self.context, project, self.steps, html=self.html)
            self.steps.step(escape(said(looked)))
        except Exception as error:  # whatever it was, later looks must not wait for somebody to notice
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("the look at %s failed: %s", name, why, exc_info=log.isEnabledFor(logging.INFO))
            self.failed += 1
        self._keep(name, why is not None, time.monotonic() - started)
        if why is not None and not self._has_spark():
            raise AnabranchError(
                f"Spark ended while {name} was looked at ({why}): start 'anabranch watch' again"
            )

    def _keep(self, name: str, failed: bool, seconds: float) -> None:
        at = from_micros(now_micros())
        values = {"failed": float(failed), "seconds": seconds}
        try:
            found = [
                Measure(project=name, subject=WATCH, name=each, at=at, value=value)
                for each, value in values.items()
            ]
            Measures.of(self.context.settings.views).write(found)
        except AnabranchError as error:
            log.warning("how the look at %s went is not kept: %s", name, error)

    def _has_spark(self) -> bool:
        """False when there was a session and its JVM has ended."""
        if "spark" not in self.context.__dict__:
            return True
        return not has_ended(self.context.spark)


def said(looked: Looked) -> str:
    """One sentence."""
    found, crossed = looked.found, [one for one in looked.checks if one.crossed]
    labels = sum(one.labels for one in found.accuracy if not one.part and one.period is None)
    text = f"watched {found.project}: {sum(found.predictions.values()):,} predictions, {labels:,} judged by labels"
    alerts = ", ".join(
        f"{one.what} {one.which}".strip()
        + f" {one.value:.4g} (threshold {one.threshold:g}{', new' if one.news else ''})"
        for one in crossed
    )
    return f"{text}; beyond thresholds: {alerts}" if alerts else text


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
            context.models.log_measures(found.project, version, metrics, found.at)
    # At the start of the period, with the moment of the look as step: what labels that came later correct is
    # the latest.
    for (version, start), metrics in found.news_of_periods(known).items():
        if version in there:
            context.models.log_measures(found.project, version, metrics, to_micros(start), found.at // SECOND)
