"""The embedded Ignite: one node in memory, configured by a file that Java runs as it is."""

from pathlib import Path

from jobs.servers.server import CONF, Server, accepts, class_path, java
from jobs.wiring.settings import Settings

_ENTRY_HOURS = 24  # nobody asks for entries of a batch version that serves no more
# What Ignite needs inside the JDK. Without them it does not start on Java 17.
_OPENS = """
    java.base/jdk.internal.access java.base/jdk.internal.misc java.base/sun.nio.ch java.base/sun.util.calendar
    java.management/com.sun.jmx.mbeanserver jdk.internal.jvmstat/sun.jvmstat.monitor
    java.base/sun.reflect.generics.reflectiveObjects jdk.management/com.sun.management.internal
    java.base/java.io java.base/java.nio java.base/java.net java.base/java.util java.base/java.util.concurrent
    java.base/java.util.concurrent.locks java.base/java.util.concurrent.atomic java.base/java.lang
    java.base/java.lang.invoke java.base/java.math java.sql/java.sql java.base/java.time java.base/java.text
    java.management/sun.management
"""


def ignite_server(settings: Settings) -> Server:
    """Ignite's one process."""
    servers, home = settings.servers, settings.data / "ignite"
    ports = {
        "ignite_port": servers.ignite_port,
        "ignite_discovery_port": servers.ignite_discovery_port,
        "ignite_peer_port": servers.ignite_peer_port,
    }
    return Server(
        name="ignite",
        port=servers.ignite_port,
        ports=ports,
        home=home,
        command=lambda: _command(settings, home, list(ports.values())),
        ready=lambda: accepts(servers.ignite_port),
    )


def _command(settings: Settings, home: Path, ports: list[int]) -> list[str]:
    servers = settings.servers
    memory = ["-Xms32m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=64m"]  # entries lie outside the heap
    quiet = [f"-DIGNITE_{name}" for name in ("QUIET=true", "UPDATE_NOTIFIER=false")]
    quiet.append("-DIGNITE_PERFORMANCE_SUGGESTIONS_DISABLED=true")
    opened = [f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS.split()]
    jars = class_path(settings.jars / "ignite")
    numbers = map(str, (*ports, servers.ignite_megabytes, _ENTRY_HOURS))
    node = [str(CONF / "ignite" / "Node.java"), str(home), *numbers]
    return [*java(servers.ignite_heap, jars, *memory, *quiet, *opened), *node]
