"""The record of a training: metrics, slices, importance, curves, the environment, the model card."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.stores.models.scoring import Matrix, Scores
from batch.calibration.adjusted import CalibratedModel, IntervalModel
from batch.evaluation.assessment import JudgedRows, importance, measured, slice_results
from batch.evaluation.fairness import fairness
from batch.evaluation.hindsight import audit, said_late
from batch.evaluation.kept_runs import TrainingRun
from batch.trainers.choice import tried
from batch.trainers.rows import SEED
from batch.trainers.trainer import Learnt
from batch.training.card import CardContents, card
from batch.training.fact_sheet import fact_sheet, files_of
from batch.training.job import TrainingJob, TrainingLabels
from batch.training.pictures import calibration_error, pictures
from batch.training.preparing import Prepared
from batch.training.profile import FILE, profile

_PACKAGES = (
    "numpy", "pandas", "pyarrow", "pyspark", "delta-spark", "mlflow", "scikit-learn", "xgboost-cpu",
    "lightgbm", "optuna", "onnx", "onnxruntime", "skl2onnx", "skops",
)  # fmt: skip


def assess(job: TrainingJob, prepared: Prepared, learnt: Learnt, labels: TrainingLabels) -> TrainingRun:
    """Judge a trained model on the held-out rows; returns the run, with its report."""
    project, model, rows, fitted = job.project, job.model, prepared.rows, learnt.fitted()
    predict, trials = fitted.opened()[0].predict, tried(learnt)
    groups = prepared.groups
    test = JudgedRows(
        target=prepared.target, scores=predict(prepared.matrix), groups=groups, threshold=fitted.threshold
    )
    train = JudgedRows(
        target=rows.target,
        scores=predict(rows.matrix),
        groups=groups[:0] if rows.groups is None else rows.groups,
        threshold=fitted.threshold,
    )
    metrics = measured(model.metric, project.task, test, SEED)
    metrics |= {
        f"train_{name}": value for name, value in measured(model.metric, project.task, train, SEED).items()
    }
    metrics |= adjustment_metrics(learnt, prepared.matrix, test)
    trained = len(rows.target) if labels.on_workers is None else labels.on_workers
    metrics |= {"rows_train": float(trained), "rows_test": float(len(test.target))}
    slices = slice_results(model.declared_slices, prepared.columns(), model.metric, test, SEED)
    fair = None
    if model.declared_slices and project.task == "class":
        fair = fairness(model.declared_slices, prepared.columns(), test)
    hindsight = None
    if prepared.sights is not None:
        hindsight = audit(
            model.metric,
            rows.inputs,
            prepared.sights,
            predict,
            prepared.matrix,
            test,
            as_known=model.as_known,
            seed=SEED,
        )
        if model.as_known:
            job.progress.step(said_late(hindsight.late, hindsight.events, "label"))
        job.progress.step(f"hindsight: {hindsight.said}")
    job.progress.step("importance of features, curves, model card")
    weight = importance(predict, prepared.matrix, test, rows.names, model.metric, SEED)
    parameters = _parameters(project, model, prepared, labels)
    contents = CardContents(
        metrics=metrics,
        slices=slices,
        hindsight=hindsight,
        fairness=fair,
        importance=weight,
        parameters={**fitted.parameters, **parameters},
        about=_about(job, prepared, labels),
        environment=environment(),
        pictures=pictures(
            project.task, test.target, test.scores, rows.classes, _plain(learnt, prepared.matrix)
        ),
    )
    both = np.vstack([rows.matrix, prepared.matrix])
    seen = profile(rows.inputs, model.categories, both, test.scores, rows.classes)
    report = {
        "model_card.html": card(project, contents).encode(),
        **files_of(project, fact_sheet(project, contents, labels.left_out)),
        **contents.pictures,
        "importance.json": _json(weight),
        "environment.json": _json(contents.environment),
        FILE: seen.text(),
    }
    report |= {"trials.json": _json(trials)} if trials else {}
    report |= {"hindsight.json": _json(asdict(hindsight))} if hindsight else {}
    report |= {"fairness.json": _json(asdict(fair))} if fair else {}
    report |= {"slices.json": _json([asdict(one) for one in slices])} if slices else {}
    return TrainingRun(
        project=project.name,
        fingerprint=project.fingerprint,
        metrics=metrics,
        slices=slices,
        parameters=parameters,
        lake_versions=dict(labels.lake_versions),
        example=prepared.example(),
        fitted=fitted,
        test=prepared.test,
        report=report,
        tags={
            "trainer": model.trainer,
            "split": prepared.split.kind,
            **({"hindsight": hindsight.said} if hindsight else {}),
            **({"fairness": fair.said} if fair else {}),
            **job.about,
        },
        # What `auto` weighed is a table; the trials of a declared search are runs, to be compared in MLflow.
        trials=trials if model.search else [],
        rows=labels.usable,
        left_out=labels.left_out,
        hindsight=hindsight,
        fairness=fair,
    )


def _plain(learnt: Learnt, matrix: Matrix) -> Scores | None:
    """The scores before calibration; None of a model that is not calibrated."""
    return learnt.learnt.scores(matrix) if isinstance(learnt, CalibratedModel) else None


def adjustment_metrics(learnt: Learnt, matrix: Matrix, rows: JudgedRows) -> dict[str, float]:
    """How far scores are from observed shares, before and after calibration; how many rows intervals hold."""
    plain = _plain(learnt, matrix)
    if plain is not None:
        return {
            "calibration_error": calibration_error(rows.target, rows.scores),
            "calibration_error_before": calibration_error(rows.target, plain),
        }
    if isinstance(learnt, IntervalModel):
        low, high = learnt.interval.low, learnt.interval.high
        misses = rows.target - rows.scores
        inside = (misses >= low) & (misses <= high)
        return {"interval_coverage": float(inside.mean()), "interval_width": high - low}
    return {}


def _about(job: TrainingJob, prepared: Prepared, labels: TrainingLabels) -> dict[str, str]:
    """Where the data came from, for the model card."""
    label = job.project.label
    return {
        "label": label.target if label else "",
        **({"own event": "counts in the features of its label"} if label and label.own_event else {}),
        "split": prepared.split.how,
        "declaration": job.project.fingerprint,
        **job.about,
        **{f"lake version of {name}": str(number) for name, number in labels.lake_versions.items()},
    }


def environment() -> dict[str, str]:
    """Versions of Python, the system and the packages that a model is trained with."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in _PACKAGES},
    }


