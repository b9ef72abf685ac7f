"""A version on trial: as shadow it answers nobody, as canary it answers a fixed share of the keys."""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from anabranch.answers.predict import Prediction, needs_store, predict
from anabranch.answers.requests import Asked
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import Models
from anabranch.stores.models.roles import CANARY, SHADOW, VersionTrial
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_text

log = logging.getLogger(__name__)
_KEPT = 20_000  # differences of one interval that its p99 is taken from


@dataclass(frozen=True, kw_only=True)
class LoadedTrial:
    """The version on trial; `share` of the keys is above 0 and at most 1."""

    kind: str
    share: float
    scorer: Scorer


def loaded(models: Models, project: Project, trial: VersionTrial | None, champion: str) -> LoadedTrial | None:
    """The version on trial beside `champion`; None without one, and where it cannot be loaded or used."""
    if trial is None or trial.version == champion:
        return None
    try:
        scorer = models.scorer(project.name, trial.version)
        check_fits(project, scorer.version, scorer.kinds)
    except AnabranchError as error:
        log.warning("version %s of %s is not tried: %s", trial.version, project.name, error)
        return None
    return LoadedTrial(kind=trial.kind, share=trial.share, scorer=scorer)


def position(project: Project, key: str) -> float:
    """A key's place in [0, 1), the same on every server and in every trial: growing shares keep keys."""
    digest = hashlib.blake2b(f"{project.name}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def scorers(
    project: Project, champion: Scorer, trial: LoadedTrial | None, asked: Sequence[Asked]
) -> list[Scorer]:
    """The version that answers each request: a canary for its share of the keys, else the champion."""
    if trial is None or trial.kind != CANARY:
        return [champion] * len(asked)
    share = trial.share
    return [
        trial.scorer
        if one.key is not None and position(project, key_text(project.keys, one.key)) < share
        else champion
        for one in asked
    ]


def comparable(trial: LoadedTrial, prediction: Prediction) -> bool:
    """Whether a prediction is compared: every one of a shadow's, of a canary's those that it answered."""
    return trial.kind == SHADOW or prediction.answer["model_version"] == trial.scorer.version


def other_answer(
    project: Project, champion: Scorer, trial: LoadedTrial, prediction: Prediction
) -> tuple[Mapping[str, Any], Mapping[str, Any], float | None] | None:
    """The answers of the version on trial and of the champion to what was asked, and the former's seconds.

    One of them was given; the other is made here. None where it needs stored features that were not read.
    """
    by_trial = prediction.answer["model_version"] == trial.scorer.version
    other = champion if by_trial else trial.scorer
    if prediction.stored is None and needs_store(project, prediction.asked, other):
        return None
    started = time.perf_counter()
    (second,) = predict(project, other, [prediction.asked], [prediction.stored], 0)
    if by_trial:
        return prediction.answer, second.answer, None
    return second.answer, prediction.answer, time.perf_counter() - started


@dataclass
class Differences:
    """Differences in one interval, version on trial minus champion."""

    rows: int = 0
    flips: int = 0
    total: float = 0.0
    apart: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(
        self, tried: Mapping[str, Any], ours: Mapping[str, Any], seconds: float | None
    ) -> tuple[float, bool]:
        """Count one request by both answers; returns their difference and whether the label flips.

        `seconds` is what the version on trial took, None where it was not timed.
        """
        # Of several classes that of the champion's label, so that both speak of the same class.
        score = tried["scores"].get(str(ours["label"]), 0.0) if "scores" in tried else tried["score"]
        difference, flipped = float(score - ours["score"]), tried["label"] != ours["label"]
        self.rows += 1
        self.flips += flipped
        self.total += difference
        self.apart.append(abs(difference))
        if seconds is not None:
            self.seconds.append(seconds)
        return difference, flipped

    def measures(self, project: str, trial: LoadedTrial, champion: str, at: datetime) -> list[Measure]:
        """The interval's measures: subject is the trial's kind, version its version, slice the champion."""
        values = {
            "rows": float(self.rows),
            "mean_difference": self.total / self.rows,
            "mean_apart": float(np.mean(self.apart)),
            "p99_apart": float(np.quantile(self.apart, 0.99)),
            "flips": self.flips / self.rows,
        }
        if self.seconds:
            values["p99_ms"] = 1000 * float(np.quantile(self.seconds, 0.99))
        version = trial.scorer.version
        return [
            Measure(
                project=project,
                subject=trial.kind,
                name=name,
                at=at,
                value=value,
                version=version,
                slice=champion,
            )
            for name, value in values.items()
            if np.isfinite(value)
        ]
