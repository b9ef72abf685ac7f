"""Score requests: asked by message, answered by message on the topic of scores, told apart by their request id.

The asynchronous twin of serving's predict: the same checks, reads, model and answer. All requests of a micro-batch are read
and scored together. What is wrong with one is its answer; nothing is dropped. While Cassandra is away requests wait.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.current import kept_answers
from anabranch.answers.predict import (
    Prediction,
    Record,
    message,
    needs_store,
    predict,
    shown_key,
    unknown_keys,
)
from anabranch.answers.problems import ProblemError, of_error
from anabranch.answers.requests import Asked, Requested, read_message
from anabranch.answers.service import Answer, Answers
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.events.json_values import encode
from anabranch.events.predictions import predictions_topic
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.registry import Models, Scorer
from anabranch.values.times import now_micros
from speed.views import Channel, scores_topic, timed

log = logging.getLogger(__name__)
NAME = "score-requests"
"""How the query of a project's requests is called, where those of sources have the source's name."""
_ANSWERS_SCHEMA = "topic STRING, key STRING, value STRING"


def requests_topic(project: str) -> str:
    """Topic of a project's score requests."""
    return f"score-requests.{project}"


def prepare_requests(channel: Channel, project: Project) -> None:
    """Make the topics of requests and of what is answered, where they are missing."""
    channel.bus.ensure_topics(
        [requests_topic(project.name), scores_topic(project.name), predictions_topic(project.name)]
    )


def start_requests(spark: SparkSession, channel: Channel, project: Project) -> StreamingQuery:
    """Start the query that answers the requests of a project with a model, for which `prepare` was called."""
    topic = requests_topic(project.name)
    # A request that the topic no longer holds cannot be answered by anybody: that must not end the query.
    options = {**channel.bus.spark_options([topic]), "failOnDataLoss": "false"}
    if channel.most_offsets is not None:
        options["maxOffsetsPerTrigger"] = str(channel.most_offsets)
    writer = (
        spark.readStream.format("kafka")
        .options(**options)
        .load()
        .writeStream.queryName(f"{project.name}.{NAME}")
        .option("checkpointLocation", f"{channel.checkpoints.rstrip('/')}/{project.name}/{NAME}")
        .foreachBatch(_micro_batch(channel, project))
    )
    return timed(writer, channel).start()


def _micro_batch(channel: Channel, project: Project) -> Callable[[DataFrame, int], None]:
    options = channel.bus.spark_options([])

    def run(messages: DataFrame, number: int) -> None:
        started = time.monotonic()
        answer = answerer(
            channel.views.settings,
            channel.models.settings,
            project,
            channel.models.last_champion(project.name),
        )
        answers = messages.select("value", "partition", "offset").mapInArrow(answer, _ANSWERS_SCHEMA)
        answers.write.format("kafka").options(**options).save()
        log.info(
            "requests answered project=%s number=%s seconds=%.2f",
            project.name,
            number,
            time.monotonic() - started,
        )

    return run


@dataclass(frozen=True, slots=True)
class _Message:
    """A request and where it stands in its topic."""

    requested: Requested
    partition: int
    offset: int


