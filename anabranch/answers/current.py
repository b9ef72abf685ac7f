"""Current rows: features and score of keys as they stand now, written for analysts and devices. Shared by batch and speed."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.answers.predict import score_all
from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, online_of
from anabranch.stores.cassandra.views import DeclaredAnewError, Views
from anabranch.stores.models.registry import Models
from anabranch.stores.models.versions import Scorer
from anabranch.values.keys import key_text, key_values
from anabranch.values.times import format_time, from_micros

log = logging.getLogger(__name__)
_PARTS_BYTES = 32 * 1024 * 1024
_AT_ONCE = 200  # keys whose reads run side by side
SCORES_SCHEMA = "key STRING, value STRING"
REPLACED_SCHEMA = "difference DOUBLE, flipped BOOLEAN"


def refresh(
    answers: Answers,
    scorer: Scorer | None,
    project: Project,
    keys: Sequence[str],
    layer: str,
    online: OnlineModel | None = None,
    unscored: str | None = None,
) -> list[dict[str, Any]]:
    """Merge, score and write the current rows of `keys` (stored texts); returns the rows as written.

    `unscored`: why nothing scores them though a model is in force; the rows say so as `degraded`.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(keys), _AT_ONCE):
        chunk = [key_values(project.keys, key) for key in keys[start : start + _AT_ONCE]]
        found = answers.features(project, chunk)
        made = rows_of(project, found, scorer, layer, online)
        if unscored is not None:
            made = [
                {**row, "degraded": "; ".join(filter(None, (row["degraded"], f"not scored: {unscored}")))}
                for row in made
            ]
        answers.views.write_current(project.name, made, found[0].as_of)
        rows.extend(made)
    return rows


def rows_of(
    project: Project,
    found: Sequence[Answer],
    scorer: Scorer | None,
    layer: str,
    online: OnlineModel | None = None,
) -> list[dict[str, Any]]:
    """Answers as rows of the table of current rows, scored by `scorer` and, where one is given, by the `online` model beside it."""
    scored: Sequence[tuple[float | None, int | None]] = [(None, None)] * len(found)
    if scorer is not None:
        scored = score_all(scorer, [answer.values for answer in found])
    beside: list[dict[str, float | None]] = [{} for _ in found]
    if online_of(project) is not None:
        columns = {name: [answer.values[name] for answer in found] for name in project.model_features}
        second = [None] * len(found) if online is None else online.score(columns, project)
        beside = [{"online_score": score} for score in second]
    types = {column.name: column.type for column in project.columns}
    rows = []
    for answer, (score, label), more in zip(found, scored, beside, strict=True):
        keys = {name: value for name, value in answer.key.items() if name not in types and name != "key"}
        features = {name: types[name].to_cql(value) for name, value in answer.values.items()}
        versions = {
            "model_version": scorer.version if scorer else None,
            "batch_version": answer.batch_version,
        }
        said = {
            "score": score,
            "label": label,
            **versions,
            "as_of": from_micros(answer.as_of),
            "layer": layer,
            "degraded": answer.degraded,
        }
        rows.append({"key": key_text(project.keys, answer.key), **keys, **features, **said, **more})
    return rows


@dataclass(frozen=True, kw_only=True)
class InForce:
    """The model version that scores rows, and where its files are; None without a model, or, as `why` says, because it cannot be told or fetched."""

    version: str | None
    place: str = ""
    why: str | None = None


def refresher(
    views: ViewsSettings, models: ModelsSettings, project: Project, model: InForce
) -> Callable[..., Iterator[pa.RecordBatch]]:
    """A function for `DataFrame.mapInArrow` over rows (key) that the stream changed: refreshes them and yields `SCORES_SCHEMA`, one message a scored key."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        scorer, why = _scorer(models, project, model)
        online = OnlineModels(answers.views).read(project)
        for batch in batches:
            rows = _refreshed(answers, scorer, project, batch.column("key").to_pylist(), "speed", online, why)
            yield pa.RecordBatch.from_pydict(
                {"key": [row["key"] for row in rows], "value": [_message(row) for row in rows]}
            )

    return run


def _scorer(models: ModelsSettings, project: Project, model: InForce) -> tuple[Scorer | None, str | None]:
    """What scores, else why nothing does: tiles go on without a version that this worker did not load before its artifacts went away."""
    if model.version is None:
        return None, model.why
    try:
        return Models(models).stream_scorer(project.name, model.version, model.place), None
    except UnavailableError as error:
        log.warning("rows of %s are not scored: %s", project.name, error)
        return None, str(error)


def replacer(
    views: ViewsSettings, models: ModelsSettings, project: Project, model_version: str | None
) -> Callable[..., Iterator[pa.RecordBatch]]:
    """The same for a batch that takes over: yields `REPLACED_SCHEMA`, one row a key.

    `difference` is how far (absolute) the score of the stream was from the one that replaces it, `flipped` whether its label was another;
    NULL where the row was not the stream's or another model's. One read more a key, beside those of its views.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        scorer = Models(models).scorer(project.name, model_version) if model_version else None
        online = OnlineModels(answers.views).read(project)
        for batch in batches:
            keys = batch.column("key").to_pylist()
            before = (
                answers.views.approximate_scores(project.name, keys, model_version)
                if model_version and _streamed(project)
                else {}
            )
            rows = _refreshed(answers, scorer, project, keys, "batch", online)
            both = [(before.get(row["key"]), row) for row in rows]
            difference = [None if was is None else abs(was[0] - row["score"]) for was, row in both]
            flipped = [None if was is None or was[1] is None else was[1] != row["label"] for was, row in both]
            yield pa.RecordBatch.from_pydict(
                {"difference": pa.array(difference, pa.float64()), "flipped": pa.array(flipped, pa.bool_())}
            )

    return run


def _streamed(project: Project) -> bool:
    return any(view.source.topic is not None for view in project.views)


@lru_cache(maxsize=4)
def kept_answers(views: ViewsSettings) -> Answers:
    """A worker process lives for many tasks: batch parts of keys that change again and again are read once."""
    return Answers(Views(views), parts=Parts(_PARTS_BYTES))


def _refreshed(
    answers: Answers,
    scorer: Scorer | None,
    project: Project,
    keys: Sequence[str],
    layer: str,
    online: OnlineModel | None,
    unscored: str | None = None,
) -> list[dict[str, Any]]:
    try:
        return refresh(answers, scorer, project, keys, layer, online, unscored) if keys else []
    except DeclaredAnewError:
        # The stream goes on without answers: its tiles are what the next build counts on.
        if layer != "speed":
            raise
        return []


def _message(row: dict[str, Any]) -> str:
    moment = row["as_of"]
    names = ("key", "score", "label", "model_version", "batch_version", "layer")
    beside = {name: row[name] for name in ("online_score",) if name in row}
    shown = {
        "as_of": format_time(int(moment.timestamp() * 1_000_000)),
        "degraded": row["degraded"] is not None,
    }
    return json.dumps({**{name: row[name] for name in names}, **beside, **shown})
