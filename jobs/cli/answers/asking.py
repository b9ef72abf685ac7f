"""Verbs that ask: answer, why, features, verify."""

import json
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from anabranch.answers.requests import MOST_SHOWN
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.events.own_events import OwnEvent
from anabranch.values.keys import key_text, read_key
from anabranch.values.times import SECOND, format_time, now_micros, parse_time
from jobs.cli.options import AsJson, KeyText, Name
from jobs.show import Steps, picked, result, say, table
from jobs.wiring.job import job


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (answer, why, features, verify):
        app.command()(verb)


def answer(
    name: Name,
    key: KeyText,
    at: Annotated[
        str | None, typer.Option("--at", help="As of this time (ISO 8601), instead of now.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option("--request", help="Columns of the request as JSON, such as '{\"amount\": 3}'."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each feature contributed to the score.")
    ] = False,
    event: Annotated[
        str | None,
        typer.Option(
            "--event", help='An event that counts as if it had arrived: {"source": ..., "event": {...}}.'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the features and the score of one key, now or at a time in the past."""
    from anabranch.answers.own_requests import event_values
    from anabranch.answers.requests import decode, request_values, stored_key
    from jobs.flows.answering import answer_key, by_served

    with job() as context:
        declared = context.project(name)
        moment = None if at is None else parse_time(at)
        if event is not None and at is not None:
            raise MisuseError("an --event is for an answer as of now: leave out --at")
        given = None if request is None else decode(request.encode(), what="--request")
        brought = None if event is None else decode(event.encode(), exact=True, what="--event")
        latest = now_micros() + context.settings.times.future_skew_seconds * SECOND

        def asked(project: Project) -> tuple[dict[str, str], tuple[OwnEvent, ...]]:
            stored = stored_key(read_key(project.keys, key), project)
            if given is not None and project.request is None:
                raise MisuseError(f"{name} declares no request: leave out --request")
            if given is not None:
                request_values(given, project)  # before anything slow
            return stored, () if brought is None else event_values(brought, project, stored, latest)

        project, (stored, own) = by_served(context, declared, asked)
        answered = answer_key(context, project, stored, moment, given, own, explain=explain)
    if as_json:
        say(json.dumps(answered, default=str))
        return
    title = f"{name}, {key_text(project.keys, stored)}, as of {answered['as_of']}"
    table(title, ["feature", "value"], [list(item) for item in answered["features"].items()])
    if answered["degraded"]:
        say(f"degraded: {answered['degraded_reason']}")
    if not answered["known"]:
        say(
            "neither the batch nor the stream has an event of this key within the windows: these are the "
            f"features of no events, and there is no score (events of earlier: anabranch answer {name} "
            f"{shlex.join(key)} --at TIME)"
        )
        return
    say(score_line(project, answered))
    if "explanation" in answered:
        show_explanation(answered["explanation"])


def show_explanation(found: Mapping[str, Any]) -> None:
    """Show the contributions to a score, the strongest first, and the declared reasons."""
    errors = found.get("standard_errors", {})
    heads = ["feature", "contribution", *(["standard error"] if errors else [])]
    rows = [
        [name, f"{value:+.4g}", *([f"{errors[name]:.2g}"] if errors else [])]
        for name, value in sorted(found["contributions"].items(), key=lambda item: -abs(item[1]))
    ]
    what = f"{found['space']} of {found['label']}" if "label" in found else found["space"]
    what += " before calibration" if found.get("before_calibration") else ""
    about = f"{found['method']}, {what}: {found['base']:.4g} and these make {found['margin']:.4g}"
    table(f"Why this score ({about})", heads, rows)
    for number, reason in enumerate(found.get("reasons", ()), 1):
        say(f"reason {number}: {reason['text']} ({', '.join(reason['features'])})")


def why(
    name: Name,
    key: KeyText,
    at: Annotated[
        str | None, typer.Option("--at", help="As of this time (ISO 8601), from the batch's cut on.")
    ] = None,
    events: Annotated[
        int, typer.Option(min=0, max=MOST_SHOWN, help="How many events of each view are shown.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Show where a score comes from: its features, their windows, and the very events."""
    from anabranch.answers.requests import stored_key
    from jobs.flows.answering import by_served
    from jobs.flows.tracing import why_key

    with job() as context:
        moment = None if at is None else parse_time(at)
        project, stored = by_served(
            context, context.project(name), lambda one: stored_key(read_key(one.keys, key), one)
        )
        found = why_key(context, project, stored, moment, events)
    if as_json:
        say(json.dumps(found, default=str))
        return
    heads = ["feature", "value", "contribution", "window", "events", "by"]
    rows = [
        [
            one["name"],
            one["value"],
            "" if one["contribution"] is None else f"{one['contribution']:+.4g}",
            one.get("window", one.get("expression")),
            one.get("events", ""),
            ", ".join(f"{count} {channel}" for channel, count in one.get("by_channel", {}).items()),
        ]
        for one in found["features"]
    ]
    table(f"{name}, {key_text(project.keys, stored)}, as of {found['as_of']}", heads, rows)
    if found["degraded"]:
        say(f"degraded: {found['degraded_reason']}")
    if found["score"] is not None:
        say(f"score {found['score']:.4f} (model {found['model_version']}, batch {found['batch_version']})")
    for view in found["views"]:
        heads = ["id", "time", "arrival", "by", "from"]
        rows = [
            [one["id"], one["time"], one["arrival"], one["channel"], _origin(one)] for one in view["events"]
        ]
        table(f"{view['view']}: {view['shown']} of {view['found']} events of {view['source']}", heads, rows)
        if "incomplete" in view:
            say(f"there may be more: {view['incomplete']}")


def _origin(event: Mapping[str, Any]) -> str:
    if "topic" not in event:
        return str(event["file"])
    return f"{event['topic']}/{event['partition']}/{event['offset']}"


def score_line(project: Project, answered: Mapping[str, Any]) -> str:
    """The score of an answer, or why there is none, and which versions it is from."""
    batch = f"batch {answered['batch_version']}, from {answered['layer']}"
    if project.model is None:
        return f"no score, because {project.name} declares no model ({batch})"
    if answered["score"] is None and answered["model_version"] is not None:
        return f"no score without the request, which the model reads: give --request ({batch})"
    if answered["score"] is None:
        return f"no model yet: anabranch train {project.name} ({batch})"
    label = "" if answered["label"] is None else f", label {answered['label']}"
    return f"score {answered['score']:.4f}{label} (model {answered['model_version']}, {batch})"


def features(
    name: Name,
    at: Annotated[
        str,
        typer.Option(
            help="CSV or Parquet rows: the key's columns, and a time column named as the label source's."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder to write Parquet to.")],
    as_known: Annotated[
        bool, typer.Option("--as-known", help="Only from events that had arrived by the row's time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write point-in-time features for rows of keys and times: those columns and one column a feature."""
    from batch.scoring.features import features_at

    with job() as context:
        project = context.project(name)
        rows = features_at(context, project, at, out, Steps(), as_known=as_known)
    count = len(project.columns)
    value = {"project": name, "rows": rows, "features": count, "out": str(out)}
    result(as_json, value, f"{rows:,} rows with {count} features in {out}")


def verify(
    name: Name,
    keys: Annotated[int, typer.Option(help="How many keys to compare.")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Compare every key.")] = False,
    bus: Annotated[bool, typer.Option("--bus", help="Compare the lake with the topics too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute features from the lake and compare them with what is served; exit 1 on a mismatch."""
    from batch.landing.comparing import compare_topic
    from jobs.flows.verifying import verify_settled

    with job() as context:
        project = context.project(name)
        verified = verify_settled(context, project, None if every else keys, Steps())
        fed = [source for source in project.sources.values() if bus and source.topic is not None]
        topics = [compare_topic(context, project, source) for source in fed]
    compared = {
        feature: picked(each, "matches mismatches lost largest_error")
        for feature, each in verified.features.items()
    }
    if not as_json:
        heads = ["feature", "matches", "mismatches", "lost", "largest error"]
        rows = [[feature, *each.values()] for feature, each in compared.items()]
        table(f"Lake against served: {name}", heads, rows)
    value = {
        "project": name,
        **picked(verified, "keys mismatches lost degraded"),
        "features": len(compared),
        "at": format_time(verified.at),
        "seconds": round(verified.seconds, 2),
        "per_feature": compared,
    }
    text = f"{verified.keys} keys, {len(compared)} features, {verified.mismatches} mismatches"
    if verified.lost:
        text += f"; {verified.lost} values of keys that have more states than the store takes (degraded)"
    if bus:
        value["topics"] = {each.topic: picked(each, "messages missing waiting") for each in topics}
        missing = sum(each.missing for each in topics)
        text += f"; {sum(each.messages for each in topics)} messages of topics, {missing} never landed"
        waiting = sum(each.waiting for each in topics)
        text += f", {waiting} still to be copied" if waiting else ""
    result(as_json, value, f"verify: {text}")
    for each in topics:
        if each.missing:
            raise AnabranchError(
                f"{each.missing} messages of topic {each.topic!r} are in neither lake nor quarantine, "
                f"for example {each.example}: unless keys were erased or upkeep removed rows of quarantine, "
                "remove the source's folder below checkpoints in the lake and land again; copies count once"
            )
    if verified.mismatches:
        example = next(each.example for each in verified.features.values() if each.example)
        raise AnabranchError(
            f"{verified.mismatches} served values differ from the lake, for example {example}: "
            f"run 'anabranch stream {name}' where no stream runs, else 'anabranch build {name}'"
        )
