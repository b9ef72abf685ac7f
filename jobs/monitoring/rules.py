"""The rules of Prometheus, each declared once: alerts about operation, and error budgets of objectives.

Alerts about models are thresholds of the project's `Watch`; here one rule passes on those that stand.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from anabranch.stores.webhooks.addresses import WATCH_ALERT
from serving.api.budgets import EVENTS, KEPT_SERIES


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alerting rule: it fires when `expr` has held for `wait`.

    `page` alerts want somebody at once, `ticket` alerts within the day. `summary` says what is wrong and what
    to do, and may use `{{ $labels.name }}`.
    """

    name: str
    expr: str
    summary: str
    wait: str = "0s"
    severity: Literal["page", "ticket"] = "ticket"

    def document(self, waits: bool) -> dict[str, Any]:
        """The rule as Prometheus reads it; `waits=False` fires it at once."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait if waits else "0s",
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary},
        }


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording rule: `expr` is kept as the series `name`."""

    name: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        labels = {"labels": self.labels} if self.labels else {}
        return {"record": self.name, "expr": self.expr, **labels}


SPANS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""The spans over which the missed share is recorded."""
TARGET = "anabranch:objective_target"


def missed_series(span: str) -> str:
    """The series of the share that was missed over a span of `SPANS`."""
    return f"anabranch:objective_missed:ratio{span}"


def _missed_share(span: str) -> str:
    missed, all_of_them = (
        f"sum by (project, objective) (rate({EVENTS}_total{kept}[{span}]))" for kept in ('{kept="no"}', "")
    )
    return f"{missed} / {all_of_them}"


def _burns(*rates: tuple[float, str, str]) -> str:
    """That a budget burns at one of these rates: the rate, the long span that shows it, and a short one that
    shows it has not stopped.
    """
    limits = [f"{rate:g} * (1 - {TARGET})" for rate, _, _ in rates]
    return " or ".join(
        f"({missed_series(long)} > {limit} and {missed_series(short)} > {limit})"
        for (_, long, short), limit in zip(rates, limits, strict=True)
    )


ALERTS = (
    # The rates and spans are those of "The Site Reliability Workbook", chapter 5.
    Alert(
        name="BudgetBurnsFast",
        expr=_burns((14.4, "1h", "5m"), (6, "6h", "30m")),
        severity="page",
        summary="{{ $labels.project }} misses its objective of {{ $labels.objective }} ({{ $value | "
        "humanizePercentage }} over an hour or six): at this rate its budget of 30 days is spent within five",
    ),
    Alert(
        name="BudgetBurnsSlowly",
        expr=_burns((3, "1d", "2h"), (1, "3d", "6h")),
        summary="{{ $labels.project }} misses its objective of {{ $labels.objective }} ({{ $value | "
        "humanizePercentage }} over a day or three): its budget of 30 days will be spent before they end",
    ),
    Alert(
        name="ReplicaDown",
        expr='up{job="rest"} == 0',
        wait="30s",
        severity="page",
        summary="The REST server at {{ $labels.instance }} ended without leaving: read its log, "
        "and start it again",
    ),
    Alert(
        name="TargetDown",
        expr='up{job!="rest"} == 0',
        wait="1m",
        summary="{{ $labels.job }} at {{ $labels.instance }} shows no metrics: start it again, or remove its "
        "file from run/targets in the data folder",
    ),
    Alert(
        name="ServerDown",
        expr="anabranch_server_up == 0",
        wait="30s",
        severity="page",
        summary="{{ $labels.server }} does not answer: see 'anabranch status'",
    ),
    Alert(
        name="StoreLeftAlone",
        expr="max by (store) (anabranch_breaker_open) == 1",
        wait="1m",
        severity="page",
        summary="REST servers have stopped asking the {{ $labels.store }}, which failed: see "
        "'anabranch status'",
    ),
    Alert(
        name="ErrorRate",
        expr='sum by (project) (rate(anabranch_requests_total{status=~"5.."}[5m])) '
        "/ sum by (project) (rate(anabranch_requests_total[5m])) > 0.01",
        wait="2m",
        severity="page",
        summary="{{ $value | humanizePercentage }} of the requests of {{ $labels.project }} fail: the log of "
        "the REST servers says why",
    ),
    Alert(
        name="StreamWaits",
        expr="anabranch_stream_running == 0 unless anabranch_stream_failed == 1",
        wait="2m",
        summary="The stream of {{ $labels.project }}.{{ $labels.source }} waits for a server: see "
        "'anabranch status'",
    ),
    Alert(
        name="StreamFailed",
        expr="anabranch_stream_failed == 1",
        severity="page",
        summary="The stream of {{ $labels.project }}.{{ $labels.source }} was given up while the others "
        "continue: correct the cause, which its log names, and start it again",
    ),
    Alert(
        name="StreamFallsBehind",
        expr="sum by (project, source) (anabranch_stream_lag) > 100000 "
        "and sum by (project, source) (deriv(anabranch_stream_lag[10m])) > 0",
        wait="10m",
        summary="The stream of {{ $labels.project }}.{{ $labels.source }} is falling behind: give it more "
        "cores, or read its log",
    ),
    Alert(
        name="MessagesLost",
        expr="anabranch_stream_lost > 0",
        severity="page",
        summary="Retention removed {{ $value }} messages before {{ $labels.source }} copied them: keep the "
        "topic longer, and land them from elsewhere",
    ),
    Alert(
        name="BatchIsOld",
        expr="max by (project) (time() - anabranch_batch_cut_seconds) > 86400 * 2",
        summary="The batch version of {{ $labels.project }} was cut more than two days ago: run "
        "'anabranch build {{ $labels.project }}'",
    ),
    Alert(
        name="PromiseMissed",
        expr='max by (project, channel) (anabranch_freshness{state="missed"}) == 1',
        wait="1m",
        summary="{{ $labels.project }} is older than declared ({{ $labels.channel }}): build it, or check "
        "its stream",
    ),
    Alert(
        name="DegradedAnswers",
        expr="sum by (project) (rate(anabranch_degraded_answers_total[5m])) > 0",
        wait="2m",
        summary="Answers of {{ $labels.project }} are degraded; their degraded_reason says why",
    ),
    Alert(
        name="PredictionsLost",
        expr="sum by (reason) (increase(anabranch_predictions_dropped_total[10m])) > 0",
        summary="Predictions were not published ({{ $labels.reason }}): check Kafka",
    ),
    Alert(
        name="JobFailed",
        expr="anabranch_job_failed == 1",
        summary="The last 'anabranch {{ $labels.verb }} {{ $labels.project }}' failed: run it again, it "
        "continues where it was safe",
    ),
    Alert(
        name="DiskFills",
        expr="anabranch_disk_free_bytes / anabranch_disk_bytes < 0.1",
        wait="5m",
        severity="page",
        summary="{{ $value | humanizePercentage }} of the disk of {{ $labels.place }} is free: run "
        "'anabranch upkeep', or give it more",
    ),
    Alert(
        name=WATCH_ALERT,
        expr='max by (project, name, slice, version) (anabranch_measure{subject="alerts"}) == 1',
        summary="{{ $labels.name }} {{ $labels.slice }} of {{ $labels.project }} (version {{ $labels.version "
        "}}) is beyond its threshold: run 'anabranch watch {{ $labels.project }}'",
    ),
)
RECORDINGS = (
    Recording(name=TARGET, expr="max by (project, objective) (anabranch_objective_target)"),
    *(Recording(name=missed_series(span), expr=_missed_share(span)) for span in SPANS),
    Recording(
        name="anabranch:objective_events:increase5m",
        expr=f"sum by (project, objective, kept) (increase({EVENTS}_total[5m]))",
    ),
    # Steps of five minutes over what was recorded: a month of raw samples would be millions.
    Recording(name=KEPT_SERIES, expr="sum_over_time(anabranch:objective_events:increase5m[30d:5m])"),
)
"""Error budgets: the missed share over several spans, and the counts of 30 days that pages show."""


def rule_groups(*, waits: bool = True) -> dict[str, Any]:
    """The rules as the document of a rule file; `waits=False` fires alerts at once, for tests."""
    return {
        "groups": [
            {"name": "objectives", "rules": [one.document() for one in RECORDINGS]},
            {"name": "anabranch", "rules": [one.document(waits) for one in ALERTS]},
        ]
    }
