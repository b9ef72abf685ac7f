"""Takeover: a version with views of a new meaning becomes current when the stream has filled their tiles.

The stream feeds new views beside those that serve, from the first slot that any version can need, into tables
of their own. Until it is as far with them as with those that serve, answers by them would miss events that
answers have counted already.
"""

import time
from collections.abc import Mapping

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.progress import Progress
from anabranch.stores.cassandra.manifest import Gap, Manifest
from anabranch.stores.cassandra.session import MissingTableError
from anabranch.stores.opened import Stores
from anabranch.values.times import SECOND, now_micros

_PATIENCE = 60.0  # seconds without any progress of the stream
_FIRST = 20.0  # seconds in which a running stream finds a new declaration
_PAUSE = 0.5


def await_first_tiles(
    stores: Stores, project: Project, before: Manifest | None, cut: int, progress: Progress
) -> None:
    """Raise AnabranchError, before a build, for new views that no stream has begun to feed and must."""
    deadline = time.monotonic() + _FIRST
    while views := [
        view for view in _behind(stores, project, before, cut) if not _filled(stores, view, project)
    ]:
        if time.monotonic() >= deadline:
            raise AnabranchError(_text(project, views[0]))
        progress.step(f"waiting for the stream to feed view {views[0].name}, which means something new")
        time.sleep(_PAUSE)


def await_tiles(
    stores: Stores, project: Project, before: Manifest | None, entry: Manifest, progress: Progress
) -> None:
    """Wait until the stream is as far with the views of `entry` as with those of `before`.

    Raises AnabranchError when it makes no progress for a minute; if the version was accepted all the same,
    notes gaps instead, so that its answers say that they may lack events.
    """
    deadline, last = time.monotonic() + _PATIENCE, None
    while views := _behind(stores, project, before, entry.cut):
        reached = [_filled(stores, view, project) for view in views]
        if reached != last:
            deadline, last = time.monotonic() + _PATIENCE, reached
            progress.step(f"waiting for the stream to fill the tiles of view {views[0].name}")
        elif time.monotonic() >= deadline or entry.accepted is not None:
            if entry.accepted is None:
                raise AnabranchError(_text(project, views[0]))
            until = now_micros() + stores.settings.times.ahead_seconds * SECOND
            for view in views:
                why = f"view {view.name!r} took over before the stream had filled its tiles"
                stores.views.note_gap(project.name, Gap(view.source.name, until, why))
            return
        time.sleep(_PAUSE)


def _text(project: Project, view: FeatureView) -> str:
    return (
        f"view {view.name!r} of {project.name!r} means something new, and the stream has not filled its "
        f"tiles: answers would lack events that they count now. Run 'anabranch stream {project.name}', which "
        "feeds both declarations (--once is enough), and build again; with --accept REASON answers are "
        "marked degraded until a later build"
    )


def _behind(stores: Stores, project: Project, before: Manifest | None, cut: int) -> list[FeatureView]:
    """New views whose tiles end before those of the views that serve, where these hold events since `cut`."""
    if before is None:
        return []
    stores.views.ensure_own_events()
    meant, known = before.meant(project), set(before.fingerprints.items())
    found = []
    for view in project.own_views:
        topic = view.source.topic
        if topic is None or (view.name, view.fingerprint) in known:
            continue
        target: dict[int, int] = {}
        for other in meant.own_views:
            if other.source.topic == topic:
                target |= {
                    partition: max(end, target.get(partition, 0))
                    for partition, end in _done(stores, other, project).items()
                }
        first = stores.bus.offsets_at(stores.bus.read_as(topic), cut) if target else {}
        done = _filled(stores, view, project)
        if any(end > max(first.get(part, 0), done.get(part, 0)) for part, end in target.items()):
            found.append(view)
    return found


def _done(stores: Stores, view: FeatureView, project: Project) -> Mapping[int, int]:
    return stores.views.places(project.name, view.tiles_name).done


def _filled(stores: Stores, view: FeatureView, project: Project) -> Mapping[int, int]:
    """How far the tiles of a new view are; places of tables that were dropped, or made anew, do not count."""
    try:
        lacking = stores.views.lacking_tiles(project, view.source.name)
    except MissingTableError:
        return {}
    return {} if view.tiles_name in lacking else _done(stores, view, project)
