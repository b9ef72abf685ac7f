"""One Cassandra session a process, made from settings on first use; Spark's workers share the code and make their own."""

import os
import threading

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import PreparedStatement, tuple_factory

from anabranch.errors import UnavailableError
from anabranch.settings import ViewsSettings

READS = "reads"
"""The execution profile of the hot path: rows are plain tuples, for making named ones costs more than the read."""
_SESSIONS: dict[tuple[int, ViewsSettings], Session] = {}
_LOCK = threading.Lock()
_PREPARED: dict[tuple[Session, str, tuple[str, ...]], PreparedStatement] = {}
_MOST_PREPARED = 4096


def session_for(settings: ViewsSettings) -> Session:
    """The process's session; raises UnavailableError when no host answers."""
    name = (os.getpid(), settings)  # a forked worker must not use its parent's sockets
    with _LOCK:
        if name not in _SESSIONS or _SESSIONS[name].is_shutdown:
            _SESSIONS[name] = _connect(settings)
        return _SESSIONS[name]


def is_connected(settings: ViewsSettings) -> bool:
    """Whether the process has a session already; asking neither connects nor waits for somebody who does."""
    found = _SESSIONS.get((os.getpid(), settings))
    return found is not None and not found.is_shutdown


def close_sessions() -> None:
    """Close this process's sessions, for a clean end."""
    with _LOCK:
        for name in [name for name in _SESSIONS if name[0] == os.getpid()]:
            _SESSIONS.pop(name).cluster.shutdown()


def prepared(session: Session, statement: str, types: tuple[str, ...] = ()) -> PreparedStatement:
    """The statement, prepared once; `types` of the columns, where a table of the same name may come to have others."""
    found = _PREPARED.get((session, statement, types))
    if found is None:
        while len(_PREPARED) >= _MOST_PREPARED:
            _PREPARED.pop(next(iter(_PREPARED)), None)
        found = _PREPARED[session, statement, types] = session.prepare(statement)
        # All of it is read here: no second page is fetched by whoever comes to its end.
        found.is_idempotent, found.fetch_size = statement.startswith("SELECT"), None
    return found


def _connect(settings: ViewsSettings) -> Session:
    auth = PlainTextAuthProvider(settings.username, settings.password) if settings.username else None
    policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=settings.local_datacenter))
    profile = ExecutionProfile(
        load_balancing_policy=policy, request_timeout=10, consistency_level=ConsistencyLevel.LOCAL_QUORUM
    )
    reads = ExecutionProfile(
        policy, request_timeout=10, consistency_level=ConsistencyLevel.LOCAL_QUORUM, row_factory=tuple_factory
    )
    cluster = Cluster(
        list(settings.hosts),
        port=settings.port,
        auth_provider=auth,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile, READS: reads},
        # A node that comes back is used again within a second; the default waits up to ten minutes.
        reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
        protocol_version=5,
        connect_timeout=10,
    )
    try:
        session = cluster.connect()
    except NoHostAvailable as error:
        cluster.shutdown()
        where = ", ".join(f"{host}:{settings.port}" for host in settings.hosts)
        raise UnavailableError(
            f"Cassandra does not answer at {where}: start it with 'anabranch up', or set its address in conf/settings.toml"
        ) from error
    session.execute(
        f"CREATE KEYSPACE IF NOT EXISTS {settings.keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': {settings.replication}}}"
    )
    session.set_keyspace(settings.keyspace)
    return session
