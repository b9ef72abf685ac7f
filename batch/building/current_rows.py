"""Current rows of every key, made anew by a batch, and how far the stream's approximate scores among them
were off.

A row of the stream is as of the last event of its key; the batch scores every key as of now. So the
difference is what a reader of `<project>_current` was wrong by just before the batch: lost or late tiles
would show, and so does a window that moved on without an event.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import Column, Row
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.lake.increments import read_increments
from anabranch.stores.opened import Stores
from batch.building.kept_states import keys_name
from batch.building.versions import STORE_ERRORS
from batch.views import refresh_current

log = logging.getLogger(__name__)
SUBJECT = "approximation"
"""The subject of the measures."""


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """Over `count` rows that the stream scored with the same model: mean and 99th percentile of the
    difference of scores.

    Differences are absolute. `flips`: the share of labels that changed; None for a model without labels.
    """

    count: int
    mean: float
    p99: float
    flips: float | None

    def values(self) -> Mapping[str, float]:
        """The figures by name, without those that do not exist."""
        figures = {"count": float(self.count), "mean": self.mean, "p99": self.p99, "flips": self.flips}
        return {name: value for name, value in figures.items() if value is not None}

    def measures(self, project: str, version: str | None, at: datetime) -> list[Measure]:
        """The figures as measures of a model version."""
        return [
            Measure(project=project, subject=SUBJECT, name=name, at=at, value=value, version=version or "")
            for name, value in self.values().items()
        ]


@dataclass(frozen=True, kw_only=True)
class ResetRows:
    """Current rows made anew with the champion `model_version`, and how far the stream's were off."""

    rows: int
    model_version: str | None = None
    approximation: Approximation | None = None


def reset_current_rows(stores: Stores, project: Project, manifest: Manifest | None = None) -> ResetRows:
    """Make the current row of every key anew from the batch's states and the champion, if it fits the
    declaration.

    Replaces what the stream has scored: after a build, after a rollback, and for a champion that came after
    the build. `manifest` is the current one by default.
    """
    entry = stores.views.manifest(project.name) if manifest is None else manifest
    if entry is None:
        raise AnabranchError(
            f"project {project.name!r} has no batch version yet: run 'anabranch build {project.name}'"
        )
    stores.views.ensure_current(project)
    name = keys_name(project)
    increments = entry.increments.get(name, [])
    if not increments:
        return ResetRows(rows=0)
    champion = stores.models.usable_champion(project)
    keys = read_increments(stores.spark, stores.lake, project.name, name, increments).distinct()
    replaced = refresh_current(stores, project, keys, champion)
    (row,) = replaced.agg(F.count(F.lit(1)).alias("rows"), *_figures()).collect()
    return ResetRows(rows=int(row["rows"]), model_version=champion, approximation=_approximation(row))


def keep_approximation(stores: Stores, project: Project, reset: ResetRows) -> None:
    """Store how good the approximation was; a build that is current does not fail when it cannot."""
    if reset.approximation is None:
        return
    measures = reset.approximation.measures(project.name, reset.model_version, datetime.now(UTC))
    try:
        stores.measures.write(measures)
    except STORE_ERRORS as error:
        log.warning("how far approximate scores of %s were off is not kept: %s", project.name, error)


def _figures() -> list[Column]:
    """Aggregates of rows of REPLACED_SCHEMA (anabranch/answers/current.py)."""
    return [
        F.count("difference").alias("count"),
        F.avg("difference").alias("mean"),
        F.percentile("difference", 0.99).alias("p99"),
        F.avg(F.col("flipped").cast("double")).alias("flips"),
    ]


def _approximation(row: Row) -> Approximation | None:
    """The aggregates; None when the batch replaced no score of the stream."""
    if not row["count"]:
        return None
    return Approximation(
        count=int(row["count"]),
        mean=float(row["mean"]),
        p99=float(row["p99"]),
        flips=None if row["flips"] is None else float(row["flips"]),
    )
