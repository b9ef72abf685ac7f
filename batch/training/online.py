"""The online model's beginning: learnt from the batch's training set, where features are exact, in the order of the labels' times.

The stream goes on from there: the state says how far the label's topic is in it, so labels that arrived later are learnt on top.
"""

import logging

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.progress import Progress
from anabranch.stores.cassandra.online_models import OnlineModel, OnlineModels, fresh, online_of, online_rows
from anabranch.stores.lake.lake import Lake
from batch.training.preparing import TARGET, TIME, values
from batch.training.train import lake_frame

log = logging.getLogger(__name__)
_MOST = 200_000
"""Labels that are learnt from, the newest: what lies further back has faded by then."""
_TRIES = 5


def reset_online(
    spark: SparkSession, lake: Lake, models: OnlineModels, project: Project, progress: Progress
) -> OnlineModel | None:
    """Begin the online model anew from the lake's labels; None for a project that declares none.

    Raises UnavailableError when the store is away, AnabranchError when a stream is faster again and again.
    """
    online = online_of(project)
    if online is None or project.label is None:
        return None
    progress.step("online model: the training set again, in the order of time")
    versions = lake.versions(spark, project)
    frame, total = lake_frame(spark, lake, project, progress, versions)
    table = frame.orderBy(F.desc(TIME)).limit(_MOST).toArrow().sort_by(TIME)
    labels = lake.events(
        spark, project, project.label.source, version=versions.get(project.label.source.name)
    )
    places = (
        labels.where("_partition IS NOT NULL")
        .groupBy("_partition")
        .agg((F.max("_offset") + 1).alias("until"))
        .collect()
    )
    rows = online_rows(project, {name: values(table.column(name)) for name in project.model_features})
    target = np.asarray(table.column(TARGET).to_numpy(), dtype=np.float64)
    begun = fresh(project, online)
    for number in range(online.passes):
        for row, value in zip(rows, target, strict=True):
            begun.learner.learn(row, float(value))
        progress.advance((number + 1) * len(rows), online.passes * len(rows))
    model = OnlineModel(
        learner=begun.learner,
        offsets={row["_partition"]: row["until"] for row in places},
        origin="batch",
        left_out=total - len(rows),
    )
    for _ in range(_TRIES):
        # The stream may write meanwhile: it will find this one, and learn what came later once more.
        written = models.write(project, model, models.revision(project.name))
        if written is not None:
            log.info("online model of %s begins anew: labels=%d", project.name, len(rows))
            return written
    raise AnabranchError(
        f"the online model of {project.name!r} is written by a stream at this very moment: train again, or stop the stream first"
    )
