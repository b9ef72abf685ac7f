"""The online model's start: it learns the batch's training set, with exact features, in the order of labels.

The stream continues from there. The state records how far the label's topic has been learnt, so that labels
which arrive later are learnt on top.
"""

import logging

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.progress import Progress
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, fresh, online_of, online_rows
from anabranch.stores.opened import Stores
from batch.landing.topics import landed_offsets
from batch.training.preparing import SIGHT, TARGET, TIME, values
from batch.training.training_sets import lake_frame

log = logging.getLogger(__name__)
_MOST = 200_000
"""The number of labels that are learnt, the newest: older ones would have faded by the end."""
_TRIES = 5


def _learnt_offsets(stores: Stores, project: Project, source: Source, labels: DataFrame) -> dict[int, int]:
    """By partition the offset of the topic that the stream reads up to which `labels` hold its messages."""
    landed = landed_offsets(stores, project, source)
    last = F.max(F.struct("_offset", F.unix_micros("_arrival").alias("arrival"))).alias("last")
    places = labels.where("_partition IS NOT NULL").groupBy("_partition").agg(last).collect()
    topic = stores.bus.read_as(str(source.topic)) if places else ""
    if places and topic != source.topic:
        # Lake and copy count differently. A label that came in the same millisecond may be learnt twice.
        return {
            part: min(stores.bus.offsets_at(topic, found["arrival"]).get(part, 0), landed.get(part, 0))
            for part, found in places
        }
    # The lake may hold messages of a deleted topic of the name, at offsets that this one has not reached.
    return {part: min(found["_offset"] + 1, landed.get(part, 0)) for part, found in places}


def reset_online(
    stores: Stores, models: OnlineModels, project: Project, progress: Progress
) -> OnlineModel | None:
    """Begin the online model anew from the lake's labels; None for a project that declares none.

    Raises UnavailableError when the store does not answer, AnabranchError when a stream keeps writing
    meanwhile.
    """
    online = online_of(project)
    if online is None or project.label is None:
        return None
    progress.step("online model: the training set again, in the order of time")
    versions = stores.lake.versions_read(stores.spark, project)
    frame, total = lake_frame(stores, project, versions, progress)
    table = frame.drop(SIGHT).orderBy(F.desc(TIME)).limit(_MOST).toArrow().sort_by(TIME)
    source = project.label.source
    labels = stores.lake.events(stores.spark, project, source, version=versions.get(source.name))
    learnt = _learnt_offsets(stores, project, source, labels)
    rows = online_rows(project, {name: values(table.column(name)) for name in project.model_features})
    target = np.asarray(table.column(TARGET).to_numpy(), dtype=np.float64)
    begun = fresh(project, online)
    for number in range(online.passes):
        for row, value in zip(rows, target, strict=True):
            begun.learner.learn(row, float(value))
        progress.advance((number + 1) * len(rows), online.passes * len(rows))
    model = OnlineModel(
        learner=begun.learner,
        offsets=learnt,
        origin="batch",
        left_out=total - len(rows),
    )
    for _ in range(_TRIES):
        # A stream may write at the same time: it will find this model, and learn the later labels again.
        written = models.write(project, model, models.revision(project.name))
        if written is not None:
            log.info("online model of %s begins anew: labels=%d", project.name, len(rows))
            return written
    raise AnabranchError(
        f"the online model of {project.name!r} is being written by a stream: train again, "
        "or stop the stream first"
    )
