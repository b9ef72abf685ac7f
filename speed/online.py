"""Online learning: labels become examples as they arrive, for the approximate model that stands beside the champion.

Each label is scored before it is learnt from, by both models on the same features, which is how they are compared. Its
features are answered as of its event time; where events at or after that time are folded already, the answer says so and the
example counts as approximate. Labels from before the batch's cut are the batch's, and left out here.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.declare.labels import Label
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.events.judging import good_events
from anabranch.folds.spark import key_column
from anabranch.stores.cassandra.measures import Measure, Measures
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, fresh, online_of, online_rows
from anabranch.stores.cassandra.views import DeclaredAnewError
from anabranch.stores.models.registry import Scorer
from anabranch.values.keys import key_values
from anabranch.values.times import SECOND, from_micros, now_micros
from speed.views import Channel, timed

log = logging.getLogger(__name__)
NAME = "online"
"""How the query of a project's learner is called, where those of sources have the source's name."""
_STEP = 5_000  # messages of a partition that are learnt before the state is written
_PARTS_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Example:
    """A label: its key as stored text, its event time and its arrival in microseconds, the target; None for one without."""

    id: str
    key: str
    at: int
    arrival: int
    target: float | None


@dataclass
class ModelComparison:
    """What both models said of labels before they were learnt from: rows of (online, champion, target)."""

    rows: list[tuple[float, float, float]]

    def measures(self, project: Project, version: str) -> Iterator[Measure]:
        """Mean difference of the scores, share of labels where the classes differ, squared error of each."""
        if not self.rows:
            return
        online, champion, target = np.array(self.rows, dtype=np.float64).T
        values = {
            "difference": np.abs(online - champion).mean(),
            "squared_error": np.square(online - target).mean(),
            "champion_squared_error": np.square(champion - target).mean(),
            "labels": len(self.rows),
        }
        if project.model is not None and project.model.task == "class":
            values["flips"] = ((online >= 0.5) != (champion >= 0.5)).mean()
        at = from_micros(now_micros())
        for name, value in values.items():
            yield Measure(
                project=project.name, subject=NAME, name=name, at=at, value=float(value), version=version
            )


def label_topic(project: Project) -> str | None:
    """The topic that labels of a project with online learning come by."""
    return (
        project.label.source.topic if project.label is not None and online_of(project) is not None else None
    )


def start_online(spark: SparkSession, channel: Channel, project: Project) -> StreamingQuery:
    """Start the query that learns, for which `prepare` was called. It only says that there are labels: the state says from where."""
    topic = str(label_topic(project))
    writer = (
        spark.readStream.format("kafka")
        .options(**{**channel.bus.spark_options([topic]), "failOnDataLoss": "false"})
        .load()
        .writeStream.queryName(f"{project.name}.{NAME}")
        .option("checkpointLocation", f"{channel.checkpoints.rstrip('/')}/{project.name}/{NAME}")
        .foreachBatch(_micro_batch(spark, channel, project))
    )
    return timed(writer, channel).start()


def _micro_batch(spark: SparkSession, channel: Channel, project: Project) -> Callable[[DataFrame, int], None]:
    learning = Learning(spark, channel, project)

    def run(messages: DataFrame, number: int) -> None:
        found = messages.count()
        learnt = learning.up_to(channel.bus.ends(str(label_topic(project))))
        log.info("learnt project=%s number=%s messages=%s labels=%s", project.name, number, found, learnt)

    return run


class Learning:
    """Brings a project's online model up to a place in the topic of its labels."""

    def __init__(self, spark: SparkSession, channel: Channel, project: Project) -> None:
        self._spark, self._channel, self._project = spark, channel, project
        self._models = OnlineModels(channel.views)
        self._answers = Answers(channel.views, patience=1.0, parts=Parts(_PARTS_BYTES))
        self._recent = Recent({}, {})

    def up_to(self, ends: Mapping[int, int]) -> int:
        """Learn what lies before `ends`, offsets by partition, and is not in the model yet; returns how many labels."""
        online, done = online_of(self._project), 0
        while online is not None:
            expected = self._models.revision(self._project.name)
            before = self._models.read(self._project) or fresh(self._project, online)
            upto = {
                part: min(end, before.offsets.get(part, 0) + _STEP)
                for part, end in ends.items()
                if end > before.offsets.get(part, 0)
            }
            if not upto:
                break
            try:
                after, compared, version = self._learnt(before, upto)
            except DeclaredAnewError as error:
                log.warning("labels of %s are learnt later: %s", self._project.name, error)
                break
            # Lost to a batch that reset the model meanwhile: what was learnt here is learnt again on top of that.
            if self._models.write(self._project, after, expected) is not None:
                done += after.learnt - before.learnt
                Measures.of(self._channel.views.settings).write(
                    list(compared.measures(self._project, version))
                )
        return done

    def _learnt(
        self, before: OnlineModel, upto: Mapping[int, int]
    ) -> tuple[OnlineModel, ModelComparison, str]:
        project = self._project
        version = self._channel.models.fitting_champion(project)
        scorer = self._channel.models.scorer(project.name, version) if version else None
        manifest, compared = self._answers.manifest(project.name), ModelComparison([])
        learnt, approximate, left_out = before.learnt, before.approximate, before.left_out
        for example in self._examples(before.offsets, upto):
            if example.target is None or (manifest is not None and example.at < manifest.cut):
                left_out += 1
                continue
            (answer,) = self._answers.features(project, [key_values(project.keys, example.key)], example.at)
            compared.rows.extend(_compare(project, before, scorer, answer, example.target))
            before.learner.learn(online_rows(project, _columns(answer))[0], example.target)
            learnt += 1
            approximate += answer.degraded is not None
        after = replace(
            before,
            offsets={**before.offsets, **upto},
            learnt=learnt,
            approximate=approximate,
            left_out=left_out,
        )
        return after, compared, version or ""

    def _examples(self, since: Mapping[int, int], upto: Mapping[int, int]) -> list[Example]:
        """Labels of the topic's messages in [since, upto), in the order of their arrival; of copies within the horizon the first to arrive.

        That is so wherever the topic is cut into steps, and whoever reads the next one: what has arrived before `since` is remembered, and
        read again where somebody else came that far.
        """
        horizon = self._channel.times.dedup_horizon_seconds * SECOND
        found = self._labels(since, upto)
        if not found:
            return []
        if self._recent.upto != since:
            back = self._channel.bus.offsets_at(str(label_topic(self._project)), found[0].arrival - horizon)
            before = self._labels({part: back.get(part, 0) for part in since}, since)
            self._recent = Recent(since, {example.id: example.arrival for example in before})
        return self._recent.first_ones(found, {**since, **upto}, horizon)

    def _labels(self, since: Mapping[int, int], upto: Mapping[int, int]) -> list[Example]:
        """All labels of the topic's messages in [since, upto), copies too, in the order of their arrival."""
        channel, project, label = self._channel, self._project, self._project.label
        if label is None:
            raise AnabranchError(f"project {project.name!r} has no label: online learning needs one")
        topic, parts = (
            str(label.source.topic),
            sorted(part for part, end in upto.items() if since.get(part, 0) < end),
        )
        if not parts:
            return []
        places = {
            "startingOffsets": {part: since.get(part, 0) for part in parts},
            "endingOffsets": {part: upto[part] for part in parts},
        }
        options = {
            **channel.bus.spark_options([]),
            **{name: json.dumps({topic: found}) for name, found in places.items()},
            "failOnDataLoss": "false",
        }
        options["assign"] = json.dumps({topic: parts})
        messages = self._spark.read.format("kafka").options(**options).load()
        return _collected(
            label,
            good_events(
                project, label.source, messages, channel.times, channel.suites(project).get(label.source.name)
            ),
        )


