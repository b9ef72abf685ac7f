"""Online models: what a project's incremental learner knows, one row a project, written conditionally.

    online_models   project -> revision, meaning, state (JSON of plain numbers), offsets, counts, origin, at

The row holds, by partition, how far the label source's topic has been learnt, and a learner reads the topic
from there. So a replay changes nothing, and after a batch resets a row to an earlier place learning resumes
from that place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from anabranch.declare.models import Online
from anabranch.declare.projects import Project
from anabranch.folds.learner import Learner, Numbers
from anabranch.stores.cassandra.session import MissingTableError, answering
from anabranch.stores.cassandra.views import Views
from anabranch.stores.models.inputs import ModelInput, model_inputs
from anabranch.stores.models.scoring import Columns, InputCoder
from anabranch.values.times import from_micros, now_micros

_TABLE = """CREATE TABLE IF NOT EXISTS online_models
(project text PRIMARY KEY, revision bigint, meaning text, state text, offsets text,
learnt bigint, approximate bigint, left_out bigint, origin text, at timestamp)"""
_COLUMNS = "revision, meaning, state, offsets, learnt, approximate, left_out, origin, at"


@dataclass(frozen=True, kw_only=True)
class OnlineModel:
    """A learner and its place: `offsets` are, by partition, the first message of a topic that is not learnt.

    `topic_id` is the topic's identity, empty where it is not known.

    Counts are of labels since `origin` (``stream``: the topic's beginning; ``batch``: a training set):
    `learnt`; among them `approximate`, whose features were not exact as of the label's time; and `left_out`,
    which are before the cut or have no target.
    """

    learner: Learner
    offsets: Mapping[int, int] = field(default_factory=dict)
    topic_id: str = ""
    learnt: int = 0
    approximate: int = 0
    left_out: int = 0
    origin: str = "stream"
    at: datetime | None = None
    revision: int = 0

    def score(self, columns: Columns, project: Project) -> list[float | None]:
        """A score for each row of feature columns; None before there was a first example."""
        rows = online_rows(project, columns)
        return self.learner.score(rows).tolist() if self.learner.seen else [None] * len(rows)


def online_of(project: Project) -> Online | None:
    """The project's declaration of online learning, or None."""
    return project.model.online if project.model is not None else None


def online_inputs(project: Project) -> tuple[ModelInput, ...]:
    """The model's inputs that are numbers: texts cannot be standardised."""
    return tuple(given for given in model_inputs(project) if given.kind != "text")


def online_rows(project: Project, columns: Columns) -> Numbers:
    """Rows (n, inputs) of feature columns, coded as models take them; NaN is missing."""
    return np.asarray(
        InputCoder([given.described() for given in online_inputs(project)]).matrix(columns), dtype=np.float64
    )


def fresh(project: Project, online: Online) -> OnlineModel:
    """A model that has learnt nothing yet."""
    task = project.model.task if project.model is not None else "class"
    return OnlineModel(learner=Learner(online, task, [given.name for given in online_inputs(project)]))


def meaning(project: Project) -> str:
    """A text that changes with the target, the features or the learner, and so with a state's meaning."""
    return f"{project.fingerprint} {online_of(project)!r}"


class OnlineModels:
    """The gateway to the table of online models."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def read(self, project: Project) -> OnlineModel | None:
        """The model of a project; None without online learning, before the first write, or after a change."""
        online = online_of(project)
        row = self._row(project.name) if online is not None else None
        if row is None or online is None or row.meaning != meaning(project):
            return None
        places = json.loads(row.offsets)
        topic_id = places.pop("topic", "")
        offsets = {int(partition): int(offset) for partition, offset in places.items()}
        learner = Learner.read(online, json.loads(row.state))
        counts = {"learnt": row.learnt, "approximate": row.approximate, "left_out": row.left_out}
        return OnlineModel(
            learner=learner,
            offsets=offsets,
            topic_id=topic_id,
            origin=row.origin,
            at=row.at,
            revision=row.revision,
            **counts,
        )

    def write(self, project: Project, model: OnlineModel, expected: int) -> OnlineModel | None:
        """Write if the row still has the revision `expected` (0: no row); None if another writer won."""
        row = replace(model, revision=expected + 1, at=from_micros(now_micros()))
        state, offsets = (
            json.dumps(model.learner.described()),
            json.dumps({**model.offsets, "topic": model.topic_id}),
        )
        counts = (model.learnt, model.approximate, model.left_out)
        values = [row.revision, meaning(project), state, offsets, *counts, model.origin, row.at]
        with answering():
            session = self._views.session
            if expected:
                marks = ", ".join(f"{name} = %s" for name in _COLUMNS.split(", "))
                result = session.execute(
                    f"UPDATE online_models SET {marks} WHERE project = %s IF revision = %s",
                    [*values, project.name, expected],
                )
            else:
                session.execute(_TABLE)
                marks = ", ".join(["%s"] * (len(values) + 1))
                result = session.execute(
                    f"INSERT INTO online_models (project, {_COLUMNS}) VALUES ({marks}) IF NOT EXISTS",
                    [project.name, *values],
                )
            return row if result.was_applied else None

    def revision(self, project: str) -> int:
        """The revision of the row, whatever its meaning; 0 without a row."""
        row = self._row(project)
        return 0 if row is None else int(row.revision)

    def _row(self, project: str) -> Any:
        query = f"SELECT {_COLUMNS} FROM online_models WHERE project = %s"
        try:
            with answering():
                return self._views.session.execute(query, (project,)).one()
        except MissingTableError:  # nothing was ever written
            return None
