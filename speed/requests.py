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
from anabranch.answers.features import Answers
from anabranch.answers.predict import Prediction, record, shown_key
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, Requested, read_message
from anabranch.answers.service import AnswerService, Outcome, Questions, fitting_scorer
from anabranch.declare.projects import Project
from anabranch.events.json_values import encode
from anabranch.events.predictions import predictions_topic
from anabranch.settings import ModelsSettings, ViewsSettings
from anabranch.stores.models.registry import Models, Scorer
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
            answered = list(_messages(project, scorer, answers, found))
            yield pa.RecordBatch.from_pydict(
                {
                    name: [each[place] for each in answered]
                    for place, name in enumerate(("topic", "key", "value"))
                }
            )

    return run


def _messages(
    project: Project, scorer: Scorer | None, answers: Answers, messages: Sequence[_Message]
) -> Iterator[tuple[str, str | None, str]]:
    asked = [each.requested.asked for each in messages if each.requested.asked is not None]
    rest = iter(outcomes(project, scorer, answers, asked))
    scores, predictions = scores_topic(project.name), predictions_topic(project.name)
    for each in messages:
        outcome = each.requested.problem or next(rest)
        key = None if each.requested.id is None else str(each.requested.id)
        yield scores, key, encode(_answer(project, each, outcome)).decode()
        if isinstance(outcome, Prediction):
            # The id is the same however often the micro-batch is repeated.
            name = f"{requests_topic(project.name)}-{each.partition}-{each.offset}"
            yield predictions, name, record(project.name, name, outcome).decode()


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
) -> list[Outcome]:
    """A prediction or a problem for each request. Raises UnavailableError without the store: requests can wait for it."""
    try:
        champion = fitting_scorer(project, scorer)
    except ProblemError as problem:
        return [problem] * len(asked)
    return AnswerService(answers).predict(Questions(project, champion, asked))
