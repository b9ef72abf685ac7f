"""Training a version again from the lake versions that it recorded, to compare the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from anabranch.errors import MisuseError
from anabranch.stores.opened import Stores
from batch.training.job import TrainingJob
from batch.training.train import lake_run

CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Each metric as it was recorded and as it is now; None where one training has no such metric."""

    version: str
    metrics: Mapping[str, tuple[float | None, float | None]]

    @property
    def different(self) -> tuple[str, ...]:
        """Metrics that differ."""
        return tuple(
            name
            for name, (was, now) in self.metrics.items()
            if was is None or now is None or abs(was - now) > CLOSE * max(1.0, abs(was))
        )


def reproduce(stores: Stores, job: TrainingJob, version: str) -> Reproduction:
    """Train again as `version` was trained; nothing is registered.

    Raises MisuseError when the declaration has changed since, or the version was not trained from a lake.
    """
    project, entry = job.project, stores.models.entry(job.project.name, version)
    place = f"version {version} of {project.name!r}"
    if entry.fingerprint != project.fingerprint:
        raise MisuseError(
            f"{place} was trained from the declaration {entry.fingerprint or 'of nobody knows when'}, "
            f"which is {project.fingerprint} now: check out the declaration it was trained from"
        )
    if not entry.lake_versions:
        raise MisuseError(f"{place} recorded no lake versions: it was not trained from a lake")
    run = lake_run(stores, job, entry.lake_versions)
    names = dict.fromkeys([*entry.metrics, *run.metrics])
    return Reproduction(
        version=version, metrics={name: (entry.metrics.get(name), run.metrics.get(name)) for name in names}
    )
