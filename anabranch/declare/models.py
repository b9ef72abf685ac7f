"""Declarations of models: trainer, split, weights, search, slices, and the gate to becoming champion."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from anabranch.errors import DeclarationError
from anabranch.values.names import listed

METRICS: dict[str, tuple[str, ...]] = {
    "roc_auc": ("class", "classes"),
    "average_precision": ("class",),
    "log_loss": ("class", "classes"),
    "accuracy": ("class", "classes"),
    "f1": ("class",),
    **dict.fromkeys(("macro_f1", "top_2_accuracy", "top_3_accuracy", "top_5_accuracy"), ("classes",)),
    **dict.fromkeys(("rmse", "mae", "r2"), ("number",)),
}
"""The tasks that each metric is for: ``class`` is 0 or 1, ``classes`` are named, ``number`` is a number."""
TASKS = {"class": "two classes, 0 and 1", "classes": "several classes", "number": "numbers"}
"""The tasks, for people."""
MOST_CLASSES = 100
"""Classes that a label may have."""
SMALLER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
SPLITS = ("time", "key")
BALANCED = "balanced"
PROOFS = ("worse", "not worse")
CALIBRATIONS = ("sigmoid", "isotonic")
LEARNERS = ("sgd",)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows grouped by a feature: by its values, or by bands, from one bound of `bands` to below the next."""

    feature: str
    bands: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(float(bound) for bound in self.bands))
        if list(self.bands) != sorted(set(self.bands)):
            raise DeclarationError(
                f"model: slice {self.feature!r} has bands {self.bands}: "
                "give bounds that grow, such as (40, 55, 65)"
            )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The conditions under which training makes a version champion.

    `minimum` is the worst metric on held-out rows that passes. `champion` compares the version with the
    champion by paired resamples of the same held-out rows; a difference is proven when a share `confidence`
    of them has it. With `proof` ``worse``, the default, a version is refused when it is proven worse by
    more than `tolerance`; with ``not worse`` it is refused unless it is proven to be at most `tolerance`
    worse (non-inferiority), which takes more rows. `slices` is the worst metric that passes on a declared
    slice of `slice_rows` rows or more. `parity` is the largest difference that passes between the model,
    its ONNX form and the registered pyfunc. `hindsight` is the largest gain that passes of the metric from
    events that had not arrived by the labels' times. `disparity` is the largest difference that passes
    between the parts of a declared slice in the selection rate, the true or the false positive rate; it is
    judged by the lower end of the difference's interval.
    """

    minimum: float | None = None
    champion: bool = True
    tolerance: float = 0.0
    confidence: float = 0.95
    proof: str = "worse"
    slices: float | None = None
    slice_rows: int = 30
    parity: float = 1e-6
    hindsight: float | None = None
    disparity: float | None = None

    def __post_init__(self) -> None:
        if self.hindsight is not None and not 0 <= self.hindsight < float("inf"):
            raise DeclarationError(
                f"model: gate's hindsight is {self.hindsight!r}: give the gain of the metric that may pass, "
                "such as 0.02"
            )
        if self.disparity is not None and not 0 <= self.disparity < 1:
            raise DeclarationError(
                f"model: gate's disparity is {self.disparity!r}: give a difference of rates "
                "from 0 to below 1, such as 0.1"
            )
        if not 0.5 <= self.confidence < 1:
            raise DeclarationError(
                f"model: gate's confidence is {self.confidence!r}: it must be from 0.5 to below 1"
            )
        if self.tolerance < 0 or self.parity <= 0 or self.slice_rows < 1:
            raise DeclarationError(
                f"model: {self}: tolerance cannot be negative, parity and slice_rows must be above 0"
            )
        if self.proof not in PROOFS:
            raise DeclarationError(
                f"model: gate's proof is {self.proof!r}: use {' or '.join(map(repr, PROOFS))}"
            )
        if self.proof == "not worse" and self.tolerance == 0:
            raise DeclarationError(
                "model: gate's proof is 'not worse' and its tolerance 0: "
                "say how much worse is as good, such as tolerance=0.01"
            )


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search over parameters by Optuna, validated inside the training rows. Equal rows give equal trials.

    `space` maps a parameter to a list of choices or a range (low, high), both whole or both decimal, with
    "log" as a third member for a logarithmic scale; empty for the trainer's own space. The first trial is
    the trainer's defaults.
    """

    trials: int = 20
    space: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise DeclarationError(f"model: search has {self.trials} trials: it must be 1 or more")
        for name, choices in self.space.items():
            if not (_is_range(choices) or (isinstance(choices, list) and choices)):
                raise DeclarationError(
                    f"model: search space {name!r} is {choices!r}: "
                    'give a list of choices or a range (low, high) or (low, high, "log")'
                )


