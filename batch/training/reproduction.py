"""Making a version again: the training set of the lake versions it recorded, the same training, the same metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.progress import Progress
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from batch.training.train import TrainingPlace, lake_run

CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Metrics as they were recorded and as they came out again; None where one of both has no such metric."""

    version: str
    metrics: Mapping[str, tuple[float | None, float | None]]

    @property
    def different(self) -> tuple[str, ...]:
        """Metrics that are not the same again."""
        return tuple(
            name
            for name, (was, now) in self.metrics.items()
            if was is None or now is None or abs(was - now) > CLOSE * max(1.0, abs(was))
        )


def reproduce(
    spark: SparkSession,
    lake: Lake,
    models: Models,
    project: Project,
    version: str,
    progress: Progress,
    place: TrainingPlace | None = None,
) -> Reproduction:
    """Train again as `version` was trained; nothing is registered. Raises MisuseError when the declaration has changed since."""
    entry = models.entry(project.name, version)
    if entry.fingerprint != project.fingerprint:
        raise MisuseError(
            f"version {version} of {project.name!r} was trained from the declaration {entry.fingerprint or 'of nobody knows when'}, "
            f"which is {project.fingerprint} now: check out the declaration it was trained from"
        )
    if not entry.lake_versions:
        raise MisuseError(
            f"version {version} of {project.name!r} recorded no lake versions: it was not trained from a lake"
        )
    run, _, _ = lake_run(spark, lake, project, progress, entry.lake_versions, place or TrainingPlace())
    names = dict.fromkeys([*entry.metrics, *run.metrics])
    return Reproduction(
        version=version, metrics={name: (entry.metrics.get(name), run.metrics.get(name)) for name in names}
    )
