"""The verb for analysts: sql."""

from typing import Annotated, Any

import typer

from anabranch.errors import MisuseError
from jobs.cli.options import AsJson
from jobs.show import result, table
from jobs.wiring.job import job

_MOST = 1000


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(sql)


def sql(
    statement: Annotated[
        str,
        typer.Argument(metavar="STATEMENT", help="Spark SQL; 'SHOW TABLES IN anabranch' lists the tables."),
    ],
    most: Annotated[int, typer.Option(help=f"Rows to show, up to {_MOST:,}.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Run Spark SQL over tables of the projects: current rows, events, predictions, quarantine."""
    from pyspark.errors import AnalysisException, ParseException

    from jobs.flows.analysis import Analysis

    if not 1 <= most <= _MOST:
        raise MisuseError(
            f"--most {most} must be from 1 to {_MOST:,}: write larger results to a file from a notebook"
        )
    try:
        with job() as context:
            selected = Analysis(context).sql(statement).limit(most + 1).toArrow()
    except (AnalysisException, ParseException) as error:
        raise MisuseError(f"the statement cannot be run: {str(error).split('SQLSTATE')[0]}") from error
    names, complete = selected.column_names, selected.num_rows <= most
    columns = [column.to_pylist() for column in selected.slice(0, most).columns]
    rows: list[tuple[Any, ...]] = list(zip(*columns, strict=True))
    if not as_json:
        table(" ".join(statement.split()), names, rows)
    value = {
        "columns": names,
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "complete": complete,
    }
    more = "" if complete else f", and there are more: --most shows up to {_MOST:,}"
    result(as_json, value, f"{len(rows):,} rows{more}")
