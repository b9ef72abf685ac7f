"""The embedded HDFS: a NameNode and a DataNode."""

import json
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from jobs.servers.server import CONF, Server, class_path, format_storage, java, write_configuration
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import Settings

_CLASSES = "org.apache.hadoop.hdfs.server"


def hdfs_name_node(settings: Settings) -> Server:
    """The NameNode, which knows the names of files; it answers `hdfs://` and WebHDFS."""
    servers, home = settings.servers, settings.data / "hdfs"
    return Server(
        name="hdfs-namenode",
        port=servers.hdfs_port,
        ports={"hdfs_port": servers.hdfs_port, "hdfs_http_port": servers.hdfs_http_port},
        home=home,
        command=lambda: _name_node(settings, home),
        prepare=lambda: _prepare_names(settings, home),
        ready=lambda: _is_operational(servers.hdfs_http_port),
        scheme="hdfs://",
    )


def hdfs_data_node(settings: Settings) -> Server:
    """The DataNode, which keeps the blocks of files. It is ready when the NameNode counts on it."""
    servers, home = settings.servers, settings.data / "hdfs"
    ports = {
        "hdfs_data_port": servers.hdfs_data_port,
        "hdfs_data_http_port": servers.hdfs_data_http_port,
        "hdfs_data_ipc_port": servers.hdfs_data_ipc_port,
    }
    return Server(
        name="hdfs-datanode",
        port=servers.hdfs_data_port,
        ports=ports,
        home=home,
        command=lambda: [*_java(settings, home), f"{_CLASSES}.datanode.DataNode"],
        prepare=lambda: _prepare(settings, home),
        ready=lambda: _has_blocks(servers.hdfs_http_port),
    )


def _name_node(settings: Settings, home: Path) -> list[str]:
    return [*_java(settings, home), f"{_CLASSES}.namenode.NameNode"]


def _java(settings: Settings, home: Path) -> list[str]:
    logging = f"-Dlog4j.configuration={(CONF / 'log4j-hdfs.properties').as_uri()}"
    jars = f"{home / 'conf'}:{class_path(settings.jars / 'hdfs')}"
    return java(settings.servers.hdfs_heap, jars, "-Xms32m", "-XX:+UseSerialGC", logging)


def _prepare(settings: Settings, home: Path) -> None:
    """Write the configuration, which both processes share."""
    servers, conf = settings.servers, home / "conf"
    # The jars look for the pages they would show on the class path, and do not start without the folders.
    for pages in ("hdfs", "datanode"):
        (conf / "webapps" / pages).mkdir(parents=True, exist_ok=True)
    write_configuration(
        "hdfs-embedded.xml",
        conf / "hdfs-site.xml",
        data=home,
        port=servers.hdfs_port,
        http_port=servers.hdfs_http_port,
        data_port=servers.hdfs_data_port,
        data_http_port=servers.hdfs_data_http_port,
        data_ipc_port=servers.hdfs_data_ipc_port,
    )


def _prepare_names(settings: Settings, home: Path) -> None:
    """Write the configuration and, the first time, format the NameNode's storage."""
    _prepare(settings, home)
    if not (home / "name" / "current" / "VERSION").exists():
        command = [*_name_node(settings, home), "-format", "-nonInteractive", "-force"]
        format_storage(command, f"HDFS's names in {home / 'name'}")


def _is_operational(http_port: int) -> bool:
    """Whether the NameNode answers and takes changes."""
    return _bean(http_port, "FSNamesystemState").get("FSState") == "Operational"


def _has_blocks(http_port: int) -> bool:
    """Whether a DataNode reported its blocks less than a minute ago: before that no file can be read."""
    nodes = json.loads(str(_bean(http_port, "NameNodeInfo").get("LiveNodes", "{}")))
    return any(node["lastBlockReport"] == 0 for node in nodes.values())


def _bean(http_port: int, name: str) -> dict[str, object]:
    """A JMX bean of the NameNode; empty while it does not answer."""
    address = f"http://{LOOPBACK}:{http_port}/jmx?qry=Hadoop:service=NameNode,name={name}"
    try:
        with urlopen(address, timeout=2) as answer:
            beans = json.load(answer)["beans"]
    except (URLError, OSError, ValueError):
        return {}
    return dict(beans[0]) if beans else {}