def answerer(
    views: ViewsSettings, models: ModelsSettings, project: Project, model_version: str | None
) -> Callable[..., Iterator[pa.RecordBatch]]:
    """A function for `DataFrame.mapInArrow` over messages (value, partition, offset): yields messages (topic, key, value), an answer each.

    What was scored goes to the topic of predictions too, as what REST answers does.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        answers = kept_answers(views)
        scorer = Models(models).scorer(project.name, model_version) if model_version else None
        for batch in batches:
            rows = zip(
                *(batch.column(name).to_pylist() for name in ("value", "partition", "offset")), strict=True
            )
            found = [
                _Message(read_message(value, project), partition, offset) for value, partition, offset in rows
            ]
            told = list(_told(project, scorer, answers, found))
            yield pa.RecordBatch.from_pydict(
                {name: [each[place] for each in told] for place, name in enumerate(("topic", "key", "value"))}
            )

    return run


def _told(
    project: Project, scorer: Scorer | None, answers: Answers, messages: Sequence[_Message]
) -> Iterator[tuple[str, str | None, str]]:
    asked = [each.requested.asked for each in messages if each.requested.asked is not None]
    found = iter(outcomes(project, scorer, answers, asked))
    now, scores, predictions = now_micros(), scores_topic(project.name), predictions_topic(project.name)
    for each in messages:
        requested = each.requested
        outcome = requested.problem or next(found)
        key = None if requested.id is None else str(requested.id)
        yield scores, key, encode(_answer(project, each, outcome)).decode()
        if isinstance(outcome, Prediction) and requested.asked is not None:
            # The same however often the micro-batch is done again.
            name = f"{requests_topic(project.name)}-{each.partition}-{each.offset}"
            yield (
                predictions,
                name,
                message(Record(name, project.name, now, requested.asked, outcome)).decode(),
            )


def _answer(project: Project, each: _Message, outcome: Prediction | ProblemError) -> dict[str, Any]:
    requested = each.requested
    if isinstance(outcome, Prediction):
        key = requested.asked.key if requested.asked else None
        return {
            "request_id": requested.id,
            **({} if key is None else {"key": shown_key(key)}),
            **outcome.answer,
        }
    place = {"topic": requests_topic(project.name), "partition": each.partition, "offset": each.offset}
    return {"request_id": requested.id, "error": outcome.document, **place}


def outcomes(
    project: Project, scorer: Scorer | None, answers: Answers, asked: Sequence[Asked]
) -> list[Prediction | ProblemError]:
    """A prediction or a problem for each request; raises UnavailableError when the store is away, for then they can wait."""
    if scorer is None:
        return [
            ProblemError(
                503, "no-model", f"{project.name} has no champion: run 'anabranch train {project.name}'"
            )
        ] * len(asked)
    try:
        check_fits(project, scorer.version, scorer.kinds)
    except MisuseError as error:
        return [ProblemError(503, "no-model", str(error))] * len(asked)
    try:
        stored = _stored(project, scorer, answers, asked)
    except UnavailableError:
        raise
    except AnabranchError as error:
        # A view that was declared anew, say: those that bring all features are answered all the same.
        problem = of_error(error)
        return [problem if needs_store(one, scorer) else _one(project, scorer, one, None) for one in asked]
    unknown = unknown_keys(project, asked, stored)
    rest = [
        (one, known)
        for place, (one, known) in enumerate(zip(asked, stored, strict=True))
        if place not in unknown
    ]
    scored = iter(_scored(project, scorer, rest))
    return [unknown[place] if place in unknown else next(scored) for place in range(len(asked))]


def _scored(
    project: Project, scorer: Scorer, requests: Sequence[tuple[Asked, Answer | None]]
) -> list[Prediction | ProblemError]:
    if not requests:
        return []
    asked, stored = zip(*requests, strict=True)
    try:
        return list(predict(project, scorer, asked, stored, now_micros()))
    except (AnabranchError, ValueError, ArithmeticError):
        return [_one(project, scorer, one, known) for one, known in requests]


def _one(project: Project, scorer: Scorer, asked: Asked, stored: Answer | None) -> Prediction | ProblemError:
    """One request by itself: what the model cannot take must not hold up the others."""
    try:
        return predict(project, scorer, [asked], [stored], now_micros())[0]
    except (AnabranchError, ValueError, ArithmeticError) as error:
        return ProblemError(500, "fault", f"the model of {project.name} failed at this request: {error}")


def _stored(
    project: Project, scorer: Scorer, answers: Answers, asked: Sequence[Asked]
) -> list[Answer | None]:
    keys = [one.key for one in asked if one.key is not None and needs_store(one, scorer)]
    rest = iter(answers.features(project, keys))
    return [next(rest) if needs_store(one, scorer) else None for one in asked]
