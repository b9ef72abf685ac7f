"""The session that jobs make, on this machine alone."""

from pathlib import Path

from pyspark.sql import SparkSession

FILES = 50


def test_a_local_file_is_made_without_a_process_of_its_own(spark: SparkSession, tmp_path: Path) -> None:
    jvm = spark._jvm  # py4j's objects have no types
    assert jvm is not None
    place = jvm.org.apache.hadoop.fs.Path(str(tmp_path / "made"))
    files = place.getFileSystem(spark._jsc.hadoopConfiguration())
    before = _time_of_children(jvm)
    for number in range(FILES):
        files.create(jvm.org.apache.hadoop.fs.Path(place, str(number)), True).close()
    assert _time_of_children(jvm) == before
    made = [path for path in (tmp_path / "made").iterdir() if not path.name.startswith(".")]
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o644"}
    assert len(made) == FILES


def _time_of_children(jvm: object) -> int:
    """Clock ticks that the processes took which the JVM started and which have ended."""
    pid = jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[attr-defined]
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[13]) + int(fields[14])
