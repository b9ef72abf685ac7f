"""The verb that looks after a released model: watch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.values.times import SECOND, format_time, parse_duration, parse_time, to_micros
from jobs.cli.options import AsJson
from jobs.flows.rounds import rounds
from jobs.servers.processes import stop_event
from jobs.show import Steps, picked, result, say, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.flows.watching import Looked
    from jobs.wiring.context import Context

Watched = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PROJECT]...", help="The project; with --every several, or every declared one."),
]
_CHECK = "what which version value threshold crossed news"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(watch)


def watch(
    names: Watched = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Predictions and labels since this time (ISO 8601); the declared window by default."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(help="Look that often, such as 15m or 1h, until stopped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge predictions by labels that arrived later, measure drift and skew, and raise declared alerts."""
    from jobs.flows.watching import sentence, watch_project

    chosen = list(dict.fromkeys(names or []))
    if every is not None:
        _look_every(chosen, since, html, parse_duration(every, "--every") // SECOND, as_json)
        return
    if len(chosen) != 1:
        raise MisuseError("without --every exactly one project is watched: name one, or give --every")
    (name,) = chosen
    with job() as context:
        start = None if since is None else parse_time(since)
        looked = watch_project(context, context.project(name), Steps(), start, html)
    if not as_json:
        show(looked)
    further = f"report: {html}" if html else f"Next: anabranch watch {name} --html report.html"
    result(as_json, value(looked), f"{sentence(looked)}\n{further}")


def _look_every(
    names: Sequence[str], since: str | None, html: Path | None, seconds: int, as_json: bool
) -> None:
    """Look at the named projects, or at all, until stopped; a look that fails does not end the others."""
    from jobs.flows.watching import Watching

    if since is not None or (html is not None and len(names) != 1):
        raise MisuseError(
            "--every looks at the declared window and writes a page of one named project: "
            "leave out --since, and --html with several"
        )
    stopping, steps = stop_event(), Steps()
    with job() as context:
        chosen = list(names) or sorted(list_projects(context.settings.projects))
        for name in chosen:
            context.project(name)
        watching = Watching(context=context, steps=steps, html=html)
        steps.step(f"looking at {', '.join(chosen)} every {seconds} s")
        for _ in rounds(seconds, stopping):
            for name in chosen:
                if not stopping.is_set():
                    watching.look(name)
    text = f"watch stopped after {watching.looks} looks, of which {watching.failed} failed"
    result(as_json, {"projects": chosen, **picked(watching, "looks failed")}, text)


def watch_built(context: "Context", project: Project, steps: Steps) -> "Looked | str | None":
    """The look after a build: None without a model, a text when it failed, which does not fail the build."""
    from jobs.flows.watching import watch_project

    try:
        if project.model is None or context.models.champion(project.name) is None:
            return None
        return watch_project(context, project, steps, landed=True)
    except Exception as error:  # noqa: BLE001 - the build is done and good
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"watching failed ({first}): anabranch watch {project.name}"


def summary(looked: "Looked | str | None") -> dict[str, Any] | None:
    """The look after a build in a few words of JSON."""
    if looked is None or isinstance(looked, str):
        return None if looked is None else {"error": looked}
    return {
        "predictions": sum(looked.findings.predictions.values()),
        "beyond": [f"{check.what} {check.which}".strip() for check in looked.checks if check.crossed],
        "notes": list(looked.findings.notes),
    }


def show(looked: "Looked") -> None:
    """Print the tables of a look."""
    from batch.evaluation.fairness import RATES
    from batch.training.card import DIFFERENCE, difference_rows, rate_rows

    findings = looked.findings
    heads = ["version", "slice", "labels", findings.metric, "95% from", "to"]
    whole = [_accuracy(each) for each in findings.accuracy if each.period is None]
    _table(f"On labels that came since {format_time(findings.since)}", heads, whole)
    dated = [
        [format_time(to_micros(each.period)), *_accuracy(each)] for each in findings.accuracy if each.period
    ]
    _table("Over time", ["from", *heads], dated)
    if findings.trial is not None:
        say(f"On trial: {findings.trial.said}")
    for version, fair in findings.fairness.items():
        heads = ["feature", "part", "rows", *RATES.values()]
        _table(f"Fairness by slice, version {version}", heads, rate_rows(fair))
        _table(f"Differences between slices, version {version}", list(DIFFERENCE), difference_rows(fair))
    inputs = [
        (f"Inputs of predictions, version {version}", drifts) for version, drifts in findings.features.items()
    ]
    heads = ["feature", "PSI", "Jensen-Shannon", "rows", "moved most"]
    for title, drifts in [*inputs, ("Inputs in current rows", findings.current)]:
        rows = [[each.feature, each.psi, each.js, each.rows, each.most_moved] for each in drifts]
        _table(f"{title}, against training data", heads, rows)
    rows = [
        [version, each.psi, each.js, each.rows, findings.means.get(version), each.most_moved]
        for version, each in findings.scores.items()
    ]
    heads = ["version", "PSI", "Jensen-Shannon", "rows", "mean", "moved most"]
    _table("Scores of predictions, against held-out rows", heads, rows)
    rows = [
        [version, each.psi, each.js, each.rows, each.most_moved] for version, each in findings.labels.items()
    ]
    heads = ["version", "PSI", "Jensen-Shannon", "rows", "moved most"]
    _table("Labels of predictions by class, against held-out rows", heads, rows)
    if findings.skew is not None:
        one = findings.skew
        heads = ["batch version", "answers", "left out", "values", "different", "example"]
        rows = [[one.batch_version, one.answers, one.unsettled, one.values, one.differing, one.example]]
        _table(f"Answers of version {one.version} recomputed from the lake", heads, rows)
    if findings.approximation:
        at = max(each.at for each in findings.approximation.values())
        title = f"Approximate scores against those of the batch of {at:%Y-%m-%d %H:%M} UTC"
        _table(
            title, list(findings.approximation), [[each.value for each in findings.approximation.values()]]
        )
    checks = [
        [c.what, c.which, c.version, c.value, c.threshold, "yes" if c.crossed else "no", c.news]
        for c in looked.checks
    ]
    _table("Thresholds", _CHECK.split(), checks)
    for note in findings.notes:
        say(f"note: {note}")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table, unless it is empty."""
    if rows:
        table(title, heads, rows)


def _accuracy(each: Any) -> list[object]:
    return [each.version, each.part or "all", each.labels, each.value, each.low, each.high]


def value(looked: "Looked") -> dict[str, Any]:
    """A look as JSON."""
    findings = looked.findings
    answer: dict[str, Any] = {
        **picked(findings, "project champion"),
        "at": format_time(findings.at),
        "since": format_time(findings.since),
        "predictions": dict(findings.predictions),
        "checks": [picked(check, _CHECK) for check in looked.checks],
        "notes": list(findings.notes),
        "measures": [
            {**picked(measure, "subject name slice version value"), "at": format_time(to_micros(measure.at))}
            for measure in findings.measures()
        ],
    }
    if findings.skew is not None:
        answer["skew"] = picked(findings.skew, "answers values differing example")
    return answer
