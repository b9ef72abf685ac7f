"""Online learning: labels become examples as they arrive, for the approximate model beside the champion.

Both models score each label before it is learnt, on the same features: that compares them. Features are
answered as of the label's event time; where later events are folded already, the answer says so and the
example counts as approximate. Labels from before the batch's cut belong to the batch and are skipped.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from anabranch.answers.features import Answer, Answers
from anabranch.answers.parts import Parts
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.events.judging import good_events
from anabranch.folds.spark import key_column
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, fresh, online_of, online_rows
from anabranch.stores.cassandra.reads import DeclaredAnewError
from anabranch.stores.models.versions import Scorer
from anabranch.stores.queries import triggered
from anabranch.values.keys import key_values
from anabranch.values.times import SECOND, from_micros, now_micros
from speed.query import SpeedLayer, begun

log = logging.getLogger(__name__)
NAME = "online"
"""The name of the query of a project's learner; those of sources are named after their source."""
_STEP = 5_000  # messages of a partition that are learnt before the model is written
_PARTS_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class LabelledKey:
    """A label: key as stored text, event time and arrival in microseconds, and target (None for none)."""

    id: str
    key: str
    at: int
    arrival: int
    target: float | None


@dataclass
class ModelComparison:
    """The scores of both models for labels before they were learnt: rows of (online, champion, target)."""

    rows: list[tuple[float, float, float]]

    def measures(self, project: Project, version: str) -> Iterator[Measure]:
        """Mean difference of scores, share of labels whose class differs, squared error of each model."""
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
    """The topic of the labels of a project that learns online; None for other projects."""
    if project.label is None or online_of(project) is None:
        return None
    return project.label.source.topic


def _read_topic(layer: SpeedLayer, project: Project) -> str:
    """The topic that labels are read from: their own, or its copy."""
    return layer.stores.bus.read_as(str(label_topic(project)))


def start_online(layer: SpeedLayer, project: Project) -> StreamingQuery:
    """Start the query that learns; `prepare` first.

    It only wakes the learner: the model knows how far the topic is learnt.
    """
    stores, topic = layer.stores, _read_topic(layer, project)
    options = {**stores.bus.spark_options([topic]), "failOnDataLoss": "false"}
    messages = stores.spark.readStream.format("kafka").options(**options).load()
    writer = (
        messages.writeStream.queryName(f"{project.name}.{NAME}")
        .option("checkpointLocation", begun(layer, topic, layer.checkpoint(project, NAME)))
        .foreachBatch(_micro_batch(layer, project))
    )
    return triggered(writer, layer.trigger).start()


def _micro_batch(layer: SpeedLayer, project: Project) -> Callable[[DataFrame, int], None]:
    learning = [(project, Learning(layer, project))]

    def run(messages: DataFrame, number: int) -> None:
        count = messages.count()
        served, _ = layer.served(project)
        if served != learning[0][0]:
            learning[0] = (served, Learning(layer, served))
        learnt = learning[0][1].up_to(layer.stores.bus.ends(_read_topic(layer, served)))
        log.info("learnt project=%s number=%s messages=%s labels=%s", project.name, number, count, learnt)

    return run


