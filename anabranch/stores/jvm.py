"""Spark's Java side: the one module that uses private names of PySpark (`_jvm`, `_jsc`, `_jdf`, ...).

Delta's transactions, Hadoop's file systems and the status of running stages have no Python name. Each
function here has a test (tests/spark/stores/test_jvm.py), so a new release of Spark that renames something
fails there. Java objects are typed Any: py4j has no types.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.sql import DataFrame, SparkSession

from anabranch.errors import AnabranchError

_PYTHON = "org.apache.spark.api.python.PythonUtils"


def java_packages(spark: SparkSession) -> Any:
    """The Java packages of the session's JVM: ``java_packages(spark).java.util.ArrayList()``.

    Raises AnabranchError for a session of Spark Connect, which has no JVM in this machine's reach.
    """
    found = getattr(spark, "_jvm", None)
    if found is None:
        raise AnabranchError(
            "the Spark session has no JVM of its own, which the lake and tables for analysts need: "
            "start the job without Spark Connect"
        )
    return found


def java_class(spark: SparkSession, name: str) -> Any:
    """A Java class by its whole name: by packages, the JVM would look for a class of each package's name."""
    return getattr(java_packages(spark), name)


def java_session(spark: SparkSession) -> Any:
    """The Java session behind a Python session."""
    return spark._jsparkSession


def java_context(spark: SparkSession) -> Any:
    """The Scala SparkContext behind a session."""
    return spark.sparkContext._jsc.sc()


def java_frame(frame: DataFrame) -> Any:
    """The Java Dataset behind a frame."""
    return frame._jdf


def scala_none(spark: SparkSession) -> Any:
    """Scala's empty Option."""
    return java_class(spark, "scala.Option").empty()


def scala_some(spark: SparkSession, value: object) -> Any:
    """A Scala Option that holds `value`."""
    return java_class(spark, "scala.Option").apply(value)


def scala_seq(spark: SparkSession, items: Iterable[object]) -> Any:
    """A Scala Seq of Java objects."""
    listed = java_class(spark, "java.util.ArrayList")()
    for item in items:
        listed.add(item)
    return java_class(spark, _PYTHON).toSeq(listed)


def scala_map(spark: SparkSession, entries: Mapping[str, object]) -> Any:
    """A Scala Map of Java objects."""
    mapped = java_class(spark, "java.util.HashMap")()
    for key, value in entries.items():
        mapped.put(key, value)
    return java_class(spark, _PYTHON).toScalaMap(mapped)


def scala_items(spark: SparkSession, items: Any) -> list[Any]:
    """The items of a Scala Seq."""
    return list(java_class(spark, "scala.jdk.javaapi.CollectionConverters").asJava(items))


def hadoop_path(spark: SparkSession, path: str, name: str | None = None) -> Any:
    """Hadoop's Path of `path`, or of `name` below it."""
    path_class = java_class(spark, "org.apache.hadoop.fs.Path")
    return path_class(path) if name is None else path_class(path, name)


def hadoop_system(spark: SparkSession, path: Any) -> Any:
    """Hadoop's file system of a Path, with the session's configuration."""
    return path.getFileSystem(java_session(spark).sessionState().newHadoopConf())


def parquet_schema(spark: SparkSession, path: str) -> str:
    """The schema in a Parquet file's footer, one column a line, as Parquet writes it."""
    place = hadoop_path(spark, path)
    conf = java_session(spark).sessionState().newHadoopConf()
    file = java_class(spark, "org.apache.parquet.hadoop.util.HadoopInputFile").fromPath(place, conf)
    reader = java_class(spark, "org.apache.parquet.hadoop.ParquetFileReader").open(file)
    try:
        return str(reader.getFooter().getFileMetaData().getSchema().toString())
    finally:
        reader.close()


def bytes_and_rows_read(spark: SparkSession) -> tuple[int, int]:
    """Bytes and rows that the tasks of the running stages have read, as Spark's own pages show them."""
    stages = java_context(spark).statusStore().activeStages()
    running = [stages.apply(number) for number in range(stages.length())]
    return (
        sum(int(stage.inputBytes()) for stage in running),
        sum(int(stage.inputRecords()) for stage in running),
    )


def has_ended(spark: SparkSession) -> bool:
    """Whether the session was stopped or its JVM has ended."""
    try:
        return bool(java_context(spark).isStopped())
    except (AttributeError, Py4JError, OSError):  # a context that was stopped in Python has no JVM object
        return True


def serve_callbacks(spark: SparkSession) -> None:
    """Let threads of the JVM that Python did not start call Python objects."""
    java_packages(spark)
    ensure_callback_server_started(spark.sparkContext._gateway)  # type: ignore[no-untyped-call]


@contextmanager
def active_session(spark: SparkSession) -> Iterator[None]:
    """Make the session the active one of the JVM's current thread, and restore the former one."""
    sessions = SparkSession._get_j_spark_session_module(java_packages(spark))
    former = sessions.active()
    sessions.setActiveSession(java_session(spark))
    try:
        yield
    finally:
        sessions.setActiveSession(former)


def submitted_conf() -> dict[str, str]:
    """The configuration that spark-submit was given."""
    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


def add_to_class_path(jars: Iterable[Path]) -> None:
    """Add jars to the driver's class loader, for a driver that spark-submit started without them.

    Raises AnabranchError when this process has no JVM.
    """
    packages: Any = SparkContext._jvm
    if packages is None:
        raise AnabranchError("this process has no JVM: start the script with spark-submit or with python")
    loader = packages.java.lang.Thread.currentThread().getContextClassLoader()
    for jar in jars:
        loader.addURL(packages.java.io.File(str(jar)).toURI().toURL())


def has_jvm() -> bool:
    """Whether this process has a JVM."""
    return SparkContext._gateway is not None


def start_jvm() -> None:
    """Start this process's JVM with the arguments of the environment alone, unless it has one."""
    SparkContext._ensure_initialized()


def end_jvm(seconds: float) -> None:
    """End Spark's JVM now rather than with this process, and wait for it at most so many seconds."""
    gateway: Any = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(seconds)
