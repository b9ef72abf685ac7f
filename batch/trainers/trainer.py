"""Trainers, and what every trained model can do: score rows, and be stored with an ONNX form that agrees.

To add a trainer, write one module with one `Trainer` and register it in batch/trainers/registry.py.
`Trainer.train` checks the declared parameters and adds the defaults; `LearntGraph` stores any model that can
be written as an ONNX graph.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.explaining.explanation import NUMBER, PROBABILITY, to_scores
from anabranch.stores.models.explaining.kept import kept_background, read_explainer
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.scoring import Matrix, Scores, apart
from batch.trainers.frames import TrainingFrame
from batch.trainers.graphs import OUTPUT, check_parity, run
from batch.trainers.rows import TrainingRows

MANY = 2_000_000
"""Rows; above, a trainer that can learns on Spark's workers."""
_EXPLAINED, _ADDS_UP = 200, 1e-4  # training rows, and how near a sum of contributions is to the score


class Learnt(Protocol):
    """A trained model in memory; `parameters` are the ones that were used, defaults included."""

    parameters: Mapping[str, object]

    def scores(self, matrix: Matrix) -> Scores:
        """Scores of coded rows: probabilities of class 1, or of each class (n, classes), or numbers."""
        ...

    def fitted(self) -> Fitted:
        """The model as bytes. Raises AnabranchError when its ONNX form disagrees on the training rows."""
        ...


def stored(rows: TrainingRows, parameters: Mapping[str, object], *packages: str, **files: Any) -> Fitted:
    """The Fitted of a model trained on `rows`; loading it needs `packages` beside those of every version."""
    pinned = (*packages, "mlflow", "numpy", "pandas", "onnxruntime")
    requirements = tuple(f"{package}=={version(package)}" for package in pinned)
    files.setdefault("explainer", kept_background(rows.matrix, _space(rows)))
    return Fitted(
        inputs=rows.inputs,
        task=rows.task,
        classes=rows.classes,
        parameters=parameters,
        pip_requirements=requirements,
        **files,
    )


def explainer(
    rows: TrainingRows, exact: Callable[[], bytes] | None, score: Callable[[Matrix], Scores]
) -> bytes:
    """The file by which scores are explained: `exact` where that adds up to `score`, else a background."""
    if exact is not None and not rows.classes:
        with suppress(AnabranchError):  # such as a booster with splits of another kind
            content, some = exact(), rows.matrix[:_EXPLAINED]
            found = read_explainer(content, score).explain(some)
            if apart(to_scores(found.space, found.margins), score(some)) <= _ADDS_UP:
                return content
    return kept_background(rows.matrix, _space(rows))


def _space(rows: TrainingRows) -> str:
    return NUMBER if rows.task == "number" else PROBABILITY


class LearntGraph:
    """A trained model that is stored as an ONNX graph over the inputs; scoring needs no other library.

    `graph` builds it. `library` gives the scores of the library that trained the model; before the model is
    stored, the graph must agree with it on the training rows. None when the graph is all there is. `exact`
    makes the file that explains its scores exactly (stores/models/explaining/kept.py); without it, or where
    it does not add up to the scores, explanations are sampled.
    """

    def __init__(
        self,
        rows: TrainingRows,
        graph: Callable[[], bytes],
        library: Callable[[Matrix], Scores] | None = None,
        *,
        parameters: Mapping[str, object] | None = None,
        output: str = OUTPUT,
        exact: Callable[[], bytes] | None = None,
    ) -> None:
        self.rows, self._graph, self.library, self.output, self._exact = rows, graph, library, output, exact
        self.parameters = rows.params if parameters is None else parameters

    @cached_property
    def onnx(self) -> bytes:
        """The graph as bytes."""
        return self._graph()

    def scores(self, matrix: Matrix) -> Scores:
        return run(self.onnx, self.output, matrix, len(self.rows.classes))

    def fitted(self) -> Fitted:
        if self.library is not None:
            found, classes = self.library(self.rows.matrix), len(self.rows.classes)
            check_parity(self.onnx, self.output, self.rows.matrix, found, classes)
        return stored(
            self.rows, self.parameters,
            native="onnx", onnx=self.onnx, output=self.output,
            explainer=explainer(self.rows, self._exact, self.scores),
        )  # fmt: skip


