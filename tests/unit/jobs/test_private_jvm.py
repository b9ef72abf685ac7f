"""What a JVM of Spark is started with; tests/spark/jobs/test_session.py has a real one."""

import os
import re
import shlex
from pathlib import Path

import pytest

from jobs.wiring import spark_session
from jobs.wiring.settings import SettingsError, load_settings
from jobs.wiring.spark_session import JarsMissingError, require_connector

SECRETS = {"spark.a": "s3cret", "spark.b:c": ' a \\ b "c" = d: #!\té\nf'}


@pytest.mark.parametrize("before", [None, "--name x pyspark-shell"])
def test_properties_are_handed_over_in_a_file_for_this_user_alone(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
    if before is not None:
        monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", before)
    seen: list[tuple[Path, int, dict[str, str]]] = []

    def start() -> None:
        words = shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"])
        assert words[:2] == ["--load-spark-defaults", "--properties-file"]
        assert words[3:] == shlex.split(before or "pyspark-shell")
        file = Path(words[2])
        pairs = (
            re.fullmatch(r"((?:\\.|[^\\=])*)=(.*)", line) for line in file.read_text("utf-8").splitlines()
        )
        read = {_plain(pair[1]): _plain(pair[2]) for pair in pairs if pair}
        seen.append((file, file.stat().st_mode & 0o777, read))

    monkeypatch.setattr(spark_session, "has_jvm", lambda: False)
    monkeypatch.setattr(spark_session, "start_jvm", start)
    spark_session.start_private_jvm(SECRETS)
    ((file, mode, read),) = seen
    assert (mode, read) == (0o600, SECRETS)
    assert not file.exists()
    assert os.environ.get("PYSPARK_SUBMIT_ARGS") == before


def test_a_jvm_that_runs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_session, "has_jvm", lambda: True)
    monkeypatch.setattr(spark_session, "start_jvm", lambda: pytest.fail("it was started"))
    spark_session.start_private_jvm(SECRETS)


def _plain(text: str) -> str:
    """A key or value as Java reads it from a property file."""
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], found[1]), text)


def test_a_lake_in_s3_without_the_connector_says_what_to_run(tmp_path: Path) -> None:
    def told(place: str) -> str:
        settings = load_settings({}, {"paths.lake": place, "paths.jars": str(tmp_path)})
        with pytest.raises((JarsMissingError, SettingsError)) as caught:
            require_connector(settings)
        return str(caught.value)

    assert told("s3a://b/lake") == (
        "paths.lake is s3a://b/lake, and the jars of S3's connector are missing: run 'make setup WITH=s3'"
    )
    assert told("s3://bucket/lake").endswith("write s3a://, the scheme of Hadoop's connector")
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "hadoop-aws.jar").touch()
    require_connector(load_settings({}, {"paths.lake": "s3a://b/lake", "paths.jars": str(tmp_path)}))
