"""Training sets that stay on Spark's workers: split there, judged on a sample that fits the driver.

The size of a set is known before anything is collected: rows are counted, columns are declared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import model_inputs, slice_inputs
from anabranch.stores.models.scoring import InputCoder
from batch.evaluation.splits import SHARE, Split
from batch.trainers.frames import TrainingFrame
from batch.trainers.registry import trainer
from batch.training.preparing import (
    GROUP,
    KEY,
    TARGET,
    TIME,
    Prepared,
    check_empty,
    feature_columns,
    held_out_rows,
    in_order,
    key_groups,
    sights_of,
    targets,
    training_rows,
)

MOST_TRAIN, MOST_TEST = 50_000, 200_000
"""Rows that come to the driver: to design the columns on, and to judge on; fewer where they are wide."""
_SIDE, _PLACES, _FINE = "_side", 1_000_000, 1_000_000_000
_KNOWN = 3  # columns of every row: key, time, target
_NUMBER, _TEXT = 8, 64  # bytes of a value in the driver's memory
_PART_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """What a training set takes in memory: 8 bytes a number, 64 a text."""

    rows: int
    columns: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        """The size of all rows."""
        return self.rows * self.row_bytes

    @property
    def described(self) -> str:
        """The size for people."""
        return f"{self.rows:,} rows of {self.columns} columns, {self.bytes / 2**20:,.0f} MB"


def training_size(project: Project, rows: int) -> TrainingSize:
    """The size of `rows` rows with the columns that the project's model and its slices read."""
    given = (*model_inputs(project), *slice_inputs(project))
    texts = sum(one.kind == "text" for one in given) + 1  # the key is one too
    columns = len(given) + _KNOWN
    return TrainingSize(rows=rows, columns=columns, row_bytes=texts * _TEXT + (columns - texts) * _NUMBER)


def check_memory(project: Project, model: Model, size: TrainingSize, most: int) -> None:
    """Raises AnabranchError, with what to do, for a training set of more than `most` bytes."""
    if size.bytes <= most:
        return
    found = trainer(model.trainer)
    if model.search is not None:
        instead = "leave out the search, which trains many times"
    elif project.task == "classes":
        instead = "several classes are learnt in one process, so bring in fewer labels"
    elif model.calibrate or model.interval:
        instead = "leave out calibrate and interval, which train several times"
    elif found.learn_frame is not None:
        instead = "leave out the parameter 'distributed'"
    else:
        instead = f"use trainer={found.larger!r}, which learns on Spark's workers"
    raise AnabranchError(
        f"the training set of {project.name!r} is {size.described}, "
        "and what was asked for learns in this process's memory, which is to take at most "
        f"{most / 2**20:,.0f} MB of it: {instead}, read fewer features, "
        "or raise training.local_megabytes if this machine can hold several times as much"
    )


@contextmanager
def kept_frame(frame: DataFrame) -> Iterator[DataFrame]:
    """The frame, kept on the workers' disks while the block runs: training reads it several times."""
    stays = frame.persist(StorageLevel.DISK_ONLY)
    try:
        yield stays
    finally:
        stays.unpersist()


def prepare_frame(
    project: Project, model: Model, frame: DataFrame, size: TrainingSize, most: int
) -> tuple[Prepared, TrainingFrame]:
    """Split and sample a training set of any size.

    Training rows stay on the workers; samples of at most `most` bytes come to this process.
    """
    sided, how, counts = _split(model, frame)
    fitting = max(1, most // size.row_bytes // 2)
    bounds = {"train": min(MOST_TRAIN, fitting), "test": min(MOST_TEST, fitting)}
    samples = {
        side: _sample(sided.where(F.col(_SIDE) == side), counts[side], bound)
        for side, bound in bounds.items()
    }
    columns = {side: feature_columns(project, table) for side, table in samples.items()}
    inputs = tuple(given.learnt(columns["train"][given.name]) for given in model_inputs(project))
    coder = InputCoder([given.described() for given in inputs])
    matrix = {side: coder.matrix(found) for side, found in columns.items()}
    empty = check_empty(project, inputs, matrix["train"])
    train, test = samples["train"], samples["test"]
    rows = training_rows(model, matrix["train"], targets(train), inputs, key_groups(train))
    nothing = np.zeros(0, dtype=bool)
    prepared = Prepared(
        rows=rows,
        test=held_out_rows(test.append_column(GROUP, pa.array(key_groups(test)))),
        matrix=matrix["test"],
        split=Split(train=nothing, test=nothing, kind=how.split()[1].strip(":"), how=how),
        empty=empty,
        sights=sights_of(train, test),
    )
    parts = max(
        frame.sparkSession.sparkContext.defaultParallelism,
        -(-counts["train"] * size.row_bytes // _PART_BYTES),
    )
    return prepared, TrainingFrame(
        frame=sided.where(F.col(_SIDE) == "train"), count=counts["train"], rows=rows, parts=parts
    )


def _split(model: Model, frame: DataFrame) -> tuple[DataFrame, str, dict[str, int]]:
    """The frame with `_side` (train, test or NULL), a description of the split, and the rows of each side.

    The rules are those of batch/evaluation/splits.py.
    """
    draws = F.pmod(F.xxhash64(KEY), F.lit(_PLACES)) < int(SHARE * _PLACES)
    by_key = frame.withColumn(_SIDE, F.when(draws, "test").otherwise("train"))
    why = ""
    if model.split == "time":
        (row,) = frame.agg(F.percentile_approx(TIME, 1 - SHARE, 10_000)).collect()
        moment = int(row[0])
        spans = frame.groupBy(KEY).agg(
            (F.max(TIME) >= moment).alias("_later"), (F.min(TIME) < moment).alias("_earlier")
        )
        tests = F.when(F.col("_later") & F.col("_earlier"), draws).otherwise(F.col("_later"))
        later = F.col(TIME) >= moment
        side = F.when(later & tests, "test").when(~later & ~tests, "train")
        by_time = frame.join(spans, KEY).withColumn(_SIDE, side).drop("_later", "_earlier")
        counts = _counts(by_time, model.task)
        if counts:
            return (
                by_time,
                f"by time: trained before {np.datetime64(moment, 'us')}Z, tested from then on",
                counts,
            )
        why = " (the earlier or the later labels are too few or of one class)"
    counts = _counts(by_key, model.task)
    if not counts:
        raise AnabranchError(
            "labels are too few to train and to test on, or of one class: bring in more labels"
        )
    return by_key, f"by key: a quarter of the keys is held out{why}", counts


def _counts(sided: DataFrame, task: str) -> dict[str, int]:
    """The rows of both sides; empty when one side cannot be learnt from or judged on."""
    kind = (F.col(TARGET) if task == "class" else F.lit(0.0)).alias("_kind")
    found = {
        (row[_SIDE], row["_kind"]): int(row["count"])
        for row in sided.where(F.col(_SIDE).isNotNull()).groupBy(_SIDE, kind).count().collect()
    }
    wanted = [
        (side, value) for side in ("train", "test") for value in ((0.0, 1.0) if task == "class" else (0.0,))
    ]
    if any(found.get(one, 0) < 2 for one in wanted):
        return {}
    return {
        side: sum(count for (there, _), count in found.items() if there == side) for side in ("train", "test")
    }


def _sample(side: DataFrame, count: int, most: int) -> pa.Table:
    """About `most` rows at most, the same ones every time: chosen by a hash of key and time."""
    if count > most:
        side = side.where(F.pmod(F.xxhash64(TIME, KEY), F.lit(_FINE)) < int(most / count * _FINE))
    return in_order(side.drop(_SIDE).toArrow())
