"""The demo: the whole river on real heart exams, from files and topics to answers.

The exams and diagnoses are the 303 real ones of Cleveland; bracelet readings and new exams are simulated.
"""

import csv
import json
import os
import pickle
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, without_secrets
from anabranch.values.times import format_time, now_micros
from batch.building.current_rows import reset_current_rows
from batch.building.publication import Built
from batch.building.verification import Verified
from batch.landing.ingest import ingest
from batch.landing.loader import LoadSummary
from batch.scoring.data_sets import Scored, score_data_set
from batch.scoring.parts import ScoringOrder
from batch.training.train import Trained, train
from jobs.cli.models.training import training_job
from jobs.flows.building import build_project
from jobs.flows.verifying import verify_settled
from jobs.servers import embedded as servers
from jobs.servers.processes import wait_until
from jobs.show import Steps, console, quiet, say, table
from jobs.wiring.context import Context
from jobs.wiring.job import job
from jobs.wiring.settings import ROOT, Settings, load_settings
from serving.settings import network_place
from speed.streams import start

NAME = "heart_disease"
DATA = ROOT / "projects" / "data"
EXAMPLE = json.loads("""
    {"age": 45, "sex": 1, "cp": 3, "trestbps": 112, "chol": 230, "fbs": 0, "restecg": 2, "thalach": 165,
     "exang": 0, "oldpeak": 2.5, "slope": 2, "ca": 1, "thal": 7}
""")
WEARERS = ("p001", "p002", "p003", "p004", "p005")
_SERVE = "import pickle, sys; from jobs.wiring.serve import serve; serve(pickle.load(sys.stdin.buffer))"


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What each step of the demo came to; `answer` is the REST server's to the example request."""

    landed: Mapping[str, LoadSummary]
    built: Built
    trained: Trained
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    answer: Mapping[str, Any]
    scored: Scored
    verified: Verified


def main() -> int:
    """Run everything; returns the exit code."""
    quiet(debug=False)
    try:
        done = run(load_settings(), keep=os.environ.get("KEEP") == "1")  # a switch of this script alone
    except AnabranchError as error:
        say(f"demo failed: {error}")
        return error.exit_code
    verified = done.verified
    say(f"demo: {verified.keys} keys, {len(verified.features)} features, {verified.mismatches} mismatches")
    return 0


def run(settings: Settings, keep: bool = False) -> Demonstrated:
    """Start what does not run, go through every step, and stop what was started unless `keep`.

    Raises AnabranchError when a step fails, and when a served value differs from the lake.
    """
    with _servers(settings, keep), job(settings) as context:
        done = demonstrate(context, keep)
    _next(settings, keep)
    return done


def demonstrate(context: Context, keep: bool = False) -> Demonstrated:
    """Go through every step over servers that run. Raises what `run` raises."""
    project, steps = context.project(NAME), Steps()
    landed = _land(context, project, steps)
    _heading("2. batch views of the whole lake into Cassandra")
    built = build_project(context, project, None, steps)
    trained = _train(context, project, steps)
    _heading("4. the stream, fed with simulated bracelet readings and new exams")
    before, after = _stream(context, project, steps)
    _heading("5. REST answers the example request")
    with _rest(context.settings, keep):
        answer = _ask(context.settings)
    _heading("6. mass scoring of all patients by the MLflow pyfunc UDF")
    scored = _score(context, project, steps)
    _heading("7. verification: every feature of every patient, lake against served")
    verified = verify_settled(context, project, None, steps)
    if verified.mismatches:
        raise AnabranchError(
            f"{verified.mismatches} served values differ from the lake: run 'anabranch verify {NAME}'"
        )
    return Demonstrated(
        landed=landed, built=built, trained=trained, before=before, after=after, answer=answer,
        scored=scored, verified=verified,
    )  # fmt: skip


@contextmanager
def _servers(settings: Settings, keep: bool) -> Iterator[None]:
    already = any(state.state == "running" for state in servers.status(settings, lambda _: None))
    servers.up(settings)
    try:
        yield
    finally:
        if not keep and not already:
            servers.down(settings)


def _heading(text: str) -> None:
    """Show which step begins; the steps below it are progress."""
    console.clear_progress()
    console.print(f"[bold]{text}[/bold]", soft_wrap=True)


def _land(context: Context, project: Project, steps: Steps) -> dict[str, LoadSummary]:
    _heading("1. files into the lake, past the quality gate: 303 real exams (Cleveland) and their diagnoses")
    gate = context.gate(project)
    landed = {
        source: ingest(context, project, source, [str(DATA / f"{source}.csv")], steps, gate)
        for source in ("exams", "diagnoses")
    }
    for source, each in landed.items():
        say(
            f"{source}: {each.rows} rows landed, {each.quarantined} in quarantine, "
            f"{each.skipped_files} files already there"
        )
        for report in each.reports:
            say(f"  report of the gate: {report}")
    return landed


