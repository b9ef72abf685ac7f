"""The manifest: the batch version that serves a project, and the one before. One write swaps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from cassandra.cluster import Session

from anabranch.errors import AnabranchError

TABLE = """CREATE TABLE IF NOT EXISTS manifest
(project text PRIMARY KEY, revision bigint, batch_version bigint,
cut timestamp, model_version text, built_at timestamp, entry text, previous text)"""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One batch version of a project; times in microseconds.

    By view: `fingerprints`, `tables` of states, `rows`. By source: `lake_versions` and `lake_ids`, the
    tables that were read. The version covers events that arrived by topic before `cut` and by file before
    `until`. `increments` are, by the name of a state, the builds whose grains make it up. `accepted` is why
    it was published although its validation failed. `replaces` is the champion that a rollback to this
    version has yet to replace in the registry.
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
    increments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    lake_ids: Mapping[str, str] = field(default_factory=dict)
    accepted: str | None = None
    replaces: str | None = None
    revision: int = 0
    previous: "Manifest | None" = None

    def champion(self, registered: str | None) -> str | None:
        """The model that answers: the champion `registered`, unless a rollback is about to replace it."""
        return self.model_version if self.replaces is not None and registered == self.replaces else registered

    def entry(self) -> str:
        """JSON of this version alone."""
        return json.dumps(
            {
                name: value
                for name, value in asdict(replace(self, previous=None)).items()
                if name not in ("previous", "revision")
            }
        )


def read_manifest(session: Session, project: str) -> Manifest | None:
    """The manifest of a project; None before the first build."""
    row = session.execute(
        "SELECT revision, entry, previous FROM manifest WHERE project = %s", (project,)
    ).one()
    if row is None:
        return None
    previous = Manifest(**json.loads(row.previous)) if row.previous else None
    return Manifest(**json.loads(row.entry), revision=row.revision, previous=previous)


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
