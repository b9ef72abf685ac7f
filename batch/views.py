"""Batch views: states of every key up to a cut, published to Cassandra, validated and swapped in.

The twin of speed/views.py: the same aggregates over the same events; here those up to the cut, there those since.
"""

import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cassandra import DriverException, RequestExecutionException
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.answers.current import REPLACED_SCHEMA, replacer
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.folds.spark import batch_rows
from anabranch.progress import Progress
from anabranch.settings import TimeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measures
from anabranch.stores.cassandra.views import Views
from anabranch.stores.cassandra.writer import write_rows
from anabranch.stores.lake.increments import builds_there, drop_increments, read_increments, states_there
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.values.times import SECOND, floor_to, format_time
from batch.building.approximation import Approximation, approximation, compared
from batch.building.kept_states import Kept, Owed, StateUpdate, cannot_go_on, keys_name
from batch.building.validation import Validation
from batch.settings import BuildSettings

log = logging.getLogger(__name__)
# What cleaning may meet while stores stop or another build cleans as well.
_TROUBLE = (AnabranchError, DriverException, RequestExecutionException, PySparkException, Py4JError)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to build: up to `cut` by topic, up to `until` by file; `full` reads every event, `accept` is why a failing validation is overruled."""

    cut: int
    until: int
    full: bool = False
    accept: str | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished build: rows by view, how many current rows were reset, and how far the stream's scores among them were off."""

    manifest: Manifest
    current_rows: int
    approximation: Approximation | None
    seconds: float


def latest_cut(times: TimeSettings, now: int) -> int:
    """The last slot boundary at or before `now` (microseconds)."""
    return floor_to(now, times.slot_seconds * SECOND)


def build(
    spark: SparkSession,
    lake: Lake,
    views: Views,
    models: Models,
    project: Project,
    times: TimeSettings,
    limits: BuildSettings,
    order: Order,
    progress: Progress,
) -> Built:
    """Compute, publish, validate and swap one batch version. The lake must hold all that arrived before the cut (see landing)."""
    started = time.monotonic()
    if order.cut % (times.slot_seconds * SECOND):
        raise AnabranchError(
            f"cut {format_time(order.cut)} is no slot boundary: slots are {times.slot_seconds} s long"
        )
    before = views.manifest(project.name)
    version = views.new_version(
        project.name, max(int(time.time()), before.batch_version + 1 if before else 0)
    )
    made = _Made(spark, lake, views, project, version, before)
    try:
        entry = _assemble(made, models, times, limits, order, progress)
        progress.step(f"validating version {version}")
        entry = Validation(spark, lake, views, project, entry, before, limits).passed(order.accept, progress)
        progress.step(f"making version {version} current")
        views.ensure_tiles(project)
        views.swap(entry, before, _still_valid(before, project))
    except BaseException as error:
        made.undo()
        beaten = made.beaten()
        # What the faster build took away shows in many ways.
        if beaten is not None and isinstance(error, Exception):
            raise beaten from error
        raise
    made.tidy()
    progress.step("current rows of every key")
    reset = reset_current(spark, lake, views, models, project, entry)
    _keep(views, project, reset)
    seconds = time.monotonic() - started
    log.info(
        "built project=%s version=%s cut=%s rows=%s seconds=%.1f",
        project.name,
        version,
        format_time(entry.cut),
        entry.rows,
        seconds,
    )
    return Built(manifest=entry, current_rows=reset.rows, approximation=reset.approximation, seconds=seconds)


