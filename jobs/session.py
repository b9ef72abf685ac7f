"""The one Spark session of a job: conf/spark-defaults.conf plus what depends on this machine.

Under spark-submit what was submitted wins, so the same script runs on a cluster unchanged.
"""

from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from features.errors import AnabranchError
from jobs.settings import ROOT, Settings, name_worker_python, spark_submitted

DEFAULTS = ROOT / "conf" / "spark-defaults.conf"
LOGGING = ROOT / "conf" / "log4j2.properties"


class JarsMissingError(AnabranchError):
    """The jars of a server or of Spark's connectors are not there."""


def spark_session(settings: Settings, app: str, **extra_conf: str) -> SparkSession:
    """The session of this process, started on first use.

    `extra_conf` are further Spark settings, `**{"spark.sql.shuffle.partitions": "1"}`; they win over every default.
    Raises JarsMissingError when `make setup` has not been run.
    """
    # Before the context exists: without a name Spark's workers would be the system's python3, which has no packages.
    name_worker_python()
    wanted = {**read_defaults(DEFAULTS), **_machine(settings), **extra_conf}
    if spark_submitted():
        wanted = _after_submit(settings, wanted)
    elif SparkSession.getActiveSession() is None:
        wanted |= _new_jvm(settings)
    builder = SparkSession.builder.appName(app)
    for key, value in wanted.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def read_defaults(file: Path) -> dict[str, str]:
    """Keys and values of a Spark properties file."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return {key: value.strip() for key, value in pairs}


def spark_jars(settings: Settings) -> list[Path]:
    """The jars of Delta and of Kafka's connector; raises JarsMissingError when there are none."""
    jars = sorted(settings.spark.jars_folder.glob("*.jar"))
    if not jars:
        raise JarsMissingError(f"no jars of Delta and Kafka in {settings.spark.jars_folder}: run 'make setup'")
    return jars


def _machine(settings: Settings) -> dict[str, str]:
    """What any session on this machine needs."""
    return {
        "spark.master": settings.spark.master,
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        "spark.sql.warehouse.dir": str(settings.spark.warehouse),
    }


def _new_jvm(settings: Settings) -> dict[str, str]:
    """What only a JVM that is yet to start can take."""
    settings.spark.logs.mkdir(parents=True, exist_ok=True)
    java = f"-Dlog4j2.configurationFile={LOGGING.as_uri()} -Danabranch.logs={settings.spark.logs} -Dderby.system.home={settings.data}"
    return {
        "spark.jars": ",".join(map(str, spark_jars(settings))),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.driver.extraJavaOptions": java,
    }


def _after_submit(settings: Settings, wanted: dict[str, str]) -> dict[str, str]:
    """`wanted` without what was submitted, and with our jars if the submission brought none."""
    SparkContext._ensure_initialized()  # noqa: SLF001  pyspark has no public way to meet the submitting JVM before a context
    submitted = dict(SparkConf().getAll())
    if "spark.jars" not in submitted and "spark.jars.packages" not in submitted:
        wanted["spark.jars"] = ",".join(map(str, spark_jars(settings)))
        _add_to_class_path(spark_jars(settings))
    return {key: value for key, value in wanted.items() if key not in submitted}


def _add_to_class_path(jars: list[Path]) -> None:
    """Give jars to the driver that spark-submit started without them; its class loader is made to be added to."""
    jvm = SparkContext._jvm  # noqa: SLF001
    if jvm is None:
        raise JarsMissingError("spark-submit brought no JVM: start the script with spark-submit or with python")
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for jar in jars:
        loader.addURL(jvm.java.io.File(str(jar)).toURI().toURL())
