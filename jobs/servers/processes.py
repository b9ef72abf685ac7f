"""Local processes that outlive the command that started them, recognised by pid *and* start time."""

import faulthandler
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """A process that was started. `born` distinguishes it from a later process with the same pid."""

    pid: int
    born: str
    ports: tuple[int, ...]
    since: float


def spawn(command: Sequence[str], log: Path, folder: Path, ports: tuple[int, ...]) -> ProcessRecord:
    """Start a command in a session of its own, out of reach of Ctrl-C; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It is meant to outlive us, so Popen shall not complain; is_alive reaps it if it ends first.
    process.returncode = 0
    return ProcessRecord(pid=process.pid, born=_born(process.pid) or "", ports=ports, since=time.time())


def is_alive(record: ProcessRecord) -> bool:
    """Whether this very process still runs."""
    with suppress(OSError):  # not our child
        os.waitpid(record.pid, os.WNOHANG)
    return bool(record.born) and _born(record.pid) == record.born


def processor_time(record: ProcessRecord) -> float:
    """Processor seconds of a process; 0 where the system does not show them."""
    try:
        stat = Path(f"/proc/{record.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def stop(record: ProcessRecord, patience_seconds: float, first: signal.Signals = signal.SIGTERM) -> None:
    """End this very process, and never another with its pid: by the signal `first`, then by SIGKILL."""
    for sign, patience in ((first, patience_seconds), (signal.SIGKILL, 10.0)):
        if not is_alive(record):
            return
        try:
            os.kill(record.pid, sign)
        except ProcessLookupError:
            return
        wait_until(lambda: not is_alive(record), patience)


def wait_until(condition: Callable[[], bool], limit_seconds: float) -> bool:
    """Whether the condition came true before the limit."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def read_record(file: Path) -> ProcessRecord | None:
    """The record in a file; None when there is none or it is damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return ProcessRecord(
            pid=int(record["pid"]),
            born=str(record["born"]),
            ports=tuple(record["ports"]),
            since=float(record["since"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(file: Path, record: ProcessRecord) -> None:
    """Write a record, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
    draft.replace(file)


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log, for an error."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process started, unique among processes with its pid; None when no such process runs."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            # A process whose first thread has ended shows as a zombie while others run and keep its ports.
            ended = state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1  # noqa: PTH208
        except OSError:
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if ended else f"{boot}/{fields[18]}"
    columns = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split(None, 1)
    return None if len(columns) < 2 or columns[0].startswith("Z") else columns[1].strip()


def stop_event() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set from now on, instead of ending the process.

    SIGUSR1 prints the stack of every thread to standard error.
    """
    stopping = threading.Event()
    # By number: sys.stderr may have been replaced.
    faulthandler.register(signal.SIGUSR1, file=2)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping
