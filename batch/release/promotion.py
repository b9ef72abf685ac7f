"""Which version becomes champion: the declared gate with its checks, and promotion by hand with a reason."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.models import SMALLER_IS_BETTER, Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import Models
from anabranch.stores.models.roles import PREVIOUS
from anabranch.stores.models.versions import ModelVersion, Scorer
from batch.evaluation.assessment import JudgedRows, SliceResult, resamples
from batch.evaluation.fairness import Fairness
from batch.evaluation.hindsight import Hindsight
from batch.evaluation.kept_runs import TrainingRun
from batch.evaluation.measures import measure
from batch.evaluation.named_classes import coded_targets, in_classes
from batch.release.parity import Columns, compare, made_up

log = logging.getLogger(__name__)
_RESAMPLES = 1_000
_SEED = 11


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One check of the gate; `said` is what it found, for people."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """The gate's checks; the version may be champion when all of them passed."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The checks that did not pass and what they found, or that all passed."""
        return (
            "; ".join(f"{check.name}: {check.said}" for check in self.checks if not check.passed)
            or "every check passed"
        )

    @property
    def tags(self) -> dict[str, str]:
        """The verdict as tags of the version."""
        return {
            "gate": "passed" if self.passed else "refused",
            "gate_reason": self.reason,
            "gate_checks": json.dumps([asdict(check) for check in self.checks]),
        }


def examine(models: Models, project: Project, run: TrainingRun, version: str) -> GateVerdict:
    """The declared gate's verdict on a registered version; `run` is the training that made it."""
    model, columns = project.model or Model(), test_columns(run.test)
    gate, scorer = model.gate, models.scorer(project.name, version)
    rows = JudgedRows(
        target=coded_targets(run.test, scorer.classes),
        scores=scorer.score(columns),
        groups=run.test.column("_group").to_numpy(),
    )
    checks = [_parity(models, project, scorer, columns)]
    if gate.minimum is not None:
        checks.append(_minimum(model.metric, run.metrics[model.metric], gate.minimum))
    if gate.slices is not None:
        checks.append(_slices(model.metric, run.slices, gate.slices, gate.slice_rows))
    if gate.disparity is not None:
        checks.append(disparity_check(run.fairness, gate.disparity))
    if gate.hindsight is not None:
        checks.append(_hindsight(run.hindsight, gate.hindsight))
    if gate.champion:
        checks.append(_against_champion(models, project, run, scorer, rows))
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
    wanted = f"{'at most' if smaller else 'at least'} {bound:g} is wanted"
    return GateCheck(name="minimum", passed=good, said=f"{metric} {value:.4f} on held-out rows, {wanted}")


def _slices(metric: str, slices: Sequence[SliceResult], bound: float, least: int) -> GateCheck:
    large = [one for one in slices if one.rows >= least]
    worse = [
        f"{metric} {one.value:.4f} where {one.feature} is {one.part} ({one.rows} rows)"
        for one in large
        if one.value is not None and not _minimum(metric, one.value, bound).passed
    ]
    if worse:
        return GateCheck(name="slices", passed=False, said=f"{', '.join(worse)}, where {bound:g} is wanted")
    found = f"{len(large)} slices of {least} rows or more reach {bound:g}"
    return GateCheck(name="slices", passed=True, said=found)


def disparity_check(found: Fairness | None, bound: float) -> GateCheck:
    """Refuse a difference between the parts of a slice that is proven to be larger than `bound`."""
    if found is None or found.largest is None:
        said = "not measured: no slice has two parts, or the model is not one of two classes"
        return GateCheck(name="disparity", passed=True, said=said)
    wanted = f"a difference that is proven to be above {bound:g}, by the lower end, is refused"
    passed = found.largest.low <= bound
    return GateCheck(name="disparity", passed=passed, said=f"{found.largest.said}; {wanted}")


def _hindsight(found: Hindsight | None, bound: float) -> GateCheck:
    """Refuse a metric that owes more than `bound` to events that had not arrived by the labels' times."""
    if found is None:
        said = "not measured: the training set does not say which events had arrived"
        return GateCheck(name="hindsight", passed=True, said=said)
    passed = found.as_known or found.gain is None or found.gain <= bound
    wanted = "the model learns as known" if found.as_known else f"a gain of at most {bound:g} is wanted"
    return GateCheck(name="hindsight", passed=passed, said=f"{found.said}; {wanted}")


def _parity(models: Models, project: Project, scorer: Scorer, columns: Columns) -> GateCheck:
    """Compare the model, its ONNX form and the registered pyfunc on a sample of `columns` and harder rows."""
    model = project.model or Model()
    found, allowed = compare(models, project.name, scorer, columns, model.categories), model.gate.parity
    return GateCheck(name="parity", passed=found.within(allowed), said=found.described(allowed))


