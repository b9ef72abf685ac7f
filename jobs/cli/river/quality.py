"""Verbs of data quality: quality (suites and reports of the gate) and quarantine (list, explain, replay)."""

import json
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from jobs.cli.options import AsJson, Name
from jobs.show import Steps, picked, result, say, table
from jobs.wiring.job import job
from jobs.wiring.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.wiring.context import Context

_MOST_REASONS = 200
_MOST_TEXT = 200


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
    most: Annotated[int, typer.Option(help="Reports to list, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the expectations of a source (`quality P SOURCE`), or the reports of the gate (`quality P`)."""
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
    from batch.landing.loader import find_source
    from jobs.wiring.suites import suite_file, suites

    path = suite_file(settings.quality, project, find_source(project, source))
    suite = suites(settings.quality, project)[source]
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
        title = f"Expected of {project.name}.{source} ({suite.origin})"
        table(title, ["column", "expected", "severity", "else", "notes"], rows)
    value = {
        "project": project.name,
        "source": source,
        "suite": suite.origin,
        "mode": settings.quality.mode,
        "expectations": [
            {**picked(each, "type severity notes"), "kwargs": dict(each.kwargs)}
            for each in suite.expectations
        ],
    }
    change = f"to change it: anabranch quality {project.name} {source} --write"
    result(as_json, value, f"edit {path}" if path.exists() else change)


def _effect(expectation: Any) -> str:
    if expectation.severity != "critical":
        return "is reported"
    if not expectation.about_rows:
        return "the load is refused"
    mostly = expectation.kwargs.get("mostly")
    below = "" if mostly is None else f", the load is refused below {100 * mostly:g}%"
    return f"the row goes to quarantine{below}"


def _write(settings: Settings, project: Project, source: str, as_json: bool) -> None:
    from anabranch.events.expectations import project_suite, suite_text
    from batch.landing.loader import find_source
    from jobs.wiring.suites import suite_file

    declared = find_source(project, source)
    path = suite_file(settings.quality, project, declared)
    if path.exists():
        raise MisuseError(f"{path} exists already: edit it, or remove it to begin anew from the declaration")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = suite_text(f"{project.name}.{source}", project_suite(project, declared))
    path.write_text(text, encoding="utf-8")
    value = {"project": project.name, "source": source, "suite": str(path)}
    result(as_json, value, f"wrote {path}\nNext: anabranch quality {project.name} {source}")


def _reports(settings: Settings, project: Project, most: int, as_json: bool) -> None:
    from batch.quality.gate import reports

    with job(settings) as context:
        listed = reports(context.spark, context.lake, project, most)
    if not as_json:
        heads = ["arrival", "source", "load", "rows", "bad", "verdict"]
        table(
            f"Loads of {project.name} at the gate", heads, [[each[key] for key in heads] for each in listed]
        )
        for each in listed:  # on lines of their own: in a cell a path would be wrapped
            say(f"{each['arrival']}  {each['report']}")
    suites = "".join(f"\n  anabranch quality {project.name} {source}" for source in project.sources)
    text = f"{len(listed)} reports; the expectations of each source:{suites}"
    result(as_json, {"project": project.name, "reports": listed}, text)


def quarantine(
    name: Name,
    source: Annotated[str | None, typer.Option(help="Only rows of this source.")] = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Only rows with this text in their reason.")
    ] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Explain each reason and what to do, with an example.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Judge the rows again by today's rules, and land the good ones.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="COLUMN=EXPRESSION",
            help="With --replay: an SQL expression over the row's texts instead of a cell.",
        ),
    ] = None,
    most: Annotated[int, typer.Option(help="Rows to show, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the rows that could not be used, explain them, or replay them."""
    from anabranch.declare.loading import load_project
    from batch.landing.loader import find_source

    if changes and not replay:
        raise MisuseError("--set changes what is replayed: give --replay too")
    cells = dict(_change(text) for text in changes or ())
    settings = load_settings()
    project = load_project(name, settings.projects)
    sources = list(project.sources.values()) if source is None else [find_source(project, source)]
    with job(settings) as context:
        if replay:
            value, text = _replay(context, project, sources, reason, cells)
        else:
            listing = _Listing(context=context, project=project, explain=explain, most=most, as_json=as_json)
            value, text = listing.show(sources, reason)
    result(as_json, value, text)


def _change(text: str) -> tuple[str, str]:
    column, equals, expression = text.partition("=")
    if not equals or not expression.strip():
        raise MisuseError(
            f"--set {text!r} is not understood: write COLUMN=EXPRESSION, "
            "for example --set \"age=replace(age, ' years', '')\""
        )
    return column.strip(), expression


def _replay(
    context: "Context", project: Project, sources: list[Source], reason: str, changes: dict[str, str]
) -> tuple[dict[str, Any], str]:
    from batch.quality.quarantine import ReplayChoice, replay

    gate, choice = context.gate(project), ReplayChoice(reason=reason, changes=changes)
    replayed = {
        each.name: replay(context, project, each, Steps(), gate, choice)
        for each in sources
        if set(changes) <= {column.name for column in each.columns} or len(sources) == 1
    }
    landed, bad = (sum(getattr(each, kind) for each in replayed.values()) for kind in ("landed", "bad"))
    counts = {source: picked(each, "landed bad") for source, each in replayed.items()}
    value = {"project": project.name, "landed": landed, "sources": counts}
    further = f"\nNext: anabranch build {project.name}" if landed else ""
    return value, f"{landed:,} rows landed, {bad:,} are still bad{further}"


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Quarantine as it is listed: counts of reasons, and their explanations or the newest rows."""

    context: "Context"
    project: Project
    explain: bool
    most: int
    as_json: bool

    def show(self, sources: list[Source], reason: str) -> tuple[dict[str, Any], str]:
        """Print the tables; returns the JSON and the sentence of the result."""
        from pyspark.sql import DataFrame
        from pyspark.sql import functions as F

        from batch.quality.quarantine import pending

        name = self.project.name
        waiting = [pending(self.context, self.project, source) for source in sources]
        rows = reduce(DataFrame.unionByName, waiting).where(F.contains("reason", F.lit(reason)))
        counts = self._counts(rows)
        total = rows.count() if len(counts) == _MOST_REASONS else sum(row["count"] for row in counts)
        reasons = {f"{row['source']}: {row['kind']}": row["count"] for row in counts}
        value: dict[str, Any] = {"project": name, "rows": total, "reasons": reasons}
        if self.explain:
            value["explained"] = [_explained(row) for row in counts]
        if not self.as_json:
            listed = [[row["count"], row["source"], row["kind"]] for row in counts]
            table(f"Quarantine of {name}", ["rows", "source", "reason"], listed)
            if self.explain:
                _explain(value["explained"])
            else:
                heads = ["source", "reason", "raw", "arrival"]
                shown = [
                    shortened(F.col(head)).alias(head) if head in ("reason", "raw") else head
                    for head in heads
                ]
                newest = rows.orderBy(F.desc("arrival")).limit(self.most).select(*shown).collect()
                table(f"The newest {len(newest)}", heads, [[row[head] for head in heads] for row in newest])
        hint = "" if self.explain or not total else f"\nNext: anabranch quarantine {name} --explain"
        return value, f"{total:,} rows in quarantine{hint}"

    @staticmethod
    def _counts(rows: "DataFrame") -> list[Any]:
        """Rows by source and kind of reason, with one example each."""
        from pyspark.sql import functions as F

        from batch.quality.reasons import kind

        example = F.struct("reason", F.left("raw", F.lit(200)).alias("raw"))
        grouped = rows.groupBy("source", kind(F.col("reason")).alias("kind")).agg(
            F.count(F.lit(1)).alias("count"), F.min_by(example, F.xxhash64("id")).alias("example")
        )
        return grouped.orderBy(F.desc("count"), "source", "kind").limit(_MOST_REASONS).collect()


def shortened(text: "Column") -> "Column":
    """A text of at most so many characters, and how many there are."""
    from pyspark.sql import functions as F

    longer = F.concat(
        F.left(text, F.lit(_MOST_TEXT)), F.format_string("... (%,d characters)", F.length(text))
    )
    return F.when(F.length(text) > _MOST_TEXT, longer).otherwise(text)


def _explained(row: Any) -> dict[str, Any]:
    from batch.quality.reasons import explain

    counted = {"source": row["source"], "reason": row["kind"], "rows": row["count"]}
    return {**counted, **vars(explain(row["kind"])), "example": row["example"].asDict()}


def _explain(explained: list[dict[str, Any]]) -> None:
    for each in explained:
        say(f"{each['source']}: {each['reason']} ({each['rows']:,} rows)")
        say(f"  means    {each['means']}")
        say(f"  do       {each['do']}" + ("" if each["replays"] else " (a replay cannot help)"))
        say(f"  example  {each['example']['reason']}")
        say(f"           {json.dumps(each['example']['raw'], ensure_ascii=False)}")
