"""How far a query's current rows are behind arrival, found without looking at an event: where the topic ended at known times, and when the query
had got there.
"""

from collections import deque
from collections.abc import Mapping

from anabranch.answers.delays import Delay

_MOST = 1000


class Delays:
    """One source's. `ended` says where the topic ends, `reached` how far the query is; times in microseconds."""

    def __init__(self, source: str, promised: int | None) -> None:
        self._source, self._promised = source, promised
        self._waiting: deque[tuple[int, Mapping[int, int]]] = deque()
        self._longest = 0
        self._known = False
        self._kept_since: int | None = None

    def ended(self, at: int, ends: Mapping[int, int]) -> None:
        """At that time the topic's partitions ended at these offsets."""
        if (
            len(self._waiting) < _MOST
        ):  # while a query is far behind, the times asked last are told when it has got there
            self._waiting.append((at, ends))

    def reached(self, now: int, offsets: Mapping[int, int]) -> None:
        """By now the tiles and current rows of all before these offsets are written."""
        while self._waiting and all(
            offsets.get(partition, 0) >= end for partition, end in self._waiting[0][1].items()
        ):
            at, _ = self._waiting.popleft()
            self._longest, self._known = max(self._longest, now - at), True

    def told(self, now: int) -> Delay | None:
        """The longest delay since it was last told, or of what still waits; None while nothing is known."""
        behind = max(self._longest, now - self._waiting[0][0] if self._waiting else 0)
        # Until a query has got to where the topic ended when it was first asked, events may wait from before.
        if not self._known and (self._promised is None or behind <= self._promised):
            return None
        self._longest = 0
        if self._promised is not None and behind > self._promised:
            self._kept_since = None
        elif self._kept_since is None and self._known:
            self._kept_since = now - behind
        return Delay(source=self._source, at=now, behind=behind, kept_since=self._kept_since)