def _train(context: Context, project: Project, steps: Steps) -> Trained:
    _heading(
        "3. a model, trained on features as they were before each diagnosis, judged on held-out patients"
    )
    trained = train(context, training_job(context, project, steps))
    names = ("roc_auc", "roc_auc_low", "roc_auc_high", "accuracy")
    rows = [[name, float(trained.metrics[name])] for name in names]
    table("On held-out patients", ["metric", "value"], rows)
    say(f"the gate: {trained.reason}")
    reset_current_rows(context, project)
    return trained


def _score(context: Context, project: Project, steps: Steps) -> Scored:
    out = context.settings.data / "demo" / "scores"
    order = ScoringOrder(source=str(DATA / "exams.csv"), out=str(out), pyfunc=True)
    scored = score_data_set(context, project, order, steps)
    say(f"{scored.rows} patients scored by version {scored.version} into {out}")
    return scored


def _stream(context: Context, project: Project, steps: Steps) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features of one wearer before and after the simulated events went through the stream."""
    before = _features(context, project)
    queries = start(context.speed_layer(once=False), project)
    try:
        started = time.monotonic()
        count = context.bus.publish("bracelet-feed", _messages(simulated_readings()))
        exams = context.bus.publish("exams", _messages(simulated_exams()))
        steps.step(f"published {count} simulated bracelet readings and {exams} simulated exams")
        expected = int(before["readings_1d"] or 0) + count // len(WEARERS)
        _await(
            lambda: int(_features(context, project)["readings_1d"] or 0) >= expected,
            90,
            "the stream to fold the readings",
        )
        seconds = time.monotonic() - started
        say(f"features of {WEARERS[0]} were current {seconds:.1f} s after publishing, stream start included")
        for query in queries:
            query.processAllAvailable()
        after = _features(context, project)
        _show_change(context, project, before, after)
    finally:
        for query in queries:
            query.stop()
    return before, after


def _messages(events: Iterator[dict[str, Any]]) -> Iterator[tuple[None, bytes]]:
    return ((None, json.dumps(event).encode()) for event in events)


def _features(context: Context, project: Project) -> dict[str, Any]:
    return dict(context.answers.features(project, [{"patient_id": WEARERS[0]}])[0].values)


def _show_change(
    context: Context, project: Project, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    row = context.views.current(project, WEARERS[0]) or {}
    changed = [[name, before[name], after[name]] for name in after if before[name] != after[name]]
    table(f"Patient {WEARERS[0]}: what the stream changed", ["feature", "before", "now"], changed)
    say(
        f"approximate score of {WEARERS[0]}: {row.get('score')} (layer {row.get('layer')}, "
        f"model {row.get('model_version')}, as of {row.get('as_of')})"
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
    """A REST server with these very settings in a process of its own, which a pipe hands them to."""
    log = settings.data / "logs" / "rest.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        if process.stdin is not None:
            with process.stdin as pipe:
                pickle.dump(settings, pipe)
        _await(lambda: process.poll() is not None or _is_ready(settings), 60, "the REST server")
        if process.poll() is not None:
            raise AnabranchError(f"the REST server ended with code {process.returncode}: see {log}")
        yield
    finally:
        if keep:
            say(f"REST goes on as process {process.pid}; stop it with: kill {process.pid}")
        else:
            process.terminate()
            process.wait(30)


def _is_ready(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"{_address(settings)}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _address(settings: Settings) -> str:
    return f"http://{network_place(settings.serving.host, settings.serving.port)}"


def _ask(settings: Settings) -> dict[str, Any]:
    body = json.dumps({"features": EXAMPLE})
    address = f"{_address(settings)}/v1/projects/{NAME}/predict"
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer: dict[str, Any] = json.loads(reply.read())
    milliseconds = 1000 * (time.monotonic() - started)
    say(f"POST {address}\n  {body}\n  -> {json.dumps(answer)}   ({milliseconds:.1f} ms)")
    return answer


def _await(condition: Callable[[], bool], seconds: float, what: str) -> None:
    if not wait_until(condition, seconds):
        raise AnabranchError(
            f"waited {seconds:.0f} s for {what} in vain: see the logs, and 'anabranch status'"
        )


def _next(settings: Settings, keep: bool) -> None:
    address, views = _address(settings), settings.views
    after = "" if keep else "   (after: anabranch up)"
    say("\nWhere to look next")
    say(f"  pages, API        anabranch serve, then {address}/ and {address}/docs{after}")
    registry = without_secrets(settings.models.tracking_uri)
    say(f"  models            mlflow ui --backend-store-uri {registry}")
    say(f"  analysts' table   {views.keyspace}.{NAME}_current in Cassandra, port {views.port}{after}")
    say(f"  one patient       anabranch answer {NAME} {WEARERS[0]}{after}")
    say("  your own project  anabranch init my_project   (README.md has the rest)\n")


if __name__ == "__main__":
    sys.exit(main())
