"""After release: look at a project's model, keep the findings, raise alerts beyond thresholds."""

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
from batch.watching.alerts import ThresholdCheck, checks, raise_alerts
from batch.watching.findings import PERIODS, Findings
from batch.watching.look import watch
from batch.watching.page import page
from jobs.flows.landing import land_topics
from jobs.show import Steps
from jobs.wiring.context import Context

log = logging.getLogger(__name__)
WATCH = "watch"
"""The subject of measures about the looks themselves."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The findings, and every declared threshold with whether it is crossed."""

    findings: Findings
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
    """Land (unless `landed`), look, and keep the findings.

    They become measures, metrics of each version's run, alerts, and a page in the file `html`.
    """
    if not landed:
        steps.step("landing what the topics hold")
        land_topics(context, project, steps)
    findings = watch(context, project, steps, since)
    _log(context, findings, _known_periods(context.measures, findings))
    context.measures.write(findings.measures())
    judged = raise_alerts(context, project, findings.at, checks(project, findings))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(findings, judged), encoding="utf-8")
    return Looked(findings=findings, checks=judged)


@dataclass(kw_only=True)
class Watching:
    """Looks on a schedule. One that fails is logged and counted, and the next one comes all the same.

    Each leaves the measures ``failed`` (1 or 0) and ``seconds`` of the subject ``watch``.
    """

    context: Context
    steps: Steps
    html: Path | None = None
    looks: int = 0
    failed: int = 0

    def look(self, name: str) -> None:
        """Look at a project, if it has a champion; raises AnabranchError when Spark has ended."""
        started, why = time.monotonic(), None
        self.looks += 1
        try:
            project = self.context.project(name)
            if project.model is None or self.context.models.champion(name) is None:
                self.steps.step(f"{name} has no champion to look at yet")
                return
            looked = watch_project(self.context, project, self.steps, html=self.html)
            self.steps.step(escape(sentence(looked)))
        except Exception as error:  # whatever it was, later looks must go on
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
            measures = [
                Measure(project=name, subject=WATCH, name=each, at=at, value=value)
                for each, value in values.items()
            ]
            self.context.measures.write(measures)
        except AnabranchError as error:
            log.warning("how the look at %s went is not kept: %s", name, error)

    def _has_spark(self) -> bool:
        """False when there was a session and its JVM has ended."""
        if "spark" not in self.context.__dict__:
            return True
        return not has_ended(self.context.spark)


def sentence(looked: Looked) -> str:
    """A look in one sentence."""
    findings = looked.findings
    labels = sum(each.labels for each in findings.accuracy if not each.part and each.period is None)
    predictions = sum(findings.predictions.values())
    text = f"watched {findings.project}: {predictions:,} predictions, {labels:,} judged by labels"
    alerts = ", ".join(_alert(check) for check in looked.checks if check.crossed)
    return f"{text}; beyond thresholds: {alerts}" if alerts else text


def _alert(check: ThresholdCheck) -> str:
    news = ", new" if check.news else ""
    return f"{check.what} {check.which}".strip() + f" {check.value:.4g} (threshold {check.threshold:g}{news})"


def _known_periods(measures: Measures, findings: Findings) -> list[Measure]:
    """Accuracy over time as earlier looks left it."""
    starts = [one.period for one in findings.accuracy if one.period is not None]
    names = (findings.metric, "labels") if starts else ()
    return [one for name in names for one in measures.history(findings.project, PERIODS, name, min(starts))]


def _log(context: Context, findings: Findings, known: Sequence[Measure]) -> None:
    """Add the findings to the run of each version that the registry still has."""
    known_versions = {entry.version for entry in context.models.list(findings.project)}
    for version, metrics in findings.registry_metrics().items():
        if version in known_versions:
            context.models.log_measures(findings.project, version, metrics, findings.at)
    # Timed at the start of the period, with the look as step: labels that arrive later correct the value.
    for (version, start), metrics in findings.changed_periods(known).items():
        if version in known_versions:
            context.models.log_measures(
                findings.project, version, metrics, to_micros(start), findings.at // SECOND
            )
