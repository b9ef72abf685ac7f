"""Batch versions: one under construction, how it is undone, and the way back to the version before."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.manifest import Gap, Manifest
from anabranch.stores.cassandra.reads import states_of
from anabranch.stores.lake.increments import builds_there, drop_increments, read_increments, states_there
from anabranch.stores.opened import Stores
from batch.views import Coverage, write_states

log = logging.getLogger(__name__)
STORE_ERRORS = (AnabranchError, PySparkException, Py4JError)
"""What cleaning may meet while stores stop or another build cleans as well."""


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A batch version that no answer reads yet; `before` is the one that is current while it is built."""

    stores: Stores
    project: Project
    number: int
    coverage: Coverage
    before: Manifest | None

    @cached_property
    def kept(self) -> dict[str, set[int]]:
        """Builds that have rows in the lake, by the name of what they kept, as when first asked."""
        spark, lake, name = self.stores.spark, self.stores.lake, self.project.name
        return {state: builds_there(spark, lake, name, state) for state in states_there(spark, lake, name)}

    def publish(self, view: FeatureView, increments: list[int]) -> tuple[str, int]:
        """Create and fill the version's table of a view; returns its name and the number of rows."""
        stores, project = self.stores, self.project
        table = stores.views.create_batch_table(project.name, view.name, self.number)
        if not increments:
            return table, 0
        kept = read_increments(stores.spark, stores.lake, project.name, view.fingerprint, increments)
        return table, write_states(stores, view, kept, self.coverage, table)

    def swap(self, entry: Manifest) -> None:
        """Make the version current; the one before stays for a rollback if it can still be read.

        It can by the declaration that it keeps, or as one of the same meaning.
        """
        known = {view.name: view.fingerprint for view in self.project.own_views}
        meanings = [
            None if one is None else {name: noted["promise"] for name, noted in one.shared.items()}
            for one in (self.before, entry)
        ]
        same = self.before is not None and dict(self.before.fingerprints) == known
        valid = self.before is not None and (
            self.before.declaration is not None or (same and meanings[0] == meanings[1])
        )
        self.stores.views.swap(entry, self.before, self.before if valid else None)

    def undo(self) -> None:
        """Remove what was written, unless the version is current; the next build removes what stays."""
        spark, lake, views = self.stores.spark, self.stores.lake, self.stores.views
        name = self.project.name
        try:
            now = views.manifest(name)
            if now is None or now.batch_version != self.number:
                views.drop_version(name, [view.name for view in self.project.own_views], self.number)
                for state in states_there(spark, lake, name):
                    drop_increments(spark, lake, name, state, [self.number])
        except STORE_ERRORS as error:
            log.warning("version %s of %s is removed by the next build: %s", self.number, name, error)

    def overtaken(self) -> AnabranchError | None:
        """The error to raise when another version became current meanwhile."""
        try:
            now = self.stores.views.manifest(self.project.name)
        except STORE_ERRORS:
            return None
        revision = self.before.revision if self.before else 0
        if now is None or now.batch_version == self.number or now.revision == revision:
            return None
        return AnabranchError(
            f"another build or rollback of {self.project.name!r} finished first: batch version "
            f"{now.batch_version} became current while this one ran, so this one was not made current: "
            "run it again if it is still wanted"
        )

    def remove_unlisted(self) -> None:
        """Delete increments that no manifest lists, except those of builds under way.

        What other builds have left since this one began is for the next one.
        """
        spark, lake, project = self.stores.spark, self.stores.lake, self.project
        try:
            now = self.stores.views.manifest(project.name)
            listed = [entry for entry in (now, now.previous if now else None) if entry is not None]
            newest = max(entry.batch_version for entry in listed)
            for name, builds in self.kept.items():
                needed = {build for entry in listed for build in entry.increments.get(name, [])}
                drop_increments(
                    spark, lake, project.name, name, {one for one in builds - needed if one <= newest}
                )
        except STORE_ERRORS as error:
            log.warning("unneeded states of %s stay until the next build: %s", project.name, error)


def rollback(stores: Stores, project: Project) -> Manifest:
    """Make the previous batch version and the model it was built with current again; the two versions change
    places.

    The manifest is written first and names the model too, so that servers change both by one write; the
    registry follows. A rollback that is cut off in between is completed by repeating it.
    """
    views, models = stores.views, stores.models
    current, champion = views.manifest(project.name), models.champion(project.name)
    cut_off = current is not None and current.replaces is not None
    if current is None or not cut_off or champion not in (current.replaces, current.model_version):
        current = _exchanged(stores, project, current, champion)
    if current.model_version not in (None, champion):
        models.promote(project.name, str(current.model_version))
    if current.replaces is None:
        return current
    settled = replace(current, replaces=None)
    views.swap(settled, current, current.previous)
    return settled


def _exchanged(stores: Stores, project: Project, current: Manifest | None, champion: str | None) -> Manifest:
    """The manifest after its versions changed places; it `replaces` the champion if their models differ."""
    if current is None or current.previous is None:
        raise AnabranchError(
            f"project {project.name!r} has no previous batch version to go back to: it needs two builds"
        )
    _require_states(stores, project, current.previous)
    wanted = current.previous.model_version
    other = wanted is not None and wanted != champion
    if other:
        # Raises when the model version is gone, while nothing has changed yet.
        stores.models.uri(project.name, str(wanted))
    # The version that is left keeps the champion of now, so that a second rollback is the way forward again.
    left = replace(current, model_version=champion, replaces=None, previous=None)
    entry = replace(current.previous, replaces=champion if other else None)
    note_left_behind(stores, project, current, entry)
    stores.views.swap(entry, current, left)
    return replace(entry, revision=current.revision + 1, previous=left)


def _require_states(stores: Stores, project: Project, entry: Manifest) -> None:
    """Raise AnabranchError where views of other projects, by which a version answers, have states no more."""
    meant = entry.meant(project)
    owners = {owner: stores.views.manifest(owner) for owner in meant.lenders}
    entry = replace(entry, lent={owner: one for owner, one in owners.items() if one is not None})
    for view, _ in meant.stored_views:
        states_of(meant, view, entry)


def note_left_behind(stores: Stores, project: Project, current: Manifest, entry: Manifest) -> None:
    """Note a gap for messages behind the cut of `entry`, to which one goes back, that `current` alone found.

    The stream saw them in the current version, and answers add no tile of theirs to the other one.
    """
    for name, source in project.sources.items():
        if source.topic is None or entry.topics.get(name) != current.topics.get(name):
            continue  # a topic that was made again is a gap of its own
        ends = {int(partition): end for partition, end in current.offsets.get(name, {}).items()}
        parts = entry.not_in_lake(name, {}, ends)
        topic = stores.bus.read_as(source.topic)
        behind = stores.bus.count_before(topic, parts, entry.cut) if parts else 0
        if behind:
            why = f"{behind} came behind the cut of the version that was gone back to"
            stores.views.note_gap(project.name, Gap(name, entry.cut, why))
