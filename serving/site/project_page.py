"""The page at /projects/{p}: the project as a data product, for those who want to use it."""

from collections import Counter, defaultdict
from typing import Any

from anabranch.answers.delays import STREAM
from anabranch.declare.sources import Source
from anabranch.declare.tables import read_address
from anabranch.pages.rendering import render
from anabranch.stores.cassandra.measures import OUTCOMES, Measure
from anabranch.values.keys import show_key
from anabranch.values.times import parse_time, to_micros
from serving.api import catalogue
from serving.api.facts import MOST_ROWS, Missing, ProjectFacts
from serving.site.key_page import key_address
from serving.site.summaries import ALERTS, DRIFT, drift_kind, summary
from serving.site.upcoming import trial, waiting

_SHOWN_KEYS, _SHOWN_MEASURES = 12, 100
_TOPICS = (
    ("predictions", "predictions_topic"),
    ("scores", "scores_topic"),
    ("rows to be scored", "score_requests_topic"),
    ("new versions of the model", "models_topic"),
)
_DOORS = {"v2_infer": "Open Inference Protocol", "invocations": "MLflow's protocol"}


def project_page(facts: ProjectFacts) -> str:
    """The page."""
    project = facts.served.project
    places = catalogue.addresses(facts.served, facts.routes)
    brief = summary(facts)
    return render(
        "project.html",
        project=brief,
        metric=brief["metric"] or (project.model.metric if project.model else ""),
        trainer=project.model.trainer if project.model else "",
        troubles=facts.served.troubles,
        waiting=waiting(facts),
        freshness=_freshness(facts),
        budgets=facts.budgets,
        rows=_rows(facts),
        model=_model(facts),
        trial=trial(facts),
        measures=_measures(facts),
        features=catalogue.features(project),
        sources=[_source(source) for source in project.sources.values()],
        quality=_quality(facts),
        lineage=_lineage(facts, places),
        addresses=_addresses(project.name, places),
        current_table=places["current_table"],
    )


def _freshness(facts: ProjectFacts) -> dict[str, Any]:
    promised, judged = facts.served.project.promised_freshness, facts.freshness
    behind = judged["stream"].sources
    return {
        "batch_promise": promised.batch if promised else None,
        "stream_promise": promised.stream if promised else None,
        "slowest": max(behind, key=lambda name: behind[name] or 0) if len(behind) > 1 else None,
        **judged,
    }


def _rows(facts: ProjectFacts) -> dict[str, Any]:
    """A sample of the current rows: scores, keys, and how many each layer wrote."""
    if isinstance(facts.rows, Missing):
        return {"missing": facts.rows.why}
    project, rows = facts.served.project, facts.rows
    whole = len(rows) < MOST_ROWS
    return {
        "missing": None,
        "scores": [row.score for row in rows if row.score is not None],
        "which": f"all {len(rows):,} keys"
        if whole
        else f"the first {MOST_ROWS:,} keys in the order of their hashes",
        "layers": Counter(row.layer for row in rows).most_common(),
        "newest_age": min((facts.now - row.as_of for row in rows if row.layer == "speed"), default=None),
        "sample": [
            {"address": key_address(project, row.key), "text": show_key(project.keys, row.key)}
            for row in rows[:_SHOWN_KEYS]
        ],
    }


def _model(facts: ProjectFacts) -> dict[str, Any]:
    model, declared, label = facts.model, facts.served.project.model, facts.served.project.label
    if isinstance(model, Missing):
        return {"missing": model.why}
    if model is None or declared is None or label is None:
        return {"missing": None, "version": None}
    names = [
        name
        for name in model.metrics
        if not name.startswith(("train_", "rows_")) and not name.endswith(("_low", "_high"))
    ]
    return {
        "missing": None,
        "version": model.version,
        "trained": parse_time(model.created),
        "target": label.target,
        "label_source": label.source.name,
        "label_description": label.description,
        "gate": model.gate,
        "reason": model.reason,
        "fairness": model.tags.get("fairness", ""),
        "hindsight": model.tags.get("hindsight", ""),
        "intended_use": declared.intended_use,
        "limits": declared.limits,
        "metrics": [
            (name, model.metrics[name], _interval(model.metrics, name), model.metrics.get(f"train_{name}"))
            for name in names
        ],
    }


