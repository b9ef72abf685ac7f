"""Batch parts that REST servers and workers share through an Ignite node, so that each is read once.

The node never delays an answer: a read waits some milliseconds at most, in a thread; writes go behind a
bounded queue; a node that is down is left alone for seconds. An entry is a batch part:

    key      project, view, fingerprint, when the batch version was built, key (separated by U+001F)
    value    int64 cut, int64 slack, uint32 columns, uint32 extras a state, uint64 length of the rows;
             the rows; the extras (folds/packing.py)
"""

import asyncio
import logging
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

from anabranch.errors import MisuseError, UnavailableError
from anabranch.folds.merge import BatchPart
from anabranch.folds.packing import pack_extras, unpack_extras, unpack_rows
from anabranch.stores.breaker import Breaker

log = logging.getLogger(__name__)
CACHE = "batch_parts"
_HEAD = struct.Struct("<qqIIQ")
_CONNECT_SECONDS = 1.0
_MOST_WAITING = 2_000
_AT_ONCE = 200
_READS = 4  # that wait for the thread; further answers go on without it


def require_client() -> None:
    """Raise MisuseError when Ignite's client, an optional dependency, is not installed."""
    if find_spec("pyignite") is None:
        raise MisuseError(
            'serving.cache = "ignite" needs pyignite, which is not installed: '
            "run 'uv sync --extra ignite', or set serving.cache = \"memory\""
        )


class SharedParts:
    """The node at `address` (host:port); reads wait `patience`, failures stop calls for `pause` seconds."""

    def __init__(self, address: str, *, patience: float = 0.05, pause: float = 5.0) -> None:
        require_client()
        import pyignite  # needed only by servers that share, and no answer may wait for the import

        self._connect = partial(pyignite.Client, timeout=_CONNECT_SECONDS, handshake_timeout=_CONNECT_SECONDS)
        logging.getLogger("pyignite").setLevel(logging.CRITICAL)  # it logs each attempt with a traceback
        host, _, port = address.rpartition(":")
        self._host, self._port, self._patience = host, int(port), patience
        self._breaker = Breaker(f"Ignite at {address}", failures=1, pause=pause)
        self._reading = 0
        self._clients: dict[str, Any] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="shared-parts")
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._something = threading.Event()
        self._writer: threading.Thread | None = None
        self.hits = self.misses = self.failures = self.dropped = 0

    async def fetch(self, names: Sequence[str]) -> Mapping[str, BatchPart]:
        """The parts that the node has, by name. Never raises; parts that come too late are left out."""
        names = names[:_AT_ONCE]
        if not names or self._reading >= _READS or not self._may_call():
            return {}
        self._reading += 1
        try:
            async with asyncio.timeout(self._patience):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, names)
        except TimeoutError:
            self._failed("no answer in time")
            return {}
        finally:
            self._reading -= 1
        if found is None:
            return {}
        self._breaker.succeeded()
        self.hits += len(found)
        self.misses += len(names) - len(found)
        return found

    @property
    def done(self) -> Mapping[str, int]:
        """Counts of reads and writes so far."""
        return {
            "shared_hits": self.hits,
            "shared_misses": self.misses,
            "shared_failures": self.failures,
            "shared_dropped": self.dropped,
        }

    def offer(self, name: str, part: BatchPart) -> None:
        """Queue a part to be shared; it is dropped when too many wait or the node is down."""
        if len(self._waiting) >= _MOST_WAITING or self._breaker.refuses:
            self.dropped += 1
            return
        self._waiting.append((name, encoded(part)))
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="shared-parts-writer", daemon=True)
            self._writer.start()
        self._something.set()

    def _read(self, names: Sequence[str]) -> dict[str, BatchPart] | None:
        """The parts by name, or None when the node fails."""
        try:
            entries = self._cache("read").get_all(list(names))
        except Exception as error:  # noqa: BLE001
            # The client and the network raise anything; a cache that fails counts as empty.
            self._lost("read", error)
            return None
        return {name: part for name, value in entries.items() if (part := decoded(value)) is not None}

    def _write(self) -> None:
        from pyignite.datatypes import ByteArrayObject

        while True:
            self._something.wait()
            self._something.clear()
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
                if not self._may_call():
                    self.dropped += len(some)
                    continue
                try:
                    self._cache("write").put_all({name: (value, ByteArrayObject) for name, value in some})
                    self._breaker.succeeded()
                except Exception as error:  # noqa: BLE001 - as in `_read`
                    self.dropped += len(some)
                    self._lost("write", error)

    def _cache(self, purpose: str) -> Any:
        """A connection for each purpose, since one serves one thread at a time."""
        client = self._clients.get(purpose)
        if client is None:
            client = self._connect()
            client.connect(self._host, self._port)
            self._clients[purpose] = client
        return client.get_cache(CACHE)

    def _lost(self, purpose: str, error: Exception) -> None:
        client = self._clients.pop(purpose, None)
        if client is not None:
            client.close()
        self._failed(f"{type(error).__name__}: {error}")

    def _may_call(self) -> bool:
        try:
            self._breaker.check()
        except UnavailableError:
            return False
        return True

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self._breaker.open:
            log.warning(
                "Ignite at %s:%d does not answer, answers go on without it: %s", self._host, self._port, why
            )
        self._breaker.failed(why)


def encoded(part: BatchPart) -> bytes:
    """A part as the value of an entry."""
    rows = part.rows.astype("<f8").tobytes()
    extras = len(part.extras[0]) if part.extras else 0
    return (
        _HEAD.pack(part.cut, part.slack, part.rows.shape[1], extras, len(rows))
        + rows
        + (pack_extras(part.extras) or b"")
    )


def decoded(value: object) -> BatchPart | None:
    """The part in the value of an entry, or None when the value is not one."""
    try:
        content = bytes(value)  # type: ignore[call-overload]
        cut, slack, columns, extras, length = _HEAD.unpack_from(content)
        rows = unpack_rows(content[_HEAD.size : _HEAD.size + length], columns)
        return BatchPart(cut, slack, rows, unpack_extras(content[_HEAD.size + length :], extras))
    except (TypeError, ValueError, struct.error):
        return None
