"""The embedded Airflow: its API server, scheduler, DAG processor and triggerer, over the embedded PostgreSQL.

data/airflow/airflow.cfg       conf/airflow.cfg with addresses and keys, written at each start
data/airflow/keys.json         what its processes sign with, generated at the first start
data/airflow/passwords.json    the password of `admin`, generated at the first start
data/airflow/connections.json  how its triggerer reaches Kafka

Nobody else can read these files.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from string import Template
from typing import Any
from urllib.request import urlopen

from anabranch.errors import UnavailableError
from jobs.servers.postgres import postgres_server
from jobs.servers.processes import wait_until
from jobs.servers.server import CONF, Server, ServerError
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import ROOT, Settings, database_uri

PROGRAM = ROOT / ".anabranch" / "airflow-env" / "bin" / "airflow"
"""Airflow's command, in the environment that `make setup WITH=airflow` makes."""
ADMINISTRATOR = "admin"


def airflow_api(settings: Settings) -> Server:
    """The API server and the pages; before it starts, it moves the database to its schema."""
    return _server(settings, "api", "api-server", "metadatabase", first=True)


def airflow_scheduler(settings: Settings) -> Server:
    """The scheduler, whose own processes run the tasks."""
    return _server(settings, "scheduler", "scheduler --skip-serve-logs", "scheduler")


def airflow_dag_processor(settings: Settings) -> Server:
    """The process that reads the DAGs."""
    return _server(settings, "dags", "dag-processor", "dag_processor")


def airflow_triggerer(settings: Settings) -> Server:
    """The process that waits for messages."""
    return _server(settings, "triggerer", "triggerer --skip-serve-logs", "triggerer")


def _server(settings: Settings, name: str, words: str, part: str, *, first: bool = False) -> Server:
    servers, home = settings.servers, settings.data / "airflow"
    return Server(
        name=f"airflow-{name}",
        port=servers.airflow_port,
        ports={"airflow_port": servers.airflow_port} if first else {},
        home=home,
        command=lambda: [*_environment(home), _program(), *words.split()],
        prepare=lambda: _prepare(settings, home) if first else None,
        ready=lambda: _health(servers.airflow_port).get(part, {}).get("status") == "healthy",
        scheme="http://",
    )


def _program() -> str:
    if not PROGRAM.exists():
        raise ServerError(
            f"there is no Airflow at {PROGRAM}: run 'make setup WITH=airflow', which fetches it"
        )
    return str(PROGRAM)


def _environment(home: Path) -> list[str]:
    # The folder of its programs is on no path: its Python is another one than that of the jobs.
    return ["env", f"AIRFLOW_HOME={home}", f"ANABRANCH_PROGRAMS={Path(sys.executable).parent}"]


def _prepare(settings: Settings, home: Path) -> None:
    if not wait_until(postgres_server(settings).ready, settings.servers.start_limit_seconds):
        raise ServerError("Airflow's database does not answer: run 'anabranch up --with postgres,airflow'")
    keys = _kept(home / "keys.json", ("secret_key", "jwt_secret"))
    _write(home / "airflow.cfg", configuration(settings, keys))
    _write(home / "connections.json", json.dumps({"kafka_default": _kafka(settings)}))
    _kept(home / "passwords.json", (ADMINISTRATOR,))
    _make_topic(settings)
    move = [*_environment(home), _program(), "db", "migrate"]
    done = subprocess.run(move, capture_output=True, text=True, check=False, cwd=home)
    if done.returncode != 0:
        raise ServerError(f"Airflow's database cannot be moved to its schema: {done.stderr.strip()[-600:]}")


def _make_topic(settings: Settings) -> None:
    """Create the topic that the triggerer waits at; Kafka may still be starting."""
    from anabranch.stores.kafka.bus import Bus
    from anabranch.stores.kafka.training_topics import REQUESTS

    def made() -> bool:
        try:
            with closing(Bus(settings.bus)) as bus:
                bus.ensure_topics([REQUESTS])
        except UnavailableError:
            return False
        return True

    if not wait_until(made, settings.servers.start_limit_seconds):
        raise ServerError(
            f"Airflow waits for messages on {REQUESTS}, and Kafka at {settings.bus.bootstrap_servers} does "
            "not answer: start it (anabranch up), or correct bus.bootstrap_servers"
        )


def configuration(settings: Settings, keys: Mapping[str, str]) -> str:
    """The text of airflow.cfg for these settings; `keys` are what its processes sign with."""
    servers, home = settings.servers, settings.data / "airflow"
    values = {
        "dags": ROOT / "jobs" / "schedules",
        "tasks": servers.airflow_tasks,
        "administrator": ADMINISTRATOR,
        "home": home,
        "database": database_uri("airflow", settings.data, servers.postgres_port),
        "host": LOOPBACK,
        "port": servers.airflow_port,
        "address": f"http://{LOOPBACK}:{servers.airflow_port}",
        "logs": settings.data / "logs" / "airflow",
    }
    return Template((CONF / "airflow.cfg").read_text(encoding="utf-8")).substitute({**values, **keys})


def _kept(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Secrets of a file by name, which is written with new ones at the first start."""
    if not file.exists():
        _write(file, json.dumps({name: secrets.token_urlsafe(36) for name in names}))
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _kafka(settings: Settings) -> dict[str, Any]:
    bus = settings.bus
    named = {"bootstrap.servers": bus.bootstrap_servers, "group.id": "anabranch-airflow"}
    extra = {**named, "auto.offset.reset": "earliest", "enable.auto.commit": "false", **bus.security}
    return {"conn_type": "kafka", "extra": extra}


def _write(file: Path, text: str) -> None:
    """Write a file that nobody else can read, whole or not at all."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    draft.replace(file)


def _health(port: int) -> dict[str, dict[str, str]]:
    try:
        with urlopen(f"http://{LOOPBACK}:{port}/api/v2/monitor/health", timeout=5) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return {}
