"""The page at /projects/{p}/keys/{key}: what is known of one key now, window by window, and at moments since the batch's cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.answers.features import Answer
from anabranch.answers.predict import shown
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.values.keys import key_values
from anabranch.values.times import SECOND
from anabranch.values.types import DataType
from serving.api.facts import Missing
from serving.api.live import Served
from serving.site.charts import sparkline
from serving.site.markup import Content, Markup, path, section, table, tag
from serving.site.shown import NOTHING, missing, moment, number, pill, value

MOMENTS = 6
_TIMESTAMP = DataType("TIMESTAMP")


@dataclass(frozen=True, kw_only=True)
class KeyFound:
    """A key of a project with its answers at moments in order of time, the last one being now, and its current row."""

    served: Served
    key: str
    now: int
    answers: Sequence[Answer] | Missing
    row: Mapping[str, Any] | Missing | None


def key_address(project: Project, text: str) -> str:
    """The address of the page of a key as stored text."""
    parts = key_values(project.keys, text)
    return path(
        "projects",
        project.name,
        "keys",
        text if len(parts) == 1 else ",".join(f"{name}={value}" for name, value in parts.items()),
    )


def moments(served: Served, now: int) -> list[int]:
    """Times to ask for: from the cut of the batch to now. Earlier ones the store does not keep."""
    if served.manifest is None or served.manifest.cut >= now - SECOND:
        return [now]
    since = served.manifest.cut
    return [since + (now - since) * at // (MOMENTS - 1) for at in range(MOMENTS)]


def key_page(found: KeyFound) -> Content:
    """The body of the page."""
    name = found.served.project.name
    return [
        tag("h1", found.key),
        tag("p", f"A key of {name}: {', '.join(found.served.project.keys)}", class_="lead soft"),
        _current(found),
        [missing(found.answers)] if isinstance(found.answers, Missing) else [_now(found, found.answers[-1]), _over_time(found, found.answers)],
    ]  # fmt: skip


def _current(found: KeyFound) -> Markup | None:
    if found.served.project.model is None:
        return None
    if isinstance(found.row, Missing):
        return section("Score", missing(found.row), name="score")
    if not found.row or found.row.get("score") is None:
        return section(
            "Score",
            tag("p", "No current row: neither a batch nor the stream has scored this key.", class_="soft"),
            name="score",
        )
    row = found.row
    tiles: list[tuple[str, Content, Content]] = [
        ("Score", number(row["score"]), f"label {row.get('label')}" if row.get("label") is not None else ""),
        ("Model", f"version {row.get('model_version')}", f"batch {row.get('batch_version')}"),
        ("Last written by", str(row.get("layer")), str(shown(row.get("as_of"), _TIMESTAMP) or "")[:19]),
    ]
    return section(
        "Score",
        tag(
            "ul",
            [
                tag(
                    "li",
                    tag("span", what, class_="name"),
                    tag("b", said),
                    tag("span", more, class_="soft"),
                    class_="tile",
                )
                for what, said, more in tiles
            ],
            class_="tiles",
        ),
        name="score",
    )


def _now(found: KeyFound, answer: Answer) -> Markup:
    degraded = (
        tag("p", pill("degraded", "warn"), " ", answer.degraded, class_="note") if answer.degraded else None
    )
    unknown = (
        None
        if answer.known
        else tag("p", "Nothing is known of this key: these are the features of no events.", class_="note")
    )
    return section(
        "Now",
        degraded,
        unknown,
        [_by_window(view, answer.values) for view in found.served.project.views],
        name="now",
    )


def _by_window(view: FeatureView, values: Mapping[str, Any]) -> Markup:
    """A row a feature, a column a window."""
    spans = [span.name if span.width is not None else "ever" for span in view.spans]
    columns = {(column.feature, column.window.name): column for column in view.columns}
    rows: list[tuple[Content, ...]] = []
    for feature in view.features:
        own = [columns[feature, span.name] for span in view.spans]
        rows.append(
            (tag("code", feature), *[value(shown(values.get(column.name), column.type)) for column in own])
        )
    return tag(
        "div",
        tag("h3", view.name),
        table(
            ("feature", *spans),
            rows,
            numbers=tuple(range(1, len(spans) + 1)),
            caption=view.description or f"Of {view.source.name}",
        ),
    )


def _over_time(found: KeyFound, answers: Sequence[Answer]) -> Markup:
    name = found.served.project.name
    past = tag(
        "p",
        "Before the cut of the batch the store keeps no past: ",
        tag("code", f"anabranch answer {name} KEY --at TIME"),
        " folds it from the lake.",
        class_="soft",
    )
    good = [answer for answer in answers if answer.degraded is None]
    if len(good) < 2:
        return section(
            "Over time",
            tag("p", "Nothing but now is known exactly since the last batch.", class_="soft"),
            past,
            name="time",
        )
    rows: list[tuple[Content, ...]] = []
    for column in found.served.project.columns:
        cells = [value(shown(answer.values.get(column.name), column.type)) for answer in good]
        points = [
            (float(answer.as_of), float(known))
            for answer in good
            if isinstance(known := answer.values.get(column.name), int | float)
        ]
        rows.append(
            (tag("code", column.name), sparkline(points, title=f"{column.name} over time") or NOTHING, *cells)
        )
    heads = ("feature", "", *[f"{shown(answer.as_of, _TIMESTAMP)[11:19]}" for answer in good])
    span = [moment(good[0].as_of), " to ", moment(good[-1].as_of)]
    left = len(answers) - len(good)
    told = tag(
        "p",
        span,
        f"; {left} moments between are left out, for the tiles do not tell them exactly" if left else "",
        class_="soft",
    )
    return section(
        "Over time",
        told,
        table(
            heads,
            rows,
            numbers=tuple(range(2, len(heads))),
            caption="Answers as they would have been, from what has arrived by now",
        ),
        past,
        name="time",
    )
