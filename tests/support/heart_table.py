"""A training of the heart project from a hand-made training set: no Spark, any registry."""

from dataclasses import replace

import pyarrow as pa

from anabranch import Model
from anabranch.settings import ModelsSettings
from anabranch.stores.models.registry import Models
from anabranch.values.times import parse_time
from batch.training.job import TrainingJob, TrainingSet
from batch.training.train import fit_and_log
from projects.heart_disease import ATTRIBUTES, project
from tests.support.heart import read
from tests.support.stores import stores


def heart() -> pa.Table:
    """The training set of the heart project as Spark would hand it over: no bracelet readings yet."""
    exams, diagnoses = read("exams.csv"), read("diagnoses.csv")
    columns: dict[str, pa.Array] = {
        "_key": pa.array([row["patient_id"] for row in diagnoses]),
        "_time": pa.array([parse_time(row["diagnosed_at"]) for row in diagnoses]),
        "_target": pa.array([float(row["num"]) for row in diagnoses]),
    }
    for column in project.view_columns:
        if column.name in ATTRIBUTES:
            columns[column.name] = pa.array(
                [float(row[column.name]) if row[column.name] else None for row in exams], pa.float64()
            )
        else:
            empty = 0.0 if column.feature in ("readings", "fast") else None
            columns[column.name] = pa.array([empty] * len(exams), pa.float64())
    return pa.table(columns)


def trained_heart(registry: ModelsSettings, name: str) -> str:
    """Train the project under another name and register the version; the version."""
    declared = replace(project, name=name, examples=(), model=Model(trainer="logistic"))
    job = TrainingJob(project=declared, promote=False)
    return fit_and_log(stores(models=Models(registry)), job, TrainingSet(table=heart())).version
