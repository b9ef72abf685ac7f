"""The flow of a build: land, check that the lake holds everything below the cut, build, swap."""

from collections.abc import Mapping

from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.stores.cassandra.manifest import Gap, Manifest, outlived
from anabranch.stores.cassandra.removal import needed_since
from anabranch.values.times import SECOND, format_time, now_micros
from batch.building.current_rows import reset_current_rows
from batch.building.kept_states import sources_of_keys
from batch.building.publication import BuildOptions, Built, latest_cut, shared_views
from batch.building.publication import build as build_views
from batch.building.takeover import await_first_tiles
from batch.building.versions import rollback
from batch.landing.tables_in_place import read_tables
from batch.landing.topics import landed_offsets, was_made_again
from batch.release.announcing import announce
from batch.views import Coverage
from jobs.flows.landing import land_topics
from jobs.show import Steps
from jobs.wiring.context import Context


def build_project(
    context: Context,
    project: Project,
    cut: int | None,
    steps: Steps,
    *,
    full: bool = False,
    accept: str | None = None,
) -> Built:
    """Build up to `cut` (microseconds), by default the latest slot boundary.

    Raises AnabranchError when events below the cut are missing. `full` reads every event again; `accept` is
    the reason for publishing a version even if its validation fails.
    """
    times = context.settings.times
    sources_of_keys(project)
    shared = shared_views(context, project)
    for line in surprised_borrowers(context, project):
        steps.step(line)
    boundary = latest_cut(times, now_micros()) if cut is None else cut
    if boundary > now_micros():
        raise AnabranchError(
            f"cut {format_time(boundary)} lies in the future: events below it are still to come; "
            "choose an earlier one"
        )
    _require_tiles(context, project, boundary)
    before = context.views.manifest(project.name)
    if accept is None:
        require_champion(context, project, before)
        await_first_tiles(context, project, before, boundary, steps)
    # Tables first: this build is to cover the rows that are read now.
    read_tables(context, project, steps, context.gate(project))
    # Before landing: any topic's event that arrived before a file's of this time is landed below.
    until = now_micros()
    steps.step("landing what the topics hold")
    land_topics(context, project, steps)
    prolong_gaps(context, project)
    held = check_complete(context, project, boundary)
    topics = topics_of(context, project)
    options = BuildOptions(
        cut=boundary, until=until, full=full, accept=accept, topics=topics, offsets=held, shared=shared
    )
    return build_views(context, project, options, context.settings.build, steps)


def prolong_gaps(context: Context, project: Project) -> None:
    """Note for longer what may outlive its gap, after a landing: messages that were stamped far ahead."""
    before = context.views.manifest(project.name)
    upto = now_micros() + context.settings.times.ahead_seconds * SECOND
    since = 0 if before is None else before.until
    for gap in outlived(context.views.gaps(project.name), since, upto):
        context.views.note_gap(project.name, gap)


def topics_of(context: Context, project: Project) -> Mapping[str, str]:
    """The identity of each source's topic; notes a gap for a topic that was made again since the last build.

    What landed of the topic before and arrived after the cut is in tiles only if a stream read it in time.
    """
    before, found = context.views.manifest(project.name), {}
    for name, source in project.sources.items():
        if source.topic is not None:
            found[name] = context.bus.topic_id(context.bus.read_as(source.topic))
            known = None if before is None else before.topics.get(name)
            if was_made_again(context, project, source) if known is None else known != found[name]:
                until = now_micros() + context.settings.times.ahead_seconds * SECOND
                why = f"topic {source.topic!r} was deleted and made again"
                context.views.note_gap(project.name, Gap(name, until, why))
    return found


def surprised_borrowers(context: Context, project: Project) -> list[str]:
    """A sentence for each use of a view by another project that was built when the view was another one."""
    now, lines = {view.name: view.promise for view in project.own_views}, []
    for borrower in project.shared_with:
        manifest = context.views.manifest(borrower)
        for name, noted in (manifest.shared if manifest is not None else {}).items():
            owner, _, view = name.partition(".")
            if owner == project.name and noted["promise"] != now.get(view):
                lines.append(
                    f"project {borrower!r} was built with another view {view!r} than this build makes: its "
                    f"answers are refused until 'anabranch build {borrower}'"
                )
    return lines


