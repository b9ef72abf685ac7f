"""Answers over REST: against bare reads of the fastest client, a bare granian, ``mlflow models serve``, and
under constant loads, up to four times what is held.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from anabranch.answers.costs import STAGES
from anabranch.folds.merge import merge
from anabranch.stores.cassandra.tables import batch_table, tiles_table
from anabranch.stores.models.registry import Models
from anabranch.values.times import parse_time
from jobs.show import Steps, say
from jobs.wiring.serve import serve
from jobs.wiring.settings import Settings
from tests.bench.load import Outcome, Plan
from tests.bench.native import probability, save_native
from tests.bench.overload import overload_rows
from tests.bench.page_times import page_rows
from tests.bench.report import Row, alone, save
from tests.bench.serving_data import River, river
from tests.bench.stages import stage_rows
from tests.conftest import free_ports

CALLERS = 32
GOAL_MS = 50.0
RATES = (
    200, 300, 400, 500, 600, 800, 1000, 1200, 1400, 1600, 1800, 2000,
    2200, 2500, 3000, 3500, 4000, 5000, 6000, 8000,
)  # fmt: skip
"""Calls a second that are tried, upward."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long and how much."""

    rounds: int
    seconds: float
    sustained: float
    step: float
    keys: int
    first: int
    most: int
    projects: int = 10
    calls_each: int = 200


QUICK = Size(rounds=1, seconds=2, sustained=6, step=3, keys=200, first=400, most=3)
FULL = Size(rounds=4, seconds=4, sustained=300, step=12, keys=1000, first=400, most=16)


@contextmanager
def serving(settings: Settings, **changes: Any) -> Iterator[int]:
    """The real server as a process; gives its port."""
    (port,) = free_ports(1)
    ours = replace(settings, serving=replace(settings.serving, port=port, **changes))
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(ours,))
    process.start()
    try:
        _wait(lambda: _ready(port), 90, "the REST server")
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
    port: int,
    calls: list[tuple[str, str]],
    seconds: float,
    rate: float = 0,
    connections: int = CALLERS,
    **more: Any,
) -> Outcome:
    """What calls to a server come to."""
    plan = Plan(port=port, calls=calls, rate=rate, seconds=seconds, connections=connections, **more)
    return Outcome(**_run("tests.bench.load", asdict(plan)))


def by_key(found: River, projects: int | None = None) -> list[tuple[str, str]]:
    """Calls to predict, over all keys and the first `projects` projects in turn."""
    return [
        (f"/v1/projects/{project.name}/predict", json.dumps({"key": key}))
        for key in found.keys
        for project in found.projects[:projects]
    ]


def bare(found: River, seconds: float, rate: float = 0, *, single: bool = False) -> dict[str, float]:
    """Bare pairs of reads, or the slice of tiles alone: a second, p50 and p99 in ms, us of CPU each."""
    project = found.projects[0]
    (view,) = project.views
    plan = {
        "views": asdict(found.settings.views),
        "batch": batch_table(project.name, view.name, 1),
        "tiles": tiles_table(project.name, view),
        "keys": list(found.keys),
        "cut": found.cut,
        "seconds": seconds,
        "rate": rate,
        "single": single,
        "connections": CALLERS,
    }
    return _run("tests.bench.bare_reads", plan)


