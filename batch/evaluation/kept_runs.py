"""The outcome of a training as a folder, which outlives a crash and a registry that is away.

<folder>/run.json        what is recorded: metrics, parameters, tags, slices, trials
<folder>/model/          the model's files
<folder>/report/         model card, curves, tables; logged as they are
<folder>/test.parquet    held-out rows with `_target` and `_group`, to compare with the champion; not logged
<folder>/version         the version, once it is registered
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted
from batch.evaluation.assessment import SliceResult
from batch.evaluation.fairness import Fairness
from batch.evaluation.hindsight import Hindsight

_DONE = "run.json"
_PLAIN = (
    "project", "fingerprint", "metrics", "parameters", "lake_versions", "example", "tags", "trials",
    "rows", "left_out",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The outcome of a training: `metrics` as they are logged, and where the model came from (`tags`).

    `rows` labels were usable, `left_out` were not; both are 0 in a run that an earlier release kept.
    `hindsight` is None where the training set does not say what had arrived, `fairness` where no slices
    are declared or the model is not one of two classes.
    """

    project: str
    fingerprint: str
    metrics: Mapping[str, float]
    slices: Sequence[SliceResult]
    parameters: Mapping[str, object]
    lake_versions: Mapping[str, int]
    example: Mapping[str, Sequence[Any]]
    fitted: Fitted
    test: pa.Table
    report: Mapping[str, bytes]
    tags: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[Mapping[str, object]] = ()
    rows: int = 0
    left_out: int = 0
    hindsight: Hindsight | None = None
    fairness: Fairness | None = None


def keep(run: TrainingRun, folder: Path) -> None:
    """Write the run; `run.json` comes last, so a folder that has it is complete."""
    for name in ("model", "report"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    run.fitted.write(folder / "model")
    for name, page in run.report.items():
        (folder / "report" / name).write_bytes(page)
    pq.write_table(run.test, folder / "test.parquet")
    plain = {name: getattr(run, name) for name in _PLAIN}
    trained = {
        "parameters": dict(run.fitted.parameters),
        "pip_requirements": list(run.fitted.pip_requirements),
    }
    content = {
        **plain,
        "slices": [asdict(one) for one in run.slices],
        "hindsight": None if run.hindsight is None else asdict(run.hindsight),
        "fairness": None if run.fairness is None else asdict(run.fairness),
        "fitted": trained,
    }
    (folder / f"{_DONE}.new").write_text(json.dumps(content, default=str, indent=1), encoding="utf-8")
    (folder / f"{_DONE}.new").rename(folder / _DONE)


def kept(folder: Path) -> TrainingRun:
    """The run that `keep` wrote; raises AnabranchError for a damaged folder."""
    try:
        content = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        fitted = Fitted.read(folder / "model", **content.pop("fitted"))
        slices = [SliceResult(**one) for one in content.pop("slices")]
        hindsight, fair = content.pop("hindsight", None), content.pop("fairness", None)
        report = {path.name: path.read_bytes() for path in sorted((folder / "report").iterdir())}
        return TrainingRun(
            **content,
            slices=slices,
            hindsight=None if hindsight is None else Hindsight.read(hindsight),
            fairness=None if fair is None else Fairness.read(fair),
            fitted=fitted,
            test=pq.read_table(folder / "test.parquet"),
            report=report,
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise AnabranchError(
            f"the kept training in {folder} cannot be read ({error}): remove the folder and train again"
        ) from error


def unfinished(root: Path, project: str) -> list[Path]:
    """Folders of complete trainings whose registration did not finish, the oldest first."""
    return sorted(path.parent for path in root.glob(f"{project}/*/{_DONE}"))


def registered(folder: Path) -> str | None:
    """The version that the run already has in the registry; None before it is registered."""
    path = folder / "version"
    return path.read_text(encoding="utf-8") if path.exists() else None


def note_registered(folder: Path, version: str) -> None:
    """Record the version, so that finishing registers no second one."""
    (folder / "version").write_text(version, encoding="utf-8")


def forget(folder: Path) -> None:
    """Remove the folder of a run that is registered."""
    shutil.rmtree(folder, ignore_errors=True)
