"""What becomes of the states of each view, and what it costs to make new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.folds.grains import largest_key
from anabranch.folds.merge import LABELS
from anabranch.planning import changes
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.values.times import format_duration

KEPT, RENAMED, ANEW, GOES = "kept", "renamed", "built anew", "goes"
_COUNTED = (
    (changes.COMES, "comes", "come"),
    (changes.GOES, "goes", "go"),
    (changes.CHANGES, "changes meaning", "change meaning"),
    (changes.RENAMED, "is renamed", "are renamed"),
)
BUILD, RATE = "build", "events_per_second"
"""Subject and name of the measures of how fast builds read every event of a view, by view as slice."""


@dataclass(frozen=True, kw_only=True)
class SourceSize:
    """What a source has in the lake: rows, bytes and files; None where that is not known without Spark."""

    rows: int | None
    bytes: int | None
    files: int


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """One view: what becomes of its states.

    `rows` are the events that a build reads, `seconds` how long that takes by the rate of earlier builds.
    `state_bytes` are those of one state of the new view, `key_bytes` the most that a key takes in a batch
    version, and both `before`; `keys` are those of the version that serves. `tiles` are the widths of the
    stream's tiles; `restarts` is the topic that the stream reads again to fill new ones.
    """

    name: str
    becomes: str
    before: str | None = None
    source: str
    rows: int | None = 0
    seconds: float | None = 0.0
    keys: int | None = None
    state_bytes: int | None = None
    state_bytes_before: int | None = None
    key_bytes: int | None = None
    key_bytes_before: int | None = None
    tiles: Sequence[str] = ()
    tiles_before: Sequence[str] = ()
    restarts: str | None = None

    def document(self) -> dict[str, Any]:
        """The plan of the view as JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


def plan_views(
    new: Project,
    old: Project | None,
    manifest: Manifest | None,
    *,
    sizes: Mapping[str, SourceSize],
    rates: Mapping[str, float],
    slack: int,
) -> list[ViewPlan]:
    """A plan for each of the project's own views, and for those that go.

    `sizes` are by source; `rates` are events a second of earlier builds by view, with "" for any view.
    States are those of `manifest`, or without one of the views of `old`: those of one fingerprint are shared,
    whatever the names of the views and their features.
    """
    stored = _stored(old, manifest)
    before = {view.name: view for view in old.own_views} if old is not None else {}
    names = {fingerprint: name for name, fingerprint in stored.items()}
    found = []
    for view in new.own_views:
        was = names.get(view.fingerprint) if stored.get(view.name) != view.fingerprint else view.name
        becomes = ANEW if was is None else KEPT if was == view.name else RENAMED
        keys = None if manifest is None else manifest.rows.get(was or view.name)
        earlier = before.get(was or view.name)
        size = sizes.get(view.source.name)
        rows = 0 if becomes != ANEW else None if size is None else size.rows
        rate = rates.get(view.name) or rates.get("")
        found.append(
            ViewPlan(
                name=view.name,
                becomes=becomes,
                before=was if becomes == RENAMED else None,
                source=view.source.name,
                rows=rows,
                seconds=0.0 if becomes != ANEW else rows / rate if rows is not None and rate else None,
                keys=keys,
                state_bytes=_state_bytes(view),
                state_bytes_before=None if earlier is None else _state_bytes(earlier),
                key_bytes=largest_key(view, slack),
                key_bytes_before=None if earlier is None else largest_key(earlier, slack),
                tiles=_tiles(view),
                tiles_before=() if earlier is None else _tiles(earlier),
                restarts=view.source.topic if becomes == ANEW and stored else None,
            )
        )
    there = {view.fingerprint for view in new.own_views} | {view.name for view in new.own_views}
    for name, fingerprint in stored.items():
        if fingerprint not in there and name not in there:
            source = before[name].source.name if name in before else ""
            keys = None if manifest is None else manifest.rows.get(name)
            found.append(ViewPlan(name=name, becomes=GOES, source=source, keys=keys))
    return found


def _stored(old: Project | None, manifest: Manifest | None) -> Mapping[str, str]:
    if manifest is not None:
        return manifest.fingerprints
    return {} if old is None else {view.name: view.fingerprint for view in old.own_views}


def _state_bytes(view: FeatureView) -> int:
    return 8 * (LABELS + view.layout.width) + sum(extra.largest for extra in view.layout.extras)


def _tiles(view: FeatureView) -> tuple[str, ...]:
    return tuple(map(format_duration, view.tiers))


def differs(found: changes.Changes | None, views: Sequence[ViewPlan]) -> bool:
    """Whether anything would be another one than what serves."""
    return bool(found and found.all) or any(view.becomes != KEPT for view in views)


def told(project: str, against: str, found: changes.Changes | None, views: Sequence[ViewPlan]) -> str:
    """What changes, in one sentence."""
    if not differs(found, views):
        return f"{project}: nothing changes against {against}"
    parts = []
    if found is not None:
        for kind, one, many in _COUNTED:
            count = len(found.names(kind))
            parts += (
                [f"{count} feature{'s' if count > 1 else ''} {many if count > 1 else one}"] if count else []
            )
        parts += [f"{found.same} stay the same"]
    anew = [view for view in views if view.becomes == ANEW]
    parts += (
        [f"{len(anew)} view{'s are' if len(anew) > 1 else ' is'} built anew{_cost(views)}"] if anew else []
    )
    return f"{project} against {against}: {', '.join(parts)}"


def seconds_anew(views: Sequence[ViewPlan]) -> float | None:
    """How long views that are built anew take; None where it is not known."""
    each = [view.seconds for view in views if view.becomes == ANEW]
    known = [one for one in each if one is not None]
    return sum(known) if len(known) == len(each) else None


def _cost(views: Sequence[ViewPlan]) -> str:
    rows = [view.rows for view in views if view.becomes == ANEW]
    known = [one for one in rows if one is not None]
    costs = [f"{sum(known):,} events to read"] if len(known) == len(rows) else []
    seconds = seconds_anew(views)
    costs += [] if seconds is None else [f"about {duration(seconds)}"]
    return f" ({', '.join(costs)})" if costs else ""


def duration(seconds: float) -> str:
    """A time that something takes, in words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
