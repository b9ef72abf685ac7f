"""`make bench-quality`: the default trainer on the Cleveland heart data, 10 times 10-fold, beside what the libraries alone make of it."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier

from anabranch.stores.models.inputs import ModelInput
from batch.evaluation.splits import folds
from batch.trainers.rows import TrainingRows
from batch.training.comparison import Quality, _quality, candidates, evaluate_candidates
from jobs.show import Steps
from projects.heart_disease import ATTRIBUTES, project
from tests.bench.report import Row, save
from tests.support.heart import read

GOAL = 0.905


def rows() -> TrainingRows:
    """The 13 attributes as they were examined; the bracelet's features are empty before any reading."""
    assert project.model is not None
    matrix = np.array(
        [[float(row[name] or "nan") for name in ATTRIBUTES] for row in read("exams.csv")], dtype=np.float32
    )
    target = np.array([float(row["num"]) for row in read("diagnoses.csv")])
    inputs = tuple(ModelInput(name=name, kind="number") for name in ATTRIBUTES)
    return TrainingRows(
        matrix=matrix,
        target=target,
        inputs=inputs,
        task="class",
        metric="roc_auc",
        categories=project.model.categories,
    )


def _raw() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)
    )


def _one_hot() -> Pipeline:
    assert project.model is not None
    kinds = [i for i, name in enumerate(ATTRIBUTES) if name in project.model.categories]
    numbers = [i for i in range(len(ATTRIBUTES)) if i not in kinds]
    coded = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_pipeline(
        ColumnTransformer([("kinds", coded, kinds), ("numbers", scaled, numbers)]),
        LogisticRegression(C=1.0, max_iter=1000),
    )


def _forest() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median"), RandomForestClassifier(n_estimators=300, random_state=1)
    )


def _untuned() -> XGBClassifier:
    return XGBClassifier(n_jobs=1, random_state=1)


def _shallow() -> XGBClassifier:
    return XGBClassifier(
        n_estimators=150,
        max_depth=2,
        learning_rate=0.05,
        subsample=0.7,
        colsample_bytree=0.5,
        n_jobs=1,
        random_state=1,
    )


ALONE: dict[str, Callable[[], Any]] = {
    "logistic regression, one-hot categories": _one_hot,
    "logistic regression, raw columns": _raw,
    "random forest": _forest,
    "XGBoost, untuned": _untuned,
    "XGBoost, shallow, tuned by hand": _shallow,
}
"""The libraries alone, without anything of Anabranch."""


def alone(given: TrainingRows, *, count: int = 10, repeats: int = 10, processes: int = 1) -> list[Quality]:
    """Each of ALONE on the folds that `evaluate_candidates` makes, ahead or behind the plain one on raw columns."""
    parts = []
    for repeat in range(repeats):
        fold = folds(given.target, given.groups, given.task, count, given.seed + 101 * repeat)
        parts += [fold == number for number in range(count)]
    found = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for name in ALONE:
            found[name] = np.array(list(pool.map(_judged, [name] * len(parts), [given] * len(parts), parts)))
    plain = found["logistic regression, raw columns"]
    return [_quality(given, name, values, plain, float("nan"), count) for name, values in found.items()]


def _judged(name: str, given: TrainingRows, mask: NDArray[np.bool_]) -> float:
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        learner = ALONE[name]().fit(given.matrix[~mask], given.target[~mask].astype(int))
        return float(roc_auc_score(given.target[mask], learner.predict_proba(given.matrix[mask])[:, 1]))


def main() -> None:
    """Run and save."""
    warnings.simplefilter("ignore")
    assert project.model is not None
    model, processes = replace(project.model, params={}, search=None), len(os.sched_getaffinity(0))
    beside = alone(rows(), processes=processes)
    found = evaluate_candidates(rows(), candidates(model), Steps(), processes=processes)
    default = next(one for one in found if one.name == "auto")
    pairs = [(default, one) for one in beside] + [(one, found[0]) for one in found if one is not default]
    table = [
        Row(
            work=f"10 x 10-fold ROC AUC: {one.name} [{one.low:.3f}, {one.high:.3f}]",
            peer=f"{other.name} [{other.low:.3f}, {other.high:.3f}]",
            ours=round(one.mean, 4),
            theirs=round(other.mean, 4),
            unit="ROC AUC",
            ratio=round(one.mean / other.mean, 4),
            goal=f">= {GOAL}" if one is default else "",
            equal=None,
        )
        for one, other in pairs
    ]
    notes = [
        "303 patients, 13 attributes; folds by patient, the same for every candidate; intervals are 95%, corrected for rows that folds share.",
        "`auto` chooses among regularised logistic regression, shallow XGBoost and a forest by cross-validation inside each fold's training part.",
        "Its peers are scikit-learn and XGBoost alone: logistic regression with C=1, 300 trees of a forest, XGBoost's defaults, 150 shallow trees of depth 2.",
        *[
            f"{one.name}: {one.mean:.4f}, ahead of plain by {one.ahead:+.4f} [{one.ahead_low:+.4f}, {one.ahead_high:+.4f}], {one.seconds:.2f} s a training."
            for one in found
        ],
        f"declared categories: {', '.join(model.categories)}; plain logistic regression takes every attribute as a number, scaled, with C=1.",
    ]
    save("quality", "How well the default learns", table, ["scikit-learn", "xgboost-cpu"], notes)


if __name__ == "__main__":
    main()
