"""The demo: the whole river on real heart exams, from files and topics to answers, with two commands' worth of typing.

The exams and diagnoses are the 303 real ones of Cleveland; the bracelet's readings and the new exams are simulated.
"""

import csv
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.values.times import format_time, now_micros
from batch.building.current_rows import reset_current_rows
from batch.landing.ingest import ingest
from batch.scoring.data_sets import score_path
from batch.training.train import train
from jobs.cli.models import training_job
from jobs.flows.building import build_project
from jobs.flows.verifying import verify_settled
from jobs.servers import embedded as servers
from jobs.show import Steps, console, quiet, say, table
from jobs.wiring.context import Context
from jobs.wiring.settings import ROOT, Settings, load_settings
from speed.streams import start

NAME = "heart_disease"
DATA = ROOT / "projects" / "data"
EXAMPLE = {"age": 45, "sex": 1, "cp": 3, "trestbps": 112, "chol": 230, "fbs": 0, "restecg": 2, "thalach": 165, "exang": 0, "oldpeak": 2.5,
           "slope": 2, "ca": 1, "thal": 7}  # fmt: skip
WEARERS = ("p001", "p002", "p003", "p004", "p005")


def main() -> int:
    """Run everything; returns the exit code."""
    quiet(debug=False)
    settings = load_settings(None, None)
    keep = os.environ.get("KEEP") == "1"  # a switch of this script alone, not a setting
    context, steps = Context(settings), Steps()
    try:
        with _servers(settings, keep), console.status("the river runs"):
            last = _river(context, steps, keep)
    except AnabranchError as error:
        say(f"demo failed: {error}")
        return error.exit_code
    finally:
        context.close()
    say(last)
    return 0


def _quiet(_text: str) -> None:
    """Say nothing."""


@contextmanager
def _servers(settings: Settings, keep: bool) -> Iterator[None]:
    already = any(state.state == "running" for state in servers.status(settings, _quiet))
    servers.up(settings)
    try:
        yield
    finally:
        if not keep and not already:
            servers.down(settings)


def _river(context: Context, steps: Steps, keep: bool) -> str:
    project = context.project(NAME)
    spark = context.spark
    steps.step("[bold]1. files into the lake[/bold]: 303 real exams (Cleveland) and their diagnoses")
    for source in ("exams", "diagnoses"):
        landed = ingest(
            spark,
            context.lake,
            project,
            source,
            [str(DATA / f"{source}.csv")],
            context.settings.times,
            steps,
            context.gate(project),
        )
        steps.step(
            f"   {source}: {landed.rows} rows landed, {landed.quarantined} in quarantine, {landed.skipped_files} files already there"
        )
    steps.step("[bold]2. batch views[/bold] of the whole lake into Cassandra")
    build_project(context, project, None, steps)
    steps.step(
        "[bold]3. a model[/bold] trained on features as they were before each diagnosis, judged on held-out patients"
    )
    trained = train(context, training_job(context, project, steps))
    table(
        "On held-out patients",
        ["metric", "value"],
        [
            [name, float(trained.metrics[name])]
            for name in ("roc_auc", "roc_auc_low", "roc_auc_high", "accuracy")
        ],
    )
    say(f"the gate: {trained.reason}")
    reset_current_rows(context, project)
    steps.step("[bold]4. the stream[/bold], fed with simulated bracelet readings and new exams")
    _stream(context, project, steps)
    steps.step("[bold]5. REST[/bold] answers the example request")
    with _rest(context.settings, keep):
        _ask(context.settings)
    steps.step("[bold]6. mass scoring[/bold] of all patients with the MLflow pyfunc UDF")
    out = context.settings.data / "demo" / "scores"
    scored = score_path(spark, context.lake, context.models, project, DATA / "exams.csv", out, None, steps)
    steps.step(f"   {scored.rows} patients scored by version {scored.version} into {out}")
    steps.step("[bold]7. verification[/bold]: every feature of every patient, lake against served")
    found = verify_settled(context, project, None, steps)
    if found.mismatches:
        raise AnabranchError(
            f"{found.mismatches} values served differ from the lake: run 'anabranch verify {NAME}'"
        )
    _next(context.settings, keep)
    return f"demo: {found.keys} keys, {len(found.features)} features, {found.mismatches} mismatches"


