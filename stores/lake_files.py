"""Small text files beside the lake's tables, on whatever file system the lake is: Spark's own connectors read and write it."""

from typing import Any

from pyspark.sql import SparkSession


def write_text(spark: SparkSession, name: str, text: str) -> None:
    """Write a file whole or not at all, over an older one of the name."""
    path, system = _open(spark, name)
    unfinished = path.getParent().suffix(f"/.{path.getName()}.unfinished")
    stream = system.create(unfinished, True)
    try:
        stream.write(bytearray(text.encode("utf-8")))
    finally:
        stream.close()
    system.delete(path, False)
    system.rename(unfinished, path)


def read_text(spark: SparkSession, name: str) -> str:
    """The file's text."""
    path, system = _open(spark, name)
    stream = system.open(path)
    try:
        return bytes(stream.readAllBytes()).decode("utf-8")
    finally:
        stream.close()


def file_names(spark: SparkSession, folder: str) -> list[str]:
    """Names of the files in a folder, in order; none when it is not there."""
    path, system = _open(spark, folder)
    if not system.exists(path):
        return []
    return sorted(status.getPath().getName() for status in system.listStatus(path) if status.isFile())


def _open(spark: SparkSession, name: str) -> tuple[Any, Any]:
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(name)
    return path, path.getFileSystem(spark._jsc.hadoopConfiguration())  # noqa: SLF001
