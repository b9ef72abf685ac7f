"""The session that jobs make, on this machine alone."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from anabranch.stores.files.filesystems import hadoop, hadoop_child, hadoop_exists
from jobs.wiring.class_archive import ArchiveError, try_out
from jobs.wiring.job import job
from jobs.wiring.settings import ROOT, Settings
from jobs.wiring.spark_session import class_archive

FILES = 50


def test_a_local_file_is_written_without_a_process_of_its_own(spark: SparkSession, tmp_path: Path) -> None:
    jvm = spark._jvm  # py4j's objects have no types
    assert jvm is not None
    place = jvm.org.apache.hadoop.fs.Path(str(tmp_path / "made"))
    files = place.getFileSystem(spark._jsc.hadoopConfiguration())
    before = _time_of_children(jvm)
    for number in range(FILES):
        files.create(jvm.org.apache.hadoop.fs.Path(place, str(number)), True).close()
    assert _time_of_children(jvm) == before
    made = [path for path in (tmp_path / "made").iterdir() if not path.name.startswith(".")]
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o600"}  # whatever the umask is
    assert len(made) == FILES


def test_classes_come_from_the_archive_that_setup_made(spark: SparkSession, settings: Settings) -> None:
    jvm = spark._jvm
    assert jvm is not None
    mapped = Path(f"/proc/{jvm.java.lang.ProcessHandle.current().pid()}/maps").read_text(encoding="utf-8")
    assert str(class_archive(settings)) in mapped


def test_a_truncated_archive_of_classes_is_deleted(settings: Settings, tmp_path: Path) -> None:
    cut_off = tmp_path / "classes.jsa"
    cut_off.write_bytes(class_archive(settings).read_bytes()[:100_000])
    with pytest.raises(ArchiveError, match="no archive that it can read"):
        try_out(cut_off)
    assert not cut_off.exists()


def test_what_ends_a_task_is_traced_in_the_file_alone(spark: SparkSession) -> None:
    jvm = spark._jvm
    assert jvm is not None
    found = jvm.org.apache.logging.log4j.LogManager.getContext(False).getConfiguration()
    spark_ = "org.apache.spark"
    files = f"{spark_}.sql.execution.datasources"
    names = [f"{spark_}.executor.Executor", f"{spark_}.scheduler.TaskSetManager", f"{spark_}.util.Utils"]
    for name in (*names, f"{files}.FileFormatWriter", f"{files}.v2.DataWritingSparkTask"):
        logger = found.getLoggerConfig(name)
        assert (set(logger.getAppenders()), logger.isAdditive()) == ({"file"}, False)
    assert set(found.getRootLogger().getAppenders()) == {"file", "console"}


def test_a_job_leaves_a_session_running_that_it_did_not_start(
    spark: SparkSession, settings: Settings
) -> None:
    with job(settings) as context:
        assert context.spark.range(3).count() == 3
    assert spark.range(3).count() == 3


def test_workers_import_nothing_from_the_folder_where_a_job_was_started(spark: SparkSession) -> None:
    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from (pa.RecordBatch.from_pydict({"safe": [sys.flags.safe_path]}) for _ in batches)

    assert [row["safe"] for row in spark.range(1).mapInArrow(look, "safe BOOLEAN").collect()] == [True]


def _time_of_children(jvm: object) -> int:
    """Clock ticks that the processes took which the JVM started and which have ended."""
    pid = jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[attr-defined]
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[13]) + int(fields[14])


def test_nothing_exists_below_a_file(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    system, place = hadoop(spark, str(tmp_path / "file"))
    assert hadoop_exists(system, place)
    assert not hadoop_exists(system, hadoop_child(spark, place, "_delta_log"))
    assert not hadoop_exists(system, hadoop_child(spark, hadoop_child(spark, place, "a"), "b"))


def test_no_property_of_spark_stands_on_a_command_line(spark: SparkSession, settings: Settings) -> None:
    jvm = spark._jvm
    assert jvm is not None
    command = Path(f"/proc/{jvm.java.lang.ProcessHandle.current().pid()}/cmdline").read_text(encoding="utf-8")
    assert spark.conf.get("spark.sql.shuffle.partitions") == str(settings.spark.shuffle_partitions)
    assert "shuffle.partitions" not in command
    assert "--conf" not in command
    file = Path(command.partition("--properties-file\0")[2].partition("\0")[0])
    assert file.suffix == ".properties"
    assert not file.exists()


def test_a_property_reaches_the_jvm_as_it_is_written(tmp_path: Path) -> None:
    """Spaces, backslashes, quotes and line breaks, in a JVM of its own."""
    value = ' a \\ b "c" = d: #!\té'
    code = (
        "import os, sys\n"
        "from anabranch.stores.jvm import end_jvm\n"
        "from jobs.wiring.spark_session import start_private_jvm\n"
        "from pyspark import SparkContext\n"
        "start_private_jvm({'spark.secret': sys.argv[1], 'spark.master': 'local[1]'})\n"
        "print(repr(SparkContext._jvm.java.lang.System.getProperty('spark.secret')))\n"
        "print('PYSPARK_SUBMIT_ARGS' in os.environ); end_jvm(20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, value], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-2:] == [repr(value.strip()), "False"]
