"""Answers over REST: against bare reads of cassandra-driver, against ``mlflow models serve``, and under a
constant load.

Everything runs on this machine, the servers and the load generator too: `--quick` is seconds where the full
size is minutes.
"""

import http.client
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from anabranch.folds.merge import merge
from anabranch.stores.cassandra.tables import batch_table, tiles_table
from anabranch.stores.models.registry import Models
from anabranch.values.times import parse_time
from jobs.show import Steps
from jobs.wiring.serve import serve
from jobs.wiring.settings import Settings
from tests.bench.load import Outcome, Plan
from tests.bench.native import probability, save_native
from tests.bench.page_times import page_rows
from tests.bench.report import Row, alone, save
from tests.bench.serving_data import River, river
from tests.bench.stages import stage_rows
from tests.conftest import free_ports

CALLERS = 32
GOAL_MS = 50.0
_LOWEST = 25.0  # calls a second


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long and how much."""

    rounds: int
    seconds: float
    sustained: float
    keys: int
    projects: int = 10
    calls_each: int = 200


QUICK = Size(rounds=2, seconds=3, sustained=15, keys=200)
FULL = Size(rounds=5, seconds=8, sustained=300, keys=1000)


@contextmanager
def serving(settings: Settings, **changes: Any) -> Iterator[int]:
    """The real server as a process; gives its port."""
    (port,) = free_ports(1)
    ours = replace(settings, serving=replace(settings.serving, port=port, **changes))
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(ours,))
    process.start()
    try:
        _wait(lambda: _ready(port), 180, "the REST server")
        yield port
    finally:
        process.terminate()
        process.join(30)


@contextmanager
def mlflow_serving(settings: Settings, uri: str) -> Iterator[int]:
    """``mlflow models serve`` of a model, with one worker; gives its port."""
    (port,) = free_ports(1)
    served = ["-m", uri, "-p", str(port), "-h", "127.0.0.1", "--env-manager", "local", "-w", "1"]
    command = [sys.executable, "-m", "mlflow", "models", "serve", *served]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": settings.models.tracking_uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(lambda: _status(port, "/ping") == 200, 180, "mlflow models serve")
        yield port
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        for each in (*children, psutil.Process(process.pid)):
            each.terminate()
        process.wait(20)


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _ready(port: int) -> bool:
    return _status(port, "/readyz") == 200


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come within {seconds:g} s")
        time.sleep(0.1)


def _run(module: str, plan: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", module, file.name], stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load(
    port: int, calls: list[tuple[str, str]], seconds: float, rate: float = 0, connections: int = CALLERS
) -> Outcome:
    """What calls to a server come to."""
    return Outcome(
        **_run(
            "tests.bench.load",
            asdict(Plan(port=port, calls=calls, rate=rate, seconds=seconds, connections=connections)),
        )
    )


def by_key(found: River, projects: int | None = None) -> list[tuple[str, str]]:
    """Calls to predict, over all keys and the first `projects` projects in turn."""
    return [
        (f"/v1/projects/{project.name}/predict", json.dumps({"key": key}))
        for key in found.keys
        for project in found.projects[:projects]
    ]


def bare(found: River, seconds: float) -> float:
    """Pairs of reads a second by the driver alone."""
    project = found.projects[0]
    (view,) = project.views
    plan = {"views": asdict(found.settings.views), "batch": batch_table(project.name, view.name, 1),
    "tiles": tiles_table(project.name, view),
            "keys": list(found.keys), "cut": found.cut, "seconds": seconds,
            "connections": CALLERS}  # fmt: skip
    return float(_run("tests.bench.bare_reads", plan)["rate"])


def right(found: River, port: int) -> bool:
    """Whether served features are what the states that were written give, for keys of every shape."""
    project = found.projects[0]
    (view,) = project.views
    for key in found.keys[:20]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", f"/v1/projects/{project.name}/features/{key}")
        served = json.loads(connection.getresponse().read())
        connection.close()
        shape = found.shape(key)
        expected = merge(view, found.parts[shape], found.fresh[shape], parse_time(served["as_of"])).values
        same = all(_near(served["features"][name], value) for name, value in expected.items())
        if not same or served["degraded"]:
            return False
    return True


def _near(left: Any, right_: Any) -> bool:
    return left == right_ or (
        left is not None and right_ is not None and math.isclose(left, right_, rel_tol=1e-9)
    )


def ratio_rows(found: River, size: Size, steps: Steps) -> list[Row]:
    """One worker, as many answers as it gives, between bare reads: rounds are interleaved, so that a busy
    machine hits all alike.
    """
    rates: dict[str, list[float]] = {"bare": [], "cold": [], "cached": []}
    calls = by_key(found, 1)
    with serving(found.settings, cache_bytes=0) as cold, serving(found.settings) as cached:
        equal = right(found, cold) and right(found, cached) and right(found, cached)
        for _ in range(size.rounds):
            rates["bare"].append(bare(found, size.seconds))
            for name, port in (("cold", cold), ("cached", cached)):
                rates[name].append(load(port, calls, size.seconds).rate)
            steps.step(", ".join(f"{name} {each[-1]:,.0f}/s" for name, each in rates.items()))
    rows = []
    for name, goal in (("cold", 0.5), ("cached", 0.8)):
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(rates[name], rates["bare"], strict=True)
        )
        rows.append(
            Row(work=f"answers of one worker, batch part {name}",
            peer="bare cassandra-driver, pairs of reads", ours=statistics.median(rates[name]),
                theirs=statistics.median(rates["bare"]), unit="a second", ratio=ratio, goal=f">= {goal}",
                equal=equal)
        )  # fmt: skip
    return rows


def mlflow_row(found: River, size: Size, steps: Steps) -> Row:
    """The same model, all its features given, over HTTP: here and under mlflow."""
    project = found.projects[0]
    features = dict.fromkeys(project.model_features, 44.5) | {
        name: 5 for name in project.model_features if name.startswith(("n_", "high_"))
    }
    given = [(f"/v1/projects/{project.name}/predict", json.dumps({"features": features}))]
    frame = {
        "dataframe_split": {
            "columns": list(features),
            "data": [[float(value) for value in features.values()]],
        }
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Models(found.settings.models).model_folder(project.name, "1") as version,
        serving(found.settings) as port,
        mlflow_serving(
            found.settings, save_native(version, Path(folder) / "native", project.model_features)
        ) as theirs,
    ):
        rates = [
            (
                load(port, given, size.seconds).rate,
                load(theirs, [("/invocations", json.dumps(frame))], size.seconds).rate,
            )
            for _ in range(size.rounds)
        ]
        ours_said = float(_answer(port, given[0])["score"])
        theirs_said = probability(_answer(theirs, ("/invocations", json.dumps(frame))), version)
        equal = math.isclose(ours_said, theirs_said, rel_tol=1e-5)
    ours, their = (statistics.median(rate[side] for rate in rates) for side in (0, 1))
    steps.step(f"features given: {ours:,.0f}/s, mlflow models serve {their:,.0f}/s")
    work, peer = "scores of given features, one worker", "mlflow models serve, its own flavour"
    ratio = ours / their
    return Row(
        work=work, peer=peer, ours=ours, theirs=their, unit="a second", ratio=ratio, goal=">= 1", equal=equal
    )


def _answer(port: int, call: tuple[str, str]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", call[0], call[1], {"content-type": "application/json"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


def sustained_rows(found: River, size: Size, steps: Steps) -> list[Row]:
    """Every project called at its rate for minutes, then the most that is held; memory sampled meanwhile."""
    rate, calls = float(size.projects * size.calls_each), by_key(found)
    rows = []
    with serving(found.settings, workers=2) as port:
        workers = [each for each in psutil.process_iter() if _is_worker(each, port)]
        load(port, calls, 10, rate=rate, connections=64)  # warm
        counted = spent(port)
        with sampled(workers, size.sustained / 60) as sizes:
            outcome = load(port, calls, size.sustained, rate=rate, connections=128)
        time.sleep(2)  # workers leave their figures for each other every second
        seconds, answers = (after - before for before, after in zip(counted, spent(port), strict=True))
        quarter = max(1, len(sizes) // 4)
        early, late = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
        steps.step(
            f"{rate:,.0f}/s for {size.sustained:g} s: p50 {outcome.p50:.1f}, p99 {outcome.p99:.1f}, p99.9 "
            f"{outcome.p999:.1f} ms, {outcome.errors} errors"
        )
        work = f"{size.projects} projects x {size.calls_each} calls/s for {size.sustained:g} s, 2 workers"
        for name, value, goal in (
            ("p50", outcome.p50, ""),
            ("p99", outcome.p99, "<= 50"),
            ("p99.9", outcome.p999, ""),
        ):
            rows.append(alone(f"{work}: {name}", value, "ms", goal=goal))
        counts = (
            ("errors", outcome.errors, "<= 0"),
            ("refused, told to come again", outcome.refused, "<= 0"),
            ("degraded answers", outcome.degraded, "<= 0"),
        )
        rows += [alone(f"{work}: {name}", n, "calls", goal=goal) for name, n, goal in counts]
        rows.append(alone(f"{work}: in the server itself, mean", 1000 * seconds / answers, "ms"))
        peer = "themselves, second quarter"
        rows.append(
            Row(
                work=f"{work}: memory of the workers",
                peer=peer,
                ours=late,
                theirs=early,
                unit="MiB",
                ratio=early / late,
                goal=">= 0.9",
                equal=None,
            )
        )
        most, held = highest(port, calls, rate, min(size.sustained, 20), steps)
    work = "highest rate held at p99 < 50 ms, 2 workers"
    rows.append(alone(work, most, "a second", goal=">= 2000"))
    if held is not None:
        for name, value in (("p50", held.p50), ("p99", held.p99), ("p99.9", held.p999)):
            rows.append(alone(f"{work}: {name}", value, "ms"))
    return rows


def spent(port: int) -> tuple[float, float]:
    """Seconds that the running server has spent on answers of predict, waiting for stores included, and
    how many these were; all workers together.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    families = text_string_to_metric_families(connection.getresponse().read().decode())
    connection.close()
    samples = [
        sample for family in families for sample in family.samples if sample.labels.get("route") == "predict"
    ]
    seconds, count = (
        sum(one.value for one in samples if one.name == f"anabranch_request_seconds_{part}")
        for part in ("sum", "count")
    )
    return seconds, count