@contextmanager
def echoing() -> Iterator[int]:
    """A bare granian; gives its port."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.echo", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        _wait(lambda: _status(port, "/") == 200, 60, "the bare granian")
        yield port
    finally:
        process.terminate()
        process.wait(20)


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
    """One worker, as many answers as it gives, between bare reads and a bare granian.

    Rounds are interleaved, so that a busy machine hits all alike.
    """
    rates: dict[str, list[float]] = {}
    calls = by_key(found, 1)

    def note(name: str, rate: float) -> None:
        rates.setdefault(name, []).append(rate)

    with (
        serving(found.settings, cache_bytes=0) as cold,
        serving(found.settings) as cached,
        echoing() as echo,
    ):
        equal = right(found, cold) and right(found, cached) and right(found, cached)
        for port in (cold, cached):
            load(port, calls, size.seconds)
        for _ in range(size.rounds):
            note("pairs", bare(found, size.seconds)["rate"])
            note("cold", load(cold, calls, size.seconds).rate)
            note("single", bare(found, size.seconds, single=True)["rate"])
            note("cached", load(cached, calls, size.seconds).rate)
            note("echo", load(echo, [given(found)], size.seconds).rate)
            note("given", load(cached, [given(found)], size.seconds).rate)
            steps.step(", ".join(f"{name} {each[-1]:,.0f}/s" for name, each in rates.items()))
    rows = []
    for work, ours, theirs, peer, goal in (
        ("answers of one worker, batch part cold", "cold", "pairs", "bare acsylla, pairs of reads", 0.5),
        ("answers of one worker, batch part cached", "cached", "single", "bare acsylla, single reads", 0.8),
        ("scores of given features, one worker", "given", "echo", "a bare granian that echoes", 0.5),
    ):
        ratio = statistics.median(own / other for own, other in zip(rates[ours], rates[theirs], strict=True))
        row = Row(
            work=work,
            peer=peer,
            ours=statistics.median(rates[ours]),
            theirs=statistics.median(rates[theirs]),
            unit="a second",
            ratio=ratio,
            goal=f">= {goal}",
            equal=None if ours == "given" else equal,
        )
        rows.append(row)
    return rows


def given(found: River) -> tuple[str, str]:
    """A call that brings every feature."""
    project = found.projects[0]
    features = dict.fromkeys(project.model_features, 44.5) | {
        name: 5 for name in project.model_features if name.startswith(("n_", "high_"))
    }
    return f"/v1/projects/{project.name}/predict", json.dumps({"features": features})


def mlflow_row(found: River, size: Size, steps: Steps) -> Row:
    """The same model, all its features given, over HTTP: here and under mlflow."""
    project, call = found.projects[0], given(found)
    features = json.loads(call[1])["features"]
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
                load(port, [call], size.seconds).rate,
                load(theirs, [("/invocations", json.dumps(frame))], size.seconds).rate,
            )
            for _ in range(size.rounds)
        ]
        ours_said = float(_answer(port, call)["score"])
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


def held(outcome: Outcome) -> bool:
    """Whether all calls were answered in time."""
    return outcome.errors == outcome.refused == 0 and outcome.p99 < GOAL_MS


def highest(try_at: Callable[[float], bool], size: Size) -> float:
    """The highest of `RATES` that is held, from the first upward, else downward; each may fail once."""
    best, tried = 0.0, [rate for rate in RATES if rate >= size.first][: size.most]
    for rate in tried:
        if not (try_at(rate) or try_at(rate)):
            break
        best = rate
    if not best:
        for rate in sorted((rate for rate in RATES if rate < size.first), reverse=True):
            if try_at(rate):
                return rate
    return best


@dataclass
class Held:
    """What a server with so many workers holds."""

    workers: int
    rate: float
    outcomes: dict[float, Outcome]


def held_by(found: River, size: Size, steps: Steps, workers: int) -> Held:
    """The highest rate that a server holds."""
    calls, outcomes = by_key(found), dict[float, Outcome]()
    with serving(found.settings, workers=workers) as port:
        load(port, calls, size.step, rate=size.first, connections=128)

        def try_at(rate: float) -> bool:
            outcome = outcomes[rate] = load(port, calls, size.step, rate=rate, connections=128, after=1.0)
            text = f"p50 {outcome.p50:.1f}, p99 {outcome.p99:.1f} ms, "
            text += f"{outcome.errors + outcome.refused} unanswered"
            steps.step(f"{workers} workers, {rate:,.0f}/s: {text}")
            return held(outcome)

        return Held(workers, highest(try_at, size), outcomes)


def pairs_rows(found: River, size: Size, steps: Steps) -> tuple[float, list[Row]]:
    """What bare pairs of reads hold beside a load generator that calls a bare granian as often."""
    seen: dict[float, dict[str, float]] = {}

    def try_at(rate: float) -> bool:
        with ThreadPoolExecutor(1) as pool, echoing() as port:
            calls = pool.submit(load, port, by_key(found, 1), size.step + 1, rate, 128)
            seen[rate] = bare(found, size.step, rate)
            calls.result()
        steps.step(f"bare pairs, {rate:,.0f}/s: p50 {seen[rate]['p50']:.1f}, p99 {seen[rate]['p99']:.1f} ms")
        return seen[rate]["p99"] < GOAL_MS

    most = highest(try_at, size)
    rows = [
        alone("bare pairs of reads beside the load generator: highest rate at p99 < 50 ms", most, "a second")
    ]
    wanted = float(size.projects * size.calls_each)
    if wanted not in seen:
        try_at(wanted)
    work = f"bare pairs of reads beside the load generator at {wanted:,.0f}/s"
    rows += [alone(f"{work}: {part}", seen[wanted][part], "ms") for part in ("p50", "p99")]
    return most, rows


def held_rows(each: Sequence[Held], pairs: float) -> list[Row]:
    """The highest rates held, and what a second worker does."""
    rows = []
    for one in each:
        work = f"highest rate held at p99 < 50 ms, 0 errors, {one.workers} worker{'s' * (one.workers > 1)}"
        rows.append(alone(work, one.rate, "a second", goal=">= 2000"))
        if one.rate in one.outcomes:
            found = one.outcomes[one.rate]
            rows += [alone(f"{work}: {n}", v, "ms") for n, v in (("p50", found.p50), ("p99", found.p99))]
    best, first = max(one.rate for one in each), each[0].rate
    second = "two workers against one: highest rate held"
    rows.append(_against(second, "one worker", each[-1].rate, first, ">= 0.5"))
    rows.append(_against("highest rate held", "bare pairs beside the load generator", best, pairs, ">= 0.6"))
    return rows


def _against(work: str, peer: str, ours: float, theirs: float, goal: str) -> Row:
    ratio = ours / theirs if theirs else float("inf")
    return Row(work=work, peer=peer, ours=ours, theirs=theirs, unit="a second", ratio=ratio, goal=goal)


def sustained_rows(found: River, size: Size, steps: Steps, workers: int) -> list[Row]:
    """Every project called at its rate for minutes; memory and processor time meanwhile."""
    rate, calls = float(size.projects * size.calls_each), by_key(found)
    rows = []
    with serving(found.settings, workers=workers) as port:
        processes = [each for each in psutil.process_iter() if _is_worker(each, port)]
        parties = {"REST server": _family(processes), **_servers(found)}
        load(port, calls, min(10, size.sustained), rate=rate, connections=128)  # warm
        counted, staged = spent(port), staged_costs(port)
        begun = {name: _cpu(each) for name, each in parties.items()}
        with sampled(processes, size.sustained / 60) as sizes:
            outcome = load(port, calls, size.sustained, rate=rate, connections=128)
        used = {name: _cpu(each) - begun[name] for name, each in parties.items()}
        time.sleep(2)  # workers leave their figures for each other every second
        seconds, answers = (after - before for before, after in zip(counted, spent(port), strict=True))
        stages = {name: after - staged.get(name, 0.0) for name, after in staged_costs(port).items()}
    quarter = max(1, len(sizes) // 4)
    early, late = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    steps.step(
        f"{rate:,.0f}/s for {size.sustained:g} s: p50 {outcome.p50:.1f}, p99 {outcome.p99:.1f}, p99.9 "
        f"{outcome.p999:.1f} ms, {outcome.errors} errors, {outcome.refused} refused"
    )
    work = f"{size.projects} projects x {size.calls_each} calls/s for {size.sustained:g} s, {workers} "
    work += "workers" if workers > 1 else "worker"
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
    rows.append(alone(f"{work}: in the server itself, mean", 1000 * seconds / max(1, answers), "ms"))
    done = max(1, outcome.answered)
    for name, cpu in {**used, "load generator": outcome.cpu * outcome.sent / 1e6}.items():
        rows.append(alone(f"{work}: processor time an answer, {name}", 1e6 * cpu / done, "us"))
    rows += [
        alone(f"{work}: processor time an answer, stage {name} (/metrics)", value, "us")
        for name, value in by_stage(stages, answers).items()
    ]
    memory = f"{work}: memory of the workers"
    peer = "themselves, second quarter"
    rows.append(
        Row(work=memory, peer=peer, ours=late, theirs=early, unit="MiB", ratio=early / late, goal=">= 0.9")
    )
    return rows


def _family(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return list(
        {each.pid: each for one in processes for each in (one, *one.children(recursive=True))}.values()
    )


def _servers(found: River) -> dict[str, list[psutil.Process]]:
    """Cassandra and Kafka of this river."""
    home, named = str(found.settings.data), dict[str, list[psutil.Process]]()
    for each in psutil.process_iter():
        try:
            command = " ".join(each.cmdline())
        except psutil.Error:
            continue
        if each.name() == "java" and home in command:
            named["Cassandra" if "CassandraDaemon" in command else "Kafka"] = [each]
    return named


def _cpu(processes: Sequence[psutil.Process]) -> float:
    times = [each.cpu_times() for each in processes if each.is_running()]
    return float(sum(each.user + each.system for each in times))


def staged_costs(port: int) -> dict[str, float]:
    """What /metrics of the running server says of processor time; sums of all workers."""
    found: dict[str, float] = {}
    for sample in _samples(port):
        if "_cpu_" in sample.name:
            name = " ".join(filter(None, (sample.name, sample.labels.get("stage"))))
            found[name] = found.get(name, 0.0) + float(sample.value)
    return found


def by_stage(spent: dict[str, float], answers: float) -> dict[str, float]:
    """Microseconds an answer by stage, and of the thread that answers."""
    found = {}
    for stage in STAGES:
        count = spent.get(f"anabranch_answer_cpu_answers_total {stage}", 0.0)
        if count:
            found[stage] = 1e6 * spent[f"anabranch_answer_cpu_seconds_total {stage}"] / count
    return {
        **found,
        "all of the event loop": 1e6 * spent["anabranch_loop_cpu_seconds_total"] / max(1, answers),
    }


def _samples(port: int) -> list[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    families = text_string_to_metric_families(connection.getresponse().read().decode())
    connection.close()
    return [sample for family in families for sample in family.samples]


def spent(port: int) -> tuple[float, float]:
    """Seconds that the running server has spent on answers of predict, waiting for stores included, and
    how many these were; all workers together.
    """
    samples = [sample for sample in _samples(port) if sample.labels.get("route") == "predict"]
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
    """`--quick` for seconds instead of minutes. A stage that fails costs its rows alone."""
    quick = "--quick" in arguments
    size, steps, rows, failed = QUICK if quick else FULL, Steps(), list[Row](), list[str]()
    by_workers: list[Held] = []
    most_pairs = 0.0

    def stage(name: str, run: Callable[[], Sequence[Row]]) -> None:
        try:
            rows.extend(run())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the other stages are worth having
            failed.append(name)
            say(f"{name} failed: {type(error).__name__}: {error}")

    def pages() -> list[Row]:
        with serving(found.settings) as port:
            return page_rows(found, port)

    def search(workers: int) -> list[Row]:
        by_workers.append(held_by(found, size, steps, workers))
        return []

    def pairs() -> list[Row]:
        nonlocal most_pairs
        most_pairs, measured = pairs_rows(found, size, steps)
        return measured

    def best() -> Held:
        return max(by_workers, key=lambda one: one.rate)

    with (
        tempfile.TemporaryDirectory() as folder,
        river(Path(folder), size.projects, size.keys, steps.step) as found,
    ):
        stage("the ratios", lambda: ratio_rows(found, size, steps))
        if not quick:
            stage("mlflow", lambda: [mlflow_row(found, size, steps)])
            stage("the pages", pages)
        stage("the stages", lambda: stage_rows(found))
        stage("bare pairs", pairs)
        for workers in (1, 2):
            stage(f"{workers} workers", partial(search, workers))
        if by_workers:
            stage("rates held", lambda: held_rows(by_workers, most_pairs))
            stage("the constant load", lambda: sustained_rows(found, size, steps, best().workers))
            serve_best = partial(serving, found.settings, workers=best().workers)
            stage(
                "overload",
                lambda: overload_rows(
                    serve_best, partial(load, calls=by_key(found)), best().rate, size.step, steps, quick
                ),
            )
    notes = [
        "One machine holds all of it: Cassandra, Kafka, the REST server, and the load generator in a "
        "process of its own.",
        f"A key has {len(found.parts[0].rows)} batch states and {found.tiles} tiles; an answer is 18 "
        "features over 3 windows and a score.",
        "Bare reads keep 32 pairs (or single slices) under way and answer nothing; answers are asked over 32 "
        "connections. "
        "A pair is one batch row and one slice of tiles; an answer reads fine tiles as well.",
        "Rounds are interleaved, and a ratio is the median of theirs.",
        "Under a constant rate latency counts from the time a call was due (open loop), so a stall is not "
        "hidden. Rates are tried upward, each may fail once.",
        "Predictions are published to Kafka meanwhile. Memory: of all workers, sampled; medians of the "
        "second and the last quarter.",
        "Pages: medians; what a page reads of stores is remembered for five seconds, so most of these are "
        "made from memory.",
        "Served features were compared with the merge of the states that were written; scores with "
        "mlflow's to 1e-5.",
    ]
    if quick:
        notes.append("This was a quick run: seconds where the full size takes minutes.")
    notes += [f"Failed, and so missing here: {name}." for name in failed]
    save(
        "serving",
        "Answers over REST",
        rows,
        ["granian", "msgspec", "acsylla", "confluent-kafka", "onnxruntime", "mlflow", "numpy"],
        notes,
        dry=quick,
    )
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
