"""Events of OpenLineage (https://openlineage.io/spec): plain dicts, as its own client would write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.lineage.datasets import CONTINUOUS, Dataset

PRODUCER = "https://pypi.org/project/anabranch"
_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "schema": "1-2-0/SchemaDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "dataQualityMetrics": "1-0-1/DataQualityMetricsDatasetFacet",
    "parent": "1-2-0/ParentRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "ownership": "1-0-1/OwnershipJobFacet",
    "documentation": "1-1-0/DocumentationJobFacet",
}


@dataclass(frozen=True, kw_only=True)
class LineageRun:
    """One run of a verb for a project. `parent` is ``namespace/job/run id``, of what started it."""

    id: str
    namespace: str
    verb: str
    project: str
    owner: str = ""
    description: str = ""
    parent: str = ""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended: COMPLETE, FAIL or ABORT; why; and the `rows` written, by kind and source or view."""

    kind: str = "COMPLETE"
    failure: str = ""
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)


def started(run: LineageRun, inputs: Sequence[Dataset], outputs: Sequence[Dataset]) -> dict[str, Any]:
    """The event of a run that begins."""
    return _event("START", run, inputs, outputs, RunOutcome())


def ended(
    run: LineageRun, inputs: Sequence[Dataset], outputs: Sequence[Dataset], outcome: RunOutcome
) -> dict[str, Any]:
    """The event of a run that is over."""
    return _event(outcome.kind, run, inputs, outputs, outcome)


def _event(
    kind: str, run: LineageRun, inputs: Sequence[Dataset], outputs: Sequence[Dataset], outcome: RunOutcome
) -> dict[str, Any]:
    return {
        "eventType": kind,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "producer": PRODUCER,
        "schemaURL": _EVENT,
        "run": {"runId": run.id, "facets": _run_facets(run, outcome)},
        "job": {
            "namespace": run.namespace,
            "name": f"{run.project}.{run.verb}",
            "facets": _job_facets(run),
        },
        "inputs": [_dataset(each, {}) for each in inputs],
        "outputs": [_dataset(each, outcome.rows) for each in outputs],
    }


def _facet(name: str, **content: Any) -> dict[str, Any]:
    path = _FACETS[name]
    url = f"https://openlineage.io/spec/facets/{path}.json#/$defs/{path.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": url, **content}


def _run_facets(run: LineageRun, outcome: RunOutcome) -> dict[str, Any]:
    found = {}
    namespace, _, rest = run.parent.partition("/")
    job, _, ident = rest.rpartition("/")
    if job:
        found["parent"] = _facet("parent", run={"runId": ident}, job={"namespace": namespace, "name": job})
    if outcome.failure:
        found["errorMessage"] = _facet("errorMessage", message=outcome.failure, programmingLanguage="PYTHON")
    return found


def _job_facets(run: LineageRun) -> dict[str, Any]:
    kind = "STREAMING" if run.verb in CONTINUOUS else "BATCH"
    found = {"jobType": _facet("jobType", processingType=kind, integration="ANABRANCH", jobType="JOB")}
    if run.owner:
        found["ownership"] = _facet("ownership", owners=[{"name": run.owner}])
    if run.description:
        found["documentation"] = _facet("documentation", description=run.description)
    return found


def _dataset(dataset: Dataset, rows: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if dataset.fields:
        fields = [{"name": name, "type": kind} for name, kind in dataset.fields]
        facets["schema"] = _facet("schema", fields=fields)
    if dataset.columns:
        facets["columnLineage"] = _facet("columnLineage", fields={
            name: {"inputFields": [
                {"namespace": origin.namespace, "name": origin.name, "field": column}
                for origin, column in used
            ]}
            for name, used in dataset.columns.items()
        })  # fmt: skip
    found: dict[str, Any] = {"namespace": dataset.namespace, "name": dataset.name}
    count = rows.get((dataset.kind, dataset.of))
    if count is not None:
        facets["dataQualityMetrics"] = _facet("dataQualityMetrics", rowCount=count, columnMetrics={})
        found["outputFacets"] = {"outputStatistics": _facet("outputStatistics", rowCount=count)}
    return {**found, "facets": facets}
