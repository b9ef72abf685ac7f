"""Score requests: requests by message, answered by message on the topic of scores under their request id.

The asynchronous form of serving's predict, with the same checks, reads, model and answer. All requests of a
micro-batch are read and scored together. A faulty request is answered with its problem; none is dropped.
While Cassandra is away, requests wait.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.current import kept_answers
from anabranch.answers.features import Answers
from anabranch.answers.predict import Prediction, record, shown_key
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, Requested, read_message
from anabranch.answers.service import AnswerService, Outcome, Questions, fitting_scorer
from anabranch.answers.trials import Differences, LoadedTrial, comparable, loaded, other_answer, scorers
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, UnavailableError
from anabranch.events.json_values import encode
from anabranch.events.predictions import predictions_topic
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.models.registry import Models
from anabranch.stores.models.roles import VersionTrial
from anabranch.stores.models.versions import Scorer
from anabranch.stores.queries import triggered
from anabranch.values.times import SECOND, now_micros
from speed.query import SpeedLayer, begun, messages, scores_topic

log = logging.getLogger(__name__)
NAME = "score-requests"
"""The name of the query of a project's requests; those of sources are named after their source."""
_ANSWERS_SCHEMA = "topic STRING, key STRING, value STRING"


def requests_topic(project: str) -> str:
    """Topic of a project's score requests."""
    return f"score-requests.{project}"


def prepare_requests(layer: SpeedLayer, project: Project) -> None:
    """Create the missing topics of requests and of their answers."""
    names = (requests_topic, scores_topic, predictions_topic)
    layer.stores.bus.ensure_topics([name(project.name) for name in names])


def start_requests(layer: SpeedLayer, project: Project) -> StreamingQuery:
    """Start the query that answers the requests of a project with a model, whose tables exist."""
    prepare_requests(layer, project)
    topic = requests_topic(project.name)
    # A request that the topic no longer holds cannot be answered: that must not end the query.
    writer = (
        messages(layer, topic, failOnDataLoss="false")
        .writeStream.queryName(f"{project.name}.{NAME}")
        .option("checkpointLocation", begun(layer, topic, layer.checkpoint(project, NAME)))
        .foreachBatch(_micro_batch(layer, project))
    )
    return triggered(writer, layer.trigger).start()


def _micro_batch(layer: SpeedLayer, declared: Project) -> Callable[[DataFrame, int], None]:
    stores, skew = layer.stores, layer.times.future_skew_seconds
    options = stores.bus.spark_options([])

    def run(asked: DataFrame, number: int) -> None:
        started = time.monotonic()
        project, manifest = layer.served(declared)
        version = stores.models.last_known_champion(project.name)
        trial = trial_of(stores.models, project)
        by = (stores.views.settings, stores.models.settings)
        answer = answerer(*by, project, version, skew, trial, manifest)
        answers = asked.select("value", "partition", "offset").mapInArrow(answer, _ANSWERS_SCHEMA)
        answers.write.format("kafka").options(**options).save()
        log.info(
            "requests answered project=%s number=%s seconds=%.2f",
            project.name,
            number,
            time.monotonic() - started,
        )

    return run


def trial_of(models: Models, project: Project) -> VersionTrial | None:
    """The declared trial; None while the registry is away, for nobody waits for a trial."""
    try:
        return models.roles(project.name).trial
    except UnavailableError:
        return None


@dataclass(frozen=True, slots=True)
class _Message:
    """A request and its place in the topic."""

    requested: Requested
    partition: int
    offset: int


