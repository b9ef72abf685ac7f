"""A table of PostgreSQL is read where it lies. `make setup WITH=tables` brings its driver."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.servers.processes import wait_until
from jobs.wiring.settings import ROOT
from tests.conftest import free_ports
from tests.support.tables_of_others import PASSWORD, USER

JARS = ROOT / ".anabranch" / "jars" / "tables"
pytestmark = pytest.mark.drill
ROOTLESS = "nobody" if os.geteuid() == 0 else None
"""PostgreSQL does not run as root."""


def look(folder: Path, url: str) -> None:
    assert list(JARS.glob("*.jar")), f"no jars in {JARS}: run 'make setup WITH=tables'"
    words = [sys.executable, "-m", "tests.support.tables_of_others", str(folder), str(JARS), url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a PostgreSQL of its own."""
    folder, (port,) = Path(tempfile.mkdtemp()), free_ports(1)
    if ROOTLESS:
        shutil.chown(folder, ROOTLESS)
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        made = ["initdb", "-D", f"{folder}/data", "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256"]
        subprocess.run(made, user=ROOTLESS, check=True, capture_output=True, cwd=folder)
        words = ["postgres", "-D", f"{folder}/data", "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(words, user=ROOTLESS, cwd=folder, stdout=log, stderr=log)
        try:
            assert wait_until(lambda: "ready to accept" in (folder / "log").read_text(encoding="utf-8"), 30)
            yield f"jdbc:postgresql://127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def test_a_table_of_postgresql_is_read_by_its_growing_column(tmp_path: Path, database: str) -> None:
    look(tmp_path, database)
