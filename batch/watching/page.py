"""The watch page: thresholds, accuracy, drift and skew of a model after its release, as one HTML file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anabranch.pages.rendering import render
from anabranch.values.times import format_time, to_micros
from batch.evaluation.fairness import RATES
from batch.training.card import DIFFERENCE, difference_rows, rate_rows
from batch.training.pictures import figure, png
from batch.watching.alerts import ThresholdCheck
from batch.watching.drift import Drift
from batch.watching.findings import Findings
from batch.watching.outcomes import Accuracy

_DRAWN = 6  # features whose distribution is drawn: those that moved most
_COLOURS = ("#1f6f8b", "#b3541e", "#5b7f2b", "#7a4988", "#8b1f3f", "#3f3f8b")
_DRIFT_HEADS = ("PSI", "Jensen-Shannon", "rows", "largest change")
Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """A titled table of the page, with pictures (name and PNG) below it; without rows it is left out."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    pictures: Sequence[tuple[str, bytes]] = ()

    @property
    def numbers(self) -> list[int]:
        """Places of the columns that hold only numbers and missing values."""
        columns = [[cell for cell in cells if cell is not None] for cells in zip(*self.rows, strict=True)]
        return [
            at for at, cells in enumerate(columns) if all(isinstance(cell, int | float) for cell in cells)
        ]


def page(found: Findings, checks: Sequence[ThresholdCheck]) -> str:
    """The page; `checks` are the declared thresholds, judged."""
    return render(
        "watch.html",
        project=found.project,
        thresholds=checks,
        crossed=sum(one.crossed for one in checks),
        since=found.since,
        at=found.at,
        champion=found.champion,
        predictions=found.predictions.items(),
        notes=found.notes,
        sections=list(_sections(found, checks)),
    )


def _sections(found: Findings, checks: Sequence[ThresholdCheck]) -> Iterator[TableSection]:
    yield TableSection(
        title="Thresholds",
        heads=("measure", "feature or slice", "version", "value", "threshold", "crossed"),
        rows=[
            (one.what, one.which, one.version, one.value, one.threshold, "yes" if one.crossed else "no")
            for one in checks
        ],
    )
    yield _accuracy(found)
    yield _slices_over_time(found)
    if found.trial is not None:
        yield TableSection(
            title="The version on trial, by labels that came",
            heads=("measure", "value"),
            rows=list(found.trial.values.items()),
        )
    yield TableSection(
        title="Fairness by slice",
        heads=("version", "feature", "slice", "rows", *RATES.values()),
        rows=[(version, *row) for version, fair in found.fairness.items() for row in rate_rows(fair)],
    )
    yield TableSection(
        title="Differences between the parts of slices",
        heads=("version", *DIFFERENCE),
        rows=[(version, *row) for version, fair in found.fairness.items() for row in difference_rows(fair)],
    )
    for version, drifts in found.features.items():
        yield _drift(f"Drift of features: predictions of version {version}", drifts)
    yield _drift("Drift of features: current rows", found.current)
    yield TableSection(
        title="Drift of scores",
        heads=("version", *_DRIFT_HEADS, "mean score"),
        rows=[
            (version, one.psi, one.js, one.rows, one.most_moved, found.means.get(version))
            for version, one in found.scores.items()
        ],
        pictures=[
            (f"scores of version {version}", distribution(one)) for version, one in found.scores.items()
        ],
    )
    if found.labels:
        yield TableSection(
            title="Drift of labels by class",
            heads=("version", *_DRIFT_HEADS),
            rows=[
                (version, one.psi, one.js, one.rows, one.most_moved) for version, one in found.labels.items()
            ],
            pictures=[
                (f"labels of version {version}", distribution(one)) for version, one in found.labels.items()
            ],
        )
    if found.skew is not None:
        one = found.skew
        yield TableSection(
            title="Training/serving skew",
            heads=(
                "version",
                "batch version",
                "recomputed answers",
                "left out",
                "values",
                "different",
                "example",
            ),
            rows=[
                (
                    one.version,
                    one.batch_version,
                    one.answers,
                    one.unsettled,
                    one.values,
                    one.differing,
                    one.example,
                )
            ],
        )
    yield TableSection(
        title="Approximate scores against the last batch",
        heads=("measure", "value"),
        rows=[(name, one.value) for name, one in found.approximation.items()],
    )