@contextmanager
def sampled(processes: Sequence[psutil.Process], every: float) -> Iterator[list[float]]:
    """MiB that processes have in memory together, looked at every so many seconds."""
    sizes: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(every):
            sizes.append(sum(each.memory_info().rss for each in processes) / 2**20)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def highest(
    port: int, calls: list[tuple[str, str]], start: float, seconds: float, steps: Steps
) -> tuple[float, Outcome | None]:
    """The highest of rates at which nothing fails and p99 is in time, and what it came to: halved until
    one is held, then a fifth more each.
    """
    found: tuple[float, Outcome | None] = (0.0, None)
    rate = start
    while rate >= _LOWEST:
        outcome = load(port, calls, seconds, rate=rate, connections=128)
        steps.step(f"{rate:,.0f}/s: p99 {outcome.p99:.1f} ms, {outcome.errors + outcome.refused} unanswered")
        good = outcome.errors == outcome.refused == 0 and outcome.p99 < GOAL_MS
        if good:
            found = (rate, outcome)
        elif found[1] is not None:
            break
        rate = rate * 1.2 if good else rate / 2
        time.sleep(1)
    return found


def _is_worker(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            each.laddr.port == port
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        )
    except psutil.Error:
        return False


def main(arguments: list[str]) -> None:
    """`--quick` for seconds instead of minutes."""
    size, steps = QUICK if "--quick" in arguments else FULL, Steps()
    with (
        tempfile.TemporaryDirectory() as folder,
        river(Path(folder), size.projects, size.keys, steps.step) as found,
    ):
        rows = ratio_rows(found, size, steps)
        rows.append(mlflow_row(found, size, steps))
        rows += stage_rows(found)
        with serving(found.settings) as port:
            rows += page_rows(found, port)
        rows += sustained_rows(found, size, steps)
    notes = [
        "One machine holds all of it: Cassandra, Kafka, the REST server, and the load generator in a "
        "process of its own.",
        f"A key has {len(found.parts[0].rows)} batch states and {found.tiles} tiles; an answer is 18 "
        "features over 3 windows and a score.",
        "Bare reads keep 32 pairs under way and decode nothing; answers are asked over 32 connections.",
        "Rounds are interleaved, and a ratio is the median of theirs.",
        "Under a constant rate latency counts from the time a call was due (open loop), so a stall is not "
        "hidden.",
        "Predictions are published to Kafka meanwhile. Memory: of both workers, sampled; medians of the "
        "second and the last quarter.",
        "Pages: medians; what a page reads of stores is remembered for five seconds, so most of these are "
        "made from memory.",
        "Served features were compared with the merge of the states that were written; scores with "
        "mlflow's to 1e-5.",
    ]
    if size is QUICK:
        notes.append("This was a quick run: seconds where the full size takes minutes.")
    save(
        "serving",
        "Answers over REST",
        rows,
        ["granian", "msgspec", "cassandra-driver", "onnxruntime", "mlflow", "numpy"],
        notes,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
