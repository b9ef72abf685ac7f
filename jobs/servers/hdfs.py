"""How the embedded HDFS is started: a NameNode and a DataNode, their files, their commands, and when they are ready."""

import json
import subprocess
from pathlib import Path
from string import Template
from urllib.error import URLError
from urllib.request import urlopen

from jobs.servers.server import Server, ServerError, class_path
from jobs.wiring.settings import LOOPBACK, ROOT, Settings

CONF = ROOT / "conf"
_CLASSES = "org.apache.hadoop.hdfs.server"


def name_node(settings: Settings, java: str) -> Server:
    """The embedded HDFS's NameNode: which files there are; it answers `hdfs://` and WebHDFS."""
    servers, home = settings.servers, _home(settings)
    command = [*_java(settings, java), f"{_CLASSES}.namenode.NameNode"]
    return Server(
        name="hdfs-namenode",
        ports={"hdfs_port": servers.hdfs_port, "hdfs_http_port": servers.hdfs_http_port},
        home=home,
        command=command,
        prepare=lambda: _prepare_names(settings, home, command),
        ready=lambda: _is_open(servers.hdfs_http_port),
    )


def data_node(settings: Settings, java: str) -> Server:
    """The embedded HDFS's DataNode: the blocks of files. It is ready when the NameNode counts on it."""
    servers, home = settings.servers, _home(settings)
    return Server(
        name="hdfs-datanode",
        ports={
            "hdfs_data_port": servers.hdfs_data_port,
            "hdfs_data_http_port": servers.hdfs_data_http_port,
            "hdfs_data_ipc_port": servers.hdfs_data_ipc_port,
        },
        home=home,
        command=[*_java(settings, java), f"{_CLASSES}.datanode.DataNode"],
        prepare=lambda: _write_configuration(settings, home),
        ready=lambda: _has_blocks(servers.hdfs_http_port),
    )


def _home(settings: Settings) -> Path:
    return settings.data / "hdfs"


def _java(settings: Settings, java: str) -> list[str]:
    options = [
        f"-Xmx{settings.servers.hdfs_heap}",
        "-Xms32m",
        "-XX:+UseSerialGC",
        "-Djava.net.preferIPv4Stack=true",
    ]
    logging = f"-Dlog4j.configuration={(CONF / 'log4j-hdfs.properties').as_uri()}"
    return [
        java,
        *options,
        logging,
        "-cp",
        f"{_home(settings) / 'conf'}:{class_path(settings.jars / 'hdfs')}",
    ]


def _write_configuration(settings: Settings, home: Path) -> None:
    servers, conf = settings.servers, home / "conf"
    # The jars look for the pages they would show on the class path, and do not start without the folders.
    for pages in ("hdfs", "datanode"):
        (conf / "webapps" / pages).mkdir(parents=True, exist_ok=True)
    text = Template((CONF / "hdfs-embedded.xml").read_text(encoding="utf-8")).substitute(
        data=home,
        port=servers.hdfs_port,
        http_port=servers.hdfs_http_port,
        data_port=servers.hdfs_data_port,
        data_http_port=servers.hdfs_data_http_port,
        data_ipc_port=servers.hdfs_data_ipc_port,
    )
    (conf / "hdfs-site.xml").write_text(text, encoding="utf-8")


def _prepare_names(settings: Settings, home: Path, command: list[str]) -> None:
    """Write the configuration and, the first time, format the names."""
    _write_configuration(settings, home)
    if (home / "name" / "current" / "VERSION").exists():
        return
    done = subprocess.run(
        [*command, "-format", "-nonInteractive", "-force"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(
            f"HDFS cannot format its names in {home / 'name'}: {' '.join((done.stdout + done.stderr).split())[-600:]}"
        )


def _is_open(http_port: int) -> bool:
    """Whether the NameNode answers and takes changes."""
    return _told(http_port, "FSNamesystemState").get("FSState") == "Operational"


def _has_blocks(http_port: int) -> bool:
    """Whether a DataNode has said, less than a minute ago, which blocks it has: before that no file can be read."""
    nodes = json.loads(str(_told(http_port, "NameNodeInfo").get("LiveNodes", "{}")))
    return any(node["lastBlockReport"] == 0 for node in nodes.values())


def _told(http_port: int, bean: str) -> dict[str, object]:
    """What the NameNode says of itself; empty while it does not answer."""
    try:
        with urlopen(
            f"http://{LOOPBACK}:{http_port}/jmx?qry=Hadoop:service=NameNode,name={bean}", timeout=2
        ) as answer:
            beans = json.load(answer)["beans"]
    except (URLError, OSError, ValueError):
        return {}
    return dict(beans[0]) if beans else {}
