"""The manifest: the batch version that serves a project, and the one before. One write swaps it.

Beside it stand gaps: what the stream knows to be missing from the tiles that answers add to a version.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cassandra.cluster import Session

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.kept.reading import read
from anabranch.kept.standing import standing
from anabranch.values.times import DAY, format_time

TABLE = """CREATE TABLE IF NOT EXISTS manifest
(project text PRIMARY KEY, revision bigint, batch_version bigint,
cut timestamp, model_version text, built_at timestamp, entry text, previous text)"""


LONGEST_AHEAD = DAY
"""A message that was stamped further ahead is noted as a gap of this length: a stamp may name any year."""

GAPS = """CREATE TABLE IF NOT EXISTS gaps
(project text, source text, until bigint, why text, PRIMARY KEY ((project), source))"""


@dataclass(frozen=True)
class Gap:
    """Events of `source` that neither tiles nor a batch with a cut up to `until` (microseconds) hold."""

    source: str
    until: int
    why: str

    def __str__(self) -> str:
        return (
            f"events of {self.source!r} may be missing until a build with a cut after "
            f"{format_time(self.until)}: {self.why}"
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One batch version of a project; times in microseconds.

    By view: `fingerprints`, `tables` of states, `rows`. By source: `lake_versions` and `lake_ids`, the
    tables that were read. The version covers events that arrived by topic before `cut` and by file before
    `until`. `topics` are the identities of the sources' topics, and `offsets` by source and partition
    the first messages that the lake did not hold.
    `increments` are, by the name of a state, the builds whose grains make it up. `accepted` is why it was
    published although its validation failed. `replaces` is the champion that a rollback to this version has
    yet to replace in the registry. `shared` are the views of other projects that the project was built with,
    by full name: their ``promise``, and the owner's ``batch_version`` of then. `declaration` is the one that
    the version was built with and answers by (anabranch/kept); None for a version from before it was kept, or
    with values that are no data.
    """

    project: str
    batch_version: int
    cut: int
    slack: int
    built_at: int
    fingerprints: Mapping[str, str]
    tables: Mapping[str, str]
    rows: Mapping[str, int]
    lake_versions: Mapping[str, int] = field(default_factory=dict)
    model_version: str | None = None
    until: int = 0
    topics: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    increments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    lake_ids: Mapping[str, str] = field(default_factory=dict)
    accepted: str | None = None
    replaces: str | None = None
    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    declaration: str | None = None
    revision: int = 0
    previous: "Manifest | None" = None
    gaps: Sequence[Gap] = ()
    """What tiles lack since the cut. Not of the version itself: a gap ends with a later cut."""
    lent: Mapping[str, "Manifest"] = field(default_factory=dict)
    """The manifests of the owners of `shared` views by their names, read together with this one."""

    @property
    def kept(self) -> Project | None:
        """The declaration that the version was built with, if it was kept.

        Raises DeclarationError when it cannot be read any more.
        """
        return None if self.declaration is None else read(self.declaration)

    def meant(self, declared: Project) -> Project:
        """The declaration that the version answers by: the one kept with it, or else `declared` as it is."""
        return declared if self.declaration is None else standing(self.declaration, declared)

    def champion(self, registered: str | None) -> str | None:
        """The model that answers: the champion `registered`, unless a rollback is about to replace it."""
        return self.model_version if self.replaces is not None and registered == self.replaces else registered

    def not_in_lake(
        self, source: str, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> dict[int, tuple[int, int]]:
        """By partition the part of [start, end) that the version did not find in the lake.

        Messages there that arrived before the cut belong to no tile that answers add, and to no batch yet.
        """
        if source not in self.offsets:  # a version that was built before offsets were kept
            return {}
        held = {int(partition): first for partition, first in self.offsets[source].items()}
        parts = {
            partition: (max(starts.get(partition, 0), held.get(partition, 0)), end)
            for partition, end in ends.items()
        }
        return {partition: (start, end) for partition, (start, end) in parts.items() if start < end}

    def entry(self) -> str:
        """JSON of this version alone."""
        return json.dumps(
            {
                name: value
                for name, value in asdict(replace(self, previous=None, gaps=(), lent={})).items()
                if name not in ("previous", "revision", "gaps", "lent")
            }
        )


_GAPS_OF = "SELECT source, until, why FROM gaps WHERE project = %s"


def read_manifest(session: Session, project: str) -> Manifest | None:
    """The manifest of a project, with those of the owners of shared views; None before the first build."""
    found = _read_one(session, project)
    if found is None or not found.shared:
        return found
    owners = dict.fromkeys(name.partition(".")[0] for name in found.shared)
    lent = {owner: _read_one(session, owner) for owner in owners}
    return replace(found, lent={owner: each for owner, each in lent.items() if each is not None})


def _read_one(session: Session, project: str) -> Manifest | None:
    row = session.execute(
        "SELECT revision, entry, previous FROM manifest WHERE project = %s", (project,)
    ).one()
    if row is None:
        return None
    known, entry = read_gaps(session, project), json.loads(row.entry)
    previous = Manifest(**json.loads(row.previous)) if row.previous else None
    if previous is not None:
        previous = replace(previous, gaps=open_gaps(known, previous.cut))
    return Manifest(**entry, revision=row.revision, previous=previous, gaps=open_gaps(known, entry["cut"]))


def read_gaps(session: Session, project: str) -> list[Gap]:
    """The gap of each source that ends last, whether or not a build has closed it."""
    return [Gap(*found) for found in session.execute(_GAPS_OF, (project,))]


def open_gaps(gaps: Iterable[Gap], cut: int) -> tuple[Gap, ...]:
    """The gaps that a batch with this cut has not closed: it takes from the lake all that arrived before."""
    return tuple(gap for gap in gaps if gap.until >= cut)


def outlived(gaps: Iterable[Gap], since: int, upto: int) -> list[Gap]:
    """Gaps that messages stamped far ahead may outlive, with an end that no such message outlives.

    `since` is when the build before this one began (0: there was none), `upto` the latest stamp that its
    landing takes as an arrival. A message that a landing before `since` found is a row of a file; one that
    is landed only now may have its stamp as its arrival, in a slot whose tiles lack it.
    """
    return [
        Gap(gap.source, upto, gap.why)
        for gap in gaps
        if since <= gap.until - LONGEST_AHEAD <= upto - LONGEST_AHEAD
    ]


def note_gap(session: Session, project: str, gap: Gap) -> None:
    """Keep that tiles lack events; of a source the gap that ends last is kept, whichever is written last."""
    session.execute(GAPS)
    session.execute(
        "INSERT INTO gaps (project, source, until, why) VALUES (%s, %s, %s, %s) USING TIMESTAMP %s",
        (project, gap.source, gap.until, gap.why, gap.until),
    )


def swap_manifest(
    session: Session, entry: Manifest, previous: Manifest | None, expected: Manifest | None
) -> None:
    """Make `entry` current if the manifest still is `expected`; else raises AnabranchError."""
    kept = previous.entry() if previous else None
    values = (
        entry.batch_version,
        entry.cut // 1000,
        entry.model_version,
        entry.built_at // 1000,
        entry.entry(),
        kept,
    )
    if expected is None:
        statement = """INSERT INTO manifest
        (project, revision, batch_version, cut, model_version, built_at, entry, previous)
        VALUES (%s, 1, %s, %s, %s, %s, %s, %s) IF NOT EXISTS"""
        applied = session.execute(statement, (entry.project, *values)).was_applied
    else:
        statement = """UPDATE manifest SET revision = %s, batch_version = %s, cut = %s, model_version = %s,
        built_at = %s, entry = %s, previous = %s WHERE project = %s IF revision = %s"""
        applied = session.execute(
            statement, (expected.revision + 1, *values, entry.project, expected.revision)
        ).was_applied
    if not applied:
        raise AnabranchError(
            f"another build or rollback of {entry.project!r} finished first, so this one is not current: "
            "run it again if it is still wanted"
        )
