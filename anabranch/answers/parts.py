"""Batch parts that were read already, kept decoded up to a bound of memory; the least recently used ones go first."""

import threading
from collections import OrderedDict

from anabranch.folds.merge import BatchPart

Name = tuple[str, str, int, str]
"""Project and view, when its batch version was built (versions' numbers may come again after a rollback), key."""
_OVERHEAD = 800  # bytes of Python's objects around a part, measured


class Parts:
    """The kept parts; safe to use from several threads. `limit` in bytes, 0 keeps nothing."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.hits, self.misses = limit, 0, 0, 0
        self._kept: OrderedDict[Name, tuple[BatchPart, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: Name) -> bool:
        """Whether the part is kept; not counted as a use."""
        return name in self._kept

    def get(self, name: Name) -> BatchPart | None:
        """The part, if it is kept."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                self.misses += 1
                return None
            self._kept.move_to_end(name)
            self.hits += 1
            return found[0]

    def put(self, name: Name, part: BatchPart) -> None:
        """Keep a part, and forget others for it; one that alone passes the limit is not kept."""
        size = (
            _OVERHEAD
            + 2 * len(name[-1])
            + part.rows.nbytes
            + sum(64 + len(extra or b"") for state in part.extras for extra in state)
        )
        if size > self.limit:
            return
        with self._lock:
            before = self._kept.pop(name, None)
            self.bytes += size - (before[1] if before else 0)
            self._kept[name] = (part, size)
            while self.bytes > self.limit:
                _, (_, freed) = self._kept.popitem(last=False)
                self.bytes -= freed
