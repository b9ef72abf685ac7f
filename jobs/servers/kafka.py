"""The embedded Kafka: one broker that is its own controller."""

import base64
import uuid
from pathlib import Path

from anabranch.stores.kafka.bus import is_answering
from jobs.servers.server import CONF, Server, class_path, format_storage, java, write_configuration
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings


def kafka_server(settings: Settings) -> Server:
    """Kafka's one process."""
    servers, home = settings.servers, settings.data / "kafka"
    return Server(
        name="kafka",
        port=servers.kafka_port,
        ports={"kafka_port": servers.kafka_port, "kafka_controller_port": servers.kafka_controller_port},
        home=home,
        command=lambda: [*_java(settings), "kafka.Kafka", str(home / "server.properties")],
        prepare=lambda: _prepare(settings, home),
        ready=lambda: is_answering(f"{LOOPBACK}:{servers.kafka_port}"),
        yours=None if settings.kafka_embedded else settings.bus.bootstrap_servers,
    )


def _java(settings: Settings) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={(CONF / 'log4j2-kafka.properties').as_uri()}"
    jars = class_path(settings.jars / "kafka")
    return java(settings.servers.kafka_heap, jars, "-Xms64m", "-XX:+UseSerialGC", logging)


def _prepare(settings: Settings, home: Path) -> None:
    """Write the properties and, the first time, format the storage."""
    properties, servers = home / "server.properties", settings.servers
    ports = {"port": servers.kafka_port, "controller_port": servers.kafka_controller_port}
    write_configuration("kafka.properties", properties, data=home / "log", **ports)
    if (home / "log" / "meta.properties").exists():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    cluster = f"A{cluster[1:]}" if cluster.startswith("-") else cluster  # not to be read as an option
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    format_storage([*_java(settings), *tool], f"Kafka's storage in {home / 'log'}")
