"""Who becomes champion: the declared gate, its checks one by one, and promotion by hand with a reason."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER, Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import PREVIOUS, Models, ModelVersion, Scorer
from batch.evaluation.assessment import SliceResult, resamples
from batch.evaluation.kept_runs import TrainingRun
from batch.evaluation.measures import measure
from batch.release.parity import Columns, compare, made_up

log = logging.getLogger(__name__)
_RESAMPLES = 1_000
_SEED = 11


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One check of the gate and what it found."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """All checks; the version may be champion when every one passed."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Did every check?"""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Why not, or that all passed."""
        return (
            "; ".join(f"{check.name}: {check.said}" for check in self.checks if not check.passed)
            or "every check passed"
        )

    @property
    def tags(self) -> dict[str, str]:
        """As the version keeps it."""
        return {
            "gate": "passed" if self.passed else "refused",
            "gate_reason": self.reason,
            "gate_checks": json.dumps([asdict(check) for check in self.checks]),
        }


def examine(models: Models, project: Project, model: Model, run: TrainingRun, version: str) -> GateVerdict:
    """The gate of `model` over a registered version; `run` is the training that made it."""
    gate, target = model.gate, run.test.column("_target").to_numpy()
    columns = test_columns(run.test)
    scorer = models.scorer(project.name, version)
    scores = scorer.score(columns)
    checks = [_parity(models, project, model, scorer, columns)]
    if gate.minimum is not None:
        checks.append(_minimum(model.metric, run.metrics[model.metric], gate.minimum))
    if gate.slices is not None:
        checks.append(_of_slices(model.metric, run.slices, gate.slices, gate.slice_rows))
    if gate.champion:
        checks.append(
            _against_champion(
                models, project, model, columns, target, scores, run.test.column("_group").to_numpy()
            )
        )
    return GateVerdict(checks=tuple(checks))


def test_columns(table: pa.Table) -> dict[str, NDArray[np.object_]]:
    """Feature columns of held-out rows as a scorer takes them."""
    return {
        name: np.array(table.column(name).to_pylist(), dtype=object)
        for name in table.column_names
        if not name.startswith("_")
    }


def _minimum(metric: str, value: float, bound: float) -> GateCheck:
    smaller = metric in SMALLER_IS_BETTER
    good = value <= bound if smaller else value >= bound
    return GateCheck(
        name="minimum",
        passed=good,
        said=f"{metric} {value:.4f} on held-out rows, {'at most' if smaller else 'at least'} {bound:g} is wanted",
    )


def _of_slices(metric: str, slices: Sequence[SliceResult], bound: float, least: int) -> GateCheck:
    worse = [
        one
        for one in slices
        if one.rows >= least and one.value is not None and not _minimum(metric, one.value, bound).passed
    ]
    if worse:
        said = ", ".join(
            f"{metric} {one.value:.4f} where {one.feature} is {one.part} ({one.rows} rows)" for one in worse
        )
        return GateCheck(name="slices", passed=False, said=f"{said}, where {bound:g} is wanted")
    counted = sum(one.rows >= least for one in slices)
    return GateCheck(
        name="slices", passed=True, said=f"{counted} slices of {least} rows or more reach {bound:g}"
    )


def _parity(models: Models, project: Project, model: Model, scorer: Scorer, columns: Columns) -> GateCheck:
    """The model itself, its ONNX form and the registered pyfunc on a sample of `columns`, and on harder rows."""
    found, allowed = compare(models, project.name, scorer, columns, model.categories), model.gate.parity
    return GateCheck(name="parity", passed=found.within(allowed), said=found.said(allowed))


def _against_champion(
    models: Models, project: Project, model: Model, columns: Columns,
    target: NDArray[np.float64], scores: NDArray[np.float64], groups: NDArray[np.int64],
) -> GateCheck:  # fmt: skip
    champion = models.champion(project.name)
    if champion is None:
        return GateCheck(name="champion", passed=True, said="there is no champion yet")
    try:
        scorer = models.scorer(project.name, champion)
        check_fits(project, scorer.version, scorer.kinds)
        if scorer.task != model.task:
            raise MisuseError(f"version {champion} gives a {scorer.task}")
    except AnabranchError as error:
        # A champion that cannot score these rows cannot serve them either: it is no reason to keep it.
        return GateCheck(name="champion", passed=True, said=f"it cannot be compared: {error}")
    return _paired(model, champion, target, scores, scorer.score(columns), groups)


def _paired(
    model: Model,
    champion: str,
    target: NDArray[np.float64],
    scores: NDArray[np.float64],
    others: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> GateCheck:
    gate, sign = model.gate, -1.0 if model.metric in SMALLER_IS_BETTER else 1.0
    gains = []
    for drawn in resamples(groups, _RESAMPLES if len(target) <= 5_000 else 200, _SEED):
        if len(np.unique(target[drawn])) > 1:
            mine, theirs = (measure(model.metric, target[drawn], found[drawn]) for found in (scores, others))
            gains.append(sign * (mine - theirs))
    if not gains:
        few = f"held-out rows are too few to be compared with version {champion} on"
        return GateCheck(name="champion", passed=gate.proof == "worse", said=few)
    worse = float(np.mean(np.array(gains) < -gate.tolerance))
    mine, theirs = (measure(model.metric, target, found) for found in (scores, others))
    by = f" by more than {gate.tolerance:g}" if gate.tolerance else ""
    said = f"{model.metric} {mine:.4f} against {theirs:.4f} of version {champion} on the same rows, worse{by} in {100 * worse:.0f}% of resamples"
    if gate.proof == "worse":
        return GateCheck(
            name="champion",
            passed=worse < gate.confidence,
            said=f"{said}, less than {100 * gate.confidence:.0f}% is wanted",
        )
    return GateCheck(
        name="champion",
        passed=worse <= 1 - gate.confidence,
        said=f"{said}, at most {100 * (1 - gate.confidence):.0f}% is wanted",
    )


def promote(
    models: Models, project: Project, version: str, *, reason: str | None = None, without_parity: bool = False
) -> None:
    """Make `version` champion by hand. One that the gate refused needs a `reason`, which is kept with it; one that says different things
    in different places needs `without_parity` too.

    Raises MisuseError for a refused version without these, or one whose inputs do not fit the declaration, and AnabranchError for
    one that cannot be loaded: forcing does not help there.
    """
    entry = models.entry(project.name, version)
    if entry.gate == "refused" and reason is None:
        raise MisuseError(
            f"version {version} of {project.name!r} did not pass the gate ({entry.reason}): use --force --reason TEXT to promote it all the same"
        )
    scorer = models.scorer(project.name, version)
    check_fits(project, scorer.version, scorer.kinds)
    parity = check_parity(models, project, project.model or Model(), scorer, entry)
    if not parity.passed and not (without_parity and reason is not None):
        raise MisuseError(
            f"version {version} of {project.name!r} does not say the same everywhere ({parity.said}), so REST, devices and mass scoring would "
            "contradict each other: train again, or use --force --without-parity --reason TEXT"
        )
    if reason is not None:
        log.warning(
            "forced promotion project=%s version=%s reason=%s gate=%s parity=%s",
            project.name, version, reason, entry.gate or "none", "passed" if parity.passed else parity.said,
        )  # fmt: skip
        forced = {"forced_reason": reason, "forced_at": datetime.now(tz=UTC).isoformat(timespec="seconds")}
        models.tag(
            project.name, version, forced | ({} if parity.passed else {"forced_without_parity": parity.said})
        )
    models.promote(project.name, version)


def check_parity(
    models: Models, project: Project, model: Model, scorer: Scorer, entry: ModelVersion
) -> GateCheck:
    """What the gate found when the version was trained, or, of one that never met it, what is found now on made-up rows."""
    known = next((GateCheck(**check) for check in entry.checks if check["name"] == "parity"), None)
    return known or _parity(models, project, model, scorer, made_up(scorer))


def roll_back(models: Models, project: Project) -> str:
    """Make the champion before champion again, whatever the batch version, which ends a trial; its version. Twice is forward again.

    The gate has let it pass once. Raises MisuseError when there is none or its inputs do not fit the declaration, and AnabranchError for
    one that cannot be loaded.
    """
    previous = models.roles(project.name).aliases.get(PREVIOUS)
    if previous is not None:
        check_fits(project, previous, models.scorer(project.name, previous).kinds)
    return models.rollback(project.name)
