"""Model versions as values: the record of a training, a listed version, and a version loaded to score."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import MisuseError
from anabranch.stores.models.explaining.explanation import Explainer, Explanation
from anabranch.stores.models.explaining.kept import FILE, read_explainer
from anabranch.stores.models.scoring import Columns, InputCoder, Interval, Matrix, Scores, open_models

SLICES = "slices/"
"""The prefix of the names of slices' metrics."""
WATCH = "watch/"
"""The prefix of the names of metrics that were measured after the release."""
_FEW = 64  # rows; up to here ONNX Runtime is faster than XGBoost's own prediction


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What is kept with a version beside its files: metrics on held-out rows, parameters, where it came from.

    `report` are files by name; `trials` have parameters and a metric each, and are kept as nested runs.
    """

    metrics: Mapping[str, float]
    parameters: Mapping[str, object]
    lake_versions: Mapping[str, int]
    example: Mapping[str, Sequence[Any]]
    tags: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, bytes] = field(default_factory=dict)
    trials: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version in a list; `created` is ISO 8601 UTC.

    `gate` is ``passed``, ``refused`` or empty, and `reason` why. A trial on live requests is listed among
    `aliases`, such as ``canary 10%``.
    """

    version: str
    aliases: tuple[str, ...]
    created: str
    metrics: Mapping[str, float]
    fingerprint: str
    lake_versions: Mapping[str, int]
    run: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    watched: Mapping[str, float] = field(default_factory=dict)
    """The latest measurements made after the release, by name."""

    @property
    def gate(self) -> str:
        """The gate's verdict."""
        return self.tags.get("gate", "")

    @property
    def checks(self) -> tuple[dict[str, Any], ...]:
        """The gate's checks, each with `name`, `passed` and `said`."""
        try:
            return tuple(json.loads(self.tags.get("gate_checks", "[]")))
        except ValueError:
            return ()

    @property
    def reason(self) -> str:
        """Why the gate refused the version, or the reason given for promoting it nevertheless."""
        forced = self.tags.get("forced_reason")
        refused = self.tags.get("gate_reason", "") if self.gate == "refused" else ""
        return f"forced: {forced}" + (f" (refused: {refused})" if refused else "") if forced else refused


class ScoredRow(NamedTuple):
    """What a version says of one row.

    `score` is the probability of class 1, of the `label` among several classes, or a number. `label` is 0 or
    1, a class, or None for a number. `scores` are the probabilities of several classes by name, and
    `interval` has the two ends of a number's interval.
    """

    score: float
    label: int | str | None
    scores: Mapping[str, float] | None = None
    interval: tuple[float, float] | None = None


class Scorer:
    """A loaded version: features in, scores out. Safe to use from several threads.

    `classes` are those of a model of several, in the order of its scores' columns.
    """

    classes: tuple[str | int, ...] = ()
    interval: Interval | None = None
    _names: tuple[str, ...] = ()

    def __init__(self, version: str, folder: Path) -> None:
        described = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        self.version = version
        self.task: str = described["task"]
        self.threshold: float = described["threshold"]
        self.classes = tuple(described.get("classes", ()))
        self._names = tuple(map(str, self.classes))
        self.interval = Interval(**described["interval"]) if "interval" in described else None
        self._coder = InputCoder(described["inputs"])
        self.features: tuple[str, ...] = self._coder.names
        self.kinds: dict[str, str] = {given["name"]: given["kind"] for given in described["inputs"]}
        self.categories: dict[str, tuple[str, ...]] = {
            given["name"]: tuple(given.get("categories", ())) for given in described["inputs"]
        }
        self._many, self._few = open_models(folder, described)
        self._explained = (folder / FILE).read_bytes() if (folder / FILE).exists() else None

    def score(self, columns: Columns) -> Scores:
        """Probabilities of class 1, or numbers, float64 (n,); of several `classes` of each, (n, classes).

        `columns` holds at least `features`, all n long.

        Values are as declared, or coded (see scoring.py); None and NaN are missing. Raises MisuseError for a
        missing column or a value of the wrong type.
        """
        matrix = self.matrix(columns)
        if len(matrix) == 0:
            return np.empty((0, len(self.classes)) if self.classes else 0)
        return (self._few if self._few is not None and len(matrix) <= _FEW else self._many).predict(matrix)

    def both(self, columns: Columns) -> tuple[Scores, Scores | None]:
        """Scores of the same rows by the model itself and by its ONNX form, None when it has none."""
        matrix = self.matrix(columns)
        return self._many.predict(matrix), None if self._few is None else self._few.predict(matrix)

    @property
    def explained(self) -> bool:
        """Whether the version keeps what its scores are explained by."""
        return self._explained is not None

    @cached_property
    def explainer(self) -> Explainer:
        """What explains the scores; raises MisuseError for a version that keeps nothing to do it by."""
        if self._explained is None:
            raise MisuseError(
                f"version {self.version} cannot be explained: it was trained before versions kept what "
                "explains them; train again"
            )
        return read_explainer(self._explained, self._many.predict)

    def explain(self, columns: Columns, output: int = 0) -> Explanation:
        """The contributions of `features` to the scores of the columns, which are those of `score`.

        `output` is the position of the class to explain among several. Raises MisuseError as `explainer`.
        """
        return self.explainer.explain(self.matrix(columns), output)

    def matrix(self, columns: Columns) -> Matrix:
        """The columns coded as the model reads them, float32 of shape (n, features)."""
        try:
            return self._coder.matrix(columns)
        except ValueError as error:
            raise MisuseError(str(error)) from error

    def label(self, scores: NDArray[np.float64]) -> Sequence[int | str | None]:
        """The class of each score: 0 or 1, or the most probable; None for a model that gives numbers."""
        if self.task == "number":
            return [None] * len(scores)
        if self.classes:
            return [self.classes[place] for place in scores.argmax(axis=1).tolist()]
        return [int(score >= self.threshold) for score in scores.tolist()]

    def outcomes(self, scores: NDArray[np.float64]) -> list[ScoredRow]:
        """What the scores of `score` say of each row."""
        labels = self.label(scores)
        if self.interval is not None:
            _, low, high = self.interval
            return [ScoredRow(score, None, None, (score + low, score + high)) for score in scores.tolist()]
        if not self.classes:
            return list(map(ScoredRow, scores.tolist(), labels))
        rows, best = scores.tolist(), scores.max(axis=1).tolist() if len(scores) else []
        return [
            ScoredRow(score, label, dict(zip(self._names, row, strict=True)))
            for score, label, row in zip(best, labels, rows, strict=True)
        ]