def _interval(metrics: Any, name: str) -> str | None:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return None if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _measures(facts: ProjectFacts) -> dict[str, Any]:
    """The latest measures, each with its values of the last days: of the whole first, then the most drift."""
    if isinstance(facts.measures, Missing):
        return {"missing": facts.measures.why}
    shown = sorted(
        (one for one in facts.measures if one.subject not in (ALERTS, STREAM, OUTCOMES)),
        key=lambda one: (bool(one.slice), -one.value if one.name == DRIFT else 0.0),
    )
    lines: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for one in () if isinstance(facts.histories, Missing) else facts.histories:
        lines[_line(one)].append((one.at.timestamp(), one.value))
    latest = [
        {
            "name": f"{one.subject}: {one.name}",
            "slice": one.slice,
            "version": one.version,
            "value": one.value,
            "kind": drift_kind(one),
            "history": lines[_line(one)],
            "title": f"{one.name} of {one.slice or one.subject} over time",
            "age": facts.now - to_micros(one.at),
        }
        for one in shown[:_SHOWN_MEASURES]
    ]
    return {"missing": None, "latest": latest, "more": len(shown) - len(latest)}


def _line(one: Measure) -> tuple[str, str, str]:
    # A line continues from one model version to the next.
    return one.subject, one.name, one.slice


def _source(source: Source) -> dict[str, Any]:
    roles = {source.id: "id", source.time: "event time"}
    return {
        "name": source.name,
        "description": source.description,
        "origin": _origin(source),
        "columns": [(column.name, str(column.type), roles.get(column.name, "")) for column in source.columns],
    }


def _origin(source: Source) -> str:
    """Where the events of a source come from."""
    topic = None if source.topic is None else f"topic {source.topic}"
    table = None if source.table is None else f"table {read_address(source.table)}"
    return ", ".join(filter(None, (table, topic))) or "files only"


def _quality(facts: ProjectFacts) -> dict[str, Any]:
    if isinstance(facts.reports, Missing):
        return {"missing": facts.reports.why}
    return {"missing": None, "reports": facts.reports}


def _lineage(facts: ProjectFacts, places: dict[str, Any]) -> list[tuple[str, list[tuple[str, object]]]]:
    """From the lake to answers in four steps, each with what is known of it."""
    known = catalogue.lineage(facts.served, None if isinstance(facts.model, Missing) else facts.model)
    batch, trained = known.batch, known.model
    built: list[tuple[str, object]] = []
    if batch is not None:
        keys = [(view, f"{count:,} keys") for view, count in batch.keys.items()]
        built = [("version", batch.version), ("cut", batch.cut[:19]), *keys]
        built += [(f"of {owner}", f"version {version}") for owner, version in known.shared.items()]
    learnt: list[tuple[str, object]] = []
    if trained is not None:
        lake = [(source, f"lake version {version}") for source, version in trained.lake.items()]
        learnt = [("version", trained.version), *lake]
    topic = places["predictions_topic"] or "no topic"
    return [
        ("Lake", [(source, f"version {version}") for source, version in known.lake.items()]),
        ("Batch", built),
        ("Model", learnt),
        ("Answers", [("with each answer", ", ".join(known.answers)), ("published to", topic)]),
    ]


def _addresses(name: str, places: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Way, subject and address of everything that can be asked or read."""
    rows = [("REST", what, places[what]) for what in ("predict", "features", "scores", "why") if places[what]]
    rows += [(way, "predict", places[member]) for member, way in _DOORS.items() if places[member]]
    rows += [("REST", f"events of {source}", place) for source, place in places["events"].items()]
    rows += [("Kafka", f"events of {source}", topic) for source, topic in places["topics"].items()]
    rows += [("Kafka", what, places[topic]) for what, topic in _TOPICS if places[topic]]
    rows += [("Cassandra", "current rows", places["current_table"])]
    rows += [("Cassandra", f"states of {view}", table) for view, table in places["batch_tables"].items()]
    tables = [
        (table.removeprefix(f"anabranch.{name}_").replace("_", " "), table) for table in places["spark"]
    ]
    return [*rows, *(("Spark SQL", what, table) for what, table in tables)]
