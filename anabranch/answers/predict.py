"""From stored and given features to a score and its document. Pure: service.py reads and records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.answers.derived import asked_values
from anabranch.answers.features import Answer
from anabranch.answers.own import shown
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, Key
from anabranch.answers.spans import traceparent
from anabranch.declare.projects import Project
from anabranch.events.json_values import encode
from anabranch.stores.models.versions import ScoredRow, Scorer
from anabranch.values.datatype import show
from anabranch.values.keys import key_text, show_key
from anabranch.values.times import format_time


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered request: `answer` for the caller, `used` the model's input, `at` in microseconds."""

    answer: dict[str, Any]
    used: dict[str, Any]
    asked: Asked
    stored: Answer | None = None
    at: int = 0


def needs_store(project: Project, asked: Asked, scorer: Scorer) -> bool:
    """Whether a stored feature could change the score."""
    if asked.key is None:
        return False
    rest = [name for name in scorer.features if name not in asked.features]
    if not project.derived_columns and project.request is None:
        return bool(rest)
    known = {*asked.features, *project.keys, *(column.name for column in project.request_columns)}
    return not project.needed(rest) <= known


def has_nothing_to_score(asked: Asked, stored: Answer | None) -> bool:
    """Whether nothing is known of the key and the request gives no value of its own."""
    return (
        stored is not None
        and not stored.known
        and asked.key is not None
        and all(value is None for value in asked.features.values())
        and all(value is None for value in (asked.request or {}).values())
    )


def unknown_key(project: Project, key: Key, field: str = "key") -> ProblemError:
    """The problem with a key of which nothing is known."""
    named = show_key(project.keys, key_text(project.keys, key))
    detail = (
        f"nothing is known of key {show(named)}: {project.name} has no event of it "
        "within its windows, in its batch version or by its stream: check the key, or give features; events "
        "that were sent count when the stream has read them, those of files from the next build on"
    )
    return ProblemError(404, "unknown-key", detail, field=field)


def predict(
    project: Project, scorer: Scorer, asked: Sequence[Asked], stored: Sequence[Answer | None], now: int
) -> list[Prediction]:
    """Score all requests in one call: given features win over stored ones, what neither has is missing."""
    added = asked_values(project, asked, stored)
    used = [
        _used(project, scorer, one, known, more)
        for one, known, more in zip(asked, stored, added, strict=True)
    ]
    return [
        Prediction(
            document(scorer.version, row, known, now) | shown_events(one, known), values, one, known, now
        )
        for row, values, one, known in zip(score_all(scorer, used), used, asked, stored, strict=True)
    ]


def score_all(scorer: Scorer, rows: Sequence[Mapping[str, Any]]) -> list[ScoredRow]:
    """Score and label of rows that have the model's features; a model that gives numbers has no labels."""
    return scorer.outcomes(
        scorer.score({name: [values[name] for values in rows] for name in scorer.features})
    )


def _used(
    project: Project, scorer: Scorer, asked: Asked, stored: Answer | None, added: Mapping[str, Any]
) -> dict[str, Any]:
    types, given = project.inputs, asked.features
    values: Mapping[str, Any] = stored.values if stored is not None else {}
    used: dict[str, Any] = {}
    for name in scorer.features:
        value = given[name] if name in given else added[name] if name in added else values.get(name)
        if type(value) is not float and value is not None:
            kind = types.get(name)
            value = None if kind is None else kind.to_model(value)
        used[name] = value
    return used


def document(
    model_version: str | None, scored: ScoredRow | None, stored: Answer | None, now: int
) -> dict[str, Any]:
    """The answer as callers get it: score, label, versions, time, and why it may be wrong.

    Of several classes it has `scores` by class too, of numbers with intervals the `interval`. What is not
    `scored` has a score and a label of null.
    """
    answer: dict[str, Any] = {
        "score": None if scored is None else scored.score,
        "label": None if scored is None else scored.label,
        **({} if scored is None or scored.scores is None else {"scores": scored.scores}),
        **({} if scored is None or scored.interval is None else {"interval": list(scored.interval)}),
        "model_version": model_version,
        "batch_version": stored.batch_version if stored is not None else None,
        "as_of": format_time(stored.as_of if stored is not None else now),
        "degraded": stored is not None and stored.degraded is not None,
    }
    if stored is not None and stored.degraded is not None:
        answer["degraded_reason"] = stored.degraded
    return answer


def shown_events(asked: Asked, stored: Answer | None) -> dict[str, Any]:
    """The events that an answer counts, by source and id, and whether it would count them anyway."""
    if not asked.events:
        return {}
    known = stored.counted if stored is not None and stored.counted else (False,) * len(asked.events)
    return {"events": shown(asked.events, known)}


def shown_features(project: Project, values: Mapping[str, Any]) -> dict[str, Any]:
    """Feature values as JSON shows them, in the order of the declaration; what is missing is null."""
    return {column.name: column.type.to_json(values.get(column.name)) for column in project.columns}


def shown_key(key: Key) -> str | Key:
    """A key as requests write it: the value of one column, or an object for several."""
    return next(iter(key.values())) if len(key) == 1 else key


def record(project: str, prediction_id: str, prediction: Prediction) -> bytes:
    """The message on the topic of predictions: what was asked, what the model read, and the answer."""
    answer, key, request = prediction.answer, prediction.asked.key, prediction.asked.request
    asked: dict[str, Any] = {
        "key": None if key is None else shown_key(key),
        "features": prediction.asked.features,
    }
    traced = traceparent()
    return encode(
        {
            "prediction_id": prediction_id,
            "project": project,
            "at": format_time(prediction.at),
            "asked": asked
            | ({} if request is None else {"request": request})
            | shown_events(prediction.asked, prediction.stored),
            "used": prediction.used,
            "answered": answer,
            "versions": {"model": answer["model_version"], "batch": answer["batch_version"]},
            **({} if traced is None else {"traceparent": traced}),
        }
    )
