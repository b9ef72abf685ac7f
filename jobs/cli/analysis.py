"""The verb for analysts: sql."""

import json
from typing import Annotated, Any

import typer

from anabranch.errors import MisuseError
from jobs.cli.options import AsJson
from jobs.show import say, table
from jobs.wiring.job import job

_MOST = 1000


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(sql)


def sql(
    statement: Annotated[
        str,
        typer.Argument(
            metavar="STATEMENT", help="Spark SQL; 'SHOW TABLES IN anabranch' lists what there is."
        ),
    ],
    most: Annotated[int, typer.Option(help=f"Rows to show, up to {_MOST:,}.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Run Spark SQL over current rows, events, predictions and quarantine of the declared projects, and answers at a time."""
    from pyspark.errors import AnalysisException, ParseException

    from jobs.flows.analysis import Analysis

    if not 1 <= most <= _MOST:
        raise MisuseError(
            f"--most {most} must be from 1 to {_MOST:,}: write larger results to a file from a notebook"
        )
    try:
        with job() as context:
            found = Analysis(context).sql(statement).limit(most + 1).toArrow()
    except (AnalysisException, ParseException) as error:
        raise MisuseError(f"the statement cannot be run: {str(error).split('SQLSTATE')[0]}") from error
    names, complete = found.column_names, found.num_rows <= most
    rows: list[tuple[Any, ...]] = list(
        zip(*[column.to_pylist() for column in found.slice(0, most).columns], strict=True)
    )
    if as_json:
        say(
            json.dumps(
                {
                    "columns": names,
                    "rows": [dict(zip(names, row, strict=True)) for row in rows],
                    "complete": complete,
                },
                default=str,
            )
        )
        return
    table(" ".join(statement.split()), names, rows)
    say(f"{len(rows):,} rows" + ("" if complete else f", and there are more: --most shows up to {_MOST:,}"))
