"""How the embedded Ignite is started: one node in memory, configured by a file that Java runs as it is, and when it is ready."""

from jobs.servers.server import Server, accepts, class_path
from jobs.wiring.settings import ROOT, Settings

NODE = ROOT / "conf" / "ignite" / "Node.java"
_HOURS = 24  # an entry is kept; of a batch version that serves no more nobody asks for one
# What Ignite reaches for inside the JDK; without these it does not start on 17.
_OPENS = (
    "java.base/jdk.internal.access java.base/jdk.internal.misc java.base/sun.nio.ch java.base/sun.util.calendar java.management/com.sun.jmx.mbeanserver "
    "jdk.internal.jvmstat/sun.jvmstat.monitor java.base/sun.reflect.generics.reflectiveObjects jdk.management/com.sun.management.internal "
    "java.base/java.io java.base/java.nio java.base/java.net java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.locks "
    "java.base/java.util.concurrent.atomic java.base/java.lang java.base/java.lang.invoke java.base/java.math java.sql/java.sql java.base/java.time "
    "java.base/java.text java.management/sun.management"
)


def ignite_server(settings: Settings, java: str) -> Server:
    """The embedded Ignite of these settings."""
    servers, home = settings.servers, settings.data / "ignite"
    ports = {
        "ignite_port": servers.ignite_port,
        "ignite_discovery_port": servers.ignite_discovery_port,
        "ignite_peer_port": servers.ignite_peer_port,
    }
    # Entries lie outside the heap.
    memory = [f"-Xmx{servers.ignite_heap}", "-Xms32m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=64m"]
    quiet = [
        "-DIGNITE_QUIET=true",
        "-DIGNITE_UPDATE_NOTIFIER=false",
        "-DIGNITE_PERFORMANCE_SUGGESTIONS_DISABLED=true",
        "-Djava.net.preferIPv4Stack=true",
    ]
    opened = [f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS.split()]
    arguments = [str(home), *map(str, ports.values()), str(servers.ignite_megabytes), str(_HOURS)]
    return Server(
        name="ignite",
        ports=ports,
        home=home,
        command=[
            java,
            *memory,
            *quiet,
            *opened,
            "-cp",
            class_path(settings.jars / "ignite"),
            str(NODE),
            *arguments,
        ],
        prepare=lambda: None,
        ready=lambda: accepts(servers.ignite_port),
    )
