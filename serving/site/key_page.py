"""The page at /projects/{p}/keys/{key}: a key's score and features, now and since the batch's cut."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anabranch.answers.features import Answer
from anabranch.declare.names import INTERVAL
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.pages.formats import address
from anabranch.pages.rendering import render
from anabranch.values.keys import key_values
from anabranch.values.times import SECOND, format_time, to_micros
from serving.api.facts import Missing
from serving.api.live import Served

MOMENTS = 6


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """A key of a project with its current row and its answers in order of time, the last one of now."""

    served: Served
    key: str
    answers: Sequence[Answer] | Missing
    row: Mapping[str, Any] | Missing | None
    why: Mapping[str, Any] | Missing | None = None
    """The score of the features of now with its explanation, as `describe` of the answer service gives it."""


def key_address(project: Project, text: str) -> str:
    """The address of the page of a key as stored text."""
    parts = key_values(project.keys, text)
    shown_text = text if len(parts) == 1 else ",".join(f"{name}={value}" for name, value in parts.items())
    return address("projects", project.name, "keys", shown_text)


def moments(served: Served, now: int) -> list[int]:
    """Times to answer for, from the cut of the batch to now: the store keeps nothing earlier."""
    if served.manifest is None or served.manifest.cut >= now - SECOND:
        return [now]
    since = served.manifest.cut
    return [since + (now - since) * at // (MOMENTS - 1) for at in range(MOMENTS)]


def key_page(facts: KeyFacts) -> str:
    """The page."""
    project = facts.served.project
    context: dict[str, Any] = {"missing": facts.answers.why} if isinstance(facts.answers, Missing) else {}
    if not isinstance(facts.answers, Missing):
        context = {"missing": None, **_now(project, facts.answers[-1]), **_over_time(project, facts.answers)}
    score = _score(facts) if project.model is not None else None
    return render(
        "key.html",
        key=facts.key,
        keys=project.keys,
        project=project.name,
        score=score,
        why=_why(facts.why),
        **context,
    )


def _why(found: Mapping[str, Any] | Missing | None) -> dict[str, Any] | None:
    if found is None or isinstance(found, Missing):
        return None if found is None else {"missing": found.why}
    explanation = found["explanation"]
    return {
        "missing": None,
        "score": found["score"],
        "version": found["model_version"],
        "unit": _unit(explanation),
        "sampled": explanation["method"] == "sampled",
        "reasons": explanation.get("reasons", ()),
        **{name: explanation[name] for name in ("base", "margin", "contributions")},
    }


def _unit(explanation: Mapping[str, Any]) -> str:
    space = str(explanation["space"])
    unit = {"number": "units of the score"}.get(space, space)
    unit += f" of {explanation['label']}" if "label" in explanation else ""
    return f"{unit} before calibration" if explanation.get("before_calibration") else unit


def _score(facts: KeyFacts) -> dict[str, Any]:
    if isinstance(facts.row, Missing):
        return {"missing": facts.row.why}
    row = facts.row or {}
    names = ("score", "label", *INTERVAL, "model_version", "batch_version", "layer")
    as_of = row.get("as_of")
    micros = to_micros(as_of) if isinstance(as_of, datetime) else as_of
    classes = json.loads(row["scores"]) if row.get("scores") else {}
    ranked = sorted(classes.items(), key=lambda entry: -entry[1])
    return {"missing": None, "as_of": micros, "scores": ranked, **{name: row.get(name) for name in names}}


def _now(project: Project, answer: Answer) -> dict[str, Any]:
    views = [_by_window(view, answer.values) for view in project.views]
    if project.derived_columns:
        found = answer.values
        rows = [(one.name, [one.type.to_json(found.get(one.name))]) for one in project.derived_columns]
        views.append({"name": "derived", "windows": ["now"], "caption": "Derived features", "rows": rows})
    return {"degraded": answer.degraded, "known": answer.known, "views": views}


def _by_window(view: FeatureView, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row for each feature, by category where it has them, a column for each window."""
    rows: dict[str, list[Any]] = {}
    for column in view.columns:
        name = " ".join(filter(None, (column.feature, column.category)))
        rows.setdefault(name, []).append(column.type.to_json(values.get(column.name)))
    return {
        "name": " ".join(filter(None, (view.full_name, view.use.prefix and f"as {view.use.prefix}"))),
        "windows": [span.label for span in view.spans],
        "caption": view.description or f"From source {view.feed}",
        "rows": list(rows.items()),
    }


def _over_time(project: Project, answers: Sequence[Answer]) -> dict[str, Any]:
    """Exact answers only: those that the stored tiles do not give exactly are counted as left out."""
    exact = [answer for answer in answers if answer.degraded is None]
    history = []
    for column in project.columns:
        values = [answer.values.get(column.name) for answer in exact]
        points = [
            (float(answer.as_of), float(value))
            for answer, value in zip(exact, values, strict=True)
            if isinstance(value, int | float) and not column.type.time
        ]
        cells = [column.type.to_json(value) for value in values]
        history.append({"name": column.name, "points": points, "values": cells})
    return {
        "moments": [answer.as_of for answer in exact],
        "clock": [format_time(answer.as_of)[11:19] for answer in exact],
        "left_out": len(answers) - len(exact),
        "history": history,
    }
