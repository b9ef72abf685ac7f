"""Private names of PySpark, used by stores/jvm.py on the real JVM: a release that renames one fails here."""

import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors.utils import is_debugging_enabled
from pyspark.sql import SparkSession

from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import nanosecond_columns
from anabranch.stores.jvm import (
    active_session,
    bytes_and_rows_read,
    hadoop_path,
    hadoop_system,
    has_ended,
    java_class,
    java_context,
    java_frame,
    java_packages,
    java_session,
    parquet_schema,
    scala_items,
    scala_map,
    scala_none,
    scala_seq,
    scala_some,
    serve_callbacks,
)
from jobs.wiring.settings import ROOT

PROCESS = """
import sys
from pathlib import Path
from anabranch.errors import AnabranchError
from anabranch.stores.jvm import add_to_class_path, end_jvm, has_ended, java_packages, submitted_conf
from pyspark import SparkContext
from pyspark.sql import SparkSession

try:
    add_to_class_path([])
except AnabranchError as error:
    print(error)
print(submitted_conf().get("spark.ui.enabled"))  # starts a JVM and no session
add_to_class_path([Path(sys.argv[1])])
loader = SparkContext._jvm.java.lang.Thread.currentThread().getContextClassLoader()
print(loader.getResource("marker.txt") is not None)
session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
print(has_ended(session))
java = session.sparkContext._gateway.proc
session.stop()
print(has_ended(session))
end_jvm(60)
print(java.poll() is not None)
"""


def test_the_footer_of_a_parquet_file_tells_its_columns(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.table(
        {"a b": pa.array([1], pa.timestamp("ns")), "n": [1], "m": pa.array([1], pa.timestamp("us"))}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert "int64 a b (TIMESTAMP(NANOS,false))" in parquet_schema(spark, str(tmp_path / "a.parquet"))
    assert nanosecond_columns(spark, str(tmp_path / "a.parquet")) == ["a b"]


def test_columns_are_made_without_asking_the_jvm_for_their_line(spark: SparkSession) -> None:
    assert not is_debugging_enabled()


def test_java_objects_are_reached_from_python(spark: SparkSession) -> None:
    assert java_packages(spark).java.lang.Math.abs(-3) == 3
    assert java_class(spark, "java.lang.Math").abs(-3) == 3
    assert java_class(spark, "java.util.ArrayList")().size() == 0
    assert java_session(spark).version() == spark.version
    assert java_context(spark).applicationId() == spark.sparkContext.applicationId
    assert java_frame(spark.range(3)).count() == 3


def test_a_session_without_a_jvm_is_refused() -> None:
    remote = cast("SparkSession", SimpleNamespace())
    with pytest.raises(AnabranchError, match=r"no JVM of its own.*without Spark Connect"):
        java_packages(remote)
    with pytest.raises(AnabranchError, match="no JVM of its own"):
        serve_callbacks(remote)


def test_python_collections_become_those_of_scala(spark: SparkSession) -> None:
    assert scala_none(spark).isEmpty()
    assert scala_some(spark, 7).get() == 7
    assert scala_items(spark, scala_seq(spark, ["a", "b"])) == ["a", "b"]
    assert scala_map(spark, {"a": 1}).apply("a") == 1


def test_hadoop_reads_a_file_of_this_machine(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    place = hadoop_path(spark, str(tmp_path))
    assert hadoop_system(spark, place).exists(hadoop_path(spark, place, "file"))
    assert not hadoop_system(spark, place).exists(hadoop_path(spark, place, "other"))


def test_nothing_is_read_while_no_stage_runs(spark: SparkSession) -> None:
    spark.range(10).count()
    assert bytes_and_rows_read(spark) == (0, 0)
    assert not has_ended(spark)


def test_the_active_session_is_restored(spark: SparkSession) -> None:
    other = spark.newSession()
    with active_session(spark):
        with active_session(other):
            assert _active(spark) == java_session(other)
        assert _active(spark) == java_session(spark)


def test_the_jvm_calls_python_once_callbacks_are_served(spark: SparkSession) -> None:
    class Call:
        called = False

        def run(self) -> None:
            self.called = True

        class Java:
            implements = ("java.lang.Runnable",)

    call = Call()
    serve_callbacks(spark)
    thread = java_packages(spark).java.lang.Thread(call)
    thread.start()
    thread.join()
    assert call.called


def test_a_process_adds_jars_and_ends_its_jvm(tmp_path: Path) -> None:
    jar = tmp_path / "marker.jar"
    with zipfile.ZipFile(jar, "w") as content:
        content.writestr("marker.txt", "x")
    command = [sys.executable, "-c", PROCESS, str(jar)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines() == [
        "this process has no JVM: start the script with spark-submit or with python",
        "None",
        "True",
        "False",
        "True",
        "True",
    ], done.stderr[-2000:]


def _active(spark: SparkSession) -> Any:
    return java_packages(spark).org.apache.spark.sql.classic.SparkSession.active()
