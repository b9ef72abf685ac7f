"""A river for notebooks and scripts: training sets, answers and scores of the declared projects.

`anabranch.open()` opens one. It keeps one Spark session, which is started when something needs it first.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from pyspark.sql import DataFrame

from anabranch.answers.own_requests import event_values
from anabranch.answers.requests import request_values, stored_key
from anabranch.client.frames import as_table
from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.events.own_events import OwnEvent
from anabranch.folds.spark import point_in_time, with_derived
from anabranch.stores.models.foreign import scoring_version
from anabranch.values.times import SECOND, now_micros, parse_time, to_micros
from batch.scoring.features import attach_features, time_column, typed_rows
from batch.scoring.frames import score, version_inputs
from batch.scoring.row_files import SPARK_ERRORS, fault_of_rows
from jobs.flows.analysis import Analysis
from jobs.flows.answering import answer_key, by_served
from jobs.wiring.context import Context
from jobs.wiring.settings import load_settings

Key = str | int | float | bool | Mapping[str, Any]
"""The value of a key of one column, or a dict of its columns."""
_ROW = "_river_row"


class River:
    """The projects of this environment, over the stores that its settings name."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __getitem__(self, name: str) -> "RiverProject":
        return RiverProject(self, self.context.project(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the stores; a Spark session that ran before goes on."""
        self.context.close()

    @property
    def projects(self) -> list[str]:
        """The names of the declared projects."""
        return list(list_projects(self.context.settings.projects))

    def sql(self, statement: str) -> DataFrame:
        """Spark SQL over the tables of the projects that it names (docs/analysts.md)."""
        return Analysis(self.context).sql(statement)


class RiverProject:
    """One project: `name` and its declaration."""

    def __init__(self, river: River, project: Project) -> None:
        self.river, self.project, self.name = river, project, project.name

    def training_set(self, rows: Any, *, as_known: bool = False) -> Any:
        """The rows with a column for each feature, as it was strictly before the row's time.

        `rows` are a frame of pandas, Polars or Spark, an Arrow table or a list of dicts, with the columns of
        the key, the time named as in the label's source, and the columns of the request; the result is of the
        same kind, in the same order unless it is a frame of Spark. Events are those that were landed; with
        `as_known` those that had arrived by the row's time. Raises MisuseError for rows that cannot be read.
        """
        project, context = self.project, self.river.context

        def attached(frame: DataFrame) -> DataFrame:
            typed = typed_rows(project, frame, "the rows")
            events = context.lake.distinct_events(context.spark, project)
            found = point_in_time(project, events, typed, time_column(project), as_known=as_known)
            return with_derived(project, found)

        return self._through_spark(rows, attached)

    def score(self, rows: Any, *, at: str | datetime | None = None, version: str | None = None) -> Any:
        """The rows with `score`, `label` and `model_version`, as a frame of the same kind.

        Features that the model reads and the rows lack are those of the rows' keys at `at`, or now, from the
        events that were landed. `version` is the champion's by default.
        """
        project, context = self.project, self.river.context
        scorer = scoring_version(context.models, project, version)
        moment = now_micros() if at is None else _micros(at)

        def scored(frame: DataFrame) -> DataFrame:
            missing = [name for name in version_inputs(project, scorer) if name not in frame.columns]
            full = attach_features(context, project, frame, missing, moment) if missing else frame
            return score(context, project, full, scorer).drop(*missing)

        return self._through_spark(rows, scored)

    def answer(
        self,
        key: Key,
        at: str | datetime | None = None,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
        *,
        explain: bool = False,
    ) -> dict[str, Any]:
        """What REST would answer for a key, now or at a time in the past: features, score, versions.

        `request` has the columns of the project's request; `event` is an event that counts as if it had
        arrived, ``{"source": ..., "event": {...}}``; `explain` adds what each feature contributed.
        Raises MisuseError or a ProblemError for what does not fit.
        """
        context = self.river.context
        if event is not None and at is not None:
            raise MisuseError("event= is for an answer as of now: leave out at=")
        latest = now_micros() + context.settings.times.future_skew_seconds * SECOND

        def read(project: Project) -> tuple[dict[str, str], tuple[OwnEvent, ...]]:
            stored = stored_key(self._columns(key, project), project)
            if request is not None and project.request is None:
                raise MisuseError(f"{self.name} declares no request: leave out request=")
            if request is not None:
                request_values(dict(request), project)  # before anything slow
            return stored, () if event is None else event_values(dict(event), project, stored, latest)

        project, (stored, own) = by_served(context, self.project, read)
        moment = None if at is None else _micros(at)
        asked = None if request is None else dict(request)
        return answer_key(context, project, stored, moment, asked, own, explain=explain)

    def why(
        self,
        key: Key,
        request: Mapping[str, Any] | None = None,
        event: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """What each feature contributed to the score of a key; None where there is no score."""
        found: dict[str, Any] | None = self.answer(key, None, request, event, explain=True).get("explanation")
        return found

    def features(self, key: Key, at: str | datetime | None = None) -> dict[str, Any]:
        """The features of a key now, or at a time in the past."""
        found: dict[str, Any] = self.answer(key, at)["features"]
        return found

    def _columns(self, key: Key, project: Project) -> dict[str, Any]:
        names = project.keys
        given = dict(key) if isinstance(key, Mapping) else {names[0]: key}
        if set(given) != set(names):
            shape = ", ".join(f"{name!r}: ..." for name in names)
            raise MisuseError(f"key {key!r} does not fit {self.name}: give {{{shape}}}")
        return given

    def _through_spark(self, rows: Any, made: Callable[[DataFrame], DataFrame]) -> Any:
        """The rows as a frame of Spark, what is made of it, and that as the kind of frame that came."""
        if isinstance(rows, DataFrame):
            return made(rows)
        table, back = as_table(rows)
        numbered = table.append_column(_ROW, [list(range(len(table)))])
        frame = self.river.context.spark.createDataFrame(numbered)
        try:
            found = made(frame).toArrow().sort_by(_ROW).drop_columns([_ROW])
        except SPARK_ERRORS as error:
            raise fault_of_rows(error, "the rows") or error from error
        return back(found)


def open_river(overrides: Mapping[str, object] | None = None) -> River:
    """The river that the settings in force name; `overrides` are as ``{"lake.root": "/data/lake"}``."""
    return River(Context(load_settings(overrides=overrides or {})))


def _micros(at: str | datetime) -> int:
    return to_micros(at) if isinstance(at, datetime) else parse_time(at)
