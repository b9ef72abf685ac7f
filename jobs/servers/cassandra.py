"""The embedded Cassandra: a ring of one node."""

from pathlib import Path

from jobs.servers.server import CONF, Server, ServerError, accepts, class_path, java, write_configuration
from jobs.wiring.settings import Settings

# What Cassandra 5.0 needs inside the JDK. Without them it starts on Java 17 and fails at the first use.
EXPORTS = """
    java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch
    java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
    java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc jdk.attach/sun.tools.attach
    jdk.compiler/com.sun.tools.javac.api jdk.compiler/com.sun.tools.javac.file
    jdk.compiler/com.sun.tools.javac.tree jdk.compiler/com.sun.tools.javac.util
"""
OPENS = """
    java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.io
    java.base/java.math java.base/java.net java.base/java.nio java.base/java.nio.charset
    java.base/java.nio.file.spi java.base/java.util java.base/java.util.concurrent
    java.base/java.util.concurrent.atomic java.base/java.util.concurrent.locks java.base/jdk.internal.loader
    java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.ref
    java.base/jdk.internal.reflect java.base/jdk.internal.util.jar java.base/sun.nio.ch
    jdk.management/com.sun.management.internal
"""
# A ring of one need not wait for others. No JMX port is given, so none is opened.
_ALONE = """
    -Dcassandra.ring_delay_ms=100 -Dcassandra.skip_wait_for_gossip_to_settle=0
    -Dcassandra.superuser_setup_delay_ms=0 -Dcassandra-foreground=yes
"""


def cassandra_server(settings: Settings) -> Server:
    """Cassandra's one process."""
    servers, views, home = settings.servers, settings.views, settings.data / "cassandra"
    ports = {
        "cassandra_port": servers.cassandra_port,
        "cassandra_storage_port": servers.cassandra_storage_port,
    }
    yours = ",".join(f"{host}:{views.port}" for host in views.hosts)
    return Server(
        name="cassandra",
        port=servers.cassandra_port,
        ports=ports,
        home=home,
        command=lambda: [*_java(settings, home), "org.apache.cassandra.service.CassandraDaemon"],
        prepare=lambda: write_configuration(
            "cassandra.yaml",
            home / "cassandra.yaml",
            data=home,
            port=servers.cassandra_port,
            storage_port=servers.cassandra_storage_port,
        ),
        ready=lambda: accepts(servers.cassandra_port),
        yours=None if settings.cassandra_embedded else yours,
    )


def _java(settings: Settings, home: Path) -> list[str]:
    heap, jars = settings.servers.cassandra_heap, settings.jars / "cassandra"
    return java(
        heap,
        class_path(jars),
        *(f"-Xms{heap}", "-XX:MaxDirectMemorySize=256m", "-XX:+UseG1GC", "-ea:org.apache.cassandra..."),
        *(f"--add-exports={name}=ALL-UNNAMED" for name in EXPORTS.split()),
        *(f"--add-opens={name}=ALL-UNNAMED" for name in OPENS.split()),
        *(f"-javaagent:{_agent(jars)}", "-Djdk.attach.allowAttachSelf=true"),
        f"-Dcassandra.config={(home / 'cassandra.yaml').as_uri()}",
        f"-Dcassandra.storagedir={home}",
        f"-Dlogback.configurationFile={CONF / 'logback-cassandra.xml'}",
        *_ALONE.split(),
    )


def _agent(jars: Path) -> Path:
    """The agent that measures memory for Cassandra; without it the server does not start."""
    agents = sorted(jars.glob("jamm-*.jar"))
    if not agents:
        raise ServerError(f"no jamm-*.jar in {jars}: run 'make setup'")
    return agents[0]
