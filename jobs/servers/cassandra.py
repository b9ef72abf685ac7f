"""The embedded Cassandra: a ring of one node, or of three."""

from pathlib import Path

from anabranch.stores.cassandra.session import peers
from jobs.servers.server import CONF, Server, ServerError, accepts, class_path, java, write_configuration
from jobs.wiring.sections import node_hosts
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
_ALONE = "-Dcassandra.ring_delay_ms=100 -Dcassandra.skip_wait_for_gossip_to_settle=0"
# Nodes that start together must have heard of each other before they take the first table.
_TOGETHER = "-Dcassandra.ring_delay_ms=5000"
_ALWAYS = "-Dcassandra.superuser_setup_delay_ms=0 -Dcassandra-foreground=yes"


def cassandra_server(settings: Settings, number: int = 1) -> Server:
    """The process of one node; all have the same ports, each on an address of its own."""
    servers, views = settings.servers, settings.views
    name = "cassandra" if number == 1 else f"cassandra-{number}"
    home, hosts = settings.data / name, node_hosts(servers.nodes)
    host = node_hosts(number)[-1]
    ports = {
        "cassandra_port": servers.cassandra_port,
        "cassandra_storage_port": servers.cassandra_storage_port,
    }
    yours = ",".join(f"{host}:{views.port}" for host in views.hosts)
    return Server(
        name=name,
        host=host,
        wanted=number <= servers.nodes,
        port=servers.cassandra_port,
        ports=ports,
        home=home,
        command=lambda: [*_java(settings, home), "org.apache.cassandra.service.CassandraDaemon"],
        prepare=lambda: write_configuration(
            "cassandra.yaml",
            home / "cassandra.yaml",
            data=home,
            host=host,
            # Every node is a seed: none waits for another one to start.
            seeds=",".join(f"{each}:{servers.cassandra_storage_port}" for each in hosts),
            port=servers.cassandra_port,
            storage_port=servers.cassandra_storage_port,
        ),
        ready=lambda: (
            accepts(servers.cassandra_port, host)
            and (servers.nodes == 1 or peers(host, servers.cassandra_port) >= servers.nodes - 1)
        ),
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
        *(_ALONE if settings.servers.nodes == 1 else _TOGETHER).split(),
        *_ALWAYS.split(),
    )


def _agent(jars: Path) -> Path:
    """The agent that measures memory for Cassandra; without it the server does not start."""
    agents = sorted(jars.glob("jamm-*.jar"))
    if not agents:
        raise ServerError(f"no jamm-*.jar in {jars}: run 'make setup'")
    return agents[0]
