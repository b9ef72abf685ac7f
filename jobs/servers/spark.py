"""The embedded Spark cluster: a standalone master and two workers, run from the installed pyspark."""

import json
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from jobs.servers.server import CONF, Server, ServerError, class_path, java
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings

_CLASSES = "org.apache.spark.deploy"
_SCHEME = "spark://"


def spark_master(settings: Settings) -> Server:
    """The cluster's master, which gives applications their executors."""
    servers = settings.servers
    listen = ["--host", LOOPBACK, "--port", str(servers.spark_port)]
    listen += ["--webui-port", str(servers.spark_http_port)]
    return Server(
        name="spark-master",
        port=servers.spark_port,
        ports={"spark_port": servers.spark_port, "spark_http_port": servers.spark_http_port},
        home=settings.data / "spark",
        # Clients submit to the master itself; its second door, over HTTP, stays closed.
        command=lambda: [*_java("-Dspark.master.rest.enabled=false"), f"{_CLASSES}.master.Master", *listen],
        ready=lambda: "status" in _state(servers.spark_http_port),
        scheme=_SCHEME,
    )


def spark_worker(settings: Settings, number: int) -> Server:
    """One worker of one core, on free ports, as only the master and executors speak to it.

    It is ready when the master counts `number` workers.
    """
    servers, home = settings.servers, settings.data / "spark"
    # Jars and logs that applications leave behind are deleted after a day.
    cleanup = ["-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.appDataTtl=86400"]
    options = ["--cores", "1", "--memory", servers.spark_worker_memory]
    options += ["--host", LOOPBACK, "--port", "0", "--webui-port", "0"]
    options += ["--work-dir", str(home / f"worker-{number}"), f"{_SCHEME}{LOOPBACK}:{servers.spark_port}"]
    return Server(
        name=f"spark-worker-{number}",
        port=servers.spark_port,
        ports={},
        home=home,
        command=lambda: [*_java(*cleanup), f"{_CLASSES}.worker.Worker", *options],
        ready=lambda: int(_state(servers.spark_http_port).get("aliveworkers", 0)) >= number,
        scheme=_SCHEME,
    )


def _java(*options: str) -> list[str]:
    home = _spark_home()
    logging = f"-Dlog4j2.configurationFile={(CONF / 'log4j2-cluster.properties').as_uri()}"
    # A worker starts executors from this Spark, which asks for the version of Scala. Without the address,
    # pages of the cluster would be shown to every network.
    environment = [f"SPARK_HOME={home}", "SPARK_SCALA_VERSION=2.13", f"SPARK_LOCAL_IP={LOOPBACK}"]
    command = java("256m", class_path(home / "jars"), "-Xms32m", "-XX:+UseSerialGC", logging, *options)
    return ["env", *environment, *command]


def _spark_home() -> Path:
    package = find_spec("pyspark")
    if package is None or not package.submodule_search_locations:
        raise ServerError("pyspark is not installed in this Python: run 'make setup'")
    return Path(package.submodule_search_locations[0])


def _state(http_port: int) -> dict[str, int | str]:
    """The state that the master's page shows; empty while it does not answer."""
    try:
        with urlopen(f"http://{LOOPBACK}:{http_port}/json/", timeout=2) as answer:
            return dict(json.load(answer))
    except (URLError, OSError, ValueError):
        return {}