class WidenedScores:
    """A model of some of the classes, as in a part of the rows that lacks a rare one; the others score 0."""

    def __init__(self, learnt: Learnt, present: NDArray[np.int64], classes: int) -> None:
        self.learnt, self.parameters = learnt, learnt.parameters
        self._present, self._classes = present, classes

    def scores(self, matrix: Matrix) -> Scores:
        found = np.zeros((len(matrix), self._classes))
        found[:, self._present] = self.learnt.scores(matrix)
        return found

    def fitted(self) -> Fitted:
        raise AnabranchError(
            "the rows lack a class that the model is to have: train on rows of every class, or leave it out"
        )


def _no_defaults(_task: str, _count: int) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A way to learn.

    `learn` gets rows whose `params` are checked and complete: the defaults for the task and the number of
    rows, then the declared ones. `parameters` names the parameters without a default; None lets any pass, for
    a trainer that checks them itself. `space` is what a search tries when the declaration gives no space.

    `learn_frame` learns from a TrainingFrame on Spark's workers; `spread` says when: ``always``, or for
    ``many`` rows. `larger` names the trainer to use instead when the rows do not fit this process's memory.
    """

    name: str
    tasks: tuple[str, ...]
    learn: Callable[[TrainingRows], Learnt]
    defaults: Callable[[str, int], Mapping[str, object]] = _no_defaults
    parameters: frozenset[str] | None = frozenset()
    space: Mapping[str, object] = field(default_factory=dict)
    learn_frame: Callable[[TrainingFrame], Learnt] | None = None
    spread: str = "many"
    larger: str = "xgboost"

    def train(self, rows: TrainingRows) -> Learnt:
        """Train in memory. Raises DeclarationError for a parameter that the trainer does not have."""
        rows = self.complete(rows, len(rows.target))
        present = np.unique(rows.target).astype(np.int64) if rows.task == "classes" else np.zeros(0, np.int64)
        if len(present) == len(rows.classes):
            return self.learn(rows)
        some = replace(
            rows,
            target=np.searchsorted(present, rows.target).astype(np.float64),
            classes=tuple(rows.classes[place] for place in present.tolist()),
        )
        return WidenedScores(self.learn(some), present, len(rows.classes))

    def train_frame(self, frame: TrainingFrame) -> Learnt:
        """Train on Spark's workers; the trainer must have a `learn_frame`."""
        if self.learn_frame is None:
            raise AnabranchError(
                f"trainer {self.name!r} does not learn on Spark's workers: use trainer={self.larger!r}"
            )
        return self.learn_frame(replace(frame, rows=self.complete(frame.rows, frame.count)))

    def complete(self, rows: TrainingRows, count: int) -> TrainingRows:
        """`rows` with the defaults for `count` rows added to the declared parameters, which are checked."""
        defaults = self.defaults(rows.task, count)
        if self.parameters is not None:
            known = self.parameters | set(defaults)
            for name in rows.params:
                if name not in known:
                    raise DeclarationError(
                        f"model: trainer {self.name!r} has no parameter {name!r}: it takes "
                        f"{', '.join(sorted(known)) or 'none'}"
                    )
        return replace(rows, params={**defaults, **rows.params})

    def spreads(self, count: int, params: Mapping[str, object], *, large: bool = False) -> bool:
        """Whether `count` rows are learnt from on Spark's workers.

        The parameter `distributed` decides; without it, the number of rows, or that they are too `large` for
        the driver.
        """
        if self.learn_frame is None:
            return False
        return self.spread == "always" or bool(params.get("distributed", large or count > MANY))


@contextmanager
def training_with(library: str, *errors: type[Exception]) -> Iterator[None]:
    """Translate ValueError and `errors`, by which a library refuses parameters or rows, to AnabranchError."""
    refusals: tuple[type[Exception], ...] = (ValueError, *errors)
    try:
        yield
    except refusals as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AnabranchError(f"{library} could not train: {first}: check Model(params=...)") from error
