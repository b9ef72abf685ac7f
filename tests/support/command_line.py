"""The command line in a process of its own, which runs one command after the other as a user would."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.wiring.settings import ROOT, Settings
from tests.support.commands import environment_of

# Runs the commands it reads, one JSON list a line, and says what came of each: a JVM and a session are
# started once for all of them.
RUNNER = """
import contextlib, io, json, sys
from pyspark.sql import SparkSession
from jobs.cli.main import main
SparkSession.stop = lambda session: None
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def found(self) -> Any:
        """The JSON object it printed last."""
        assert self.code == 0, f"exit code {self.code}: {self.err[-2000:]}"
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass
class Commands:
    """A running process of the command line."""

    process: "subprocess.Popen[str]"
    folder: Path
    environment: Mapping[str, str]
    said: dict[str, Said] = field(default_factory=dict)

    def run(self, name: str, *words: object) -> Said:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the command line ended with {self.process.wait(10)} while it ran {words}"
        self.said[name] = Said(*json.loads(line))
        return self.said[name]


@contextmanager
def command_line(servers: Settings, folder: Path) -> Iterator[Commands]:
    """The command line over the test's servers; `folder` holds further projects, and takes its log."""
    environment = {
        **os.environ,
        **environment_of(servers),
        "ANABRANCH_PROJECTS": str(folder),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", RUNNER],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Commands(process, folder, environment)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A CSV of rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