def _assemble(
    made: "_Made",
    models: Models,
    times: TimeSettings,
    limits: BuildSettings,
    order: Order,
    progress: Progress,
) -> Manifest:
    """The new version with its tables published and validated."""
    spark, lake, project, before = made.spark, made.lake, made.project, made.before
    lake.ensure_feeds(spark, project)
    owed = Owed(order.cut, order.until, lake.versions(spark, project))
    identities = lake.identities(spark, project)
    full = "asked for" if order.full else cannot_go_on(before, owed, identities)
    gathering = StateUpdate(
        spark, lake, project, before, owed, made.version, limits.increments, progress, full
    )
    slack = times.slack_seconds * SECOND
    try:
        increments, tables, rows = {}, {}, {}
        for view in project.views:
            kept = gathering.view(view)
            increments[view.fingerprint] = kept.increments
            same = _same(before, view, kept, order.cut, slack)
            progress.step(
                f"view {view.name}: " + ("nothing changed, kept as it is" if same else "publishing")
            )
            tables[view.name], rows[view.name] = same or made.publish(view, kept.increments, order.cut, slack)
        keys = gathering.keys()
        increments[keys_name(project)] = keys.increments
        return Manifest(
            project=project.name,
            batch_version=made.version,
            cut=order.cut,
            slack=slack,
            built_at=time.time_ns() // 1000,
            fingerprints={view.name: view.fingerprint for view in project.views},
            tables=tables,
            rows=rows,
            lake_versions=dict(owed.versions),
            model_version=models.champion(project.name),
            until=order.until,
            increments=increments,
            lake_ids=identities,
        )
    finally:
        gathering.close()


def _same(
    before: Manifest | None, view: FeatureView, kept: Kept, cut: int, slack: int
) -> tuple[str, int] | None:
    """Table and rows of states that are there already: same meaning (whatever its name), same events, same cut."""
    if before is None or not kept.same or (before.cut, before.slack) != (cut, slack):
        return None
    return next(
        (
            (before.tables[name], before.rows[name])
            for name, fingerprint in before.fingerprints.items()
            if fingerprint == view.fingerprint
        ),
        None,
    )


@dataclass(frozen=True)
class _Made:
    """What one build makes before anybody sees it."""

    spark: SparkSession
    lake: Lake
    views: Views
    project: Project
    version: int
    before: Manifest | None

    def publish(self, view: FeatureView, increments: list[int], cut: int, slack: int) -> tuple[str, int]:
        """Fill the version's table of a view; its name and how many rows."""
        table = self.views.create_batch_table(self.project.name, view.name, self.version)
        if not increments:
            return table, 0
        kept = read_increments(self.spark, self.lake, self.project.name, view.fingerprint, increments)
        return table, write_rows(batch_rows(view, kept, cut, slack), self.views.settings, table)

    def undo(self) -> None:
        """Take away what was made, unless it is current all the same; what stays is taken away by the next build."""
        try:
            now = self.views.manifest(self.project.name)
            if now is None or now.batch_version != self.version:
                self.views.drop_version(
                    self.project.name, [view.name for view in self.project.views], self.version
                )
                for name in states_there(self.spark, self.lake, self.project.name):
                    drop_increments(self.spark, self.lake, self.project.name, name, [self.version])
        except _TROUBLE as error:
            log.warning(
                "what version %s of %s made stays for the next build to take away: %s",
                self.version,
                self.project.name,
                error,
            )

    def beaten(self) -> AnabranchError | None:
        """That another build was faster, when it was."""
        try:
            now = self.views.manifest(self.project.name)
        except _TROUBLE:
            return None
        if (
            now is None
            or now.batch_version == self.version
            or now.revision == (self.before.revision if self.before else 0)
        ):
            return None
        return AnabranchError(
            f"another build or rollback of {self.project.name!r} finished first: batch version {now.batch_version} became current while this one ran, "
            "so this one was not made current: run it again if it is still wanted"
        )

    def tidy(self) -> None:
        """Delete increments that no manifest lists; those above the newest version belong to builds under way."""
        try:
            now = self.views.manifest(self.project.name)
            listed = [entry for entry in (now, now.previous if now else None) if entry is not None]
            newest = max(entry.batch_version for entry in listed)
            for name in states_there(self.spark, self.lake, self.project.name):
                needed = {build for entry in listed for build in entry.increments.get(name, [])}
                there = builds_there(self.spark, self.lake, self.project.name, name)
                drop_increments(
                    self.spark,
                    self.lake,
                    self.project.name,
                    name,
                    {build for build in there - needed if build <= newest},
                )
        except _TROUBLE as error:
            log.warning(
                "states of %s that are no longer needed stay until the next build: %s",
                self.project.name,
                error,
            )


