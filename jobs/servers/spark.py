"""How the embedded Spark cluster is started: a standalone master and workers, processes of the Spark that is installed with Python."""

import json
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from jobs.servers.server import Server, ServerError, class_path
from jobs.wiring.settings import LOOPBACK, ROOT, Settings

LOGGING = ROOT / "conf" / "log4j2-cluster.properties"


def master(settings: Settings, java: str) -> Server:
    """The cluster's master: it gives applications their executors."""
    servers, home = settings.servers, settings.data / "spark"
    options = [
        "--host",
        LOOPBACK,
        "--port",
        str(servers.spark_port),
        "--webui-port",
        str(servers.spark_http_port),
    ]
    return Server(
        name="spark-master",
        ports={"spark_port": servers.spark_port, "spark_http_port": servers.spark_http_port},
        home=home,
        # Jobs are submitted by clients that talk to the master; its HTTP door for strangers stays closed.
        command=[
            *_java(java),
            "-Dspark.master.rest.enabled=false",
            "org.apache.spark.deploy.master.Master",
            *options,
        ],
        prepare=lambda: None,
        ready=lambda: "status" in _state(servers.spark_http_port),
    )


def worker(settings: Settings, java: str, number: int) -> Server:
    """One worker of one core; it takes ports that are free, because only the master and executors speak to it.

    It is ready when the master counts so many workers.
    """
    servers, home = settings.servers, settings.data / "spark"
    # What applications leave there (jars, logs of executors) goes after a day.
    cleanup = ["-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.appDataTtl=86400"]
    size = ["--cores", "1", "--memory", servers.spark_worker_memory]
    options = [
        *size,
        "--host",
        LOOPBACK,
        "--port",
        "0",
        "--webui-port",
        "0",
        "--work-dir",
        str(home / f"worker-{number}"),
    ]
    return Server(
        name=f"spark-worker-{number}",
        ports={},
        home=home,
        command=[
            *_java(java),
            *cleanup,
            "org.apache.spark.deploy.worker.Worker",
            *options,
            f"spark://{LOOPBACK}:{servers.spark_port}",
        ],
        prepare=lambda: None,
        ready=lambda: int(_state(servers.spark_http_port).get("aliveworkers", 0)) >= number,
    )


def _java(java: str) -> list[str]:
    jars = class_path(_spark_home() / "jars")
    # A worker starts executors from this Spark, which asks for its Scala's version; without the address its pages would be
    # shown to every network.
    environment = [
        "env",
        f"SPARK_HOME={_spark_home()}",
        "SPARK_SCALA_VERSION=2.13",
        f"SPARK_LOCAL_IP={LOOPBACK}",
    ]
    return [
        *environment,
        java,
        "-Xmx256m",
        "-Xms32m",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={LOGGING.as_uri()}",
        "-cp",
        jars,
    ]


def _spark_home() -> Path:
    found = find_spec("pyspark")
    if found is None or not found.submodule_search_locations:
        raise ServerError("pyspark is not installed in this Python: run 'make setup'")
    return Path(found.submodule_search_locations[0])


def _state(http_port: int) -> dict[str, int | str]:
    """What the master says of itself; empty while it does not answer."""
    try:
        with urlopen(f"http://{LOOPBACK}:{http_port}/json/", timeout=2) as answer:
            return dict(json.load(answer))
    except (URLError, OSError, ValueError):
        return {}