def _parameters(
    project: Project, model: Model, prepared: Prepared, labels: TrainingLabels
) -> dict[str, object]:
    found: dict[str, object] = {
        "trainer": model.trainer,
        "metric": model.metric,
        "task": project.task,
        "features": len(prepared.rows.inputs),
        "labels_left_out": labels.left_out,
        "labels_left_out_by_split": prepared.split.left_out,
        "split": prepared.split.how,
        "seed": SEED,
    }
    if labels.on_workers is None:
        found["trained_on"] = "driver"
    else:
        found |= {"trained_on": "Spark's workers", "rows_on_driver": len(prepared.rows.target)}
    if model.as_known:
        found["as_known"] = "training values from what had arrived by the label's time"
    if prepared.rows.classes:
        found["classes"] = ", ".join(map(str, prepared.rows.classes))
        unseen = int((prepared.target < 0).sum())
        found |= {"rows_test_of_unknown_classes": unseen} if unseen else {}
    if model.calibrate is not None:
        found["calibrate"] = model.calibrate
    if model.interval is not None:
        found["interval"] = model.interval
    if model.categories:
        found["declared_categories"] = ", ".join(model.categories)
    if model.class_weight is not None:
        found["class_weight"] = str(model.class_weight)
    if prepared.empty:
        found["features_without_values"] = ", ".join(prepared.empty)
    return found


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
