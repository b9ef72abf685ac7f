"""From stored and given features to a score. Pure: what to read and where to publish is decided elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, Key, feature_columns
from anabranch.declare.projects import Project
from anabranch.events.json_values import encode, show
from anabranch.values.keys import key_text, show_key
from anabranch.values.times import DAY, format_time, parse_time, to_micros
from anabranch.values.types import DataType


class Answer(Protocol):
    """Features of one key at one time; `degraded` is the reason when they may be wrong."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Value of each feature column."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why the values may be wrong, or None."""
        ...

    @property
    def batch_version(self) -> int | None:
        """The batch version that was read."""
        ...

    @property
    def as_of(self) -> int:
        """Microseconds."""
        ...

    @property
    def known(self) -> bool:
        """Whether anything is known of the key."""
        ...


class Scorer(Protocol):
    """A loaded model."""

    @property
    def version(self) -> str:
        """Its version in the registry."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """The feature columns it reads, in order."""
        ...

    @property
    def kinds(self) -> Mapping[str, str]:
        """Of which kind each of them was in training (model_inputs.py)."""
        ...

    def score(self, columns: Mapping[str, Any]) -> Any:
        """Scores, float64 of shape (n,); None and NaN are missing values."""
        ...

    def label(self, scores: Any) -> Any:
        """The label of each score."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """`answer` is what the caller gets; `used` are the values that the model was given."""

    answer: dict[str, Any]
    used: dict[str, Any]


def needs_store(asked: Asked, scorer: Scorer) -> bool:
    """Whether a stored feature could change the score."""
    return asked.key is not None and not all(name in asked.features for name in scorer.features)


def unknown_keys(
    project: Project, asked: Sequence[Asked], stored: Sequence[Answer | None]
) -> dict[int, ProblemError]:
    """The problems, by place, of requests that have nothing to score: nothing is known of the key, and no value is given beside it."""
    return {
        place: unknown_key(project, one.key, one.field)
        for place, (one, known) in enumerate(zip(asked, stored, strict=True))
        if known is not None
        and not known.known
        and one.key is not None
        and all(value is None for value in one.features.values())
    }


def unknown_key(project: Project, key: Key, field: str = "key") -> ProblemError:
    """The problem with a key of which nothing is known."""
    named = show_key(project.keys, key_text(project.keys, key))
    detail = (
        f"nothing is known of key {show(named)}: {project.name} has no event of it in its batch version or by its stream: check the key, "
        f"or give features; events that were sent count when the stream has read them, those of files from the next build on"
    )
    return ProblemError(404, "unknown-key", detail, field=field)


def predict(
    project: Project, scorer: Scorer, asked: Sequence[Asked], stored: Sequence[Answer | None], now: int
) -> list[Prediction]:
    """Score what was asked, all at once: given features win over stored ones, what neither gives is missing."""
    used = [_used(project, scorer, one, known) for one, known in zip(asked, stored, strict=True)]
    scores = np.asarray(
        scorer.score({name: [values[name] for values in used] for name in scorer.features}), dtype=np.float64
    )
    labels = plain_labels(scorer.label(scores), len(used))
    parts = zip(scores.tolist(), labels, stored, used, strict=True)
    return [
        Prediction(_answer(scorer, score, label, known, now), values) for score, label, known, values in parts
    ]


def _used(project: Project, scorer: Scorer, asked: Asked, stored: Answer | None) -> dict[str, Any]:
    columns, given = feature_columns(project), asked.features
    values: Mapping[str, Any] = stored.values if stored is not None else {}
    used: dict[str, Any] = {}
    for name in scorer.features:
        value = given[name] if name in given else values.get(name)
        if type(value) is not float and value is not None:
            column = columns.get(name)
            value = None if column is None else model_value(value, column.type)
        used[name] = value
    return used


def _answer(scorer: Scorer, score: float, label: Any, stored: Answer | None, now: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "score": score,
        "label": label,
        "model_version": scorer.version,
        "batch_version": stored.batch_version if stored is not None else None,
        "as_of": format_time(stored.as_of if stored is not None else now),
        "degraded": stored is not None and stored.degraded is not None,
    }
    if stored is not None and stored.degraded is not None:
        answer["degraded_reason"] = stored.degraded
    return answer


def plain_labels(labels: Any, count: int) -> list[Any]:
    """The labels as Python's own types; None each when the model gives numbers and no labels."""
    if labels is None:
        return [None] * count
    return [label.item() if isinstance(label, np.generic) else label for label in labels]


def model_value(value: Any, kind: DataType) -> Any:
    """A feature as models take it: texts as they are, everything else a number (days for DATE, microseconds for TIMESTAMP)."""
    if value is None or kind.text or kind.array or type(value) is float:
        return value
    if kind.name == "TIMESTAMP":
        value = parse_time(value) if isinstance(value, str) else value
        return float(to_micros(value) if isinstance(value, datetime) else value)
    if kind.name == "DATE":
        value = parse_time(value) // DAY if isinstance(value, str) else value
        return float((value - date(1970, 1, 1)).days if isinstance(value, date) else value)
    return float(value)


def shown_features(project: Project, values: Mapping[str, Any]) -> dict[str, Any]:
    """Feature values as JSON shows them, in the order of the declaration; what is missing is null."""
    return {column.name: shown(values.get(column.name), column.type) for column in project.columns}


def shown(value: Any, kind: DataType) -> Any:
    """One value: times and dates as ISO 8601, decimals as text so that no digit is lost."""
    if isinstance(value, list | np.ndarray):
        return [shown(one, kind.inner) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return format_time(to_micros(value))
    if kind.name == "TIMESTAMP" and isinstance(value, int):
        return format_time(value)
    if kind.name == "DATE" and isinstance(value, int):
        return format_time(value * DAY)[:10]
    return value


def shown_key(key: Key) -> str | Key:
    """A key as requests write it: the value of one column, or an object for several."""
    return next(iter(key.values())) if len(key) == 1 else key


@dataclass(frozen=True, slots=True)
class Record:
    """One prediction, kept as it is until it is written as JSON."""

    id: str
    project: str
    at: int
    asked: Asked
    prediction: Prediction


def message(record: Record) -> bytes:
    """The record as it is published."""
    answer: Mapping[str, Any] = record.prediction.answer
    key = record.asked.key
    document = {
        "prediction_id": record.id,
        "project": record.project,
        "at": format_time(record.at),
        "asked": {"key": None if key is None else shown_key(key), "features": record.asked.features},
        "used": record.prediction.used,
        "answered": answer,
        "versions": {"model": answer["model_version"], "batch": answer["batch_version"]},
    }
    return encode(document)
