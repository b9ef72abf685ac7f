"""Freshness judged: what a project promises of the age of its answers, what is measured, and whether the promise is kept, by channel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from anabranch.answers.delays import Delay, from_measures
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import SECOND
from serving.api.live import Served

State = Literal["kept", "missed", "unknown"]
STATES: tuple[State, ...] = ("kept", "missed", "unknown")
CHANNELS = ("batch", "stream")
_SILENT = (
    30 * SECOND
)  # a stream tells its delay every few seconds, and what it told is remembered here for some


@dataclass(frozen=True, kw_only=True)
class ChannelFreshness:
    """One channel's freshness in microseconds: `behind` is the age of the cut, or how far current rows are behind arrival.

    `state` is None where nothing is promised; `since` is when the promise began to be kept, or missed. `sources`: how far each is behind.
    """

    promised: int | None
    behind: int | None = None
    state: State | None = None
    since: int | None = None
    sources: dict[str, int | None] = field(default_factory=dict)


def judged(served: Served, measures: Sequence[Measure], now: int) -> dict[str, ChannelFreshness]:
    """Both channels; `measures` are the project's latest."""
    return {"batch": _batch(served, now), "stream": _stream(served, measures, now)}


def kept(channels: dict[str, ChannelFreshness]) -> bool | None:
    """Whether every promise that can be judged is kept; None when none can."""
    states = {channel.state for channel in channels.values()}
    return False if "missed" in states else True if "kept" in states else None


def _batch(served: Served, now: int) -> ChannelFreshness:
    promised, manifest = served.project.freshness, served.manifest
    limit = promised.batch_micros if promised else None
    if manifest is None:
        return ChannelFreshness(promised=limit, state=None if limit is None else "unknown")
    behind = now - manifest.cut
    if limit is None:
        return ChannelFreshness(promised=None, behind=behind)
    missed = behind > limit
    return ChannelFreshness(
        promised=limit,
        behind=behind,
        state="missed" if missed else "kept",
        since=manifest.cut + limit if missed else manifest.built_at,
    )


def _stream(served: Served, measures: Sequence[Measure], now: int) -> ChannelFreshness:
    promised = served.project.freshness
    limit = promised.stream_micros if promised else None
    fed = [
        source.name
        for source in served.project.sources.values()
        if source.topic is not None and served.project.views_of(source.name)
    ]
    told = {delay.source: delay for delay in from_measures(measures, fed)}
    sources = {name: _behind(told[name], now) if name in told else None for name in fed}
    known = [behind for behind in sources.values() if behind is not None]
    behind = max(known, default=None)
    if limit is None or not fed:
        return ChannelFreshness(promised=limit, behind=behind, sources=sources)
    late = [delay.at - delay.behind + limit for delay in told.values() if _behind(delay, now) > limit]
    if late:
        return ChannelFreshness(
            promised=limit, behind=behind, state="missed", since=min(late), sources=sources
        )
    if len(known) < len(fed):
        return ChannelFreshness(promised=limit, behind=behind, state="unknown", sources=sources)
    return ChannelFreshness(
        promised=limit,
        behind=behind,
        state="kept",
        since=max(delay.kept_since or delay.at for delay in told.values()),
        sources=sources,
    )


def _behind(delay: Delay, now: int) -> int:
    """A stream that fell silent keeps nothing current: since it last spoke, what arrived waits."""
    silent = now - delay.at
    return delay.behind + silent if silent > _SILENT else delay.behind
