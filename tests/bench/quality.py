"""`make bench-quality`: the default trainer on the Cleveland heart data, 10 times 10-fold, beside plain logistic regression."""

import os
import warnings
from dataclasses import replace

import numpy as np

from batch.comparison import candidates, evaluate_candidates
from batch.trainers import TrainingRows
from jobs.show import Steps
from projects.heart_disease import ATTRIBUTES, project
from stores.model_inputs import ModelInput
from tests.bench.report import Row, save
from tests.heart import read

GOAL = 0.905


def rows() -> TrainingRows:
    """The 13 attributes as they were examined; the bracelet's features are empty before any reading."""
    assert project.model is not None
    matrix = np.array([[float(row[name] or "nan") for name in ATTRIBUTES] for row in read("exams.csv")], dtype=np.float32)
    target = np.array([float(row["num"]) for row in read("diagnoses.csv")])
    inputs = tuple(ModelInput(name=name, kind="number") for name in ATTRIBUTES)
    return TrainingRows(matrix=matrix, target=target, inputs=inputs, task="class", metric="roc_auc", categories=project.model.categories)


def main() -> None:
    """Run and save."""
    warnings.simplefilter("ignore")
    assert project.model is not None
    model = replace(project.model, params={}, search=None)
    found = evaluate_candidates(rows(), candidates(model), Steps(), processes=len(os.sched_getaffinity(0)))
    plain = found[0]
    table = [
        Row(
            work=f"10 x 10-fold ROC AUC: {one.name} [{one.low:.3f}, {one.high:.3f}]",
            peer=plain.name,
            ours=round(one.mean, 4),
            theirs=round(plain.mean, 4),
            unit="ROC AUC",
            ratio=round(one.mean / plain.mean, 4),
            goal=f">= {GOAL}" if one.name == "auto" else "",
            equal=None,
        )
        for one in found
    ]
    notes = [
        "303 patients, 13 attributes; folds by patient, the same for every candidate; intervals are 95%, corrected for rows that folds share.",
        "`auto` chooses among regularised logistic regression, shallow XGBoost and a forest by cross-validation inside each fold's training part.",
        *[
            f"{one.name}: {one.mean:.4f}, ahead of plain by {one.ahead:+.4f} [{one.ahead_low:+.4f}, {one.ahead_high:+.4f}], {one.seconds:.2f} s a training."
            for one in found
        ],
        f"declared categories: {', '.join(model.categories)}; plain logistic regression takes every attribute as a number, scaled, with C=1.",
    ]
    save("quality", "How well the default learns", table, ["scikit-learn", "xgboost-cpu"], notes)


if __name__ == "__main__":
    main()
