"""How far the stream's approximate scores were from those of the batch that replaced them.

A row of the stream is as of the last event of its key; the batch scores every key as of now. So the difference is what a reader of
`<project>_current` was wrong by just before the batch: lost or late tiles would show, and so does that windows moved on without an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, Row
from pyspark.sql import functions as F

from anabranch.stores.cassandra.measures import Measure

SUBJECT = "approximation"


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """Over `count` rows that the stream had scored with the same model: mean and 99th percentile of the absolute difference of scores,
    and the share `flips` of labels that are others now (None for a model without labels).
    """  # fmt: skip

    count: int
    mean: float
    p99: float
    flips: float | None

    def values(self) -> Mapping[str, float]:
        """By name, as measured."""
        found = {"count": float(self.count), "mean": self.mean, "p99": self.p99, "flips": self.flips}
        return {name: value for name, value in found.items() if value is not None}

    def measures(self, project: str, version: str | None, at: datetime) -> list[Measure]:
        """The same as measures of a model version."""
        return [
            Measure(project=project, subject=SUBJECT, name=name, at=at, value=value, version=version or "")
            for name, value in self.values().items()
        ]


def compared() -> list[Column]:
    """What to aggregate of rows of REPLACED_SCHEMA (anabranch/answers/current.py)."""
    return [
        F.count("difference").alias("count"),
        F.avg("difference").alias("mean"),
        F.percentile("difference", 0.99).alias("p99"),
        F.avg(F.col("flipped").cast("double")).alias("flips"),
    ]


def approximation(row: Row) -> Approximation | None:
    """The aggregates; None when the batch replaced no score of the stream."""
    if not row["count"]:
        return None
    return Approximation(
        count=int(row["count"]),
        mean=float(row["mean"]),
        p99=float(row["p99"]),
        flips=None if row["flips"] is None else float(row["flips"]),
    )
