"""The one Spark session of a job: conf/spark-defaults.conf plus what depends on this machine.

Under spark-submit what was submitted wins, so the same script runs on a cluster unchanged. Executors of a
cluster get Anabranch's own packages and Spark's connectors from here; the environment's Python packages must
be installed there (docs/clusters.md).
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from pyspark.sql import SparkSession

from anabranch.errors import AnabranchError
from anabranch.stores.files.filesystems import is_local
from anabranch.stores.jvm import add_to_class_path, has_jvm, start_jvm, submitted_conf
from anabranch.stores.lake.table_files import memory
from jobs.wiring.packages import packed_packages
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import (
    ROOT,
    Settings,
    SettingsError,
    name_worker_python,
    spark_arguments,
    spark_submitted,
)

DEFAULTS = ROOT / "conf" / "spark-defaults.conf"
LOGGING = ROOT / "conf" / "log4j2.properties"
QUIET_ARCHIVE = "-Xlog:cds=off -Xlog:cds+dynamic=off"
"""Else Java explains for every class why it is not archived, and for an archive why it does not fit."""
_BARE = "hadoop-bare-naked-local-fs-"
_CHECKPOINTS = "org.apache.spark.sql.execution.streaming.checkpointing"


class JarsMissingError(AnabranchError):
    """The jars of Spark's connectors are missing."""


def spark_session(settings: Settings, app: str, **extra_conf: str) -> SparkSession:
    """The session of this process, started on first use.

    `extra_conf` are further properties (`**{"spark.ui.enabled": "true"}`) that win over every default.
    Raises JarsMissingError when `make setup` has not been run.
    """
    # Before the context exists: else Spark's workers run the system's python3, which has no packages.
    name_worker_python()
    wanted = {**read_defaults(DEFAULTS), **_machine(settings), **settings.spark.conf, **extra_conf}
    master = wanted["spark.master"]
    if spark_submitted():
        submitted = submitted_conf()
        master = submitted.get("spark.master", master)
        wanted = _after_submit(settings, wanted, submitted)
    elif SparkSession.getActiveSession() is None:
        require_connector(settings)
        wanted |= _new_jvm(settings, wanted)
        start_private_jvm({**_addresses(master), **wanted, "spark.app.name": app})
    builder = SparkSession.builder.appName(app)
    for key, value in {**_addresses(master), **wanted}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if not master.startswith("local"):
        session.sparkContext.addPyFile(str(packed_packages(settings.data / "packages")))
    return session


def start_private_jvm(properties: Mapping[str, str]) -> None:
    """Start this process's JVM, unless it has one, with Spark's properties in a file for this user alone.

    On the command line, where PySpark puts them, everybody could read them.
    """
    if has_jvm():
        return
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".properties") as file:  # of mode 600
        file.writelines(f"{_escaped(key)}={_escaped(value)}\n" for key, value in properties.items())
        file.flush()
        with spark_arguments(f"--load-spark-defaults --properties-file {shlex.quote(file.name)}"):
            start_jvm()


def _escaped(text: str) -> str:
    """A key or value as Java's property files have it."""
    return re.sub(r"[\\ =:#!\t]", r"\\\g<0>", text).replace("\r", "\\r").replace("\n", "\\n")


def read_defaults(file: Path) -> dict[str, str]:
    """Keys and values of a Spark properties file."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return {key: value.strip() for key, value in pairs}


def spark_jars(settings: Settings) -> list[Path]:
    """The jars of Delta, Kafka's connector and, where it is there, S3's; raises JarsMissingError."""
    jars = sorted((settings.jars / "spark").glob("*.jar"))
    if not jars:
        raise JarsMissingError(f"no jars of Delta and Kafka in {settings.jars / 'spark'}: run 'make setup'")
    return [*jars, *s3_jars(settings)]


def s3_jars(settings: Settings) -> list[Path]:
    """The jars of S3's connector; none where `make setup WITH=s3` was not run."""
    return sorted((settings.jars / "s3").glob("*.jar"))


