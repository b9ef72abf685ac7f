"""A real S3 server of tests: moto, in an environment of its own that `make test-s3` makes."""

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.servers.processes import wait_until
from jobs.wiring.settings import ROOT
from tests.conftest import free_ports

BUCKET, SECRET = "river", "a-secret-that-nobody-may-read"


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables of a running server with one empty bucket."""
    program = ROOT / ".anabranch" / "moto" / "bin" / "moto_server"
    assert program.exists(), "moto is missing: run 'make test-s3'"
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with (folder / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [str(program), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        assert wait_until(lambda: _answers(f"{address}/moto-api/"), 60), (folder / "moto.log").read_text()
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=10)
        yield {
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        }
    finally:
        server.terminate()
        server.wait(30)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2)
    except OSError:
        return False
    return True
