"""Tables made as their source is declared, extended by new columns, or refused before anything is written.

A column may be added to a declaration: older rows have NULL in it and are not rewritten. One that was taken
away or got another type is refused, because the lake would go on holding events that the declaration no
longer describes.
"""

import json
import logging

from delta.tables import DeltaTable
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError
from anabranch.events.predictions import landed_sources
from anabranch.events.rows import LAKE_COLUMNS
from anabranch.stores.files.filesystems import hadoop, hadoop_exists
from anabranch.stores.lake.lake import CHANGE_FEED, QUARANTINE, Lake
from anabranch.stores.lake.light import stored_name
from anabranch.stores.lake.staging import add_columns, create_table, snapshot
from anabranch.values.names import folded, quoted

log = logging.getLogger(__name__)
_ATTEMPTS = 3


def check_tables(spark: SparkSession, lake: Lake, project: Project) -> None:
    """Raise AnabranchError for a table that is not Delta's, or has a column that is no longer declared so."""
    for source in landed_sources(project).values():
        _check_place(spark, lake.quarantine_path(project, source))
        _check_place(spark, lake.path(project, source))
        _check_columns(source, _columns(spark, lake.path(project, source)))


def prepare_events(spark: SparkSession, lake: Lake, project: Project, source: Source) -> None:
    """Make the source's table, or the columns that are new in its declaration."""
    # Every row pays for what each file tells of a column's bounds; those of times alone can leave files out.
    bounds = {"delta.dataSkippingStatsColumns": f"{quoted(stored_name(source.time))},_arrival"}
    _prepare(
        spark,
        lake.path(project, source),
        _declared(source) | LAKE_COLUMNS,
        "_date",
        {CHANGE_FEED: "true", **bounds},
    )


def prepare_quarantine(spark: SparkSession, lake: Lake, project: Project, source: Source) -> None:
    """Make the source's quarantine, or the columns that an earlier version made it without."""
    _prepare(spark, lake.quarantine_path(project, source), QUARANTINE, None, {})


def _prepare(
    spark: SparkSession, path: str, columns: dict[str, str], partition: str | None, properties: dict[str, str]
) -> None:
    for attempt in range(_ATTEMPTS):
        found = _columns(spark, path)
        new = {name: kind for name, kind in columns.items() if folded(name) not in found}
        if found and not new:
            return
        try:
            if found:
                log.info("new columns table=%s columns=%s", path, ", ".join(new))
                add_columns(spark, path, new)
            else:
                create_table(spark, path, columns, partition, properties)
            return
        except (PySparkException, Py4JError) as error:
            # Somebody else may have made the same change at the same moment, which the next look tells.
            if attempt == _ATTEMPTS - 1:
                lines = (line.strip() for line in str(error).splitlines())
                why = next((line for line in lines if "Exception" in line or "[" in line), str(error)[:200])
                raise AnabranchError(
                    f"the table at {path} can be neither made nor extended ({why}): "
                    "nothing was landed; look at that place"
                ) from error


def _check_place(spark: SparkSession, path: str) -> None:
    system, place = hadoop(spark, path)
    if not hadoop_exists(system, place) or DeltaTable.isDeltaTable(spark, path):
        return
    # A log without a version is what a first load leaves that was cut off.
    if system.getFileStatus(place).isFile() or any(
        status.getPath().getName() != "_delta_log" for status in system.listStatus(place)
    ):
        raise AnabranchError(
            f"{path} is no Delta table: nothing was landed; "
            "move what is there away, or give the lake another place ([paths] lake)"
        )


def _check_columns(source: Source, found: dict[str, str]) -> None:
    declared = {folded(name): kind for name, kind in _declared(source).items()}
    own = {folded(name) for name in LAKE_COLUMNS}
    for name, kind in found.items():
        if name in own:
            continue
        if name not in declared:
            raise AnabranchError(
                f"source {source.name!r}: column {name!r} ({kind.upper()}) is in the lake "
                "and no longer declared: nothing was landed; declare it again (no feature has to use it), "
                "or give the source a new name to begin a new table"
            )
        if declared[name].lower() != kind.lower():
            raise AnabranchError(
                f"source {source.name!r}: column {name!r} has another type in the lake ({kind.upper()}) "
                f"than in the declaration ({declared[name]}): nothing was landed; "
                "declare the old type, or a new column or a new source name for the new one"
            )


def _columns(spark: SparkSession, path: str) -> dict[str, str]:
    table = snapshot(spark, path)
    if table is None:
        return {}
    schema = StructType.fromJson(json.loads(table.schema().json()))
    return {folded(field.name): field.dataType.simpleString() for field in schema.fields}


def _declared(source: Source) -> dict[str, str]:
    return {stored_name(column.name): column.type.spark for column in source.columns}
