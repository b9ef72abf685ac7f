"""`make bench-start`: how soon a job works, with the archive of classes from `make setup` and without."""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jobs.show import Steps
from jobs.wiring.settings import ROOT, Settings, load_settings
from jobs.wiring.spark_session import class_archive, spark_session
from tests.bench.report import Row, save, seconds_of

TURNS = 7
ROWS = 1000


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
    save("start", "How soon a job works", rows, ["pyspark", "delta-spark"], notes, dry=quick)


if __name__ == "__main__":
    main()
