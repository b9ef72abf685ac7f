"""How the embedded Kafka is started: its files, its command, and when it is ready."""

import base64
import subprocess
import uuid
from pathlib import Path
from string import Template

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from jobs.servers.server import Server, ServerError, class_path
from jobs.wiring.settings import LOOPBACK, ROOT, Settings

CONF = ROOT / "conf"


def kafka_server(settings: Settings, java: str) -> Server:
    """The embedded Kafka of these settings."""
    servers = settings.servers
    home = settings.data / "kafka"
    options = [
        java,
        f"-Xmx{servers.kafka_heap}",
        "-Xms64m",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={(CONF / 'log4j2-kafka.properties').as_uri()}",
    ]
    command = [*options, "-cp", class_path(settings.jars / "kafka")]
    return Server(
        name="kafka",
        ports={"kafka_port": servers.kafka_port, "kafka_controller_port": servers.kafka_controller_port},
        home=home,
        command=[*command, "kafka.Kafka", str(home / "server.properties")],
        prepare=lambda: _prepare(settings, home, command),
        ready=lambda: _answers(servers.kafka_port),
    )


def _prepare(settings: Settings, home: Path, command: list[str]) -> None:
    """Write the properties and, the first time, format the storage."""
    ports = {"port": settings.servers.kafka_port, "controller_port": settings.servers.kafka_controller_port}
    text = Template((CONF / "kafka.properties").read_text(encoding="utf-8")).substitute(
        ports, data=home / "log"
    )
    properties = home / "server.properties"
    properties.write_text(text, encoding="utf-8")
    if (home / "log" / "meta.properties").exists():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    if cluster.startswith("-"):  # would be read as an option
        cluster = f"A{cluster[1:]}"
    done = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(
            f"Kafka cannot format its storage in {home / 'log'}: {' '.join((done.stdout + done.stderr).split())[-600:]}"
        )


def _answers(port: int) -> bool:
    """Whether the broker answers a request for its topics."""
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=f"{LOOPBACK}:{port}", bootstrap_timeout_ms=1000, request_timeout_ms=5000
        )
    except KafkaError:
        return False
    try:
        consumer.topics()
    except KafkaError:
        return False
    finally:
        consumer.close(autocommit=False)
    return True
