"""Verbs of data quality: quality (suites and reports of the gate) and quarantine (list, explain, replay)."""

import json
from functools import reduce
from typing import Annotated, Any

import typer

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from jobs.cli.options import AsJson, Name
from jobs.show import Steps, result, say, table
from jobs.wiring.job import job
from jobs.wiring.settings import Settings, load_settings

_MOST_REASONS = 200


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (quality, quarantine):
        app.command()(verb)


def quality(
    name: Name,
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="Show the suite of this source.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the suite of the source to a file, to be edited.")
    ] = False,
    most: Annotated[int, typer.Option(help="Reports to list, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what is expected of a source's events (`quality P SOURCE`), or the reports of the gate (`quality P`)."""
    from anabranch.declare.loading import load_project

    settings = load_settings()
    project = load_project(name, settings.projects)
    if source is None:
        if write:
            raise MisuseError(f"--write needs a source: give one of {', '.join(project.sources)}")
        _reports(settings, project, most, as_json)
    elif write:
        _write(settings, project, source, as_json)
    else:
        _suite(settings, project, source, as_json)


def _suite(settings: Settings, project: Project, source: str, as_json: bool) -> None:
    from batch.landing.targets import find_source
    from jobs.wiring.suites import suite_file, suites

    found = find_source(project, source)
    suite = suites(settings.quality, project)[source]
    value = {
        "project": project.name,
        "source": source,
        "suite": suite.origin,
        "mode": settings.quality.mode,
        "expectations": [
            {"type": each.type, "kwargs": dict(each.kwargs), "severity": each.severity, "notes": each.notes}
            for each in suite.expectations
        ],
    }
    if not as_json:
        rows = [
            [
                each.columns[0] if each.columns else "(rows)",
                each.words,
                each.severity,
                _effect(each),
                each.notes,
            ]
            for each in suite.expectations
        ]
        table(
            f"Expected of {project.name}.{source} ({suite.origin})",
            ["column", "expected", "severity", "else", "notes"],
            rows,
        )
    path = suite_file(settings.quality, project, found)
    result(
        as_json,
        value,
        f"edit {path}"
        if path.exists()
        else f"to change it: anabranch quality {project.name} {source} --write",
    )


def _effect(each: Any) -> str:
    if each.severity != "critical":
        return "is reported"
    if not each.about_rows:
        return "the load is refused"
    return "the row goes to quarantine" + (
        f", the load is refused below {100 * each.kwargs['mostly']:g}%" if "mostly" in each.kwargs else ""
    )


def _write(settings: Settings, project: Project, source: str, as_json: bool) -> None:
    from anabranch.events.expectations import project_suite, suite_text
    from batch.landing.targets import find_source
    from jobs.wiring.suites import suite_file

    found = find_source(project, source)
    path = suite_file(settings.quality, project, found)
    if path.exists():
        raise MisuseError(f"{path} exists already: edit it, or remove it to begin anew from the declaration")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(suite_text(f"{project.name}.{source}", project_suite(project, found)), encoding="utf-8")
    result(
        as_json,
        {"project": project.name, "source": source, "suite": str(path)},
        f"wrote {path}\nNext: anabranch quality {project.name} {source}",
    )


def _reports(settings: Settings, project: Project, most: int, as_json: bool) -> None:
    from batch.quality.gate import reports

    with job(settings) as context:
        found = reports(context.spark, context.lake, project, most)
    if not as_json:
        rows = [
            [
                each["arrival"],
                each["source"],
                each["load"],
                each["rows"],
                each["bad"],
                each["verdict"],
                each["report"],
            ]
            for each in found
        ]
        table(
            f"Loads of {project.name} at the gate",
            ["arrival", "source", "load", "rows", "bad", "verdict", "report"],
            rows,
        )
    suites = "".join(f"\n  anabranch quality {project.name} {source}" for source in project.sources)
    result(
        as_json,
        {"project": project.name, "reports": found},
        f"{len(found)} reports; what is expected of each source:{suites}",
    )


def quarantine(
    name: Name,
    source: Annotated[str | None, typer.Option("--source", help="Only rows of this source.")] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Only rows with this text in their reason.")
    ] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each reason means and what to do, with an example.")
    ] = False,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Judge the rows again by today's rules and land those that are good."),
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="COLUMN=EXPRESSION",
            help="With --replay: an SQL expression over the row's texts instead of a cell.",
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Rows to show, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the rows that could not be used, explain them, or replay them."""
    from anabranch.declare.loading import load_project
    from batch.landing.targets import find_source

    if changes and not replay:
        raise MisuseError("--set changes what is replayed: give --replay too")
    given = dict(_change(text) for text in changes or ())
    settings = load_settings()
    project = load_project(name, settings.projects)
    wanted = list(project.sources.values()) if source is None else [find_source(project, source)]
    with job(settings) as context:
        if replay:
            _replay(context, project, wanted, reason, given, as_json)
        else:
            _list(context, project, wanted, reason, explain, most, as_json)


def _change(text: str) -> tuple[str, str]:
    column, equals, expression = text.partition("=")
    if not equals or not expression.strip():
        raise MisuseError(
            f"--set {text!r} is not understood: write COLUMN=EXPRESSION, for example --set \"age=replace(age, ' years', '')\""
        )
    return column.strip(), expression


def _replay(
    context: Any, project: Project, sources: list[Any], reason: str, changes: dict[str, str], as_json: bool
) -> None:
    from batch.quality.quarantine import replay

    gate, times = context.gate(project), context.settings.times
    found = {
        each.name: replay(
            context.spark,
            context.lake,
            project,
            each,
            times,
            Steps(),
            reason=reason,
            changes=changes,
            gate=gate,
        )
        for each in sources
        if set(changes) <= {column.name for column in each.columns} or len(sources) == 1
    }
    landed = sum(each.landed for each in found.values())
    value = {source: {"landed": each.landed, "bad": each.bad} for source, each in found.items()}
    text = f"{landed:,} rows landed, {sum(each.bad for each in found.values()):,} are still bad"
    result(
        as_json,
        {"project": project.name, "landed": landed, "sources": value},
        text + (f"\nNext: anabranch build {project.name}" if landed else ""),
    )


def _list(
    context: Any, project: Project, sources: list[Any], reason: str, explained: bool, most: int, as_json: bool
) -> None:
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    from batch.quality.quarantine import pending
    from batch.quality.reasons import explain, kind

    found = reduce(
        DataFrame.unionByName, [pending(context.spark, context.lake, project, source) for source in sources]
    )
    rows = found.where(F.contains("reason", F.lit(reason)))
    example = F.min_by(F.struct("reason", F.left("raw", F.lit(200)).alias("raw")), F.xxhash64("id")).alias(
        "example"
    )
    grouped = rows.groupBy("source", kind(F.col("reason")).alias("kind")).agg(
        F.count(F.lit(1)).alias("count"), example
    )
    counts = grouped.orderBy(F.desc("count"), "source", "kind").limit(_MOST_REASONS).collect()
    total = rows.count() if len(counts) == _MOST_REASONS else sum(row["count"] for row in counts)
    value: dict[str, Any] = {
        "project": project.name,
        "rows": total,
        "reasons": {f"{row['source']}: {row['kind']}": row["count"] for row in counts},
    }
    if explained:
        value["explained"] = [
            {
                "source": row["source"],
                "reason": row["kind"],
                "rows": row["count"],
                **vars(explain(row["kind"])),
                "example": row["example"].asDict(),
            }
            for row in counts
        ]
    if not as_json:
        title = f"Quarantine of {project.name}"
        table(
            title,
            ["rows", "source", "reason"],
            [[row["count"], row["source"], row["kind"]] for row in counts],
        )
        if explained:
            _explain(value["explained"])
        else:
            newest = rows.orderBy(F.desc("arrival")).limit(most).collect()
            table(
                f"The newest {len(newest)}",
                ["source", "reason", "raw", "arrival"],
                [[r["source"], r["reason"], r["raw"], r["arrival"]] for r in newest],
            )
    hint = "" if explained or not total else f"\nNext: anabranch quarantine {project.name} --explain"
    result(as_json, value, f"{total:,} rows in quarantine{hint}")


def _explain(explained: list[dict[str, Any]]) -> None:
    for each in explained:
        say(f"{each['source']}: {each['reason']} ({each['rows']:,} rows)")
        say(f"  means    {each['means']}")
        say(f"  do       {each['do']}" + ("" if each["replays"] else " (a replay cannot help)"))
        say(f"  example  {each['example']['reason']}")
        say(f"           {json.dumps(each['example']['raw'], ensure_ascii=False)}")
