"""Filters pushed down to a Python data source, whichever way its frame is used (ADR 0032).

Spark 4.2 keeps what one query pushed down with the source of a frame, and a later query of the same frame,
or the other side of a join, reads by it: wrong rows. Here each scan that Spark plans gets a source of its
own, so that nothing is left to be kept.
"""

from typing import Any
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession

from anabranch.stores.jvm import (
    active_session,
    java_class,
    java_frame,
    java_session,
    serve_callbacks,
)

_PYTHON = "org.apache.spark.sql.execution.datasources.v2.python"


def pushing(spark: SparkSession, frame: DataFrame, source: str) -> DataFrame:
    """A frame, just loaded from the Python data source `source`, whose queries push down their own filters.

    The source's reader must take filters (`pushFilters`). Raises AnabranchError for a session without a JVM
    of its own (Spark Connect).
    """
    serve_callbacks(spark)  # Spark may plan in a thread that Python did not start
    read = java_frame(frame).queryExecution().analyzed()
    table = _Table(spark, read, source)
    relation = read.copy(
        table, read.output(), read.catalog(), read.identifier(), read.options(), read.timeTravelSpec()
    )
    dataset = java_class(spark, "org.apache.spark.sql.classic.Dataset")
    return DataFrame(dataset.ofRows(java_session(spark), relation), spark)


class _Table:
    """A table as Spark's planner sees it: each scan asks for a builder. The frame's table does the rest."""

    def __init__(self, spark: SparkSession, read: Any, source: str) -> None:
        self._spark, self._read, self._source = spark, read, source
        self._identity = f"{source} {uuid4()}"

    def newScanBuilder(self, options: Any) -> Any:  # noqa: N802 - the interface's name
        own = java_class(self._spark, f"{_PYTHON}.PythonDataSourceV2")()
        own.setShortName(self._source)
        with active_session(self._spark):  # whichever session asks, this one knows the source
            own.source()
        builder = java_class(self._spark, f"{_PYTHON}.PythonScanBuilder")
        return builder(own, self._source, self._read.schema(), options)

    def toString(self) -> str:  # noqa: N802
        return self._identity

    def equals(self, other: Any) -> bool:
        return other is not None and other.toString() == self._identity

    def hashCode(self) -> int:  # noqa: N802
        return hash(self._identity) & 0x7FFFFFFF

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read.table(), name)

    class Java:
        """For py4j: the interface that this object has on the JVM."""

        implements = ("org.apache.spark.sql.connector.catalog.SupportsRead",)
