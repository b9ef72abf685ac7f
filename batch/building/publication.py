"""A build: states brought up to a cut, published, validated, and made current in one write."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.kept.writing import written
from anabranch.progress import Progress
from anabranch.settings import TimeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.opened import Stores
from anabranch.values.times import SECOND, floor_to, format_time
from batch.building.current_rows import Approximation, keep_approximation, reset_current_rows
from batch.building.kept_states import Increments, KeptStates, keys_name, why_full
from batch.building.rates import BuildRates
from batch.building.takeover import await_tiles
from batch.building.validation import Validation
from batch.building.versions import NewVersion
from batch.settings import BuildSettings
from batch.views import Coverage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build: events by topic before `cut` and by file before `until` (microseconds).

    `full` reads every event; `accept` is the reason for publishing even if validation fails. `topics` are
    the identities of the sources' topics, and `offsets` by source and partition the first messages that the
    lake did not hold when the build began. `shared` are the views of other projects as the manifest notes
    them.
    """

    cut: int
    until: int
    full: bool = False
    accept: str | None = None
    topics: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished build: its manifest, current rows made anew, and how far the stream's scores were off."""

    manifest: Manifest
    current_rows: int
    approximation: Approximation | None
    seconds: float


def shared_views(stores: Stores, project: Project) -> dict[str, dict[str, Any]]:
    """The views of other projects that the project uses, as its manifest notes them.

    Raises AnabranchError unless each owner has built the view as it is declared now.
    """
    noted: dict[str, dict[str, Any]] = {}
    for view in (view for view, _ in project.stored_views if view.use.owner is not None):
        owner = str(view.use.owner)
        manifest = stores.views.manifest(owner)
        if manifest is None or manifest.fingerprints.get(view.name) != view.fingerprint:
            why = "was never built" if manifest is None else "declared it anew since its last build"
            raise AnabranchError(
                f"project {project.name!r} uses view {view.name!r} of project {owner!r}, which {why}: "
                f"run 'anabranch build {owner}' first"
            )
        noted[view.full_name] = {"promise": view.promise, "batch_version": manifest.batch_version}
    return noted


def latest_cut(times: TimeSettings, now: int) -> int:
    """The last slot boundary at or before `now` (microseconds)."""
    return floor_to(now, times.slot_seconds * SECOND)


def build(
    stores: Stores, project: Project, options: BuildOptions, limits: BuildSettings, progress: Progress
) -> Built:
    """Compute, publish, validate and swap one batch version.

    The lake must hold every event that arrived before the cut (see landing).
    """
    started, times = time.monotonic(), stores.settings.times
    if options.cut % (times.slot_seconds * SECOND):
        raise AnabranchError(
            f"cut {format_time(options.cut)} is no slot boundary: slots are {times.slot_seconds} s long"
        )
    version = _new_version(stores, project, options)
    rates = BuildRates(project)
    try:
        entry = _assembled(version, options, limits, progress, rates)
        progress.step(f"validating version {version.number}")
        validation = Validation(stores, project, entry, version.before, limits)
        entry = validation.passed(options.accept, progress)
        stores.views.ensure_tiles(project)
        # Last before the swap: what the stream writes for the version before goes on.
        await_tiles(stores, project, version.before, entry, progress)
        progress.step(f"making version {version.number} current")
        version.swap(entry)
    except BaseException as error:
        version.undo()
        # What a faster build removed can make this one fail in many ways.
        overtaken = version.overtaken()
        if overtaken is not None and isinstance(error, Exception):
            raise overtaken from error
        raise
    version.remove_unlisted()
    progress.step("current rows of every key")
    reset = reset_current_rows(stores, project, entry)
    keep_approximation(stores, project, reset)
    rates.keep(stores)
    built = Built(
        manifest=entry,
        current_rows=reset.rows,
        approximation=reset.approximation,
        seconds=time.monotonic() - started,
    )
    log.info(
        "built project=%s version=%s cut=%s rows=%s seconds=%.1f",
        project.name,
        version.number,
        format_time(entry.cut),
        entry.rows,
        built.seconds,
    )
    return built


def _new_version(stores: Stores, project: Project, options: BuildOptions) -> NewVersion:
    before = stores.views.manifest(project.name)
    number = max(int(time.time()), before.batch_version + 1 if before else 0)
    number = stores.views.new_version(project.name, number)
    stores.lake.ensure_feeds(stores.spark, project)
    versions = stores.lake.versions(stores.spark, project)
    coverage = Coverage(cut=options.cut, until=options.until, versions=versions)
    return NewVersion(stores=stores, project=project, number=number, coverage=coverage, before=before)


def _assembled(
    version: NewVersion,
    options: BuildOptions,
    limits: BuildSettings,
    progress: Progress,
    rates: BuildRates,
) -> Manifest:
    """The manifest of the version, whose tables are published."""
    stores, project, before, coverage = version.stores, version.project, version.before, version.coverage
    identities = stores.lake.identities(stores.spark, project)
    full = "asked for" if options.full else why_full(before, coverage, identities)
    slack = stores.settings.times.slack_seconds * SECOND
    kept = KeptStates(version, limits.increments, progress, full)
    try:
        increments, tables, rows = {}, {}, {}
        for view in project.own_views:
            began = time.monotonic()
            state = kept.view(view)
            increments[view.fingerprint] = state.builds
            published = _published(before, view, state, (coverage.cut, slack))
            progress.step(
                f"view {view.name}: {'nothing changed, kept as it is' if published else 'publishing'}"
            )
            tables[view.name], rows[view.name] = published or version.publish(view, state.builds)
            if view.fingerprint in kept.whole:
                rates.add(view, time.monotonic() - began)
        increments[keys_name(project)] = kept.keys().builds
        return Manifest(
            project=project.name,
            batch_version=version.number,
            cut=coverage.cut,
            slack=slack,
            built_at=time.time_ns() // 1000,
            fingerprints={view.name: view.fingerprint for view in project.own_views},
            tables=tables,
            rows=rows,
            lake_versions=dict(coverage.versions),
            model_version=stores.models.champion(project.name),
            until=coverage.until,
            topics=options.topics,
            offsets=options.offsets,
            increments=increments,
            lake_ids=identities,
            shared=options.shared,
            declaration=_declaration(project, progress),
        )
    finally:
        kept.close()


def _declaration(project: Project, progress: Progress) -> str | None:
    """The text that answers of the version are by when the declaration has changed; None if it cannot be."""
    try:
        return written(project)
    except DeclarationError as error:
        progress.step(
            f"the declaration is not kept, so a changed one refuses answers until its build: {error}"
        )
        return None


def _published(
    before: Manifest | None, view: FeatureView, state: Increments, bounds: tuple[int, int]
) -> tuple[str, int] | None:
    """Table and rows of the version before, where the view's meaning, events, cut and slack are the same."""
    if before is None or not state.unchanged or (before.cut, before.slack) != bounds:
        return None
    same = [name for name, meaning in before.fingerprints.items() if meaning == view.fingerprint]
    return (before.tables[same[0]], before.rows[same[0]]) if same else None
