"""How the embedded Cassandra is started: its files, its command, and when it is ready."""

from pathlib import Path
from string import Template

from jobs.servers.server import Server, ServerError, accepts, class_path
from jobs.wiring.settings import ROOT, Settings

CONF = ROOT / "conf"

# What Cassandra 5.0 reaches for inside the JDK; without these it fails on 17 when it first needs one.
EXPORTS = (
    "java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch java.management.rmi/com.sun.jmx.remote.internal.rmi "
    "java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc "
    "jdk.attach/sun.tools.attach jdk.compiler/com.sun.tools.javac.api jdk.compiler/com.sun.tools.javac.file "
    "jdk.compiler/com.sun.tools.javac.tree jdk.compiler/com.sun.tools.javac.util"
)
OPENS = (
    "java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.io java.base/java.math java.base/java.net "
    "java.base/java.nio java.base/java.nio.charset java.base/java.nio.file.spi java.base/java.util java.base/java.util.concurrent "
    "java.base/java.util.concurrent.atomic java.base/java.util.concurrent.locks java.base/jdk.internal.loader java.base/jdk.internal.math "
    "java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.util.jar "
    "java.base/sun.nio.ch jdk.management/com.sun.management.internal"
)


def cassandra_server(settings: Settings, java: str) -> Server:
    """The embedded Cassandra of these settings."""
    servers = settings.servers
    home = settings.data / "cassandra"
    jars = settings.jars / "cassandra"
    return Server(
        name="cassandra",
        ports={
            "cassandra_port": servers.cassandra_port,
            "cassandra_storage_port": servers.cassandra_storage_port,
        },
        home=home,
        command=[
            *(
                java,
                f"-Xmx{servers.cassandra_heap}",
                f"-Xms{servers.cassandra_heap}",
                "-XX:MaxDirectMemorySize=256m",
                "-XX:+UseG1GC",
                "-ea:org.apache.cassandra...",
            ),
            *(f"--add-exports={name}=ALL-UNNAMED" for name in EXPORTS.split()),
            *(f"--add-opens={name}=ALL-UNNAMED" for name in OPENS.split()),
            f"-javaagent:{_agent(jars)}",
            "-Djdk.attach.allowAttachSelf=true",
            f"-Dcassandra.config={(home / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={home}",
            f"-Dlogback.configurationFile={CONF / 'logback-cassandra.xml'}",
            # A ring of one need not wait for others. No JMX port is given, so none is opened.
            *(
                "-Dcassandra.ring_delay_ms=100",
                "-Dcassandra.skip_wait_for_gossip_to_settle=0",
                "-Dcassandra.superuser_setup_delay_ms=0",
            ),
            *("-Dcassandra-foreground=yes", "-Djava.net.preferIPv4Stack=true"),
            *("-cp", class_path(jars), "org.apache.cassandra.service.CassandraDaemon"),
        ],
        prepare=lambda: _prepare(settings, home),
        ready=lambda: accepts(servers.cassandra_port),
    )


def _agent(jars: Path) -> Path:
    """The agent that measures memory for Cassandra; without it the server does not start."""
    found = sorted(jars.glob("jamm-*.jar"))
    if not found:
        raise ServerError(f"no jamm-*.jar in {jars}: run 'make setup'")
    return found[0]


def _prepare(settings: Settings, home: Path) -> None:
    ports = {"port": settings.servers.cassandra_port, "storage_port": settings.servers.cassandra_storage_port}
    text = Template((CONF / "cassandra.yaml").read_text(encoding="utf-8")).substitute(ports, data=home)
    (home / "cassandra.yaml").write_text(text, encoding="utf-8")
