"""The embedded Prometheus and Alertmanager, Debian's programs, and the exporter of what no server shows."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from anabranch.settings import show_duration
from jobs.monitoring.targets import write_targets
from jobs.servers.server import Server, ServerError
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import ROOT, Settings

PROGRAMS = ROOT / ".anabranch" / "programs" / "prometheus" / "usr" / "bin"
"""Where `make setup-prometheus` unpacks the programs."""
GIVEN = "given.json"
"""What the exporter's process is started with, in its folder."""


def prometheus_server(settings: Settings) -> Server:
    """Prometheus' one process."""
    servers, home = settings.servers, settings.data / "prometheus"
    return Server(
        name="prometheus",
        port=servers.prometheus_port,
        ports={"prometheus_port": servers.prometheus_port},
        home=home,
        command=lambda: _prometheus(settings, home),
        prepare=lambda: prepare_prometheus(settings),
        ready=lambda: _is_ready(servers.prometheus_port, "/-/ready"),
        scheme="http://",
    )


def alertmanager_server(settings: Settings) -> Server:
    """Alertmanager's one process, without a cluster."""
    servers, home = settings.servers, settings.data / "alertmanager"
    return Server(
        name="alertmanager",
        port=servers.alertmanager_port,
        ports={"alertmanager_port": servers.alertmanager_port},
        home=home,
        command=lambda: [
            *("env", "GOMAXPROCS=1", program("alertmanager")),
            f"--config.file={home / 'alertmanager.yaml'}",
            f"--storage.path={home / 'data'}",
            f"--web.listen-address={LOOPBACK}:{servers.alertmanager_port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ],
        prepare=lambda: prepare_alertmanager(settings),
        ready=lambda: _is_ready(servers.alertmanager_port, "/-/ready"),
        scheme="http://",
    )


def exporter_server(settings: Settings) -> Server:
    """The process that shows what jobs left behind, disks, and whether Kafka and Cassandra answer."""
    servers, home = settings.servers, settings.data / "exporter"
    return Server(
        name="exporter",
        port=servers.exporter_port,
        ports={"exporter_port": servers.exporter_port},
        home=home,
        command=lambda: [sys.executable, "-m", "jobs.servers.exporter", str(home)],
        prepare=lambda: _prepare_exporter(settings, home),
        ready=lambda: _is_ready(servers.exporter_port, "/metrics"),
        scheme="http://",
    )


def program(name: str) -> str:
    """A program of Prometheus: the one unpacked here, else that of the path; raises ServerError without."""
    # Debian's alertmanager has a longer name than everybody else's.
    names = (name, f"prometheus-{name}")
    ours = (str(PROGRAMS / each) for each in names if (PROGRAMS / each).exists())
    found = next(ours, None) or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise ServerError(
            f"{name} is not found: run 'make setup-prometheus', which unpacks Debian's packages, or install "
            "Prometheus and Alertmanager and put them on the PATH"
        )
    return found


def prepare_prometheus(settings: Settings, *, waits: bool = True) -> None:
    """Write Prometheus' configuration and rules; raises ServerError for what promtool refuses."""
    from jobs.monitoring.configuration import RULES, as_yaml, prometheus_document
    from jobs.monitoring.rules import rule_groups

    servers, home = settings.servers, settings.data / "prometheus"
    document = prometheus_document(
        data=settings.data,
        interval=show_duration(servers.prometheus_interval_seconds),
        prometheus=f"{LOOPBACK}:{servers.prometheus_port}",
        alertmanager=f"{LOOPBACK}:{servers.alertmanager_port}",
        key_file=str((ROOT / servers.prometheus_key_file).resolve()) if servers.prometheus_key_file else "",
    )
    home.mkdir(parents=True, exist_ok=True)
    (home / RULES).write_text(as_yaml(rule_groups(waits=waits)), encoding="utf-8")
    (home / "prometheus.yaml").write_text(as_yaml(document), encoding="utf-8")
    checked = subprocess.run(
        [program("promtool"), "check", "config", "--lint=none", str(home / "prometheus.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode != 0:
        raise ServerError(f"promtool refuses the configuration: {' '.join(checked.stderr.split())[-600:]}")


def prepare_alertmanager(settings: Settings, *, waits: bool = True) -> None:
    """Write Alertmanager's configuration, readable by its owner alone: addresses of webhooks are secrets."""
    from anabranch.stores.webhooks.addresses import read_webhook
    from jobs.monitoring.configuration import alertmanager_document, as_yaml

    home = settings.data / "alertmanager"
    home.mkdir(parents=True, exist_ok=True)
    for template in (PROGRAMS.parent / "share" / "prometheus" / "alertmanager").glob("*.tmpl"):
        shutil.copy(template, home)
    webhooks = [read_webhook(text) for text in settings.alerts.webhooks]
    _write_secret(home / "alertmanager.yaml", as_yaml(alertmanager_document(webhooks, waits=waits)))


def _prometheus(settings: Settings, home: Path) -> list[str]:
    servers = settings.servers
    address = f"{LOOPBACK}:{servers.prometheus_port}"
    return [
        *("env", "GOMAXPROCS=1", program("prometheus")),
        f"--config.file={home / 'prometheus.yaml'}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--storage.tsdb.retention.time={servers.prometheus_days}d",
        f"--storage.tsdb.retention.size={servers.prometheus_megabytes}MB",
        f"--web.listen-address={address}",
        # An alert that fires before Prometheus has found Alertmanager is lost until it is sent again.
        f"--rules.alert.resend-delay={min(60, 4 * servers.prometheus_interval_seconds)}s",
        # No page of another origin may read what it answers.
        f"--web.cors.origin=http://{address}",
        "--log.level=warn",
    ]


def _prepare_exporter(settings: Settings, home: Path) -> None:
    place = f"{LOOPBACK}:{settings.servers.exporter_port}"
    given = {
        "place": place,
        "data": str(settings.data),
        "lake": settings.lake.root,
        "bus": asdict(settings.bus),
        "views": asdict(settings.views),
    }
    (home / GIVEN).unlink(missing_ok=True)
    # It may hold a password: nobody else can read it, and the exporter removes it when it has.
    _write_secret(home / GIVEN, json.dumps(given))
    write_targets(settings.data, "exporter", "this-machine", [place])


def _write_secret(file: Path, text: str) -> None:
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    draft.replace(file)


def _is_ready(port: int, path: str) -> bool:
    try:
        with urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
