"""What tests share: settings in a folder of this run, real servers started once, one Spark session started
once.

The folder a test lies in is its marker: tests/unit, tests/spark, tests/servers, tests/e2e.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Generator, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from jobs.servers.server import is_free
from jobs.wiring.sections import LOOPBACK
from jobs.wiring.settings import ROOT, Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession  # heavy: tests/unit neither needs nor imports it through here

MARKERS = ("unit", "e2e", "servers", "spark")
"""In this order: long files first, so that the two processes of `make test` end at about the same time."""
TESTS = Path(__file__).parent
SHARE_A_RIVER = {
    f"tests/e2e/test_{name}.py" for name in ("demo", "analysis", "pages", "watching", "notebooks")
}
"""Files that look at the one river of the demo: one process has all of them."""

if "PYTEST_XDIST_WORKER" in os.environ and sys.modules["__main__"].__spec__ is None:
    # The main module of pytest-xdist has no file: PySpark takes that for its doctests, and exits.
    sys.modules["__main__"].__spec__ = ModuleSpec("__main__", None)

# Every process of a run draws by one seed, so that all of them collect tests of the same names.
os.environ.setdefault("SEED", str(random.randrange(10**9)))

# JVMs of tests live for minutes: the second compiler takes a fifth of the processor and pays back in hours.
# Alone, the first has 48 MB for its code by default; when they are full, everything is interpreted.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the pictures of pages go, when they are wanted."""
    parser.addoption(
        "--pictures", default=None, help="folder to write the pictures of pages to, which the README shows"
    )


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process of `pytest -n 2` whole files, whose tests share rivers and servers."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "the demo" if file in SHARE_A_RIVER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Divide the tests of a run with several processes by file."""
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by folder, order by MARKERS; tests marked `drill`, `s3` and `airflow` have make targets."""
    from tests.support.drill import LONG  # after SEED is set

    for marker, wanted in (("drill", LONG), ("s3", "S3" in os.environ), ("airflow", "AIRFLOW" in os.environ)):
        if not wanted:
            left = [item for item in items if item.get_closest_marker(marker)]
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if item not in left]
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder not in MARKERS:
            raise pytest.UsageError(
                f"{item.path} lies in none of tests/{', tests/'.join(MARKERS)}: move it, the folder "
                "decides its marker"
            )
        item.add_marker(getattr(pytest.mark, folder))
    items.sort(key=lambda item: MARKERS.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what came of the long form of a proof."""
    from tests.support.drill import LONG, note

    report = yield
    proof = item.get_closest_marker("proof")
    if LONG and proof is not None and report.when == "call":
        note(proof=proof.args[0], seconds=report.duration, passed=report.passed)
    return report


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of this run alone: its own folder and ports, so that it disturbs nothing and may run
    beside a demo.
    """
    ports = free_ports(17)
    return load_settings(
        {},
        {
            "paths.data": str(tmp_path_factory.mktemp("anabranch")),
            "paths.jars": str(ROOT / ".anabranch" / "jars"),
            # Slots of seconds: a cut passes while a test waits, not the next hour.
            "time.slot": "2s",
            "spark.shuffle_partitions": 2,
            # One session for every test: Delta keeps what it knows of each of their tables for an hour.
            "spark.driver_memory": "2g",
            "servers.kafka_port": ports[0],
            "servers.kafka_controller_port": ports[1],
            "servers.cassandra_port": ports[2],
            "servers.cassandra_storage_port": ports[3],
            "servers.cassandra_heap": "512m",
            "serving.port": ports[4],
            "servers.hdfs_port": ports[5],
            "servers.hdfs_http_port": ports[6],
            "servers.hdfs_data_port": ports[7],
            "servers.hdfs_data_http_port": ports[8],
            "servers.hdfs_data_ipc_port": ports[9],
            "servers.spark_port": ports[10],
            "servers.spark_http_port": ports[11],
            "servers.ignite_port": ports[12],
            "servers.ignite_discovery_port": ports[13],
            "servers.ignite_peer_port": ports[14],
            "servers.registry_port": ports[15],
            "servers.postgres_port": ports[16],
            "bus.schema_registry": "embedded",
        },
    )


@pytest.fixture(scope="session")
def pictures(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for pictures of pages: what --pictures names, or one that is thrown away."""
    wanted = pytestconfig.getoption("--pictures")
    return tmp_path_factory.mktemp("pictures") if wanted is None else Path(wanted)


@pytest.fixture(scope="session")
def servers(settings: Settings) -> Iterator[Settings]:
    """Real Kafka and Cassandra, up once for the whole run. One that does not start fails the test: it
    never skips.
    """
    yield from _running(settings, "kafka", "cassandra")


@pytest.fixture(scope="session")
def hdfs(settings: Settings) -> Iterator[Settings]:
    """A real HDFS, as `servers`."""
    yield from _running(settings, "hdfs")


@pytest.fixture(scope="session")
def ignite(settings: Settings) -> Iterator[Settings]:
    """A real Ignite node, as `servers`."""
    yield from _running(settings, "ignite")


@pytest.fixture(scope="session")
def schema_registry(settings: Settings) -> Iterator[Settings]:
    """A real schema registry, as `servers`."""
    yield from _running(settings, "registry")


@pytest.fixture(scope="session")
def spark_cluster(settings: Settings) -> Iterator[str]:
    """The address of a real standalone cluster of two workers, as `servers`."""
    for found in _running(settings, "spark"):
        yield f"spark://{LOOPBACK}:{found.servers.spark_port}"


def _running(settings: Settings, *names: str) -> Iterator[Settings]:
    from jobs.servers import embedded

    try:
        embedded.up(settings, names)
        yield settings
    finally:
        embedded.down(settings, names)


@pytest.fixture(scope="session")
def spark(settings: Settings) -> Iterator[SparkSession]:
    """The session of jobs/wiring/spark_session.py, as jobs have it, but that queries are interpreted:
    over tables as small as those of tests,
    to generate and compile code for each of them costs more than it saves. `compiled` is for tests of what is
    computed."""
    from jobs.wiring.spark_session import spark_session

    session = spark_session(settings, "tests")
    _compile(session, on=False)
    yield session
    session.stop()


@pytest.fixture
def compiled(spark: SparkSession) -> Iterator[None]:
    """Queries run as code generated for each, as they do in every job."""
    _compile(spark, on=True)
    yield
    _compile(spark, on=False)


def _compile(session: SparkSession, *, on: bool) -> None:
    session.conf.set("spark.sql.codegen.wholeStage", on)
    session.conf.set("spark.sql.codegen.factoryMode", "FALLBACK" if on else "NO_CODEGEN")


def free_ports(count: int) -> list[int]:
    """Random free ports, below those that the system gives to clients; each process of a run has a range
    of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.randrange(20_000, 26_000) + 6_000 * process
        if port not in chosen and is_free(port):
            chosen.append(port)
    return chosen
