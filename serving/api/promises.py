"""Freshness judged: the promised age of answers, the measured one, and whether the promise is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from anabranch.answers.delays import Delay, from_measures
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND
from serving.api.live import Served

State = Literal["kept", "missed", "unknown"]
STATES: tuple[State, ...] = ("kept", "missed", "unknown")
_SILENT = 30 * SECOND  # a stream measures its delay every few seconds, and the server reads it every few


@dataclass(frozen=True, kw_only=True)
class ChannelFreshness:
    """Freshness of one channel in microseconds.

    `behind` is the age of the batch's cut, or how far current rows are behind arrival. `state` is None
    without a promise; `since` is when the promise began to be kept, or missed. `sources` is how far each
    source is behind.
    """

    promised: int | None
    behind: int | None = None
    state: State | None = None
    since: int | None = None
    sources: dict[str, int | None] = field(default_factory=dict)


def judged(served: Served, measures: Sequence[Measure], now: int) -> dict[str, ChannelFreshness]:
    """Freshness of both channels; `measures` are the project's latest."""
    return {"batch": _batch(served, now), "stream": _stream(served, measures, now)}


def kept(channels: dict[str, ChannelFreshness]) -> bool | None:
    """Whether every promise that can be judged is kept; None when none can."""
    states = {channel.state for channel in channels.values()}
    return False if "missed" in states else True if "kept" in states else None


def _batch(served: Served, now: int) -> ChannelFreshness:
    declared, manifest = served.project.promised_freshness, served.manifest
    promised = declared.batch_micros if declared else None
    if manifest is None:
        return ChannelFreshness(promised=promised, state=None if promised is None else "unknown")
    behind = now - manifest.cut
    if promised is None:
        return ChannelFreshness(promised=None, behind=behind)
    if behind > promised:
        since = manifest.cut + promised
        return ChannelFreshness(promised=promised, behind=behind, state="missed", since=since)
    return ChannelFreshness(promised=promised, behind=behind, state="kept", since=manifest.built_at)


def _stream(served: Served, measures: Sequence[Measure], now: int) -> ChannelFreshness:
    declared, project = served.project.promised_freshness, served.project
    promised = declared.stream_micros if declared else None
    streamed = [
        source.name
        for source in project.sources.values()
        if source.topic is not None and project.views_of(source.name)
    ]
    delays = {delay.source: delay for delay in from_measures(measures, streamed)}
    sources = {name: _behind(delays[name], now) if name in delays else None for name in streamed}
    known = [behind for behind in sources.values() if behind is not None]
    state: State | None = None
    since = None
    if promised is not None and streamed:
        late = [
            delay.at - delay.behind + promised for delay in delays.values() if _behind(delay, now) > promised
        ]
        if late:
            state, since = "missed", min(late)
        elif len(known) < len(streamed):
            state = "unknown"
        else:
            state, since = "kept", max(delay.kept_since or delay.at for delay in delays.values())
    behind = max(known, default=None)
    return ChannelFreshness(promised=promised, behind=behind, state=state, since=since, sources=sources)


def _behind(delay: Delay, now: int) -> int:
    """How far a source is behind; in a silent stream, events wait since its last report."""
    silent = now - delay.at
    return delay.behind + silent if silent > _SILENT else delay.behind