def require_connector(settings: Settings) -> None:
    """Raise JarsMissingError or SettingsError for a place in S3 that Spark would not reach."""
    places = {"paths.lake": settings.lake.root, "paths.checkpoints": settings.checkpoints}
    for name, place in places.items():
        if place.startswith(("s3://", "s3n://")):
            raise SettingsError(f"{name} is {place}: write s3a://, the scheme of Hadoop's connector")
        if place.startswith("s3a://") and not s3_jars(settings):
            raise JarsMissingError(
                f"{name} is {place}, and the jars of S3's connector are missing: run 'make setup WITH=s3'"
            )


def class_archive(settings: Settings) -> Path:
    """The file for the archive of classes (jobs/wiring/class_archive.py), whether or not it exists."""
    return settings.jars / "spark" / "classes.jsa"


def _machine(settings: Settings) -> dict[str, str]:
    """Properties of every session on this machine."""
    properties = {
        "spark.master": settings.spark.master,
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        "spark.sql.warehouse.dir": str(settings.data / "warehouse"),
    }
    # Tables are created with the retention that upkeep sets, so that it need not change them later.
    for name, value in memory(settings.upkeep.history_seconds).items():
        properties[f"spark.databricks.delta.properties.defaults.{name.removeprefix('delta.')}"] = value
    if is_local(settings.lake.root):
        properties["spark.hadoop.fs.permissions.umask-mode"] = "077"  # else Hadoop's own, which lets all read
    embedded = f"hdfs://{LOOPBACK}:{settings.servers.hdfs_port}/"
    if settings.lake.root.startswith(embedded) or settings.checkpoints.startswith(embedded):
        properties["spark.hadoop.dfs.replication"] = "1"  # the embedded HDFS has one node
    return properties


def _addresses(master: str) -> dict[str, str]:
    """Where executors find the driver: on loopback if all run here, else where Spark or the user decides."""
    here = master.startswith(("local", f"spark://{LOOPBACK}:"))
    return {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK} if here else {}


def _new_jvm(settings: Settings, wanted: Mapping[str, str]) -> dict[str, str]:
    """Properties that only a new JVM can take, beside those of `wanted`, which win."""
    logs = settings.data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    java = f"-Dlog4j2.configurationFile={LOGGING.as_uri()} -Danabranch.logs={logs}"
    java += f" -Dderby.system.home={settings.data}"
    further = wanted.get("spark.driver.extraJavaOptions", "")
    properties = {
        "spark.jars": wanted.get("spark.jars") or ",".join(map(str, spark_jars(settings))),
        "spark.driver.memory": wanted.get("spark.driver.memory") or settings.spark.driver_memory,
        "spark.driver.extraJavaOptions": f"{java} {further}".strip(),
    }
    bare = [str(jar) for jar in spark_jars(settings) if jar.name.startswith(_BARE)]
    if bare and wanted["spark.master"].startswith("local"):
        properties |= {name: value for name, value in _local_files(settings).items() if name not in wanted}
        properties["spark.driver.extraClassPath"] = ":".join(
            filter(None, [wanted.get("spark.driver.extraClassPath", ""), *bare])
        )
        if class_archive(settings).exists():
            # Where it does not fit, Java silently starts more slowly.
            java = f"-XX:SharedArchiveFile={class_archive(settings)} {QUIET_ARCHIVE}"
            properties["spark.driver.extraJavaOptions"] = (
                f"{java} {properties['spark.driver.extraJavaOptions']}"
            )
    return properties


def _local_files(settings: Settings) -> dict[str, str]:
    """Properties that spare a local JVM one process of `chmod` for each file it writes: docs/adr/0029."""
    properties = {"spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem"}
    if is_local(settings.checkpoints):
        # Spark's own choice bypasses that class.
        properties["spark.sql.streaming.checkpointFileManagerClass"] = (
            f"{_CHECKPOINTS}.FileSystemBasedCheckpointFileManager"
        )
    return properties


def _after_submit(settings: Settings, wanted: dict[str, str], submitted: Mapping[str, str]) -> dict[str, str]:
    """`wanted` without what was submitted, and with our jars if the submission brought none."""
    if "spark.jars" not in submitted and "spark.jars.packages" not in submitted:
        wanted["spark.jars"] = ",".join(map(str, spark_jars(settings)))
        add_to_class_path(spark_jars(settings))
    return {key: value for key, value in wanted.items() if key not in submitted}