def _names(weight: Mapping[int, float] | Mapping[str, float]) -> bool:
    """Whether the weights are those of classes that a label names: texts, or numbers beside 0 and 1."""
    return all(isinstance(name, str) for name in weight) or len(weight) > 2


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _is_range(choices: object) -> bool:
    if (
        not isinstance(choices, tuple)
        or len(choices) not in (2, 3)
        or (len(choices) == 3 and choices[2] != "log")
    ):
        return False
    low, high = choices[:2]
    numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high))
    return numbers and low < high and (len(choices) == 2 or low > 0)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of an ensemble or a cascade."""

    trainer: str
    params: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Online:
    """A second model that learns from each label as it arrives, between one batch and the next.

    `learner` is ``sgd``: a linear model over the model's numbers, by stochastic gradient descent. `rate` is
    the length of the first step; the n-th is shorter by n^(1/4). `penalty` is the strength of
    regularisation. `passes` is the number of passes over a batch's training set.
    """

    learner: str = "sgd"
    rate: float = 0.1
    penalty: float = 1e-4
    passes: int = 5

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise DeclarationError(
                f"model: online learner {self.learner!r} is unknown: {listed(self.learner, LEARNERS, 'use')}"
            )
        if not 0 < self.rate <= 10 or not 0 <= self.penalty < 1 or self.passes < 1:
            raise DeclarationError(
                f"model: {self}: "
                "rate must be above 0 and at most 10, penalty from 0 to below 1, passes 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a project's model is trained.

    `trainer` is a registered name, or ``module:function`` in a folder of projects. `features` are the
    columns it reads, empty for all. `categories` are features whose numbers are codes. `split` ``time``
    trains on earlier labels and tests on later ones, ``key`` on different keys; with either, no key is on
    both sides. `class_weight` is ``balanced`` or a weight by class; of several classes one that is not
    named weighs 1. `members` are for the trainers
    ``ensemble`` and ``cascade``. `online` is a second model and does not change this one. `reasons` say in
    plain language what it means that a feature raised a score, for those who are told why. With `as_known`,
    training values are of the events that had arrived by the label's time; without, of all events before it.
    `calibrate` is ``sigmoid`` or ``isotonic``: scores of classes are mapped to the shares that were observed
    among training rows which the mapped model had not seen. `interval` is a share such as 0.9: each predicted
    number gets an interval that holds so many of such rows.
    """

    trainer: str = "auto"
    metric: str = "roc_auc"
    features: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict, hash=False)
    description: str = ""
    categories: tuple[str, ...] = ()
    split: str = "time"
    class_weight: str | Mapping[int, float] | Mapping[str, float] | None = field(default=None, hash=False)
    search: Search | None = None
    slices: tuple[str | Slice, ...] = ()
    gate: Gate = Gate()
    members: tuple[str | Member, ...] = ()
    intended_use: str = ""
    limits: str = ""
    online: Online | None = None
    as_known: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict, hash=False)
    calibrate: str | None = None
    interval: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            known = listed(self.metric, METRICS, "use")
            raise DeclarationError(f"model: metric {self.metric!r} is unknown: {known}")
        if self.split not in SPLITS:
            known = listed(self.split, SPLITS, "use")
            raise DeclarationError(f"model: split {self.split!r} is unknown: {known}")
        tuples: tuple[object, ...] = (self.categories, self.slices, self.members)
        if any(isinstance(value, str) for value in tuples):
            raise DeclarationError(
                "model: categories, slices and members are tuples: write categories=('sex',) with its comma"
            )
        self._check_weight()
        self._check_reasons()
        if self.gate.disparity is not None and (not self.slices or self.task != "class"):
            raise DeclarationError(
                "model: gate's disparity compares the parts of slices by their rates of class 1: "
                "declare slices=(...) and a metric for two classes, or leave it out"
            )
        if self.calibrate is not None and self.calibrate not in CALIBRATIONS:
            raise DeclarationError(
                f"model: calibrate is {self.calibrate!r}: use {' or '.join(map(repr, CALIBRATIONS))}"
            )
        if self.calibrate is not None and self.task == "number":
            raise DeclarationError(
                f"model: calibrate is for scores of classes, but the metric {self.metric!r} is for numbers: "
                "use interval=0.9, or leave it out"
            )
        if self.interval is not None and not (_is_share(self.interval) and self.task == "number"):
            raise DeclarationError(
                f"model: interval is {self.interval!r} with the metric {self.metric!r}: give a share above 0 "
                "and below 1, such as 0.9, with a metric for numbers"
            )
        if self.trainer.count(":") and not _FUNCTION.fullmatch(self.trainer):
            raise DeclarationError(
                f"model: trainer {self.trainer!r} is no name of a function: write 'module:function'"
            )
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(
            self,
            "slices",
            tuple(Slice(feature=part) if isinstance(part, str) else part for part in self.slices),
        )
        object.__setattr__(
            self,
            "members",
            tuple(Member(trainer=part) if isinstance(part, str) else part for part in self.members),
        )
        if (self.trainer in ("ensemble", "cascade")) != bool(self.members):
            raise DeclarationError(
                f"model: trainer {self.trainer!r} has members {self.members!r}: "
                "'ensemble' and 'cascade' need them, others have none"
            )

    def _check_weight(self) -> None:
        weight = self.class_weight
        good = weight is None or weight == BALANCED
        if isinstance(weight, Mapping):
            named = set(weight) == {0, 1} or _names(weight)
            good = bool(weight) and named and all(value > 0 for value in weight.values())
        if not good:
            raise DeclarationError(
                f"model: class_weight is {weight!r}: "
                "use 'balanced' or a weight above 0 for each class, such as {0: 1, 1: 5} or {'fraud': 5}"
            )
        if weight is not None and self.task == "number":
            raise DeclarationError(
                f"model: class_weight is for classes, but the metric {self.metric!r} is for numbers: "
                "leave it out"
            )

    def _check_reasons(self) -> None:
        given: object = self.reasons
        if not isinstance(given, Mapping):
            raise DeclarationError(
                f"model: reasons is {given!r}: "
                'give a text by feature, such as {"jump": "amount unusual for this card"}'
            )
        for name, text in given.items():
            if not isinstance(text, str) or not text.strip():
                raise DeclarationError(
                    f"model: the reason of {name!r} is {text!r}: say in a sentence what raised the score"
                )

    @property
    def task(self) -> str:
        """``class``, ``classes`` or ``number``, by the metric alone; `Project.task` knows the label too."""
        return METRICS[self.metric][0]

    @property
    def declared_slices(self) -> tuple[Slice, ...]:
        """`slices`, each as a Slice."""
        return tuple(part for part in self.slices if isinstance(part, Slice))

    @property
    def declared_members(self) -> tuple[Member, ...]:
        """`members`, each as a Member."""
        return tuple(part for part in self.members if isinstance(part, Member))

    @property
    def named(self) -> dict[str, str]:
        """The features that the declaration names, each with its role."""
        roles = dict.fromkeys(self.features, "feature") | dict.fromkeys(self.categories, "category")
        roles |= {part.feature: "slice" for part in self.declared_slices}
        return dict.fromkeys(self.reasons, "reason for") | roles

    def meaning(self) -> list[str]:
        """Texts that change when the trained model would."""
        plain = [self.trainer, self.metric, repr(self.features), repr(sorted(self.params.items()))]
        more = [repr(self.categories), self.split, repr(self.class_weight), repr(self.members)]
        more += [f"calibrated {self.calibrate}"] if self.calibrate else []
        more += [f"interval {self.interval!r}"] if self.interval else []
        search = f"{self.search.trials} {sorted(self.search.space.items())!r}" if self.search else ""
        # What was declared before there was such a choice means what it meant.
        return [*plain, *more, search, *(["as known"] if self.as_known else [])]
