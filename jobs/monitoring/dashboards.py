"""The dashboards of Grafana, declared once: `python -m jobs.monitoring.dashboards` writes docker/ from here.

It writes the rules of Prometheus beside them. Grafana's own SDK makes the documents (the group `dev` has it).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.monitoring.configuration import alertmanager_document, as_yaml
from jobs.monitoring.rules import TARGET, missed_series, rule_groups

_SOURCE = "prometheus"
_OBJECTIVE = "{{project}} {{objective}}"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_ABOUT = "Written by 'make dashboards' from jobs/monitoring/rules.py: change it there."
_WEBHOOKS = (
    "Written by 'make dashboards': add webhook_configs to the receiver 'webhooks' in a copy of your own."
)


@dataclass(frozen=True)
class Panel:
    """One panel: a title, the unit of its axis (Grafana's name), and its queries by their legend."""

    title: str
    unit: str
    queries: dict[str, str]


@dataclass(frozen=True)
class Board:
    """One dashboard: its panels stand in rows of three."""

    uid: str
    title: str
    graphs: tuple[Panel, ...]


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le, route) (rate(anabranch_request_seconds_bucket[1m])))"


BOARDS = (
    Board(
        "anabranch",
        "Anabranch: answers",
        (
            Panel(
                "Answers a second",
                "reqps",
                {"{{route}} {{project}}": "sum by (route, project) (rate(anabranch_requests_total[1m]))"},
            ),
            Panel(
                "Latency of an answer, p50 and p99",
                "s",
                {"p50 {{route}}": _quantile(0.5), "p99 {{route}}": _quantile(0.99)},
            ),
            Panel(
                "Errors and degraded answers a second",
                "reqps",
                {
                    "{{route}} {{status}}": "sum by (route, status) "
                    '(rate(anabranch_requests_total{status!~"2.."}[1m]))',
                    "degraded {{project}}": "sum by (project) (rate(anabranch_degraded_answers_total[1m]))",
                },
            ),
            Panel(
                "Predictions waiting, and lost in five minutes",
                "short",
                {
                    "waiting": "sum(anabranch_predictions_buffered)",
                    "lost {{reason}}": "sum by (reason) (increase(anabranch_predictions_dropped_total[5m]))",
                },
            ),
            Panel(
                "REST servers that can be scraped, and stores left alone",
                "short",
                {"{{instance}}": 'up{job="rest"}', "{{store}}": "max by (store) (anabranch_breaker_open)"},
            ),
            Panel(
                "Model version served",
                "short",
                {"{{project}} {{version}}": "max by (project, version) (anabranch_model_served)"},
            ),
            Panel(
                "Accuracy, drift, skew",
                "short",
                {
                    "{{project}} {{subject}} {{name}} {{slice}}": "max by (project, subject, name, slice) "
                    "(anabranch_measure)"
                },
            ),
            Panel(
                "Answers compared with a version on trial, a second",
                "reqps",
                {
                    "{{project}} {{kind}} {{label}}": "sum by (project, kind, label) "
                    "(rate(anabranch_trial_compared_total[5m]))"
                },
            ),
        ),
    ),
    Board(
        "anabranch-river",
        "Anabranch: stream, jobs and machines",
        (
            Panel(
                "Events a second",
                "short",
                {"{{project}}.{{source}}": "anabranch_stream_events_per_second"},
            ),
            Panel(
                "Unread messages",
                "short",
                {"{{project}}.{{source}}": "sum by (project, source) (anabranch_stream_lag)"},
            ),
            Panel("Length of a micro-batch", "s", {"{{project}}.{{source}}": "anabranch_stream_seconds"}),
            Panel("State of the stream", "bytes", {"{{project}}.{{source}}": "anabranch_stream_state_bytes"}),
            Panel(
                "Age of the batch's cut",
                "s",
                {"{{project}}": "max by (project) (time() - anabranch_batch_cut_seconds)"},
            ),
            Panel(
                "How long the last run of a job took, and its failures",
                "s",
                {
                    "{{verb}} {{project}}": "anabranch_job_duration_seconds",
                    "failures of {{verb}} {{project}}": "anabranch_job_failures_total",
                },
            ),
            Panel(
                "Since a job last succeeded",
                "s",
                {"{{verb}} {{project}}": "time() - (anabranch_job_succeeded_seconds > 0)"},
            ),
            Panel(
                "Free disk",
                "percentunit",
                {"{{place}}": "anabranch_disk_free_bytes / anabranch_disk_bytes"},
            ),
            Panel("Servers that answer", "short", {"{{server}}": "anabranch_server_up"}),
        ),
    ),
    Board(
        "anabranch-objectives",
        "Anabranch: objectives",
        (
            Panel(
                "Error budget burnt, of one that is spent in 30 days",
                "short",
                {
                    f"{_OBJECTIVE} over {span}": f"{missed_series(span)} / (1 - {TARGET})"
                    for span in ("5m", "1h", "6h", "1d")
                },
            ),
            Panel(
                "Kept over the last hour",
                "percentunit",
                {_OBJECTIVE: f"1 - {missed_series('1h')}", "promised {{objective}}": TARGET},
            ),
            Panel(
                "Freshness: how far behind, and what is promised",
                "s",
                {
                    "{{project}} {{channel}}": "max by (project, channel) (anabranch_freshness_seconds)",
                    "{{project}} {{channel}} promised": "max by (project, channel) "
                    "(anabranch_freshness_promised_seconds)",
                },
            ),
        ),
    ),
)


def board_document(board: Board) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    from grafana_foundation_sdk.builders.dashboard import Dashboard
    from grafana_foundation_sdk.builders.prometheus import Dataquery
    from grafana_foundation_sdk.builders.timeseries import Panel
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos

    source = DataSourceRef(type_val="prometheus", uid=_SOURCE)
    made = Dashboard(board.title).uid(board.uid).tags(["anabranch"]).refresh("10s").time("now-1h", "now")
    for number, graph in enumerate(board.graphs):
        row, column = divmod(number, _COLUMNS)
        place = GridPos(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        panel = Panel().title(graph.title).unit(graph.unit).datasource(source).grid_pos(place).id(number + 1)
        for letter, (legend, expression) in zip("ABCDEFGH", graph.queries.items(), strict=False):
            panel.with_target(Dataquery().ref_id(letter).expr(expression).legend_format(legend))
        made.with_panel(panel)
    document: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True, indent=1).encode(made.build()))
    return document


def write_files(docker: Path) -> None:
    """Write the dashboards, the rules and Alertmanager's configuration below docker/."""
    for board in BOARDS:
        text = json.dumps(board_document(board), indent=1)
        file = docker / "grafana" / "dashboards" / f"{board.uid}.json"
        file.write_text(f"{text}\n", encoding="utf-8")
    (docker / "prometheus" / "rules.yaml").write_text(as_yaml(rule_groups(), _ABOUT), encoding="utf-8")
    alertmanager = as_yaml(alertmanager_document(()), _WEBHOOKS)
    (docker / "prometheus" / "alertmanager.yaml").write_text(alertmanager, encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(__file__).resolve().parents[2] / "docker")
