"""The verb that scores data sets: score."""

from typing import Annotated

import typer

from anabranch.errors import MisuseError
from anabranch.values.times import SECOND, parse_duration, parse_time
from jobs.cli.options import AsJson, Champion, Name
from jobs.servers.processes import stop_event
from jobs.show import Steps, picked, result
from jobs.wiring.job import job


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(score)


def score(
    name: Name,
    rows: Annotated[
        str | None,
        typer.Option(
            "--in", help="CSV, JSON lines, Parquet or Delta rows with feature or key columns, or 'serving'."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder to write (CSV when it ends in .csv, Delta when in .delta), or 'serving'."),
    ] = None,
    version: Champion = None,
    at: Annotated[
        str | None, typer.Option(help="Attach missing features as of this time (ISO 8601), instead of now.")
    ] = None,
    join: Annotated[
        bool, typer.Option("--join-features", help="Attach missing features as of the time of each row.")
    ] = False,
    keep: Annotated[
        str | None, typer.Option(help="Columns carried over, with commas in between; all by default.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="parquet, csv or delta, whatever the name of --out says.")
    ] = None,
    pyfunc: Annotated[
        bool, typer.Option("--pyfunc", help="Score with MLflow's pyfunc UDF, even if there is a faster way.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add what each feature contributed, and declared reasons.")
    ] = False,
    on_write: Annotated[
        bool,
        typer.Option(
            "--follow", help="Score what arrives in --in, or in what the project declares, until stopped."
        ),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="With --follow: score what has arrived and stop.")
    ] = False,
    every: Annotated[str, typer.Option(help="With --follow: how often, such as 30s or 5m.")] = "30s",
    as_json: AsJson = False,
) -> None:
    """Mass-score a data set; after a kill, the same command continues where it was."""
    if on_write and explain:
        raise MisuseError("--follow appends scores without explanations: leave out --explain")
    if on_write:
        _follow(name, rows, out, None if once else every, as_json)
        return
    if rows is None or out is None:
        raise MisuseError("rows and results are needed: give --in PATH and --out PATH, or --follow")
    from batch.scoring.data_sets import score_data_set
    from batch.scoring.parts import ScoringOrder

    if join and at is not None:
        raise MisuseError("--join-features and --at contradict each other: give one of them")
    with job() as context:
        order = ScoringOrder(
            source=rows,
            out=out,
            version=version,
            at=None if at is None else parse_time(at),
            join=join,
            keep=None if keep is None else tuple(keep.split(",")),
            form=form,
            pyfunc=pyfunc,
            explain=explain,
            sizes=context.settings.scoring,
        )
        scored = score_data_set(context, context.project(name), order, Steps())
    value = {
        "project": name,
        "model_version": scored.version,
        "out": str(out),
        **picked(scored, "rows resumed again"),
    }
    text = f"{scored.rows:,} rows scored into {out}"
    if scored.again:
        text = f"{scored.rows:,} rows were scored into {out} before: nothing to do"
    result(as_json, value, text)


def _follow(name: str, rows: str | None, out: str | None, every: str | None, as_json: bool) -> None:
    """Scoring on write; `every` None scores what has arrived until now and stops."""
    from batch.scoring.on_write import Follower, follow, followers

    if (rows is None) != (out is None):
        raise MisuseError(
            "--in and --out belong together: give both, or neither for what the project declares"
        )
    pause = None if every is None else parse_duration(every, "--every") // SECOND
    stopping = stop_event()
    with job() as context:
        project = context.project(name)
        wanted = (
            followers(context, project)
            if rows is None or out is None
            else (Follower(source=rows, out=out, label=rows),)
        )
        scored = follow(context, project, wanted, Steps(), every_seconds=pause, stopping=stopping)
    counts = ", ".join(f"{count:,} rows of {label}" for label, count in scored.items())
    result(as_json, {"project": name, "rows": scored}, f"scored {counts}")
