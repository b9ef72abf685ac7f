"""Trials of versions on live requests: which may be tried, and what the servers measured."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.stores.cassandra.measures import Measures
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import Models
from anabranch.stores.models.roles import CANARY, SHADOW, VersionTrial
from batch.release.promotion import check_parity

_NAMES = ("rows", "mean_difference", "mean_apart", "p99_apart", "flips", "p99_ms")


@dataclass(frozen=True, kw_only=True)
class TrialComparison:
    """A tried version beside the champion on live requests, from `first` to `last`.

    `mean_difference` is tried minus champion; `mean_apart` and `p99_apart` are of its absolute value, the
    latter of the worst interval. `flips` is the share of requests whose label changes. `p99_ms` is of the
    tried version's own scoring, None for a canary.
    """

    kind: str
    version: str
    champion: str
    rows: int
    mean_difference: float
    mean_apart: float
    p99_apart: float
    flips: float
    p99_ms: float | None
    first: datetime
    last: datetime


def try_out(models: Models, project: Project, version: str, kind: str, share: float = 1.0) -> VersionTrial:
    """Let servers try `version` on live requests; this ends any earlier trial.

    The gate may have refused the version. Raises MisuseError for the champion, when there is no champion, and
    for a version whose inputs do not fit the declaration, that gives another kind of score than the champion,
    or whose forms disagree.
    """
    champion = models.champion(project.name)
    if champion is None or champion == version:
        why = "it is the champion" if champion else "there is no champion to try it beside: promote one"
        raise MisuseError(f"version {version} of {project.name!r} cannot be tried on live requests: {why}")
    if not 0 < share <= 1:
        raise MisuseError(
            f"a canary cannot have {100 * share:g}% of the keys: give a share above 0% and up to 100%"
        )
    entry, scorer = models.entry(project.name, version), models.scorer(project.name, version)
    check_fits(project, scorer.version, scorer.kinds)
    if scorer.task != models.scorer(project.name, champion).task:
        raise MisuseError(
            f"version {version} of {project.name!r} gives a {scorer.task}, and the champion does not: "
            "they cannot be compared"
        )
    parity = check_parity(models, project, scorer, entry)
    if not parity.passed:
        raise MisuseError(
            f"version {version} of {project.name!r} does not say the same everywhere ({parity.said}): "
            "train again"
        )
    trial = VersionTrial(
        kind=kind,
        version=version,
        share=share if kind == CANARY else 1.0,
        since=datetime.now(tz=UTC).isoformat(timespec="seconds"),
    )
    models.try_out(project.name, trial)
    return trial


def compared(measures: Measures, project: str, since: datetime) -> list[TrialComparison]:
    """The comparisons since then, by kind, tried version and champion; the newest last."""
    found: dict[tuple[str, str, str], dict[datetime, dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for kind in (SHADOW, CANARY):
        for name in _NAMES:
            for one in measures.history(project, kind, name, since):
                found[kind, one.version, one.slice][one.at][name] = one.value
    made = [
        _compared(*key, {at: said for at, said in intervals.items() if "rows" in said})
        for key, intervals in found.items()
    ]
    return sorted((one for one in made if one is not None), key=lambda one: one.last)


def _compared(
    kind: str, version: str, champion: str, intervals: Mapping[datetime, Mapping[str, float]]
) -> TrialComparison | None:
    rows = sum(said["rows"] for said in intervals.values())
    if not rows:
        return None
    times = [said["p99_ms"] for said in intervals.values() if "p99_ms" in said]

    def mean(name: str) -> float:
        return sum(said["rows"] * said.get(name, 0.0) for said in intervals.values()) / rows

    return TrialComparison(
        kind=kind,
        version=version,
        champion=champion,
        rows=int(rows),
        mean_difference=mean("mean_difference"),
        mean_apart=mean("mean_apart"),
        p99_apart=max(said.get("p99_apart", 0.0) for said in intervals.values()),
        flips=mean("flips"),
        p99_ms=max(times) if times else None,
        first=min(intervals),
        last=max(intervals),
    )
