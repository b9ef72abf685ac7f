"""Current rows, measured: what keeping their history costs the stream, and what Spark SQL reads for one of
them.
"""

import statistics
from dataclasses import replace
from functools import partial

from anabranch.answers.current import CurrentRefresh
from anabranch.answers.features import Answers
from anabranch.answers.parts import Parts
from anabranch.answers.service import AnswerService
from anabranch.answers.tables.spark_tables import SparkTables
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.data_source.source import CassandraSource, cassandra_options
from anabranch.stores.cassandra.tables import current_table, history_table
from anabranch.stores.cassandra.views import Views
from anabranch.stores.cassandra.writer import write_rows
from jobs.show import Steps
from jobs.wiring.context import Context
from tests.bench.report import Row, seconds_of
from tests.bench.river import River

_HISTORY_RUNS = 30


def history(found: River, project: Project, keys_there: int, steps: Steps) -> list[Row]:
    """The last step of a micro-batch, current rows merged and written, with the history of these rows and
    without it, in turn.
    """
    context = Context(found.settings)
    with_history, without = context.views, Views(replace(context.settings.views, history_ttl_days=0))
    with_history.ensure_tiles(project)
    with_history.ensure_current(project)
    keys = [f"d{number}" for number in range(keys_there)]
    taken: dict[bool, list[float]] = {True: [], False: []}
    for run in range(_HISTORY_RUNS + 2):  # the first two warm both up
        for kept, views in ((True, with_history), (False, without)):
            seconds = seconds_of(
                partial(
                    CurrentRefresh(
                        service=AnswerService(Answers(views, parts=Parts(2**25))),
                        project=project,
                        layer="speed",
                    ).run,
                    keys,
                )
            )
            if run > 1:
                taken[kept].append(seconds)
    ours, theirs = (keys_there / statistics.median(taken[kept]) for kept in (True, False))
    (count,) = context.views.session.execute(f"SELECT count(*) FROM {history_table(project.name)}").one()
    context.close()
    steps.step(f"current rows: {ours:,.0f} keys/s with their history, {theirs:,.0f} without")
    work = f"current rows of {keys_there} keys merged and written, with their history"
    return [
        Row(
            work=work,
            peer="without history",
            ours=ours,
            theirs=theirs,
            unit="keys/s",
            ratio=ours / theirs,
            goal=">= 0.95",
            equal=count in (keys_there, 2 * keys_there),
        )
    ]


def lookup(found: River, project: Project, most: int, runs: int, steps: Steps) -> list[Row]:
    """The current row of a key by Spark SQL: its partition is read, against the whole table that Spark
    filters.
    """
    context, name = Context(found.settings), current_table(project.name)
    context.views.ensure_current(project)
    spark, views = context.spark, found.settings.views
    write_rows(
        spark.range(most).selectExpr(
            "CONCAT('c', id) AS key", "CAST(id AS STRING) AS thing", "'batch' AS layer"
        ),
        views,
        name,
        None,
    )
    spark.dataSource.register(CassandraSource)
    whole = spark.read.format("cassandra").options(**cassandra_options(views), table=name).load()
    pushed = SparkTables(spark, context.lake, views, found.settings.models).current(project)
    taken: dict[str, list[float]] = {"pushed": [], "whole": []}
    rows: dict[str, list[object]] = {}
    for run in range(runs + 2):  # the first warms both up
        for how, frame in (("pushed", pushed), ("whole", whole)):
            seconds = seconds_of(
                lambda how=how, frame=frame, run=run: rows.update(  # type: ignore[misc]
                    {how: frame.where(f"key = 'c{run}'").collect()}
                )
            )
            taken[how].append(seconds)
    ours, theirs = (statistics.median(taken[how][1:]) for how in ("pushed", "whole"))
    same = len(rows["pushed"]) == 1 and rows["pushed"] == rows["whole"]
    context.close()
    steps.step(f"a key of {most:,} rows by Spark SQL: {ours:.2f} s, {theirs:.2f} s with the whole table")
    work = f"the current row of a key by Spark SQL, of {most:,} rows"
    return [
        Row(
            work=work,
            peer="the whole table read",
            ours=ours,
            theirs=theirs,
            unit="s",
            ratio=theirs / ours,
            goal=">= 1",
            equal=same,
        )
    ]
