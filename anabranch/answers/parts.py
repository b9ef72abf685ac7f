"""Decoded batch parts, cached up to a bound of memory; the least recently used are dropped first."""

import threading

from cachetools import LRUCache

from anabranch.folds.merge import BatchPart

Name = tuple[str, str, int, str]
"""Project, view, when its batch version was built (numbers of versions can recur after a rollback), key."""
_OVERHEAD = 800  # bytes of Python's objects around a part, measured


class Parts:
    """The cached parts, for several threads. `limit` in bytes; 0 keeps nothing."""

    def __init__(self, limit: int) -> None:
        self.limit, self.hits, self.misses = limit, 0, 0
        self._kept: LRUCache[Name, tuple[BatchPart, int]] = LRUCache(limit, getsizeof=lambda kept: kept[1])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: Name) -> bool:
        """Whether the part is cached; does not count as a use."""
        return name in self._kept

    @property
    def bytes(self) -> int:
        """Memory of the cached parts."""
        return int(self._kept.currsize)

    def get(self, name: Name) -> BatchPart | None:
        """The part, if it is cached."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                self.misses += 1
                return None
            self.hits += 1
            return kept[0]

    def put(self, name: Name, part: BatchPart) -> None:
        """Cache a part, dropping others for it; one that exceeds the limit by itself is not cached."""
        extras = sum(64 + len(extra or b"") for state in part.extras for extra in state)
        size = _OVERHEAD + 2 * len(name[-1]) + part.rows.nbytes + extras
        if size <= self.limit:
            with self._lock:
                self._kept[name] = (part, size)