def answerer(
    views: ViewsSettings,
    models: ModelsSettings,
    project: Project,
    model_version: str | None,
    skew: int = 0,
    trial: VersionTrial | None = None,
    manifest: Manifest | None = None,
) -> Callable[..., Iterator[pa.RecordBatch]]:
    """A function for `DataFrame.mapInArrow` over messages (value, partition, offset): yields their answers.

    An event that comes with a request is at most `skew` seconds ahead.
    An answer is a message (topic, key, value) on the topic of scores; a prediction goes to the topic of
    predictions too, as those of REST do. A version on `trial` answers its share of the keys as a canary; how
    it differs from the champion is written as measures.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        scorer = Models(models).scorer(project.name, model_version) if model_version else None
        tried = None if scorer is None else loaded(Models(models), project, trial, scorer.version)
        tally = Differences()
        for batch in batches:
            rows = zip(
                *(batch.column(name).to_pylist() for name in ("value", "partition", "offset")), strict=True
            )
            latest = now_micros() + skew * SECOND
            asked = [_Message(read_message(value, project, latest), *place) for value, *place in rows]
            sent = list(_messages(project, _Answering(scorer, tried, tally, manifest), answers, asked))
            yield pa.RecordBatch.from_pydict(
                {name: [each[place] for each in sent] for place, name in enumerate(("topic", "key", "value"))}
            )
        if tally.rows and tried is not None and scorer is not None:
            _keep(answers, tally.measures(project.name, tried, scorer.version, datetime.now(tz=UTC)))

    return run


@dataclass(frozen=True)
class _Answering:
    """The versions that answer, and how they differed so far."""

    champion: Scorer | None
    trial: LoadedTrial | None
    tally: Differences
    manifest: Manifest | None = None
    """The one that was read with the declaration."""


def _messages(
    project: Project, by: _Answering, answers: Answers, received: Sequence[_Message]
) -> Iterator[tuple[str, str | None, str]]:
    asked = [each.requested.asked for each in received if each.requested.asked is not None]
    found = outcomes(project, by.champion, answers, asked, by.trial, by.manifest)
    if by.champion is not None and by.trial is not None:
        compare(project, by.champion, by.trial, found, by.tally)
    rest = iter(found)
    scores, predictions = scores_topic(project.name), predictions_topic(project.name)
    for each in received:
        outcome = each.requested.problem or next(rest)
        key = None if each.requested.id is None else str(each.requested.id)
        yield scores, key, encode(_answer(project, each, outcome)).decode()
        if isinstance(outcome, Prediction):
            # The id is the same however often the micro-batch is repeated.
            name = f"{requests_topic(project.name)}-{each.partition}-{each.offset}"
            yield predictions, name, record(project.name, name, outcome).decode()


def _keep(answers: Answers, measures: Sequence[Measure]) -> None:
    """Write the comparison of a partition; without the store it is lost, and the answers are not."""
    try:
        Measures(answers.views.settings).write(measures)
    except AnabranchError as error:
        log.warning("comparisons of requests by message are not kept: %s", error)


def _answer(project: Project, each: _Message, outcome: Prediction | ProblemError) -> dict[str, Any]:
    requested = each.requested
    if isinstance(outcome, Prediction):
        key = requested.asked.key if requested.asked else None
        named = {} if key is None else {"key": shown_key(key)}
        return {"request_id": requested.id, **named, **outcome.answer}
    place = {"topic": requests_topic(project.name), "partition": each.partition, "offset": each.offset}
    return {"request_id": requested.id, "error": outcome.document, **place}


def compare(
    project: Project,
    champion: Scorer,
    trial: LoadedTrial,
    found: Sequence[Outcome],
    tally: Differences,
) -> None:
    """Count how the version on trial differs from the champion; a failure of it fails no answer."""
    for outcome in found:
        if not isinstance(outcome, Prediction) or not comparable(trial, outcome):
            continue
        try:
            both = other_answer(project, champion, trial, outcome)
        except (AnabranchError, ValueError, ArithmeticError) as error:
            log.warning("version %s cannot be compared: %s", trial.scorer.version, error)
            return
        if both is not None:
            tally.add(*both)


def outcomes(
    project: Project,
    scorer: Scorer | None,
    answers: Answers,
    asked: Sequence[Asked],
    trial: LoadedTrial | None = None,
    manifest: Manifest | None = None,
) -> list[Outcome]:
    """A prediction or a problem for each request. Raises UnavailableError when the store is away.

    A canary answers its share of the keys. `manifest` as for `Answers.features`.
    """
    try:
        champion = fitting_scorer(project, scorer)
    except ProblemError as problem:
        return [problem] * len(asked)
    by = scorers(project, champion, trial, asked)
    return AnswerService(answers).predict(Questions(project, champion, asked, by), manifest)
