"""`make bench-start`: how soon a job works, with the archive of classes from `make setup` and without."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jobs.show import Steps
from jobs.wiring.settings import ROOT, Settings, load_settings
from jobs.wiring.spark_session import class_archive, spark_session
from tests.bench.report import Row, alone, save, seconds_of

TURNS = 7
ROWS = 1000
NAME = "start_bench"
DECLARATION = f"""
from anabranch import Count, FeatureView, Project, Source

things = Source(name="things", id="id", time="at", schema="id STRING, key STRING, at TIMESTAMP")
view = FeatureView(name="seen", source=things, key="key", features={{"n": Count()}})
project = Project(name="{NAME}", views=(view,))
"""


def without(settings: Settings, folder: Path) -> Path:
    """Jars as those of these settings, without an archive of classes."""
    (folder / "spark").mkdir(parents=True)
    for jar in (settings.jars / "spark").glob("*.jar"):
        (folder / "spark" / jar.name).symlink_to(jar.resolve())
    return folder


def job(data: Path, jars: Path, table: Path) -> None:
    """What a short job is: a session, a load into a Delta table, a question to it. Prints the seconds of
    the session, of the rest, and the answer.
    """
    found: list[int] = []
    settings = load_settings({}, {"paths.data": str(data), "paths.jars": str(jars)})

    def load_and_ask() -> None:
        session = spark_session(settings, "bench-start")
        session.range(ROWS).selectExpr("id", "id % 7 AS key").write.format("delta").save(str(table))
        found.append(
            sum(
                row["count"]
                for row in session.read.format("delta").load(str(table)).groupBy("key").count().collect()
            )
        )

    start = seconds_of(lambda: spark_session(settings, "bench-start"))
    print(start, seconds_of(load_and_ask), found[0])


class Verbs:
    """Verbs of the command line as users call them, with a small project of their own; no server runs."""

    def __init__(self, folder: Path, jars: Path) -> None:
        self._folder, self._loads = folder, 0
        folder.mkdir()
        (folder / f"{NAME}.py").write_text(DECLARATION)
        paths = {"ANABRANCH__PATHS__DATA": str(folder / "data"), "ANABRANCH__PATHS__JARS": str(jars)}
        self._environment = {**os.environ, **paths, "ANABRANCH_PROJECTS": str(folder)}

    def load(self) -> list[str]:
        """The verb that loads a new file."""
        self._loads += 1
        file = self._folder / f"load-{self._loads}.csv"
        lines = (f"{self._loads}-{row},k{row % 7},2026-01-01T00:00:00Z" for row in range(ROWS))
        file.write_text("\n".join(["id,key,at", *lines]) + "\n")
        return ["ingest", NAME, "things", str(file), "--json"]

    def seconds(self, words: list[str]) -> float:
        """How long a verb takes from a shell, start and end of its process included."""
        return seconds_of(lambda: self._done(words))

    def _done(self, words: list[str]) -> None:
        command = [sys.executable, "-m", "jobs.cli", *words]
        subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, check=True)

    def within_one_process(self, loads: int) -> list[float]:
        """How long each of so many loads takes that one `anabranch shell` is given."""
        with subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "shell"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as shell:
            stdin, stdout = shell.stdin, shell.stdout
            assert stdin is not None
            assert stdout is not None

            def ask() -> None:
                stdin.write(" ".join(self.load()) + "\n")
                stdin.flush()
                assert json.loads(stdout.readline())["rows"] == ROWS

            found = [seconds_of(ask) for _ in range(loads)]
            stdin.close()
        return found


def verb_rows(folder: Path, ways: Mapping[str, Path], turns: int, steps: Steps) -> list[Row]:
    """A verb that needs Spark from the shell and within `anabranch shell`, and one that does not."""
    verbs = {way: Verbs(folder / f"verbs-{way}", jars) for way, jars in ways.items()}
    times: dict[str, list[float]] = {"with": [], "without": [], "check": []}
    for turn in range(turns):
        steps.step(f"verbs, turn {turn + 1}")
        for way, each in verbs.items():
            times[way].append(each.seconds(each.load()))
        times["check"].append(verbs["with"].seconds(["check", NAME]))
    _, *later = verbs["with"].within_one_process(turns + 1)
    before, now = statistics.median(times["without"]), statistics.median(times["with"])
    load = f"`anabranch ingest` of {ROWS:,} rows"
    return [
        alone(f"{load}, from the shell, without the archive", before, "s"),
        alone(f"{load}, from the shell", now, "s", goal="<= 8"),
        alone(f"{load}, the second and later verbs of `anabranch shell`", statistics.median(later), "s"),
        alone("`anabranch check`, from the shell", statistics.median(times["check"]), "s", goal="<= 1"),
    ]


def main() -> None:
    """Run and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one turn, nothing saved")
    parser.add_argument("--job", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job(*arguments.job)
        return
    quick = arguments.quick
    settings, steps = load_settings(), Steps()
    assert class_archive(settings).exists(), "no archive of classes: run 'make setup'"
    times: dict[str, list[list[float]]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory(prefix="anabranch-bench-") as made:
        folder = Path(made)
        ways: Mapping[str, Path] = {"with": settings.jars, "without": without(settings, folder / "jars")}
        for turn in range(1 if quick else TURNS):
            for way, jars in ways.items():
                steps.step(f"turn {turn + 1}, {way} the archive")
                command = [
                    sys.executable,
                    "-m",
                    "tests.bench.start",
                    "--job",
                    str(folder / "data"),
                    str(jars),
                    str(folder / f"{way}-{turn}"),
                ]
                told = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, check=True
                ).stdout.split()
                times[way].append([float(figure) for figure in told[-3:]])
        verbs = verb_rows(folder, ways, 1 if quick else 3, steps)
    equal = {figures[2] for runs in times.values() for figures in runs} == {ROWS}
    rows = []
    for work, of in (
        ("a session of Spark", lambda run: run[0]),
        ("that, a load into a Delta table and a question to it", lambda run: run[0] + run[1]),
    ):
        ours, theirs = (statistics.median(map(of, times[way])) for way in ("with", "without"))
        rows.append(
            Row(
                work=f"{work}: until it is done",
                peer="without the archive",
                ours=ours,
                theirs=theirs,
                unit="s",
                ratio=theirs / ours,
                goal=">= 1",
                equal=equal,
            )
        )
    size = class_archive(settings).stat().st_size >> 20
    notes = [
        f"Processes of their own in turn; medians of {TURNS}. The archive has {size} MiB and is made by "
        "`make setup`."
    ]
    save("start", "How soon a job works", [*rows, *verbs], ["pyspark", "delta-spark"], notes, dry=quick)


if __name__ == "__main__":
    main()
