"""What tests of the whole river share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

from jobs.wiring.settings import Settings
from tests.conftest import free_ports
from tests.support.command_line import Commands, command_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tests.support.heart_river import Lived


@pytest.fixture(scope="session")
def lived(servers: Settings, spark: "SparkSession") -> "Lived":
    """The river of heart_disease, run once."""
    from tests.support.heart_river import live

    return live(servers, spark)


@pytest.fixture(scope="session")
def rest_of_heart(lived: "Lived") -> Iterator[str]:
    """The address of a REST server over what the river left."""
    with running(lived.context.settings) as address:
        yield address


@contextmanager
def running(settings: Settings, **changes: Any) -> Iterator[str]:
    """The address of a REST server with these settings of serving; stopped at the end."""
    from jobs.servers.processes import wait_until
    from jobs.wiring.serve import serve
    from serving.server import look

    (port,) = free_ports(1)
    ours = replace(settings, serving=replace(settings.serving, port=port, **changes))
    process = get_context("spawn").Process(target=serve, args=(ours,))
    process.start()
    assert wait_until(lambda: look(ours.serving, "/healthz") == 200, 60), "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def commands(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command line in a process of the module's own."""
    with command_line(servers, tmp_path_factory.mktemp("declared")) as running_commands:
        yield running_commands
