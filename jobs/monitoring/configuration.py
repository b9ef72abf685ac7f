"""The configuration of Prometheus and of Alertmanager as documents, written as YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from anabranch.stores.webhooks.addresses import WATCH_ALERT, Webhook
from jobs.monitoring.targets import JOBS, targets_folder

RULES = "rules.yaml"


def prometheus_document(
    *, data: Path, interval: str, prometheus: str, alertmanager: str, key_file: str = ""
) -> dict[str, Any]:
    """Prometheus' configuration: its targets are those of the files in the data folder's run/targets.

    `interval` is that of scrapes and of rules; `prometheus` and `alertmanager` are places (``host:port``).
    `key_file` has the API key that REST servers are asked with.
    """
    folder = targets_folder(data)
    scraped = []
    for job in JOBS:
        secured = {"authorization": {"credentials_file": key_file}} if job == "rest" and key_file else {}
        scraped.append(
            {"job_name": job, "file_sd_configs": [{"files": [f"{folder}/{job}-*.json"]}], **secured}
        )
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            *scraped,
            {"job_name": "prometheus", "static_configs": [{"targets": [prometheus]}]},
        ],
    }


def alertmanager_document(webhooks: Sequence[Webhook], *, waits: bool = True) -> dict[str, Any]:
    """Alertmanager's configuration: every alert to every webhook that is no Alertmanager itself.

    `anabranch watch` brings its alerts to the webhooks itself, so that they are not sent on from here.
    `waits=False` sends alerts at once, for tests.
    """
    given = [one for one in webhooks if one.kind != "alertmanager"]
    receiver: dict[str, Any] = {"name": "webhooks"}
    plain = [{"url": one.url, "send_resolved": True} for one in given if one.kind == "plain"]
    slack = [{"api_url": one.url, "send_resolved": True, **_SLACK} for one in given if one.kind == "slack"]
    receiver |= {"webhook_configs": plain} if plain else {}
    receiver |= {"slack_configs": slack} if slack else {}
    wait, again = ("10s", "1m") if waits else ("0s", "1s")
    return {
        "route": {
            "receiver": "webhooks",
            "group_by": ["alertname", "project"],
            "group_wait": wait,
            "group_interval": again,
            "repeat_interval": "4h",
            "routes": [{"receiver": "nobody", "matchers": [f"alertname={WATCH_ALERT}"]}],
        },
        "receivers": [receiver, {"name": "nobody"}],
    }


_SLACK = {
    "title": "{{ .Status }}: {{ .CommonLabels.alertname }} {{ .CommonLabels.project }}",
    "text": "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ end }}",
}


def as_yaml(document: Mapping[str, Any], about: str = "") -> str:
    """A document as YAML in its own order, with a comment before it."""
    text: str = yaml.safe_dump(dict(document), sort_keys=False, width=1000, allow_unicode=True)
    return f"# {about}\n{text}" if about else text
