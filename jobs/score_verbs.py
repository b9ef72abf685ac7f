"""The verb about scores of data sets: score."""

from typing import Annotated

import typer

from features.errors import MisuseError
from features.times import parse_time
from jobs.inspect_verbs import AsJson, Name
from jobs.settings import load_settings
from jobs.show import Steps, result


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(score)


def score(
    name: Name,
    rows: Annotated[str, typer.Option("--in", help="CSV, JSON lines, Parquet or Delta rows with feature or key columns, or 'serving'.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write to (CSV when it ends in .csv, Delta when in .delta), or 'serving'.")],
    version: Annotated[str | None, typer.Option(help="Model version; the champion by default.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Attach missing features as of this time (ISO 8601), instead of now.")] = None,
    join: Annotated[bool, typer.Option("--join-features", help="Attach missing features as of each row's own time, when the rows have one.")] = False,
    keep: Annotated[str | None, typer.Option(help="Columns carried over, with commas between; all by default.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="parquet, csv or delta, whatever the name of --out says.")] = None,
    pyfunc: Annotated[bool, typer.Option("--pyfunc", help="Score with MLflow's pyfunc UDF, even where there is a faster way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mass-score a data set; killed and run again, it goes on where it was."""
    from batch.scoring import score_path
    from batch.scoring_inputs import SERVING
    from batch.scoring_work import ScoringOrder
    from jobs.context import Context
    from stores.views import current_table

    if join and at is not None:
        raise MisuseError("--join-features and --at contradict each other: rows are joined as of their own time, or all as of one")
    context = Context(load_settings(None, None))
    order = ScoringOrder(join=join, keep=None if keep is None else tuple(keep.split(",")), form=form, pyfunc=pyfunc)
    try:
        project = context.project(name)
        serves = rows in (SERVING, current_table(name)) or SERVING in (out, form)
        scored = score_path(
            context.spark, context.lake, context.models, project, rows, out, version, Steps(), at=None if at is None else parse_time(at),
            order=order, sizes=context.settings.scoring, serving=context.views if serves else None,
        )  # fmt: skip
    finally:
        context.close()
    value = {"project": name, "rows": scored.rows, "model_version": scored.version, "out": str(out), "resumed": scored.resumed, "again": scored.again}
    said = f"{scored.rows:,} rows were scored into {out} before: nothing was to be done" if scored.again else f"{scored.rows:,} rows scored into {out}"
    result(as_json, value, said)
