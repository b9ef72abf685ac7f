"""Lineage of jobs: events that OpenLineage's own client would write, of datasets that are there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    data_quality_metrics_dataset,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    ownership_job,
    parent_run,
    schema_dataset,
)
from openlineage.client.serde import Serde
from openlineage.client.utils import RedactMixin

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.settings import LineageSettings
from jobs.cli.main import app, main
from jobs.lineage.datasets import Dataset, flow_of, has_lineage
from jobs.lineage.events import PRODUCER, LineageRun, RunOutcome, ended, started
from jobs.lineage.sending import begin, written
from jobs.monitoring.runs import note_failure, note_project, note_result, noted
from jobs.wiring.settings import Settings, load_settings

RUN = LineageRun(
    id="01948f6e-0000-7000-8000-000000000001", namespace="ns", verb="build", project="p", owner="who",
    parent="airflow/dag.task/01948f6e-0000-7000-8000-000000000002",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, {"paths.data": str(tmp_path)})


@pytest.fixture
def project(settings: Settings) -> Project:
    return load_project("card_fraud", settings.projects)


def test_an_event_is_what_the_client_of_openlineage_writes() -> None:
    before = Dataset(namespace="kafka://k", name="t", kind="topics", fields=[("a", "DOUBLE")])
    made = Dataset(
        namespace="file", name="/lake/e", kind="events", of="s", fields=[("x", "BIGINT")],
        columns={"x": [(before, "a")]},
    )  # fmt: skip
    outcome = RunOutcome(kind="FAIL", failure="no disk", rows={("events", "s"): 7})
    event = ended(RUN, [], [made], outcome)
    facets = {
        "schema": schema_dataset.SchemaDatasetFacet(
            fields=[schema_dataset.SchemaDatasetFacetFields(name="x", type="BIGINT")]
        ),
        "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(
            fields={
                "x": column_lineage_dataset.Fields(
                    inputFields=[
                        column_lineage_dataset.InputField(namespace="kafka://k", name="t", field="a")
                    ]
                )
            }
        ),
        "dataQualityMetrics": data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
            rowCount=7, columnMetrics={}
        ),
    }
    wanted = RunEvent(
        eventType=RunState.FAIL,
        eventTime=event["eventTime"],
        producer=PRODUCER,
        run=Run(
            runId=RUN.id,
            facets={
                "parent": parent_run.ParentRunFacet(
                    run=parent_run.Run(runId=RUN.parent.rpartition("/")[2]),
                    job=parent_run.Job(namespace="airflow", name="dag.task"),
                ),
                "errorMessage": error_message_run.ErrorMessageRunFacet(
                    message="no disk", programmingLanguage="PYTHON"
                ),
            },
        ),
        job=Job(
            namespace="ns",
            name="p.build",
            facets={
                "jobType": job_type_job.JobTypeJobFacet(
                    processingType="BATCH", integration="ANABRANCH", jobType="JOB"
                ),
                "ownership": ownership_job.OwnershipJobFacet(owners=[ownership_job.Owner(name="who")]),
            },
        ),
        inputs=[],
        outputs=[
            OutputDataset(
                namespace="file",
                name="/lake/e",
                facets=facets,
                outputFacets={
                    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                        rowCount=7
                    )
                },
            )
        ],
    )
    assert without_empty(event) == without_empty(as_sent(wanted))


def as_sent(event: RedactMixin) -> dict[str, Any]:
    """What the client writes, with our name as the producer of its facets."""
    text = Serde.to_json(event)
    found: dict[str, Any] = renamed(json.loads(text))
    return found


def renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: PRODUCER if key == "_producer" else renamed(each) for key, each in value.items()}
    return [renamed(each) for each in value] if isinstance(value, list) else value


def without_empty(value: Any) -> Any:
    """Without empty lists and objects, which the client adds or leaves out as it likes."""
    if isinstance(value, dict):
        return {
            key: kept for key, each in value.items() if (kept := without_empty(each)) not in ({}, [], None)
        }
    return [without_empty(each) for each in value] if isinstance(value, list) else value


def test_every_dataset_of_every_verb_is_well_formed(settings: Settings) -> None:
    for name in ("heart_disease", "card_fraud", "merchant_risk", "wine_origins"):
        declared = load_project(name, settings.projects)
        for verb in ("ingest", "land", "build", "train", "score", "stream", "watch", "erase", "export"):
            inputs, outputs = flow_of(verb, declared, settings)
            assert inputs or outputs or verb == "export"
            for each in (*inputs, *outputs):
                assert each.namespace
                assert each.name
                names = {column for column, _ in each.fields}
                assert set(each.columns) <= names
                for used in each.columns.values():
                    for origin, column in used:
                        assert column in {known for known, _ in origin.fields}, (
                            name,
                            verb,
                            each.name,
                            column,
                        )


def test_the_columns_of_a_feature_are_those_that_it_is_computed_from(
    settings: Settings, project: Project
) -> None:
    _, outputs = flow_of("build", project, settings)
    (view,) = [each for each in outputs if (each.kind, each.of) == ("views", "hours")]
    by_feature = {name: {column for _, column in used} for name, used in view.columns.items()}
    assert by_feature["spent_1h"] == {"amount", "card", "paid_at"}
    assert {origin.kind for used in view.columns.values() for origin, _ in used} == {"events"}
    assert view.fields


def test_verbs_that_write_are_verbs() -> None:
    import typer

    commands = set(vars(typer.main.get_command(app))["commands"])
    assert {verb for verb in commands if has_lineage(verb)} >= {"ingest", "land", "build", "train", "stream"}
    assert not has_lineage("answer")
    from jobs.lineage.datasets import _FLOWS

    assert set(_FLOWS) <= commands


def lines(data: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted((data / "lineage").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def run_of(verb: str, project: Project, settings: Settings, code: int, **result: Any) -> None:
    with noted(verb) as run:
        note_project(project.name)
        begin(project, settings, settings.lineage, settings.data)
        begin(project, settings, settings.lineage, settings.data)
        note_result(result)
        if code:
            note_failure("there is no disk")
        for told in run.at_end:
            told(code)


@pytest.mark.parametrize(("code", "kind"), [(0, "COMPLETE"), (1, "FAIL"), (130, "ABORT")])
def test_a_run_is_told_once_when_it_begins_and_once_when_it_ends(
    settings: Settings, project: Project, code: int, kind: str
) -> None:
    run_of("land", project, settings, code, sources={"payments": {"rows": 5, "quarantined": 2}})
    first, last = lines(settings.data)
    assert (first["eventType"], last["eventType"]) == ("START", kind)
    assert first["run"]["runId"] == last["run"]["runId"]
    assert first["job"]["name"] == "card_fraud.land"
    counts = {
        each["name"].rpartition("card_fraud/")[2]: each["outputFacets"]["outputStatistics"]["rowCount"]
        for each in last["outputs"]
        if "outputFacets" in each
    }
    assert counts == ({"events/payments": 5, "quarantine/payments": 2} if code == 0 else {})
    assert ("errorMessage" in last["run"]["facets"]) == (code != 0)


def test_jobs_that_a_job_starts_are_its_children(tmp_path: Path, project: Project) -> None:
    parent = {"OPENLINEAGE_PARENT_ID": "airflow/dag/01948f6e-0000-7000-8000-000000000002"}
    settings = load_settings(parent, {"paths.data": str(tmp_path)})
    with noted("build") as outer:
        note_project(project.name)
        begin(project, settings, settings.lineage, settings.data)
        run_of("train", project, settings, 0, rows=3)
        for told in outer.at_end:
            told(0)
    parents = [each["run"]["facets"]["parent"]["job"]["name"] for each in lines(settings.data)]
    assert parents == ["dag", "card_fraud.build", "card_fraud.build", "dag"]
    run_of("verify", project, settings, 0)
    assert lines(settings.data)[-1]["run"]["facets"]["parent"]["job"]["name"] == "dag"


@contextmanager
def endpoint(status: int, taken: list[tuple[str, str | None, dict[str, Any]]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            taken.append((self.path, self.headers["authorization"], body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_gets_the_events_and_where_it_fails_they_are_kept(
    settings: Settings, project: Project
) -> None:
    taken: list[tuple[str, str | None, dict[str, Any]]] = []
    with endpoint(201, taken) as url:
        to = LineageSettings(to="http", url=url, key="secret")
        run_of("train", project, replace(settings, lineage=to), 0, rows=12)
    assert [(path, key, body["eventType"]) for path, key, body in taken] == [
        ("/api/v1/lineage", "Bearer secret", "START"),
        ("/api/v1/lineage", "Bearer secret", "COMPLETE"),
    ]
    assert not lines(settings.data)
    with endpoint(500, taken) as url:
        run_of("train", project, replace(settings, lineage=replace(to, url=url)), 0, rows=12)
    # And one that nobody listens at.
    run_of("train", project, replace(settings, lineage=replace(to, url=url)), 0, rows=12)
    assert len(lines(settings.data)) == 4
    assert "secret" not in repr(to)


def test_what_cannot_be_written_fails_no_job(settings: Settings, project: Project) -> None:
    (settings.data / "lineage").write_text("a file where the folder should be")
    run_of("train", project, settings, 0, rows=12)


def test_off_is_off_and_a_command_that_reads_nothing_tells_nothing(
    settings: Settings, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of("train", project, replace(settings, lineage=LineageSettings(to="off")), 0, rows=1)
    run_of("answer", project, settings, 0)
    monkeypatch.setenv("ANABRANCH__PATHS__DATA", str(tmp_path))
    assert main(["projects"]) == 0
    assert not (settings.data / "lineage").exists()


def test_the_first_event_has_no_counts(settings: Settings, project: Project) -> None:
    event = started(RUN, *flow_of("build", project, settings))
    assert not any("outputFacets" in each for each in event["outputs"])


def test_rows_of_a_build_are_those_of_its_views() -> None:
    assert written("build", {"rows": {"spending": 4}, "current_rows": 9}) == {
        ("views", "spending"): 4,
        ("current", ""): 9,
    }
    assert written("train", {"rows": None}) == {}
