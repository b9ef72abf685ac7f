"""A plain load of rows (key, states) from Parquet into Cassandra with the driver alone, several ways: the
peer of our writer.

    python -m tests.bench.plain_load HOST PORT KEYSPACE TABLE VARIANT FILE...

Says `ready` when it is connected and has its rows, and begins when it reads a line.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from threading import Semaphore
from typing import Any

import pyarrow.parquet as pq
from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import RoundRobinPolicy
from cassandra.query import BatchStatement, BatchType

Line = tuple[str, bytes]
VARIANTS = {
    "unlogged batches of 20, 64 in flight": 20,
    "unlogged batches of 50, 32 in flight": 50,
    "unlogged batches of 20, 64 in flight, two processes": 20,
    "unlogged batches of 50, 32 in flight, two processes": 50,
}


def rows(files: Sequence[str]) -> list[Line]:
    """All rows, as the driver takes them."""
    found: list[Line] = []
    for file in files:
        table = pq.read_table(file)
        found += zip(table.column("key").to_pylist(), table.column("states").to_pylist(), strict=True)
    return found


def chunks(lines: Sequence[Line], size: int) -> Iterator[list[Line]]:
    """Lines in groups."""
    left = iter(lines)
    while group := list(islice(left, size)):
        yield group


def load(session: Any, statement: Any, lines: Sequence[Line], size: int) -> None:
    """Write all lines, `size` a request."""
    most = 1600 // size if size > 20 else 64
    free, failures = Semaphore(most), []

    def failed(error: Exception) -> None:
        failures.append(error)
        free.release()

    for group in chunks(lines, size):
        request = BatchStatement(batch_type=BatchType.UNLOGGED)
        for line in group:
            request.add(statement, line)
        free.acquire()
        session.execute_async(request).add_callbacks(lambda _: free.release(), failed)
    for _ in range(most):
        free.acquire()
    if failures:
        raise failures[0]


def main(host: str, port: str, keyspace: str, table: str, variant: str, *files: str) -> None:
    """One process's share of a load."""
    profile = ExecutionProfile(
        load_balancing_policy=RoundRobinPolicy(), consistency_level=ConsistencyLevel.LOCAL_QUORUM
    )
    cluster = Cluster(
        [host], port=int(port), protocol_version=5, execution_profiles={EXEC_PROFILE_DEFAULT: profile}
    )
    session = cluster.connect(keyspace)
    statement = session.prepare(f"INSERT INTO {table} (key, states) VALUES (?, ?)")
    lines = rows(files)
    print("ready", flush=True)
    sys.stdin.readline()
    load(session, statement, lines, VARIANTS[variant])
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