def _stream(context: Context, project: Project, steps: Steps) -> None:
    before = _features(context, project)
    queries = start(context.speed_layer(once=False), project)
    try:
        started = time.monotonic()
        count = context.bus.publish(
            "bracelet-feed", ((None, json.dumps(event).encode()) for event in simulated_readings())
        )
        exams = context.bus.publish(
            "exams", ((None, json.dumps(event).encode()) for event in simulated_exams())
        )
        steps.step(f"   published {count} simulated bracelet readings and {exams} simulated exams")
        expected = int(before["readings_1d"] or 0) + count // len(WEARERS)
        _until(
            lambda: int(_features(context, project)["readings_1d"] or 0) >= expected,
            90,
            "the stream to fold the readings",
        )
        steps.step(
            f"   features of {WEARERS[0]} were current {time.monotonic() - started:.1f} s after publishing (the stream's start included)"
        )
        for query in queries:
            query.processAllAvailable()
        _show_change(context, project, before)
    finally:
        for query in queries:
            query.stop()


def _features(context: Context, project: Project) -> dict[str, Any]:
    return dict(context.answers.features(project, [{"patient_id": WEARERS[0]}])[0].values)


def _show_change(context: Context, project: Project, before: dict[str, Any]) -> None:
    after = _features(context, project)
    row = context.views.current(project, WEARERS[0]) or {}
    changed = [[name, before[name], after[name]] for name in after if before[name] != after[name]]
    table(f"Patient {WEARERS[0]}: what the stream changed", ["feature", "before", "now"], changed)
    say(
        f"approximate score of {WEARERS[0]}: {row.get('score')} (layer {row.get('layer')}, model {row.get('model_version')}, as of {row.get('as_of')})"
    )


def simulated_readings(count: int = 60) -> Iterator[dict[str, Any]]:
    """Heart-rate readings of the last minutes for a few patients. Simulated: no bracelet was worn."""
    random, now = np.random.default_rng(), now_micros()
    for patient, wearer in enumerate(WEARERS):
        for i in range(count):
            beat = round(float(random.normal(70 + 8 * patient, 6)), 1)
            moment = format_time(now - (count - i) * 2_000_000)
            yield {
                "reading_id": str(uuid.uuid4()),
                "patient_id": wearer,
                "measured_at": moment,
                "heart_rate": beat,
            }


def simulated_exams() -> Iterator[dict[str, Any]]:
    """A new exam of two patients: their last real values with another blood pressure. Simulated."""
    with (DATA / "exams.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["patient_id"] in WEARERS[:2]]
    for row in rows:
        values = {name: value or None for name, value in row.items()}
        yield {
            **values,
            "exam_id": str(uuid.uuid4()),
            "examined_at": format_time(now_micros() - 1_000_000),
            "trestbps": int(row["trestbps"]) + 10,
        }


@contextmanager
def _rest(settings: Settings, keep: bool) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=_log(settings),
        start_new_session=True,
    )
    try:
        _until(lambda: _ready(settings, process), 60, "the REST server")
        yield
    finally:
        if keep:
            say(f"REST goes on as process {process.pid}; stop it with: kill {process.pid}")
        else:
            process.terminate()
            process.wait(30)


def _log(settings: Settings) -> Any:
    folder = settings.data / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "rest.log").open("ab")


def _ready(settings: Settings, process: "subprocess.Popen[bytes]") -> bool:
    if process.poll() is not None:
        raise AnabranchError(
            f"the REST server ended with code {process.returncode}: see {settings.data / 'logs' / 'rest.log'}"
        )
    try:
        with urllib.request.urlopen(f"{_address(settings)}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _address(settings: Settings) -> str:
    return f"http://{settings.serving.host}:{settings.serving.port}"


def _ask(settings: Settings) -> None:
    body = json.dumps({"features": EXAMPLE})
    request = urllib.request.Request(
        f"{_address(settings)}/v1/projects/{NAME}/predict",
        body.encode(),
        {"Content-Type": "application/json"},
    )
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer = json.loads(reply.read())
    say(
        f"POST {request.full_url}\n  {body}\n  -> {json.dumps(answer)}   ({1000 * (time.monotonic() - started):.1f} ms)"
    )


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline, pause = time.monotonic() + seconds, 0.05
    while not condition():
        if time.monotonic() > deadline:
            raise AnabranchError(
                f"waited {seconds:.0f} s for {what} in vain: see the logs, and 'anabranch status'"
            )
        time.sleep(pause)


def _next(settings: Settings, keep: bool) -> None:
    run = "" if keep else "   (after: anabranch up)"
    say("\nWhere to look next")
    say(f"  pages, API        anabranch serve, then {_address(settings)}/ and {_address(settings)}/docs{run}")
    say(f"  models            mlflow ui --backend-store-uri {settings.models.tracking_uri}")
    say(
        f"  analysts' table   {settings.views.keyspace}.{NAME}_current in Cassandra, port {settings.views.port}{run}"
    )
    say(f"  one patient       anabranch answer {NAME} {WEARERS[0]}{run}")
    say(f"  your own project  anabranch init my_project   ({Path('README.md')} tells the rest)\n")


if __name__ == "__main__":
    sys.exit(main())
