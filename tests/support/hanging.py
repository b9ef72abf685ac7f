"""A server that hangs: its process is stopped, and nobody told."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.servers.processes import wait_until


@contextmanager
def hanging(pid: int) -> Iterator[None]:
    """Within the block none of the threads of a process runs; each may have gone on for a moment before."""
    os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: _states(pid) == {"T"}, 10), _states(pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> set[str]:
    """The states of the threads, as in proc(5)."""
    stats = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {stat.rpartition(")")[2].split()[0] for stat in stats}
