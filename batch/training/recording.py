"""Everything that is recorded of a training: metrics with intervals, slices, importance, curves, the environment, the model card."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.progress import Progress
from anabranch.stores.models.inputs import Fitted
from batch.evaluation.assessment import importance, measured, slice_results
from batch.evaluation.kept_runs import TrainingRun
from batch.trainers.rows import SEED
from batch.training.card import card
from batch.training.pictures import pictures
from batch.training.preparing import Prepared
from batch.training.profile import FILE, profile

_PACKAGES = (
    "numpy",
    "pandas",
    "pyarrow",
    "pyspark",
    "delta-spark",
    "mlflow",
    "scikit-learn",
    "xgboost-cpu",
    "lightgbm",
    "optuna",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "skops",
)


def assess(
    project: Project, model: Model, prepared: Prepared, fitted: Fitted, progress: Progress, *, lake_versions: Mapping[str, int], left_out: int,
    about: Mapping[str, str], trials: Sequence[Mapping[str, object]] = (), count: int | None = None,
) -> TrainingRun:  # fmt: skip
    """The run of a fitted model, judged on the held-out rows; `count` rows trained it when `prepared` has but a sample of them."""
    many, _ = fitted.opened()
    target, groups, rows = prepared.target, prepared.groups, prepared.rows
    scores = many.predict(prepared.matrix)
    train_groups = rows.groups if rows.groups is not None else groups[:0]
    test_found = measured(model.metric, model.task, target, scores, fitted.threshold, groups, SEED)
    train_found = measured(
        model.metric, model.task, rows.target, many.predict(rows.matrix), fitted.threshold, train_groups, SEED
    )
    metrics = {**test_found, **{f"train_{name}": value for name, value in train_found.items()}}
    metrics |= {
        "rows_train": float(len(rows.target) if count is None else count),
        "rows_test": float(len(target)),
    }
    slices = slice_results(
        model.declared_slices,
        prepared.columns(),
        model.metric,
        target,
        scores,
        fitted.threshold,
        groups,
        SEED,
    )
    progress.step("importance of features, curves, model card")
    weight = importance(
        many.predict, prepared.matrix, target, rows.names, model.metric, fitted.threshold, SEED
    )
    said = _parameters(model, prepared, left_out)
    if count is None:
        said["trained_on"] = "driver"
    else:
        said |= {"trained_on": "Spark's workers", "rows_on_driver": len(rows.target)}
    shown = pictures(model.task, target, scores)
    data = {
        "label": project.label.target if project.label else "",
        "split": prepared.split.how,
        "declaration": project.fingerprint,
        **about,
    }
    data |= {f"lake version of {name}": str(number) for name, number in lake_versions.items()}
    page = card(
        project,
        metrics=metrics,
        slices=slices,
        importance=weight,
        parameters={**fitted.parameters, **said},
        about=data,
        environment=environment(),
        pictures=shown,
    )
    report = {
        "model_card.html": page.encode(),
        **shown,
        "importance.json": _json(weight),
        "environment.json": _json(environment()),
    }
    report[FILE] = profile(
        rows.inputs, model.categories, np.vstack([rows.matrix, prepared.matrix]), scores
    ).text()
    report |= {"trials.json": _json(list(trials))} if trials else {}
    report |= {"slices.json": _json([asdict(one) for one in slices])} if slices else {}
    return TrainingRun(
        project=project.name,
        fingerprint=project.fingerprint,
        metrics=metrics,
        slices=slices,
        parameters=said,
        lake_versions=dict(lake_versions),
        example=prepared.example(),
        fitted=fitted,
        test=prepared.test,
        report=report,
        tags={"trainer": model.trainer, "split": prepared.split.kind, **about},
        # What `auto` weighed is a table; what a declared search tried are runs of their own, to be compared in MLflow.
        trials=list(trials) if model.search else [],
    )


def environment() -> dict[str, str]:
    """Versions of what a model is made with."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in _PACKAGES},
    }


def _parameters(model: Model, prepared: Prepared, left_out: int) -> dict[str, object]:
    said: dict[str, object] = {
        "trainer": model.trainer,
        "metric": model.metric,
        "task": model.task,
        "features": len(prepared.rows.inputs),
        "labels_left_out": left_out,
        "split": prepared.split.how,
        "seed": SEED,
    }
    if model.categories:
        said["declared_categories"] = ", ".join(model.categories)
    if model.class_weight is not None:
        said["class_weight"] = str(model.class_weight)
    if prepared.empty:
        said["features_without_values"] = ", ".join(prepared.empty)
    return said


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