class Learning:
    """Brings a project's online model up to a place in the topic of its labels."""

    def __init__(self, layer: SpeedLayer, project: Project) -> None:
        self._layer, self._project = layer, project
        self._models = OnlineModels(layer.stores.views)
        self._answers = Answers(layer.stores.views, patience=1.0, parts=Parts(_PARTS_BYTES))
        self._recent = RecentLabels({}, {})

    def up_to(self, ends: Mapping[int, int]) -> int:
        """Learn the labels before `ends` (offsets by partition) that the model lacks; returns how many."""
        online, done = online_of(self._project), 0
        while online is not None:
            expected = self._models.revision(self._project.name)
            before = self._models.read(self._project) or fresh(self._project, online)
            topic_id = self._layer.stores.bus.topic_id(_read_topic(self._layer, self._project))
            if before.topic_id not in ("", topic_id):  # made again: it is learnt from its beginning
                before = replace(before, offsets={})
            before = replace(before, topic_id=topic_id)
            known = {part: before.offsets.get(part, 0) for part in ends}
            upto = {part: min(end, known[part] + _STEP) for part, end in ends.items() if end > known[part]}
            if not upto:
                break
            try:
                after, comparison, version = self._learnt(before, upto)
            except DeclaredAnewError as error:
                log.warning("labels of %s are learnt later: %s", self._project.name, error)
                break
            # When a batch has reset the model meanwhile, the write fails and the labels are learnt on top of
            # that.
            if self._models.write(self._project, after, expected) is not None:
                done += after.learnt - before.learnt
                self._layer.stores.measures.write(list(comparison.measures(self._project, version)))
        return done

    def _learnt(
        self, before: OnlineModel, upto: Mapping[int, int]
    ) -> tuple[OnlineModel, ModelComparison, str]:
        project, models = self._project, self._layer.stores.models
        version = models.usable_champion(project)
        scorer = models.scorer(project.name, version) if version else None
        manifest, comparison = self._answers.manifest(project.name), ModelComparison([])
        learnt, approximate, left_out = before.learnt, before.approximate, before.left_out
        for example in self._examples(before.offsets, upto):
            if example.target is None or (manifest is not None and example.at < manifest.cut):
                left_out += 1
                continue
            (answer,) = self._answers.features(project, [key_values(project.keys, example.key)], example.at)
            comparison.rows.extend(_both_scores(project, before, scorer, answer, example.target))
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
        return after, comparison, version or ""

    def _examples(self, since: Mapping[int, int], upto: Mapping[int, int]) -> list[LabelledKey]:
        """Labels of the messages in [since, upto) by arrival; of copies within the horizon only the first.

        The result does not depend on how the topic is cut into steps, nor on which process reads the next
        one: labels before `since` are remembered, and read again where another process learnt them.
        """
        horizon = self._layer.times.dedup_horizon_seconds * SECOND
        labels = self._labels(since, upto)
        if not labels:
            return []
        if self._recent.upto != since:
            topic = _read_topic(self._layer, self._project)
            back = self._layer.stores.bus.offsets_at(topic, labels[0].arrival - horizon)
            before = self._labels({part: back.get(part, 0) for part in since}, since)
            self._recent = RecentLabels(since, {example.id: example.arrival for example in before})
        return self._recent.first_copies(labels, {**since, **upto}, horizon)

    def _labels(self, since: Mapping[int, int], upto: Mapping[int, int]) -> list[LabelledKey]:
        """All labels of the messages in [since, upto) by arrival, copies included."""
        layer, project, label = self._layer, self._project, self._project.label
        if label is None:
            raise AnabranchError(
                f"project {project.name!r} has no label: online learning needs Project(label=...)"
            )
        spans = {part: (since.get(part, 0), end) for part, end in upto.items() if since.get(part, 0) < end}
        if not spans:
            return []
        options = layer.stores.bus.span_options(_read_topic(layer, project), spans)
        messages = layer.stores.spark.read.format("kafka").options(**options).load()
        suite = layer.suites(project).get(label.source.name)
        schemas = layer.stores.schemas
        events = good_events(project, label.source, messages, layer.times, suite, schemas)
        return _collected(label, events)


@dataclass
class RecentLabels:
    """The arrival of the last copy of each recent label by its id, among the messages before `upto`."""

    upto: Mapping[int, int]
    arrivals: dict[str, int]

    def first_copies(
        self, labels: Sequence[LabelledKey], upto: Mapping[int, int], horizon: int
    ) -> list[LabelledKey]:
        """The labels without a copy within `horizon` microseconds before; all become known up to `upto`."""
        first = []
        for example in labels:
            before = self.arrivals.get(example.id)
            self.arrivals[example.id] = example.arrival
            if before is None or example.arrival - before > horizon:
                first.append(example)
        oldest = max(self.arrivals.values()) - horizon
        self.arrivals = {name: arrival for name, arrival in self.arrivals.items() if arrival >= oldest}
        self.upto = dict(upto)
        return first


def _collected(label: Label, events: DataFrame) -> list[LabelledKey]:
    target = F.expr(label.target_sql).cast("double")
    columns = {
        "id": named(label.source.identity).cast("string"),
        "key": key_column(label.keys),
        "at": F.unix_micros(named(label.source.time).cast("timestamp")),
        "arrival": F.unix_micros("_arrival"),
        "target": F.when(F.abs(target) < float("inf"), target),
    }
    order = [F.col(name) for name in ("_arrival", "_partition", "_offset")]
    selected = [column.alias(name) for name, column in columns.items()]
    # The items of one message have one offset.
    rows = events.select(*selected, *order).orderBy(*order, "id").collect()
    return [LabelledKey(*(row[name] for name in columns)) for row in rows if row["key"] is not None]


def _columns(answer: Answer) -> dict[str, list[Any]]:
    return {name: [value] for name, value in answer.values.items()}


def _both_scores(
    project: Project, model: OnlineModel, scorer: Scorer | None, answer: Answer, target: float
) -> Iterator[tuple[float, float, float]]:
    (online,) = model.score(_columns(answer), project)
    if scorer is not None and online is not None:
        (champion,) = scorer.score(_columns(answer)).tolist()
        yield online, champion, target
