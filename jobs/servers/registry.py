"""The embedded schema registry: Apicurio, which speaks Confluent's API and keeps its schemas in a file."""

import urllib.error
import urllib.request
from pathlib import Path

from jobs.servers.server import Server, ServerError, java
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings

_API = "/apis/ccompat/v7"


def registry_server(settings: Settings) -> Server:
    """Apicurio's one process."""
    servers, home = settings.servers, settings.data / "registry"
    return Server(
        name="registry",
        port=servers.registry_port,
        ports={"registry_port": servers.registry_port},
        home=home,
        command=lambda: _command(settings, home),
        ready=lambda: _answers(servers.registry_port),
        scheme="http://",
    )


def _command(settings: Settings, home: Path) -> list[str]:
    servers = settings.servers
    jars = settings.jars / "registry"
    if not any(jars.glob("*-runner.jar")):
        raise ServerError(
            f"no schema registry in {jars}: run 'make setup-registry', which fetches it (140 MB); "
            "or set bus.schema_registry to your own"
        )
    options = {
        "quarkus.http.host": LOOPBACK,
        "quarkus.http.port": servers.registry_port,
        "quarkus.log.level": "WARN",
        "quarkus.banner.enabled": "false",
        "REGISTRY_DATASOURCE_URL": f"jdbc:h2:file:{home / 'schemas'};DB_CLOSE_ON_EXIT=FALSE",
        "quarkus.datasource.jdbc.initial-size": 2,
        "quarkus.datasource.jdbc.min-size": 2,
        "quarkus.datasource.jdbc.max-size": 8,
    }
    memory = ["-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    given = [f"-D{name}={value}" for name, value in options.items()]
    return [
        *java(servers.registry_heap, f"{jars}/*:{jars}/lib/*", *memory, *given),
        "io.quarkus.runner.GeneratedMain",
    ]


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{_API}/subjects", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