@dataclass
class Recent:
    """When the last copy of each recent label arrived, by id, of the messages before `upto`."""

    upto: Mapping[int, int]
    arrivals: dict[str, int]

    def first_ones(self, found: Sequence[Example], upto: Mapping[int, int], horizon: int) -> list[Example]:
        """Those of which no copy arrived less than `horizon` microseconds before; `found` are the messages from here up to `upto`, which it then knows."""
        first = []
        for example in found:
            before = self.arrivals.get(example.id)
            self.arrivals[example.id] = example.arrival
            if before is None or example.arrival - before > horizon:
                first.append(example)
        newest = max(self.arrivals.values())
        self.arrivals = {
            name: arrival for name, arrival in self.arrivals.items() if arrival >= newest - horizon
        }
        self.upto = dict(upto)
        return first


def _collected(label: Label, events: DataFrame) -> list[Example]:
    target, at = (
        F.expr(label.target).cast("double"),
        F.unix_micros(F.col(f"`{label.source.time}`").cast("timestamp")),
    )
    finite = F.when(F.abs(target) < float("inf"), target)
    named = {
        "id": F.col(f"`{label.source.id}`").cast("string"),
        "key": key_column(label.keys),
        "at": at,
        "arrival": F.unix_micros("_arrival"),
        "target": finite,
    }
    order = [F.col(name) for name in ("_arrival", "_partition", "_offset")]
    found = events.select(*[column.alias(name) for name, column in named.items()], *order).orderBy(*order)
    return [Example(*(row[name] for name in named)) for row in found.collect() if row["key"] is not None]


def _columns(answer: Answer) -> dict[str, list[Any]]:
    return {name: [value] for name, value in answer.values.items()}


def _compare(
    project: Project, model: OnlineModel, scorer: Scorer | None, answer: Answer, target: float
) -> Iterator[tuple[float, float, float]]:
    (online,) = model.score(_columns(answer), project)
    if scorer is not None and online is not None:
        (champion,) = scorer.score(_columns(answer)).tolist()
        yield online, champion, target
