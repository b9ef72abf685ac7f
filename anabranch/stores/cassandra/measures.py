"""Measured values over time: quality of models, features and approximations.

        measures         (project, subject, name)  at, slice, version -> value  newest first; TTL by setting
        measures_latest  (project)  subject, name, slice, version -> at, value  the newest; expires in 30 days

The latest values and a history are one slice of a partition each. Writing measures again changes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cassandra.concurrent import execute_concurrent_with_args

from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.session import MissingTableError, answering
from anabranch.stores.cassandra.tables import Tables

OUTCOMES = "trial"
"""The subject of measures of a trial by outcomes, which `watch` makes; their slice is the champion."""
_LATEST_SECONDS = 30 * 86_400
_HISTORY = """CREATE TABLE IF NOT EXISTS measures
(project text, subject text, name text, at timestamp, slice text, version text, value double,
PRIMARY KEY ((project, subject, name), at, slice, version))
WITH CLUSTERING ORDER BY (at DESC, slice ASC, version ASC)"""
_LATEST = """CREATE TABLE IF NOT EXISTS measures_latest
(project text, subject text, name text, slice text, version text, at timestamp, value double,
PRIMARY KEY ((project), subject, name, slice, version))"""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measured value: `at` is aware, to the millisecond; `slice` is a feature or a slice of rows."""

    project: str
    subject: str
    name: str
    at: datetime
    value: float
    version: str = ""
    slice: str = ""

    def __post_init__(self) -> None:
        """Refuse a time without a zone and a value that is not finite."""
        if self.at.tzinfo is None:
            raise AnabranchError(
                f"measure {self.subject} {self.name} of {self.project!r} has a time without a zone, "
                f"{self.at}: "
                "give an aware time"
            )
        if not math.isfinite(self.value):
            raise AnabranchError(
                f"measure {self.subject} {self.name} of {self.project!r} is {self.value}: "
                "leave out what could not be measured"
            )


class Measures(Tables):
    """The gateway. The first write creates the tables; before it every read is empty."""

    def write(self, measures: Sequence[Measure], *, history: bool = True) -> None:
        """Write measures as the latest, where none is newer, and with `history` to the history too."""
        if not measures:
            return
        with answering():
            if not self._known():
                self.session.execute(_HISTORY)
                self.session.execute(_LATEST)
            ttl = self.settings.measure_ttl_days * 86_400
            if history:
                self._insert("measures", ttl, measures)
            # Written as of the time it was measured, so that a late older measure never replaces a newer one.
            self._insert("measures_latest", min(ttl, _LATEST_SECONDS), measures, timed=True)

    def _insert(self, table: str, ttl: int, measures: Sequence[Measure], *, timed: bool = False) -> None:
        using = f"USING TTL {ttl}{' AND TIMESTAMP ?' if timed else ''}"
        statement = self.session.prepare(
            f"INSERT INTO {table} (project, subject, name, slice, version, at, value) "
            f"VALUES (?, ?, ?, ?, ?, ?, ?) {using}"
        )
        statement.is_idempotent = True
        rows = [
            (one.project, one.subject, one.name, one.slice, one.version, one.at, float(one.value))
            for one in measures
        ]
        if timed:
            rows = [
                (*row, int(one.at.timestamp() * 1_000_000))  # type: ignore[misc]
                for row, one in zip(rows, measures, strict=True)
            ]
        execute_concurrent_with_args(self.session, statement, rows, concurrency=32, raise_on_first_error=True)

    def latest(self, project: str) -> list[Measure]:
        """The newest measure of each subject, name, slice and version, in that order."""
        return self._read("measures_latest", "project = %s", (project,))

    def history(
        self, project: str, subject: str, name: str, since: datetime, most: int | None = None
    ) -> list[Measure]:
        """Measures of one name at or after `since`, oldest first, of every slice and version."""
        bound = "" if most is None else f" LIMIT {int(most)}"
        found = self._read(
            "measures",
            f"project = %s AND subject = %s AND name = %s AND at >= %s{bound}",
            (project, subject, name, since),
        )
        return sorted(found, key=lambda one: (one.at, one.slice, one.version))

    def _read(self, table: str, where: str, values: tuple[Any, ...]) -> list[Measure]:
        if not self._known():
            return []
        query = f"SELECT project, subject, name, at, value, version, slice FROM {table}"
        try:
            with answering():
                rows = list(self.session.execute(f"{query} WHERE {where}", values))
        except MissingTableError:  # dropped since
            return []
        return [Measure(**{**row._asdict(), "at": row.at.replace(tzinfo=UTC)}) for row in rows]

    def _known(self) -> bool:
        return self.has_table("measures") and self.has_table("measures_latest")


def by_outcomes(latest: Sequence[Measure]) -> list[dict[str, Any]]:
    """What labels said of versions on trial when they were last looked at, the newest last.

    By version and champion: `labels`, the metric of both (`tried`, `champion`), `gain` with `gain_low` and
    `gain_high`, and `needed`, the labels still needed to prove it; a name is missing where there is no value.
    """
    ones = [one for one in latest if one.subject == OUTCOMES]
    looked = {(one.version, one.slice): one.at for one in sorted(ones, key=lambda one: one.at)}
    return [
        {
            "version": version,
            "beside": champion,
            "at": at,
            **{
                one.name: one.value
                for one in ones
                if (one.version, one.slice, one.at) == (version, champion, at)
            },
        }
        for (version, champion), at in sorted(looked.items(), key=lambda item: item[1])
    ]
