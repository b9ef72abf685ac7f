"""The embedded Kafka: one broker that is its own controller, or three."""

import base64
import uuid
from pathlib import Path

from anabranch.stores.kafka.bus import is_answering
from jobs.servers.server import CONF, Server, class_path, format_storage, java, write_configuration
from jobs.wiring.sections import node_hosts
from jobs.wiring.settings import Settings


def kafka_server(settings: Settings, number: int = 1) -> Server:
    """The process of one node; all have the same ports, each on an address of its own."""
    servers = settings.servers
    name = "kafka" if number == 1 else f"kafka-{number}"
    home, host = settings.data / name, node_hosts(number)[-1]
    return Server(
        name=name,
        host=host,
        wanted=number <= servers.nodes,
        port=servers.kafka_port,
        ports={"kafka_port": servers.kafka_port, "kafka_controller_port": servers.kafka_controller_port},
        home=home,
        command=lambda: [*_java(settings), "kafka.Kafka", str(home / "server.properties")],
        prepare=lambda: _prepare(settings, home, number),
        ready=lambda: is_answering(f"{host}:{servers.kafka_port}"),
        yours=None if settings.kafka_embedded else settings.bus.bootstrap_servers,
    )


def _java(settings: Settings) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={(CONF / 'log4j2-kafka.properties').as_uri()}"
    jars = class_path(settings.jars / "kafka")
    return java(settings.servers.kafka_heap, jars, "-Xms64m", "-XX:+UseSerialGC", logging)


def _prepare(settings: Settings, home: Path, number: int) -> None:
    """Write the properties and, the first time, format the storage."""
    properties, servers = home / "server.properties", settings.servers
    ports = {"port": servers.kafka_port, "controller_port": servers.kafka_controller_port}
    hosts = node_hosts(servers.nodes)
    voters = [f"{node}@{host}:{servers.kafka_controller_port}" for node, host in enumerate(hosts, 1)]
    write_configuration(
        "kafka.properties",
        properties,
        data=home / "log",
        node=number,
        host=node_hosts(number)[-1],
        voters=",".join(voters),
        copies=len(hosts),
        majority=len(hosts) // 2 + 1,
        trusted="" if len(hosts) == 1 else "User:ANONYMOUS",
        **ports,
    )
    if (home / "log" / "meta.properties").exists():
        return
    # The same for every node of this data folder: nodes of different clusters refuse each other.
    cluster = base64.urlsafe_b64encode(uuid.uuid5(uuid.NAMESPACE_URL, str(settings.data)).bytes).decode()
    cluster = cluster.rstrip("=")
    cluster = f"A{cluster[1:]}" if cluster.startswith("-") else cluster  # not to be read as an option
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    format_storage([*_java(settings), *tool], f"Kafka's storage in {home / 'log'}")
