"""Where events of lineage go: a file a month, or an endpoint; a job never fails or waits long for either."""

import json
import logging
import urllib.request
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anabranch.declare.projects import Project
from anabranch.settings import LineageSettings, StoreSettings
from jobs.lineage.datasets import flow_of, has_lineage
from jobs.lineage.events import LineageRun, RunOutcome, ended, started
from jobs.monitoring.runs import Noted, running

log = logging.getLogger(__name__)
_OUTER: ContextVar[str] = ContextVar("outer", default="")
"""The run around the one that begins, in the form of `parent`."""
_KINDS = {0: "COMPLETE", 130: "ABORT"}
_ENDPOINT = "/api/v1/lineage"


def begin(project: Project, stores: StoreSettings, settings: LineageSettings, data: Path) -> None:
    """Tell that the running verb has begun for its first project, and have its end told; once a run."""
    run = running()
    if run is None or settings.to == "off" or not has_lineage(run.verb) or run.at_end:
        return
    try:
        _begin(run, project, stores, settings, data)
    except Exception as error:  # noqa: BLE001 - lineage is told where it can be, and fails no job
        log.warning("the lineage of %s %s cannot be told: %s", run.verb, project.name, error)


def _begin(
    run: Noted, project: Project, stores: StoreSettings, settings: LineageSettings, data: Path
) -> None:
    told = LineageRun(
        id=str(uuid.uuid4()),
        namespace=settings.namespace,
        verb=run.verb,
        project=project.name,
        owner=project.owner,
        description=project.description,
        parent=_OUTER.get() or settings.parent,
    )
    inputs, outputs = flow_of(run.verb, project, stores)
    # Jobs that begin within this one are its children.
    outer = _OUTER.set(f"{told.namespace}/{told.project}.{told.verb}/{told.id}")

    def end(code: int) -> None:
        _OUTER.reset(outer)
        kind = _KINDS.get(code, "FAIL")
        rows = written(told.verb, run.result) if code == 0 else {}
        send(
            ended(told, inputs, outputs, RunOutcome(kind=kind, failure=run.failure, rows=rows)),
            settings,
            data,
        )

    run.at_end.append(end)
    send(started(told, inputs, outputs), settings, data)


def send(event: Mapping[str, Any], settings: LineageSettings, data: Path) -> None:
    """Send one event; where the endpoint does not take it, it is kept in the file."""
    body = json.dumps(event, separators=(",", ":"))
    try:
        if settings.to == "http":
            try:
                _post(body, settings)
                return
            except (OSError, ValueError) as error:
                log.warning("the lineage endpoint does not answer (%s): the event is kept in a file", error)
        folder = data / "lineage"
        folder.mkdir(parents=True, exist_ok=True)
        # One write of one line: jobs that end at the same time do not mix theirs.
        with (folder / f"{datetime.now(UTC):%Y-%m}.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{body}\n")
    except OSError as error:
        log.warning("an event of lineage is lost: %s", error)


def _post(body: str, settings: LineageSettings) -> None:
    headers = {"content-type": "application/json"}
    if settings.key:
        headers["authorization"] = f"Bearer {settings.key}"
    address = f"{settings.url.rstrip('/')}{_ENDPOINT}"
    request = urllib.request.Request(address, body.encode(), headers)
    with urllib.request.urlopen(request, timeout=settings.timeout_seconds):
        pass


def written(verb: str, result: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """How many rows a verb wrote, by kind of dataset and source or view, from its JSON result."""
    if verb == "ingest":
        source = str(result.get("source", ""))
        rows, bad = result.get("rows"), result.get("quarantined")
        return _counts({("events", source): rows, ("quarantine", source): bad})
    if verb == "land":
        found: dict[tuple[str, str], Any] = {}
        for source, load in dict(result.get("sources", {})).items():
            found |= {("events", source): load.get("rows"), ("quarantine", source): load.get("quarantined")}
        return _counts(found)
    if verb == "build":
        views = {("views", view): count for view, count in dict(result.get("rows", {})).items()}
        return _counts({**views, ("current", ""): result.get("current_rows")})
    if verb == "train":
        return _counts({("model", ""): result.get("rows")})
    return {}


def _counts(found: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], int]:
    return {place: count for place, count in found.items() if isinstance(count, int)}
