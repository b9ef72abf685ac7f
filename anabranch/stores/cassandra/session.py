"""One Cassandra session a process, and the one edge where the driver's exceptions are translated."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cachetools import FIFOCache
from cassandra import (
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    RequestExecutionException,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
    WhiteListRoundRobinPolicy,
)
from cassandra.query import PreparedStatement, tuple_factory

from anabranch.errors import AnabranchError, UnavailableError, ViewUnavailableError
from anabranch.settings import ViewsSettings

READS = "reads"
"""The execution profile of the hot path: rows are plain tuples, since named ones cost more than the read."""
_SESSIONS: dict[tuple[int, ViewsSettings], Session] = {}
_LOCK = threading.Lock()
_PREPARED: FIFOCache[tuple[Session, str, tuple[str, ...]], PreparedStatement] = FIFOCache(maxsize=4096)
_PREPARING = threading.Lock()


class MissingTableError(ViewUnavailableError):
    """A statement names a table or a column that Cassandra does not have."""


@contextmanager
def answering(missing: str = "a table is missing") -> Iterator[None]:
    """Translate what the driver raises in a block or, as a decorator, in a function.

    Raises UnavailableError when the store does not answer, MissingTableError (which begins with `missing`)
    for a table or column that does not exist, and AnabranchError for any other refusal.
    """
    try:
        yield
    except InvalidRequest as error:
        raise MissingTableError(f"{missing} ({error}): try again") from error
    except (NoHostAvailable, OperationTimedOut, RequestExecutionException) as error:
        raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error
    except DriverException as error:
        raise AnabranchError(f"Cassandra refused a statement: {error}") from error


def session_for(settings: ViewsSettings) -> Session:
    """The process's session; raises UnavailableError when no host answers."""
    name = (os.getpid(), settings)  # a forked worker must not use its parent's sockets
    with _LOCK:
        if name not in _SESSIONS or _SESSIONS[name].is_shutdown:
            _SESSIONS[name] = _connect(settings)
        return _SESSIONS[name]


def is_connected(settings: ViewsSettings) -> bool:
    """Whether the process has an open session; never connects and never waits for a thread that does."""
    session = _SESSIONS.get((os.getpid(), settings))
    return session is not None and not session.is_shutdown


def peers(host: str, port: int) -> int:
    """How many other nodes of its ring the node at host:port knows; 0 where it does not answer."""
    cluster = Cluster(
        [host],
        port=port,
        protocol_version=5,
        load_balancing_policy=WhiteListRoundRobinPolicy([host]),
        connect_timeout=5,
    )
    try:
        return len(list(cluster.connect().execute("SELECT peer FROM system.peers_v2")))
    except DriverException:
        return 0
    finally:
        cluster.shutdown()


def close_sessions() -> None:
    """Close this process's sessions."""
    with _LOCK:
        for name in [name for name in _SESSIONS if name[0] == os.getpid()]:
            _SESSIONS.pop(name).cluster.shutdown()


def prepared(session: Session, statement: str, types: tuple[str, ...] = ()) -> PreparedStatement:
    """The statement, prepared once; `types` of the columns, where a table may be recreated with others."""
    name = (session, statement, types)
    found = _PREPARED.get(name)
    if found is None:
        found = session.prepare(statement)
        # Results are read whole: a reader never waits for a second page.
        found.is_idempotent, found.fetch_size = statement.startswith("SELECT"), None
        with _PREPARING:
            _PREPARED[name] = found
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
            f"Cassandra does not answer at {where}: start it with 'anabranch up', "
            "or set its address in conf/settings.toml"
        ) from error
    with answering():
        session.execute(
            f"CREATE KEYSPACE IF NOT EXISTS {settings.keyspace} WITH replication = "
            f"{{'class': 'SimpleStrategy', 'replication_factor': {settings.replication}}}"
        )
        session.set_keyspace(settings.keyspace)
    return session