def require_champion(context: Context, project: Project, before: Manifest | None) -> None:
    """Raise AnabranchError where a build would leave the model that answers without what it reads."""
    if before is None or project.model is None:
        return
    if context.models.usable_champion(before.meant(project)) is None:
        return
    version = context.models.champion(project.name)
    if context.models.usable_champion(project) is None:
        raise AnabranchError(
            f"champion {version} of {project.name!r} reads what is declared no more, so predictions would be "
            f"refused after this build: run 'anabranch train {project.name}' first, which needs no build, "
            "and build when the gate has let a version in; or build with --accept REASON"
        )


def _require_tiles(context: Context, project: Project, cut: int) -> None:
    """Refuse a cut below which tiles may be retired: an answer would silently miss them."""
    since = needed_since(context.views.manifest(project.name))
    streamed = any(source.topic is not None for source in project.sources.values())
    if since is not None and cut < since and streamed:
        raise AnabranchError(
            f"cut {format_time(cut)} lies before {format_time(since)}, from where on the stream's tiles are "
            "kept: choose a later one, or none"
        )


def rollback_project(context: Context, project: Project, steps: Steps) -> Manifest:
    """Go back to the previous batch version and its model, and make the current rows anew."""
    steps.step("making the previous version and its model current")
    entry = rollback(context, project)
    announced = announce(context.models, context.bus, project)
    if announced.why:
        steps.step(announced.why)
    steps.step("current rows of every key")
    reset_current_rows(context, entry.meant(project))
    return entry


def score_current_rows(context: Context, project: Project, steps: Steps) -> None:
    """Make the current rows anew after a change of champion, where there is a batch version and a store."""
    try:
        if context.views.manifest(project.name) is not None:
            steps.step("current rows of every key, scored by the champion")
            reset_current_rows(context, context.answers.served(project)[0])
    except AnabranchError as error:
        steps.step(f"current rows have no scores of the champion until the next build: {error}")


def why_empty(context: Context, project: Project, entry: Manifest) -> list[str]:
    """Why views of a version have no key, a sentence for each; reads the lake for such views alone."""
    return [
        _why_empty(context, project, view, entry) for view in project.own_views if not entry.rows[view.name]
    ]


def _why_empty(context: Context, project: Project, view: FeatureView, entry: Manifest) -> str:
    covered = Coverage(cut=entry.cut, until=entry.until, versions=entry.lake_versions).condition()
    newest = F.unix_micros(F.max(F.when(covered, named(view.source.time).cast("timestamp"))))
    (found,) = (
        context.lake.events(context.spark, project, view.source)
        .agg(F.count(F.lit(1)).alias("all"), newest.alias("newest"))
        .collect()
    )
    return f"view {view.name} has no key: {no_key(project, view, entry.cut, found['all'], found['newest'])}"


def no_key(project: Project, view: FeatureView, cut: int, events: int, newest: int | None) -> str:
    """Why a view has no key; `newest` is the last time of the `events` that its version covers."""
    source, until = view.source.name, format_time(cut)
    if not events:
        return f"no event of source {source!r} is in the lake"
    if newest is None:
        return (
            f"all events of {source!r} arrived after the cut {until}: the stream counts them "
            f"(anabranch stream {project.name}), and so does a build after the next full hour"
        )
    windows = ", ".join(dict.fromkeys(column.window.name for column in view.columns))
    return (
        f"the newest event of {source!r} is of {format_time(newest)}, and its windows ({windows}) end at the "
        f"cut {until}: ask for a time in the past (anabranch answer {project.name} KEY --at TIME), or give "
        "the view a window that reaches back so far"
    )


def check_complete(context: Context, project: Project, cut: int) -> Mapping[str, Mapping[str, int]]:
    """Compare landed offsets with the broker's at the cut; by source and partition those that are landed."""
    held: dict[str, Mapping[str, int]] = {}
    for source in project.sources.values():
        if source.topic is None:
            continue
        topic = context.bus.read_as(source.topic)
        landed, readable = landed_offsets(context, project, source), context.bus.ends(topic)
        held[source.name] = {str(partition): first for partition, first in landed.items()}
        for partition, wanted in context.bus.offsets_at(topic, cut).items():
            offset = landed.get(partition, 0)
            if readable[partition] <= offset < wanted:
                raise AnabranchError(
                    f"a transaction is open on {topic}/{partition} at offset {offset}, and messages "
                    f"from before the cut {format_time(cut)} wait for its end: build again after it, give an "
                    "earlier --cut, or abort it with kafka-transactions.sh abort"
                )
            if offset < wanted:
                raise AnabranchError(
                    f"the lake has {topic}/{partition} up to offset {offset}, but the cut "
                    f"{format_time(cut)} is at {wanted}: run 'anabranch land {project.name}' and build again"
                )
    return held
