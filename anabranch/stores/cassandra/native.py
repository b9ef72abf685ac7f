"""Reads by acsylla, a driver in C++, on event loops: a fifth of the processor time of cassandra-driver.

Threads and jobs read with cassandra-driver (session.py), which also makes tables and keeps the manifest.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import acsylla
from acsylla.errors import CassErrorLibNoHostsAvailable, CassErrorServerInvalidQuery, CassException
from cassandra import InvalidRequest, OperationTimedOut

from anabranch.settings import ViewsSettings

_SECONDS = 10.0
_PROTOCOL = 4  # the newest that this driver speaks to Cassandra 5


class NativeReader:
    """Reads on the event loop that runs; connects with the first of them, and again after a failure."""

    def __init__(self, settings: ViewsSettings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: asyncio.Task[Any] | None = None
        self._statements: dict[tuple[str, float], asyncio.Task[Any]] = {}

    def start(
        self, statement: str, values: Sequence[object], timeout: float | None
    ) -> asyncio.Task[list[tuple[Any, ...]]]:
        """Start a read of plain tuples; it fails with the errors of cassandra-driver."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._session, self._statements = loop, None, {}
        read = loop.create_task(self._rows(statement, values, timeout or _SECONDS))
        read.add_done_callback(_retrieve)
        return read

    @property
    def prepared(self) -> frozenset[str]:
        """The statements that are prepared."""
        return frozenset(name for (name, _), made in self._statements.items() if made.done())

    def prepare(self, statements: Sequence[str], timeout: float | None) -> None:
        """Prepare statements, from another thread than that of the event loop."""
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._prepare(statements, timeout or _SECONDS), self._loop)

    async def _prepare(self, statements: Sequence[str], timeout: float) -> None:
        for statement in statements:
            await self._prepared(statement, timeout)

    async def _rows(self, statement: str, values: Sequence[object], timeout: float) -> list[tuple[Any, ...]]:
        try:
            try:
                result = await self._executed(statement, values, timeout)
            except CassErrorLibNoHostsAvailable:
                # Also said where a statement cannot be prepared anew: its table may be gone.
                self._statements.pop((statement, timeout), None)
                result = await self._executed(statement, values, timeout)
        except CassErrorServerInvalidQuery as error:
            raise InvalidRequest(str(error)) from error
        except CassException as error:
            raise OperationTimedOut(str(error)) from error
        return [row.as_tuple() for row in result]

    async def _executed(self, statement: str, values: Sequence[object], timeout: float) -> Any:
        made = self._statements.get((statement, timeout))
        prepared = made.result() if made and made.done() else await self._prepared(statement, timeout)
        bound = prepared.bind()
        bound.bind_list(list(values))
        bound.set_is_idempotent(True)  # a read: asked of another node when one is lost meanwhile
        return await (await self._connected()).execute(bound)

    async def _prepared(self, statement: str, timeout: float) -> Any:
        """The statement, prepared once however many wait for it."""
        session, name = await self._connected(), (statement, timeout)
        if name not in self._statements:
            made = session.create_prepared(statement, timeout=timeout)
            self._statements[name] = asyncio.ensure_future(made)
        try:
            return await asyncio.shield(self._statements[name])
        except CassException:
            self._statements.pop(name, None)
            raise

    async def _connected(self) -> Any:
        if self._session is None:
            self._session = asyncio.ensure_future(self._connect())
        try:
            return await asyncio.shield(self._session)
        except CassException:
            self._session = None
            raise

    async def _connect(self) -> Any:
        settings = self._settings
        cluster = acsylla.create_cluster(
            list(settings.hosts),
            port=settings.port,
            username=settings.username,
            password=settings.password,
            protocol_version=_PROTOCOL,
            consistency="LOCAL_QUORUM",
            load_balance_dc_aware=settings.local_datacenter,
            request_timeout=_SECONDS,
            connect_timeout=_SECONDS,
            constant_reconnect_delay_ms=1000,
            log_level="disabled",  # it calls an error that Cassandra is not ScyllaDB; what fails is raised
        )
        return await cluster.create_session(keyspace=settings.keyspace)


def _retrieve(read: asyncio.Task[Any]) -> None:
    """Take notice of an error: of reads that fail together, the answer raises that of the first alone."""
    if not read.cancelled():
        read.exception()
