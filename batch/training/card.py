"""The model card: one HTML page for people, made from what a training recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.pages.rendering import render
from batch.evaluation.assessment import SliceResult
from batch.evaluation.fairness import RATES, Fairness, Share
from batch.evaluation.hindsight import Hindsight

_FEW_ROWS = 30


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """What a model card shows beside the declaration.

    `metrics` has each metric and its bounds (``_low``, ``_high``) on held-out rows, on training rows with the
    prefix ``train_``, and the numbers of rows (``rows_test``, ``rows_train``). `about` says where the data
    came from; `pictures` are PNG by name.
    """

    metrics: Mapping[str, float]
    slices: Sequence[SliceResult]
    hindsight: Hindsight | None
    fairness: Fairness | None
    importance: Mapping[str, float]
    parameters: Mapping[str, object]
    about: Mapping[str, str]
    environment: Mapping[str, str]
    pictures: Mapping[str, bytes]


def card(project: Project, shown: CardContents) -> str:
    """The model card as an HTML page."""
    model, metrics, slices = project.model, shown.metrics, shown.slices
    small = [f"{one.feature}: {one.part} ({one.rows} rows)" for one in slices if one.rows < _FEW_ROWS]
    return render(
        "model_card.html",
        project=project.name,
        description=project.description,
        owner=project.owner,
        intended_use=model.intended_use if model else "",
        limits=model.limits if model else "",
        rows_test=metrics["rows_test"],
        small_slices=small,
        metric=model.metric if model else "",
        metrics=_metrics(metrics),
        slices=[(one.feature, one.part, one.rows, _slice_value(one)) for one in slices],
        rates=rate_rows(shown.fairness),
        disparities=[one.said for one in shown.fairness.disparities] if shown.fairness else [],
        hindsight=shown.hindsight,
        hindsight_features=hindsight_rows(shown.hindsight),
        pictures=shown.pictures.items(),
        importance=[(name, f"{value:.4f}") for name, value in shown.importance.items()],
        about=shown.about.items(),
        parameters=[(name, str(value)) for name, value in shown.parameters.items()],
        environment=shown.environment.items(),
    )


def rate_rows(found: Fairness | None) -> list[list[str]]:
    """Each part of each slice with its three rates and their intervals."""
    rates = () if found is None else found.rates
    return [
        [
            one.feature,
            one.part,
            f"{one.selection_rate.rows:,}",
            *[_rate(getattr(one, name)) for name in RATES],
        ]
        for one in rates
    ]


DIFFERENCE = ("feature", "rate", "higher", "lower", "difference", "95% from", "to")


def difference_rows(found: Fairness) -> list[tuple[str, str, str, str, float, float, float]]:
    """The largest difference of each slice and rate, as DIFFERENCE heads it."""
    return [
        (one.feature, RATES[one.rate], one.higher, one.lower, one.difference, one.low, one.high)
        for one in found.disparities
    ]


def _rate(found: Share) -> str:
    if found.value is None:
        return "no rows"
    return f"{_with_interval(found.value, found.low, found.high)} of {found.rows:,}"


def hindsight_rows(found: Hindsight | None) -> list[tuple[str, int, str]]:
    """Each feature that hindsight changed: its name, the rows and their share."""
    return (
        []
        if found is None
        else [(one.feature, one.rows, f"{found.share(one):.1%}") for one in found.features]
    )


def _metrics(metrics: Mapping[str, float]) -> list[tuple[str, str | None, str | None]]:
    names = [
        name
        for name in metrics
        if not name.endswith(("_low", "_high")) and not name.startswith(("train_", "rows_"))
    ]
    rows = [(name, _metric(metrics, name), _metric(metrics, f"train_{name}")) for name in names]
    return [*rows, ("rows", f"{metrics['rows_test']:,.0f}", f"{metrics['rows_train']:,.0f}")]


def _metric(metrics: Mapping[str, float], name: str) -> str | None:
    if name not in metrics:
        return None
    return _with_interval(metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))


def _slice_value(one: SliceResult) -> str:
    if one.value is None:
        return "not defined: one class only, or one row"
    return _with_interval(one.value, one.low, one.high)


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"
