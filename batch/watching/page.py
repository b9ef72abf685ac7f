"""A look at a model after its release as one page of HTML that needs nothing else: accuracy over time, drift, skew, alerts."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from anabranch.values.times import format_time, to_micros
from batch.training.pictures import figure, png
from batch.watching.alerts import ThresholdCheck
from batch.watching.drift import Drift
from batch.watching.findings import Watched
from batch.watching.outcomes import Accuracy

_SHOWN = 6  # features whose distribution is drawn: those that moved most
_COLOURS = ("#1f6f8b", "#b3541e", "#5b7f2b", "#7a4988", "#8b1f3f", "#3f3f8b")
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #8885; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; background: #fff; }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #2a7d4f; background: #2a7d4f22; }
.verdict.raised { border-color: #b3261e; background: #b3261e22; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures img { width: 20rem; }
"""
Cell = str | int | float | None


def page(found: Watched, checks: Sequence[ThresholdCheck]) -> str:
    """The page; `checks` are the declared thresholds."""
    crossed = [one for one in checks if one.crossed]
    verdict = (
        f"{len(crossed)} of {len(checks)} thresholds are crossed"
        if checks
        else "No threshold is declared, or too few rows came for one"
    )
    counts = (
        ", ".join(f"version {version}: {count:,}" for version, count in found.predictions.items()) or "none"
    )
    said = f"Since {format_time(found.since)}, looked at {format_time(found.at)}. Champion: version {found.champion}. Predictions: {counts}."
    parts = [
        f'<p class="verdict{" raised" if crossed else ""}">{escape(verdict)}.</p><p>{escape(said)}</p>',
        *[f"<p>Note: {escape(note)}</p>" for note in found.notes],
        _section(
            "Thresholds",
            ("what", "which", "version", "value", "threshold", "crossed"),
            [_check(one) for one in checks],
        ),
        _accuracy(found),
        _drift(found),
        _scores(found),
        _skew(found),
        _section(
            "Approximate scores against the last batch",
            ("name", "value"),
            [(name, one.value) for name, one in found.approximation.items()],
        ),
    ]
    title = f"{escape(found.project)} after release"
    head = f'<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head>'
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n<h1>{title}</h1>\n{"".join(parts)}\n</body>\n</html>\n'


def _check(one: ThresholdCheck) -> tuple[Cell, ...]:
    return one.what, one.which, one.version, one.value, one.threshold, "yes" if one.crossed else "no"


def _accuracy(found: Watched) -> str:
    rows = [
        (one.version, one.part or "all", one.labels, one.value, one.low, one.high)
        for one in found.accuracy
        if one.period is None
    ]
    heads = ("version", "slice", "labels", found.metric, "95% from", "to")
    whole = [one for one in found.accuracy if not one.part]
    return _section(
        "On labels that came later", heads, rows, [over_time(found.metric, whole)]
    ) + _slices_over_time(found)


def _slices_over_time(found: Watched) -> str:
    """A table of the slices by period, and a picture a version."""
    dated = [one for one in found.accuracy if one.period is not None and one.part]
    rows = [
        (format_time(to_micros(one.period)), one.version, one.part, one.labels, one.value)
        for one in dated
        if one.period is not None
    ]
    drawn = [
        over_time(found.metric, [one for one in dated if one.version == version])
        for version in dict.fromkeys(one.version for one in dated)
    ]
    return _section("Slices over time", ("from", "version", "slice", "labels", found.metric), rows, drawn)


def over_time(metric: str, accuracy: Sequence[Accuracy]) -> bytes | None:
    """The metric by period, a line a version and slice with its 95% interval; None when there is nothing to draw."""
    dated = [one for one in accuracy if one.period is not None and one.value is not None]
    if not dated:
        return None
    drawn, axes = figure("", metric, 9, 3.2)
    for colour, (version, part) in zip(
        _COLOURS * len(dated), dict.fromkeys((one.version, one.part) for one in dated), strict=False
    ):
        mine = [one for one in dated if (one.version, one.part) == (version, part)]
        values = np.array([one.value for one in mine], dtype=float)
        low, high = (np.array([getattr(one, side) for one in mine], dtype=float) for side in ("low", "high"))
        errors = np.nan_to_num(np.maximum(np.array([values - low, high - values]), 0))
        times = np.array(
            [np.datetime64(one.period.replace(tzinfo=None)) for one in mine if one.period is not None]
        )
        axes.errorbar(
            times,
            values,
            yerr=errors,
            color=colour,
            marker="o",
            capsize=3,
            label=f"version {version}{f', {part}' if part else ''}",
        )
    axes.legend(frameon=False)
    drawn.autofmt_xdate()
    return png(drawn)


def _drift(found: Watched) -> str:
    parts = []
    for title, drifts in [
        (f"Features of predictions of version {v}", d) for v, d in found.features.items()
    ] + [("Features of current rows", found.current)]:
        rows = [(one.feature, one.psi, one.js, one.rows, one.most_moved) for one in drifts]
        heads = ("feature", "PSI", "Jensen-Shannon", "rows", "moved most")
        parts.append(_section(title, heads, rows, [distribution(one) for one in drifts[:_SHOWN]]))
    return "".join(parts)


def _scores(found: Watched) -> str:
    rows = [
        (version, one.psi, one.js, one.rows, found.means.get(version), one.most_moved)
        for version, one in found.scores.items()
    ]
    heads = ("version", "PSI", "Jensen-Shannon", "rows", "mean", "moved most")
    return _section(
        "Scores of predictions", heads, rows, [distribution(one) for one in found.scores.values()]
    )


def _skew(found: Watched) -> str:
    one = found.skew
    if one is None:
        return ""
    rows = [
        (one.version, one.batch_version, one.answers, one.unsettled, one.values, one.differing, one.example)
    ]
    heads = (
        "version",
        "batch version",
        "answers made again",
        "left aside",
        "values",
        "differing",
        "an example",
    )
    return _section("Training/serving skew", heads, rows)


def distribution(one: Drift) -> bytes:
    """Shares by bin, of training data and as found."""
    drawn, axes = figure("", f"share: {one.feature or 'scores'}", 5, 3.2)
    places = np.arange(len(one.names))
    axes.bar(places - 0.2, one.expected, 0.4, color="#999999", label="training")
    axes.bar(places + 0.2, one.found, 0.4, color=_COLOURS[0], label="found")
    axes.set_xticks(places, one.names, rotation=60, ha="right", fontsize=7)
    axes.legend(frameon=False)
    return png(drawn)


def _section(
    title: str, heads: Iterable[str], rows: Sequence[tuple[Cell, ...]], pictures: Sequence[bytes | None] = ()
) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    drawn = "".join(
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(one).decode()}">'
        for one in pictures
        if one is not None
    )
    return f'<h2>{escape(title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}\n</table>\n<div class="pictures">{drawn}</div>\n'


def _cell(value: Cell) -> str:
    if isinstance(value, int | float):
        return (
            f'<td class="number">{value:,.4g}</td>'
            if isinstance(value, float)
            else f'<td class="number">{value:,}</td>'
        )
    return f"<td>{escape(value or '')}</td>"