def _against_champion(
    models: Models, project: Project, run: TrainingRun, mine: Scorer, rows: JudgedRows
) -> GateCheck:
    champion, model = models.champion(project.name), project.model or Model()
    if champion is None:
        return GateCheck(name="champion", passed=True, said="there is no champion yet")
    try:
        scorer = models.scorer(project.name, champion)
        check_fits(project, scorer.version, scorer.kinds)
        if scorer.task != project.task:
            raise MisuseError(f"version {champion} gives a {scorer.task}")
    except AnabranchError as error:
        # A champion that cannot score these rows cannot serve them either: it is no reason to keep it.
        return GateCheck(name="champion", passed=True, said=f"it cannot be compared: {error}")
    others = scorer.score(test_columns(run.test))
    if mine.classes != scorer.classes:
        every = tuple(dict.fromkeys((*mine.classes, *scorer.classes)))
        target, scores = coded_targets(run.test, every), in_classes(rows.scores, mine.classes, every)
        rows, others = replace(rows, target=target, scores=scores), in_classes(others, scorer.classes, every)
    return paired(model, champion, rows, others)


def paired(model: Model, champion: str, rows: JudgedRows, others: NDArray[np.float64]) -> GateCheck:
    """Compare the judged scores with the champion's (`others`) by paired resamples of the same rows."""
    gate, metric = model.gate, model.metric
    sign, gains = -1.0 if metric in SMALLER_IS_BETTER else 1.0, []
    theirs = replace(rows, scores=others)
    for drawn in resamples(rows.groups, _RESAMPLES if len(others) <= 5_000 else 200, _SEED):
        target = rows.target[drawn]
        if len(np.unique(target)) > 1:
            gain = measure(metric, target, rows.scores[drawn]) - measure(metric, target, others[drawn])
            gains.append(sign * gain)
    if not gains:
        few = f"held-out rows are too few to be compared with version {champion} on"
        return GateCheck(name="champion", passed=gate.proof == "worse", said=few)
    worse = float(np.mean(np.array(gains) < -gate.tolerance))
    by = f" by more than {gate.tolerance:g}" if gate.tolerance else ""
    found = (
        f"{metric} {rows.measure(metric):.4f} against {theirs.measure(metric):.4f} of version {champion} "
        f"on the same rows, worse{by} in {100 * worse:.0f}% of resamples"
    )
    if gate.proof == "worse":
        passed, bound = worse < gate.confidence, f"less than {100 * gate.confidence:.0f}%"
    else:
        passed, bound = worse <= 1 - gate.confidence, f"at most {100 * (1 - gate.confidence):.0f}%"
    return GateCheck(name="champion", passed=passed, said=f"{found}, {bound} is wanted")


def promote(
    models: Models, project: Project, version: str, *, reason: str | None = None, without_parity: bool = False
) -> None:
    """Make `version` champion by hand.

    A version that the gate refused needs a `reason`, which is kept with it; one whose forms disagree needs
    `without_parity` too. Raises MisuseError for a refused version without these, or one whose inputs do not
    fit the declaration. Raises AnabranchError for one that cannot be loaded; forcing does not help there.
    """
    entry = models.entry(project.name, version)
    if entry.gate == "refused" and reason is None:
        raise MisuseError(
            f"version {version} of {project.name!r} did not pass the gate ({entry.reason}): "
            "use --force --reason TEXT to promote it all the same"
        )
    scorer = models.scorer(project.name, version)
    check_fits(project, scorer.version, scorer.kinds)
    parity = check_parity(models, project, scorer, entry)
    if not parity.passed and not (without_parity and reason is not None):
        raise MisuseError(
            f"version {version} of {project.name!r} does not say the same everywhere ({parity.said}), "
            "so REST, devices "
            "and mass scoring would contradict each other: train again, "
            "or use --force --without-parity --reason TEXT"
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


def check_parity(models: Models, project: Project, scorer: Scorer, entry: ModelVersion) -> GateCheck:
    """The gate's recorded check of parity; for a version without one, a new check on made-up rows."""
    known = next((GateCheck(**check) for check in entry.checks if check["name"] == "parity"), None)
    return known or _parity(models, project, scorer, made_up(scorer))


def roll_back(models: Models, project: Project) -> str:
    """Make the previous champion champion again and end a trial; returns its version. Twice is forward again.

    The gate is not asked again, for that version has passed it. Raises MisuseError when there is no previous
    champion or its inputs do not fit the declaration, and AnabranchError when it cannot be loaded.
    """
    previous = models.roles(project.name).aliases.get(PREVIOUS)
    if previous is not None:
        check_fits(project, previous, models.scorer(project.name, previous).kinds)
    return models.rollback(project.name)
