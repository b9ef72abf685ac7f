"""Current rows: features and scores of keys as they stand, refreshed by the stream and replaced by builds."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.answers.predict import score_all
from anabranch.answers.service import AnswerService
from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.cassandra.current_rows import CurrentWrite, ScoredKey, current_message, current_rows
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels
from anabranch.stores.cassandra.reads import DeclaredAnewError
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.registry import Models
from anabranch.stores.models.versions import ScoredRow, Scorer
from anabranch.values.keys import key_values

log = logging.getLogger(__name__)
_PARTS_BYTES = 32 * 1024 * 1024
_AT_ONCE = 200  # keys whose reads run side by side
SCORES_SCHEMA = "key STRING, value STRING"
REPLACED_SCHEMA = "difference DOUBLE, flipped BOOLEAN"


def rows_of(
    project: Project,
    answers: Sequence[Answer],
    scorer: Scorer | None,
    layer: str,
    online: OnlineModel | None = None,
) -> list[dict[str, Any]]:
    """Answers as current rows, scored by `scorer` and, where one is given, by the `online` model too.

    No model scores them that needs the request.
    """
    scorer = None if scorer is None or project.asks(scorer.features) else scorer
    online = None if online is None or project.asks(project.model_features) else online
    scores: Sequence[ScoredRow | None] = [None] * len(answers)
    if scorer is not None:
        scores = score_all(scorer, [answer.values for answer in answers])
    second: Sequence[float | None] = [None] * len(answers)
    if online is not None:
        columns = {name: [one.values[name] for one in answers] for name in project.model_features}
        second = online.score(columns, project)
    return current_rows(
        project,
        (
            ScoredKey(
                key=answer.key,
                values=answer.values,
                as_of=answer.as_of,
                layer=layer,
                batch_version=answer.batch_version,
                degraded=answer.degraded,
                model_version=scorer.version if scorer else None,
                scored=scored,
                online_score=online_score,
            )
            for answer, scored, online_score in zip(answers, scores, second, strict=True)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class CurrentRefresh:
    """Refreshes a project's current rows; `unscored`, why a model in force cannot score, degrades them."""

    service: AnswerService
    project: Project
    layer: str
    scorer: Scorer | None = None
    online: OnlineModel | None = None
    unscored: str | None = None

    def run(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Merge, score and write the rows of `keys` (stored texts); returns them as written.

        While Cassandra writes the rows of some keys, those of the next are read and merged.
        """
        rows: list[dict[str, Any]] = []
        write = CurrentWrite()
        for start in range(0, len(keys), _AT_ONCE):
            chunk = [key_values(self.project.keys, key) for key in keys[start : start + _AT_ONCE]]
            project, manifest = self.service.answers.served(self.project)
            if project != self.project:
                raise DeclaredAnewError(f"another version of {project.name!r} has begun to serve")
            features = self.service.features(project, chunk, manifest=manifest)
            if self.unscored is not None:
                features = [_degraded(one, f"not scored: {self.unscored}") for one in features]
            written = rows_of(self.project, features, self.scorer, self.layer, self.online)
            write.wait()
            views = self.service.answers.views
            write = views.start_current(self.project.name, written, features[0].as_of)
            rows.extend(written)
        write.wait()
        return rows


def _degraded(answer: Answer, why: str) -> Answer:
    return replace(answer, degraded="; ".join(filter(None, (answer.degraded, why))))


@dataclass(frozen=True, kw_only=True)
class InForce:
    """The model version that scores rows, and where its files are; None without a model, or as `why` says."""

    version: str | None
    place: str = ""
    why: str | None = None


def refresher(
    views: ViewsSettings, models: ModelsSettings, project: Project, model: InForce
) -> Callable[..., Iterator[pa.RecordBatch]]:
    """A function for `mapInArrow` over changed keys (key): refreshes their rows, yields `SCORES_SCHEMA`."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        scorer, why = _scorer(models, project, model)
        refresh = CurrentRefresh(
            service=AnswerService(answers),
            project=project,
            layer="speed",
            scorer=scorer,
            online=OnlineModels(answers.views).read(project),
            unscored=why,
        )
        for batch in batches:
            try:
                rows = refresh.run(batch.column("key").to_pylist())
            except DeclaredAnewError:
                rows = []  # the stream goes on without current rows: the next build needs its tiles
            yield pa.RecordBatch.from_pydict(
                {
                    "key": [row["key"] for row in rows],
                    "value": [current_message(project, row) for row in rows],
                }
            )

    return run


def _scorer(models: ModelsSettings, project: Project, model: InForce) -> tuple[Scorer | None, str | None]:
    """The scorer, or None and why: the stream goes on without a version whose artifacts cannot be fetched."""
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
    """A function for `mapInArrow` over keys (key): replaces their rows and yields `REPLACED_SCHEMA`.

    `difference` is the absolute difference between the stream's score and the new one, `flipped` whether the
    label changed; both are NULL where the row was not written by the stream with this model. Costs one read
    more a key.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        refresh = CurrentRefresh(
            service=AnswerService(answers),
            project=project,
            layer="batch",
            scorer=Models(models).scorer(project.name, model_version) if model_version else None,
            online=OnlineModels(answers.views).read(project),
        )
        for batch in batches:
            keys = batch.column("key").to_pylist()
            before = (
                answers.views.approximate_scores(project.name, keys, model_version)
                if model_version and _streamed(project)
                else {}
            )
            both = [(before.get(row["key"]), row) for row in refresh.run(keys)]
            difference = [None if was is None else abs(was[0] - row["score"]) for was, row in both]
            flipped = [None if was is None or was[1] is None else was[1] != row["label"] for was, row in both]
            yield pa.RecordBatch.from_pydict(
                {"difference": pa.array(difference, pa.float64()), "flipped": pa.array(flipped, pa.bool_())}
            )

    return run


def _streamed(project: Project) -> bool:
    return any(view.source.topic is not None for view in project.own_views)


@lru_cache(maxsize=4)
def kept_answers(views: ViewsSettings) -> Answers:
    """Answers kept by a worker process between tasks, so that parts of busy keys are read once."""
    return Answers(Views(views), parts=Parts(_PARTS_BYTES))
