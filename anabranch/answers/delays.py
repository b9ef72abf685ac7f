"""How far a stream's current rows lag behind arrival, kept as latest measures and judged by the promise.

subject "stream"  name "delay"       slice: source    seconds behind arrival, as of `at`
subject "stream"  name "kept_since"  slice: source    seconds since 1970: since when delays were as promised
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND, from_micros, to_micros

STREAM = "stream"
"""The subject of these measures."""
_DELAY, _KEPT = "delay", "kept_since"


@dataclass(frozen=True, kw_only=True)
class Delay:
    """The delay of one source, in microseconds: when, how long, and since when the promise is kept, if so."""

    source: str
    at: int
    behind: int
    kept_since: int | None = None


def as_measures(project: str, delay: Delay) -> list[Measure]:
    """A delay as the measures that are kept of it."""
    at = from_micros(delay.at)
    values = {
        _DELAY: delay.behind / SECOND,
        _KEPT: 0.0 if delay.kept_since is None else delay.kept_since / SECOND,
    }
    return [
        Measure(project=project, subject=STREAM, name=name, slice=delay.source, at=at, value=value)
        for name, value in values.items()
    ]


def from_measures(measures: Iterable[Measure], sources: Sequence[str]) -> list[Delay]:
    """The latest delay of each of `sources` that has one."""
    latest = {(one.name, one.slice): one for one in measures if one.subject == STREAM}
    delays = []
    for source in sources:
        delay, kept = latest.get((_DELAY, source)), latest.get((_KEPT, source))
        if delay is not None:
            since = round(kept.value * SECOND) if kept is not None and kept.value else None
            behind = round(delay.value * SECOND)
            delays.append(Delay(source=source, at=to_micros(delay.at), behind=behind, kept_since=since))
    return delays
