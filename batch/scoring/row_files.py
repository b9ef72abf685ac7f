"""Data sets of any form: rows are read, and a folder is replaced as a whole or not at all.

Paths are those that Spark accepts: local, or URLs such as ``hdfs://``.
"""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from anabranch.errors import MisuseError
from anabranch.events.given_rows import WRONG_ROW
from anabranch.stores.files.filesystems import (
    files_at,
    hadoop,
    hadoop_child,
    hadoop_exists,
    in_microseconds,
    nanosecond_columns,
)
from batch.landing.explained import whole_text

SPARK_ERRORS = (PySparkException, Py4JError)
MARKER = "_anabranch.json"
"""A file in every folder that Anabranch writes; no folder without it is replaced."""
_CSV = {"header": "true", "escape": '"', "enforceSchema": "false", "columnPruning": "false"}
"""Options of Spark for CSV: all columns as text, and different headers are an error."""
_WHOLE_ROWS = {"mode": "FAILFAST"}
"""A row that is torn, or has more or fewer cells than the header, is an error and not a guess."""
_TORN = re.compile(
    r"Malformed records are detected in (?:record parsing: (?:\[(.*?)\]|_corrupt_record)\.|schema inference)",
    re.DOTALL,
)
_SHOWN_LETTERS = 200
_FORMATS = {"csv": "csv", "json": "json", "jsonl": "json", "ndjson": "json", "parquet": "parquet"}


def read_rows(spark: SparkSession, path: str) -> DataFrame:
    """Rows of CSV with a header (all columns STRING), JSON lines, Parquet or a Delta table."""
    return read_form(spark, path, form_of(spark, path))


def read_form(spark: SparkSession, path: str, form: str) -> DataFrame:
    """Rows of a data set of the form that `form_of` returned; raises MisuseError when they cannot be read."""
    try:
        frame = spark.read.format(form).options(**read_options(spark, path, form)).load(path)
        return in_microseconds(frame, nanoseconds_of(spark, path, form))
    except SPARK_ERRORS as error:
        raise fault_of_rows(error, path) or error from error


def nanoseconds_of(spark: SparkSession, path: str, form: str) -> list[str]:
    """Columns of times in nanoseconds, by the first Parquet file of a data set."""
    found = files_at(path, spark).find(path)[0] if form == "parquet" else []
    first = next((each.path for each in found if each.name.lower().endswith(".parquet")), None)
    return [] if first is None else nanosecond_columns(spark, first)


def read_options(spark: SparkSession, path: str, form: str) -> dict[str, str]:
    """The options with which Spark reads the rows of a data set, whole or by file.

    Where CSV has quotes a row may stand on several lines, so that a file is read by one task. Raises
    MisuseError for CSV in another encoding than UTF-8, whose letters would be read as others.
    """
    if form not in ("csv", "json"):
        return {}
    if form == "json":
        return _WHOLE_ROWS
    line = F.col("value")
    found = spark.read.text(path).agg(
        F.bool_or(F.contains(line, F.lit('"'))).alias("quoted"),
        F.bool_and(F.is_valid_utf8(line)).alias("utf8"),
    )
    row = found.collect()[0]
    if row["utf8"] is False:
        raise MisuseError(f"{path} is not UTF-8: write it as UTF-8, for example with 'iconv -t utf-8'")
    return {**_CSV, **_WHOLE_ROWS, "multiLine": str(bool(row["quoted"])).lower()}


def fault_of_rows(error: Exception, place: str) -> MisuseError | None:
    """The error for a user when rows of `place` cannot be read; None for any other failure."""
    text = whole_text(error)
    # Other errors may quote a plan, in which the words of the check stand too.
    if (raised := f"[USER_RAISED_EXCEPTION] {WRONG_ROW}") in text:
        reason = text.split(raised, 1)[1].splitlines()[0].split(" SQLSTATE", 1)[0]
        return MisuseError(
            f"{place}: {reason}: correct the cell, or leave it empty where the value is unknown"
        )
    if torn := _TORN.search(text):
        row = f", such as {torn[1][:_SHOWN_LETTERS]}" if torn[1] else ""
        return MisuseError(
            f"{place}: rows are torn{row}: give each row as many cells as the header, or one JSON object, "
            "and close its quotes"
        )
    return None


def form_of(spark: SparkSession, path: str) -> str:
    """``csv``, ``json``, ``parquet`` or ``delta``; raises MisuseError when the path holds none of them."""
    files, place = hadoop(spark, path)
    if not hadoop_exists(files, place):
        raise MisuseError(
            f"no file or folder {path} exists: give a CSV, JSON lines, Parquet or Delta data set"
        )
    # A path below a file is an error in Java, which takes longer to raise than all the rest.
    if not files.getFileStatus(place).isFile() and hadoop_exists(
        files, hadoop_child(spark, place, "_delta_log")
    ):
        return "delta"
    kind = _kind(files, place)
    if kind is None:
        raise MisuseError(
            f"the form of {path} is not known: files must end in .csv, .jsonl, .json or .parquet, "
            "or the folder must be a Delta table"
        )
    return kind


def _kind(files: Any, place: Any) -> str | None:
    """The form that the name of the first data file implies."""
    if files.getFileStatus(place).isFile():
        return _of_name(str(place.getName()))
    for status in sorted(files.listStatus(place), key=lambda status: str(status.getPath())):
        name = str(status.getPath().getName())
        if name.startswith(("_", ".")):
            continue
        found = _kind(files, status.getPath())
        if found is not None:
            return found
    return None


def _of_name(name: str) -> str | None:
    parts = name.lower().removesuffix(".gz").rsplit(".", 1)
    return _FORMATS.get(parts[-1]) if len(parts) == 2 else None


def check_replaceable(spark: SparkSession, path: str) -> None:
    """Raises MisuseError when `path` is a file, or a folder with files that Anabranch did not write."""
    files, place = hadoop(spark, path)
    if not hadoop_exists(files, place):
        return
    if files.getFileStatus(place).isFile():
        raise MisuseError(
            f"{path} is a file: results are a folder, so give the name of a new or empty folder"
        )
    if len(files.listStatus(place)) > 0 and not hadoop_exists(files, hadoop_child(spark, place, MARKER)):
        raise MisuseError(
            f"{path} holds files that Anabranch did not write and that would be lost: "
            "give a new or empty folder"
        )


def write_rows(rows: DataFrame, path: str, about: Mapping[str, object]) -> int:
    """Write `rows` to the folder `path`, as CSV when it ends in .csv, else as Parquet; returns their number.

    The folder is replaced at the end: a run that fails leaves it unchanged, and repeating a run is harmless.
    """
    spark = rows.sparkSession
    check_replaceable(spark, path)
    files, place = hadoop(spark, path)
    # Beside the target, so that the last step is a rename and not a copy.
    staging = hadoop_child(spark, place.getParent() or place, f".{place.getName()}-{uuid.uuid4().hex[:12]}")
    counted = Observation()
    writer = rows.observe(counted, F.count(F.lit(1)).alias("rows")).write
    try:
        if path.lower().rstrip("/").endswith(".csv"):
            writer.option("header", "true").option("escape", '"').csv(staging.toString())
        else:
            writer.parquet(staging.toString())
        count = int(counted.get["rows"])
        _note(files, hadoop_child(spark, staging, MARKER), {**about, "rows": count})
        files.delete(place, True)
        files.rename(staging, place)
    finally:
        files.delete(staging, True)
    return count


def _note(files: Any, place: Any, about: Mapping[str, object]) -> None:
    stream = files.create(place)
    stream.write(bytearray(json.dumps(about).encode()))
    stream.close()
