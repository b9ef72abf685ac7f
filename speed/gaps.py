"""Gaps: events that answers add from nowhere, found by the stream and noted where answers are made.

A message belongs to the batch when it arrived before the cut and was in the lake, and to a tile that answers
add when it arrived at or after the cut. What else there can be is noted here, so that answers are degraded
until the next build, which takes it from the lake.
"""

import json
import logging
from collections import deque

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.stores.cassandra.manifest import LONGEST_AHEAD, Gap
from anabranch.stores.files.filesystems import file_names, remove_folder
from anabranch.values.times import SECOND, now_micros
from speed.feeds import standing_feeds
from speed.progress import Stretch
from speed.query import EARLIEST, SpeedLayer, begun, checkpoint, starting_offsets

log = logging.getLogger(__name__)


def place_of(layer: SpeedLayer, project: Project, source: Source) -> str:
    """The checkpoint from which a source's query goes on, or begins where its topic or its tiles are new."""
    topic = layer.stores.bus.read_as(str(source.topic))
    spark, views, folder = layer.stores.spark, layer.stores.views, checkpoint(layer, project, source)
    place, why = begun(layer, topic, folder), None
    begins, lacking = not file_names(spark, f"{place}/commits"), views.lacking_tiles(project, source.name)
    if begins and (place != folder or _was_built_of_another(layer, project, source)):
        # The lake, and tiles of the open slot, hold events of the topic before, which the query never reads.
        why, lacking = f"topic {source.topic!r} was deleted and made again", _tiles_of(project, source)
    elif not begins and lacking:
        why = "tiles were removed from Cassandra and are made again"
    # No answer reads tiles of views that wait for their build alone: it waits until they are made.
    standing = {
        name for each in standing_feeds(layer, project) for name in _tiles_of(each.project, each.source)
    }
    if why is not None and lacking & standing:
        note_gap(layer, project, source.name, why)
    layer.places.begin(views, project.name, lacking)
    if not begins and why is not None:
        remove_folder(spark, place)
    if begins or why is not None:
        views.mark_tiles(project, source.name)
        start = starting_offsets(layer, project, source)
        if start != EARLIEST:
            skipped = json.loads(start)[topic].items()
            before = Stretch(starts={}, ends={int(part): end for part, end in skipped}, earliest=0)
            _look(layer, project, (source.name, topic), before)
    return place


def _tiles_of(project: Project, source: Source) -> set[str]:
    return {view.tiles_name for view in project.views_of(source.name)}


def _was_built_of_another(layer: SpeedLayer, project: Project, source: Source) -> bool:
    """Whether the batch version is of a topic that was deleted, and made again, before any stream read it."""
    manifest = layer.stores.views.manifest(project.name)
    known = None if manifest is None else manifest.topics.get(source.name)
    return known not in (None, layer.stores.bus.topic_id(layer.stores.bus.read_as(str(source.topic))))


def note_gap(layer: SpeedLayer, project: Project, source: str, why: str, until: int = 0) -> None:
    """Keep that events up to now, or `until`, are in no tile: answers are degraded until a later cut."""
    gap = Gap(source, max(until, now_micros() + layer.times.ahead_seconds * SECOND), why)
    layer.stores.views.note_gap(project.name, gap)
    log.warning("query %s.%s: %s", project.name, source, why)


def look_behind(
    layer: SpeedLayer, project: Project, source: str, topic: str, stretches: deque[Stretch]
) -> None:
    """Note a gap for events of finished micro-batches that answers add from nowhere.

    They came behind the watermark, or behind the cut of a batch that did not find them, because the broker's
    clock was set back or a transaction was committed late; or they were stamped ahead. Builds take all from
    the lake.
    """
    try:
        while stretches:
            _look(layer, project, (source, topic), stretches[0])
            stretches.popleft()
    except Exception as error:  # noqa: BLE001 - the next look makes up for it
        log.info("whether events of %s came behind a cut is looked at later: %s", project.name, error)


def _look(layer: SpeedLayer, project: Project, named: tuple[str, str], each: Stretch) -> None:
    (source, topic), behind = named, 0
    manifest = layer.stores.views.manifest(project.name)
    if manifest is not None and each.earliest is not None and each.earliest < manifest.cut:
        parts = manifest.not_in_lake(source, each.starts, each.ends)
        behind = layer.stores.bus.count_before(topic, parts, manifest.cut) if parts else 0
    if behind or each.dropped:
        many = max(behind, each.dropped)
        note_gap(layer, project, source, f"{many} came behind the cut or the watermark")
    if each.ahead is not None:
        until = min(each.ahead, now_micros() + LONGEST_AHEAD)
        note_gap(layer, project, source, "the broker's clock was ahead", until)