def _still_valid(before: Manifest | None, project: Project) -> Manifest | None:
    """The version to keep for rollback: the one before, unless its views mean something else by now."""
    known = {view.name: view.fingerprint for view in project.views}
    return before if before is not None and dict(before.fingerprints) == known else None


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Current rows that were made anew with the champion `model_version`, and what the stream's among them were off by."""

    rows: int
    model_version: str | None = None
    approximation: Approximation | None = None


def reset_current_rows(
    spark: SparkSession, lake: Lake, views: Views, models: Models, project: Project
) -> Reset:
    """Recompute the current row of every key: after a rollback, or for a champion that came after the build, such as the first one."""
    manifest = views.manifest(project.name)
    if manifest is None:
        raise AnabranchError(
            f"project {project.name!r} has no batch version yet: run 'anabranch build {project.name}'"
        )
    return reset_current(spark, lake, views, models, project, manifest)


def reset_current(
    spark: SparkSession, lake: Lake, views: Views, models: Models, project: Project, manifest: Manifest
) -> Reset:
    """Recompute the current row of every key with the batch's states and the champion, if it fits the declaration: what the stream had scored is replaced."""
    views.ensure_current(project)
    increments = manifest.increments.get(keys_name(project), [])
    if not increments:
        return Reset(rows=0)
    champion = models.fitting_champion(project)
    run = replacer(views.settings, models.settings, project, champion)
    keys = read_increments(spark, lake, project.name, keys_name(project), increments).distinct()
    made = keys.repartition(spark.sparkContext.defaultParallelism).mapInArrow(run, REPLACED_SCHEMA)
    (found,) = made.agg(F.count(F.lit(1)).alias("rows"), *compared()).collect()
    return Reset(rows=int(found["rows"]), model_version=champion, approximation=approximation(found))


def _keep(views: Views, project: Project, reset: Reset) -> None:
    """Note how good the approximation was; a build that is current does not fail by it."""
    if reset.approximation is None:
        return
    try:
        Measures.of(views.settings).write(
            reset.approximation.measures(project.name, reset.model_version, datetime.now(UTC))
        )
    except _TROUBLE as error:
        log.warning("how far approximate scores of %s were off is not kept: %s", project.name, error)


def rollback(views: Views, models: Models, project: Project) -> Manifest:
    """Make the previous batch version and the model it was built with current again; the two versions change places.

    The manifest goes first and names the model too, so that servers change both by one write; the registry follows. Whoever is cut off in
    between repeats the rollback, and it is completed.
    """
    current, champion = views.manifest(project.name), models.champion(project.name)
    if (
        current is None
        or current.replaces is None
        or champion not in (current.replaces, current.model_version)
    ):
        current = _changed_places(views, models, project, current, champion)
    if current.model_version not in (None, champion):
        models.promote(project.name, str(current.model_version))
    if current.replaces is None:
        return current
    settled = replace(current, replaces=None)
    views.swap(settled, current, current.previous)
    return settled


def _changed_places(
    views: Views, models: Models, project: Project, current: Manifest | None, champion: str | None
) -> Manifest:
    """The manifest whose two versions have changed places; it `replaces` the champion where the version has another model."""
    if current is None or current.previous is None:
        raise AnabranchError(
            f"project {project.name!r} has no previous batch version to go back to: it needs two builds of the same declaration"
        )
    wanted = current.previous.model_version
    other = wanted is not None and wanted != champion
    if other:
        models.uri(
            project.name, str(wanted)
        )  # raises: nothing has changed yet when there is no such version any more
    # The version that is left keeps the champion of now, so that a second rollback is the way forward again.
    left = replace(current, model_version=champion, replaces=None, previous=None)
    entry = replace(current.previous, replaces=champion if other else None)
    views.swap(entry, current, left)
    return replace(entry, revision=current.revision + 1, previous=left)