def _accuracy(found: Findings) -> TableSection:
    """Over the whole time by version and slice; the picture shows it by period."""
    drawn = over_time(found.metric, [one for one in found.accuracy if not one.part])
    return TableSection(
        title="Accuracy on labels that arrived later",
        heads=("version", "slice", "labels", found.metric, "95% from", "to"),
        rows=[
            (one.version, one.part or "all", one.labels, one.value, one.low, one.high)
            for one in found.accuracy
            if one.period is None
        ],
        pictures=[] if drawn is None else [(f"{found.metric} over time", drawn)],
    )


def _slices_over_time(found: Findings) -> TableSection:
    """A row for each slice and period, a picture for each version."""
    dated = [one for one in found.accuracy if one.period is not None and one.part]
    pictures = {
        version: over_time(found.metric, [one for one in dated if one.version == version])
        for version in dict.fromkeys(one.version for one in dated)
    }
    return TableSection(
        title="Slices over time",
        heads=("period from", "version", "slice", "labels", found.metric),
        rows=[
            (format_time(to_micros(one.period)), one.version, one.part, one.labels, one.value)
            for one in dated
            if one.period is not None
        ],
        pictures=[
            (f"{found.metric} of version {version} over time", drawn)
            for version, drawn in pictures.items()
            if drawn is not None
        ],
    )


def _drift(title: str, drifts: Sequence[Drift]) -> TableSection:
    return TableSection(
        title=title,
        heads=("feature", *_DRIFT_HEADS),
        rows=[(one.feature, one.psi, one.js, one.rows, one.most_moved) for one in drifts],
        pictures=[(f"distribution of {one.feature}", distribution(one)) for one in drifts[:_DRAWN]],
    )


def over_time(metric: str, accuracy: Sequence[Accuracy]) -> bytes | None:
    """The metric by period, a line for each version and slice with its 95% interval; None without a value."""
    dated = [one for one in accuracy if one.period is not None and one.value is not None]
    if not dated:
        return None
    drawn, axes = figure("", metric, 9, 3.2)
    lines = dict.fromkeys((one.version, one.part) for one in dated)
    for colour, (version, part) in zip(_COLOURS * len(dated), lines, strict=False):
        mine = [one for one in dated if (one.version, one.part) == (version, part)]
        values = np.array([one.value for one in mine], dtype=float)
        low, high = (np.array([getattr(one, side) for one in mine], dtype=float) for side in ("low", "high"))
        errors = np.nan_to_num(np.maximum(np.array([values - low, high - values]), 0))
        times = np.array(
            [np.datetime64(one.period.replace(tzinfo=None)) for one in mine if one.period is not None]
        )
        name = f"version {version}{f', {part}' if part else ''}"
        axes.errorbar(times, values, yerr=errors, color=colour, marker="o", capsize=3, label=name)
    axes.legend(frameon=False)
    drawn.autofmt_xdate()
    return png(drawn)


def distribution(one: Drift) -> bytes:
    """Shares by bin, in the training data and now."""
    drawn, axes = figure("", f"share of rows: {one.feature or 'scores'}", 5, 3.2)
    places = np.arange(len(one.names))
    axes.bar(places - 0.2, one.expected, 0.4, color="#999999", label="training data")
    axes.bar(places + 0.2, one.found, 0.4, color=_COLOURS[0], label="now")
    axes.set_xticks(places, one.names, rotation=60, ha="right", fontsize=7)
    axes.legend(frameon=False)
    return png(drawn)
