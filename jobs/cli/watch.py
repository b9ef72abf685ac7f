"""The verb that looks after a model once it is released: watch."""

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
from jobs.servers.processes import told_to_stop
from jobs.show import Steps, result, say, table
from jobs.wiring.job import job

if TYPE_CHECKING:
    from jobs.flows.watching import Looked
    from jobs.wiring.context import Context

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PROJECT]...",
        help="The project; with --every some, or all that are declared when none is named.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(watch)


def watch(
    names: Names = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Predictions and labels from this time on (ISO 8601); the declared window by default."
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
    """Judge predictions by labels that came later, measure drift and skew, and raise declared alerts."""
    from jobs.flows.watching import said, watch_project

    chosen = list(dict.fromkeys(names or []))
    if every is not None:
        _look_every(chosen, since, html, parse_duration(every, "--every") // SECOND, as_json)
        return
    if len(chosen) != 1:
        raise MisuseError(
            "one project is looked at by one call: name it, or give --every to go on looking at some or all"
        )
    (name,) = chosen
    with job() as context:
        looked = watch_project(
            context, context.project(name), Steps(), None if since is None else parse_time(since), html
        )
    if not as_json:
        show(looked)
    where = f"\nreport: {html}" if html else f"\nNext: anabranch watch {name} --html report.html"
    result(as_json, value(looked), f"{said(looked)}{where}")


def _look_every(
    names: Sequence[str], since: str | None, html: Path | None, seconds: int, as_json: bool
) -> None:
    """Looks of the named projects, or of all, until stopped. One that fails is told, and the next comes in its turn."""
    from jobs.flows.watching import Watching

    if since is not None or (html is not None and len(names) != 1):
        raise MisuseError(
            "--every looks at the declared window, and writes a page of one named project: leave out --since, and --html with several"
        )
    stopping, steps = told_to_stop(), Steps()
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
    value = {"projects": chosen, "looks": watching.looks, "failed": watching.failed}
    result(as_json, value, f"watch stopped after {watching.looks} looks, of which {watching.failed} failed")


def watch_built(context: "Context", project: Project, steps: Steps) -> "Looked | str | None":
    """The look after a build, which succeeded whatever comes of it: None without a model, a text for what went wrong."""
    from jobs.flows.watching import watch_project

    try:
        if project.model is None or context.models.champion(project.name) is None:
            return None
        return watch_project(context, project, steps, landed=True)
    except Exception as error:  # noqa: BLE001 - the build is done and good; it is said, with the verb that shows all of it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"watching failed ({first}): anabranch watch {project.name}"


def summary(looked: "Looked | str | None") -> dict[str, Any] | None:
    """The look after a build in a few words of JSON."""
    if looked is None or isinstance(looked, str):
        return None if looked is None else {"error": looked}
    crossed = [one.what + (f" {one.which}" if one.which else "") for one in looked.checks if one.crossed]
    return {
        "predictions": sum(looked.found.predictions.values()),
        "beyond": crossed,
        "notes": list(looked.found.notes),
    }


def show(looked: "Looked") -> None:
    """Tables of what was found."""
    found = looked.found
    whole = [one for one in found.accuracy if one.period is None]
    if whole:
        rows = [[one.version, one.part or "all", one.labels, one.value, one.low, one.high] for one in whole]
        table(
            f"On labels that came since {format_time(found.since)}",
            ["version", "slice", "labels", found.metric, "95% from", "to"],
            rows,
        )
    dated = [one for one in found.accuracy if one.period is not None]
    if dated:
        rows = [
            [
                format_time(to_micros(one.period)),
                one.version,
                one.part or "all",
                one.labels,
                one.value,
                one.low,
                one.high,
            ]
            for one in dated
            if one.period
        ]
        table("Over time", ["from", "version", "slice", "labels", found.metric, "95% from", "to"], rows)
    columns = ["feature", "PSI", "Jensen-Shannon", "rows", "moved most"]
    for title, drifts in [
        *[(f"Inputs of predictions, version {v}", d) for v, d in found.features.items()],
        ("Inputs in current rows", found.current),
    ]:
        if drifts:
            table(
                f"{title}, against training data",
                columns,
                [[one.feature, one.psi, one.js, one.rows, one.most_moved] for one in drifts],
            )
    if found.scores:
        rows = [
            [version, one.psi, one.js, one.rows, found.means.get(version), one.most_moved]
            for version, one in found.scores.items()
        ]
        table(
            "Scores of predictions, against held-out rows",
            ["version", "PSI", "Jensen-Shannon", "rows", "mean", "moved most"],
            rows,
        )
    if found.skew is not None:
        one = found.skew
        table(
            f"Answers of version {one.version} made again from the lake",
            ["batch version", "answers", "left aside", "values", "differing", "an example"],
            [[one.batch_version, one.answers, one.unsettled, one.values, one.differing, one.example]],
        )
    if found.approximation:
        at = max(one.at for one in found.approximation.values())
        values = {name: one.value for name, one in found.approximation.items()}
        table(
            f"Approximate scores against those of the batch of {at:%Y-%m-%d %H:%M} UTC",
            list(values),
            [list(values.values())],
        )
    if looked.checks:
        rows = [
            [
                one.what,
                one.which,
                one.version,
                one.value,
                one.threshold,
                "yes" if one.crossed else "no",
                one.news,
            ]
            for one in looked.checks
        ]
        table("Thresholds", ["what", "which", "version", "value", "threshold", "crossed", "news"], rows)
    for note in found.notes:
        say(f"note: {note}")


def value(looked: "Looked") -> dict[str, Any]:
    """All of it as JSON."""
    found = looked.found
    measures = [
        {
            "subject": m.subject,
            "name": m.name,
            "slice": m.slice,
            "version": m.version,
            "at": format_time(int(m.at.timestamp() * 1e6)),
            "value": m.value,
        }
        for m in found.measures()
    ]
    checks = [
        {
            "what": c.what,
            "which": c.which,
            "version": c.version,
            "value": c.value,
            "threshold": c.threshold,
            "crossed": c.crossed,
            "news": c.news,
        }
        for c in looked.checks
    ]
    answer: dict[str, Any] = {
        "project": found.project,
        "at": format_time(found.at),
        "since": format_time(found.since),
        "champion": found.champion,
    }
    answer |= {
        "predictions": dict(found.predictions),
        "checks": checks,
        "notes": list(found.notes),
        "measures": measures,
    }
    if found.skew is not None:
        answer["skew"] = {
            "answers": found.skew.answers,
            "values": found.skew.values,
            "differing": found.skew.differing,
            "example": found.skew.example,
        }
    return answer
