"""Training rows on Spark's workers: the frame, and the columns of a design computed there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.design import Design
from anabranch.stores.models.inputs import ModelInput
from batch.trainers.rows import TrainingRows

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

TARGET, COLUMNS, WEIGHT = "_target", "_columns", "_weight"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TrainingFrame:
    """A training set on the workers; `rows` are a sample of it.

    `frame` has `_target` DOUBLE and the inputs by name (DOUBLE or STRING, NULL = missing).

    `count` is its number of rows. With `parts` it has `_key` and `_time` too and is laid out in so many
    partitions by them; with 0 it is used as it lies.
    """

    frame: "DataFrame"
    count: int
    rows: TrainingRows
    parts: int = 0

    def in_order(self, parts: int) -> "DataFrame":
        """The rows in the same partitions and order every time.

        A learner that works by partition, or samples rows by their place, then learns the same model.
        """
        if not self.parts:
            return self.frame
        return self.frame.repartition(parts, "_key", "_time").sortWithinPartitions("_key", "_time", TARGET)


def designed(
    given: TrainingFrame,
    design: Design,
    *,
    missing: float | None,
    vector: bool = True,
    parts: int | None = None,
) -> "DataFrame":
    """The frame as `_columns` (a vector, or an array of FLOAT), `_target` and `_weight`.

    `missing` stands for a missing number; None when the design fills them.
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    coded = [_coded(one) for one in given.rows.inputs]
    plain = []
    for place, position in enumerate(design.plain):
        value = coded[position]
        if design.fill is not None and design.shift is not None and design.scale is not None:
            full = F.coalesce(value, F.lit(float(design.fill[place])))
            value = (full - float(design.shift[place])) / float(design.scale[place])
        elif missing is not None:
            value = F.coalesce(value, F.lit(missing))
        plain.append(value)
    equal = [
        coded[at].isNull() if np.isnan(value) else F.coalesce(coded[at] == F.lit(value), F.lit(False))
        for at, value in design.equal
    ]
    columns = F.array(*[column.cast("double" if vector else "float") for column in (*plain, *equal)])
    return given.in_order(parts or given.parts).select(
        (array_to_vector(columns) if vector else columns).alias(COLUMNS),
        F.col(TARGET),
        _weight(given).alias(WEIGHT),
    )


def _coded(given: ModelInput) -> "Column":
    """An input coded as scoring codes it: a float32 in a DOUBLE, NULL = missing."""
    from pyspark.sql import functions as F

    from anabranch.events.cells import named

    value = named(given.name)
    if given.kind == "text":
        codes = [F.lit(part) for code, text in enumerate(given.categories) for part in (text, float(code))]
        return F.create_map(*codes)[value] if codes else F.lit(None).cast("double")
    single = value.cast("float").cast("double")
    return F.when(F.abs(single) < float("inf"), single)


def _weight(given: TrainingFrame) -> "Column":
    from pyspark.sql import functions as F

    weights = given.rows.weights
    if weights is None:
        return F.lit(1.0)
    ones = given.rows.target == 1
    return F.when(F.col(TARGET) == 1, float(weights[ones][0])).otherwise(float(weights[~ones][0]))


def from_memory(learn: Callable[[TrainingFrame], _T]) -> Callable[[TrainingRows], _T]:
    """A learner of frames as a learner of rows in memory, which are handed to the process's Spark session."""

    def learn_rows(rows: TrainingRows) -> _T:
        import pyarrow as pa
        from pyspark.sql import SparkSession

        spark = SparkSession.getActiveSession()
        if spark is None:
            raise AnabranchError(
                "a trainer of Spark needs a Spark session, and this process has none: "
                "use 'anabranch train', or a trainer of the driver"
            )
        columns = [_decoded(given, rows.matrix[:, place]) for place, given in enumerate(rows.inputs)]
        table = pa.table([pa.array(rows.target), *columns], names=[TARGET, *rows.names])
        return learn(TrainingFrame(frame=spark.createDataFrame(table), count=len(rows.target), rows=rows))

    return learn_rows


def _decoded(given: ModelInput, column: "np.ndarray[Any, Any]") -> Any:
    import pyarrow as pa

    gone = np.isnan(column)
    if given.kind != "text":
        return pa.array(column.astype(np.float64), mask=gone)
    codes = zip(column.tolist(), gone, strict=True)
    return pa.array([None if none else given.categories[int(code)] for code, none in codes], pa.string())
