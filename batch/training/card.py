"""The model card: one HTML page for people, made from what a training recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.pages.rendering import render
from batch.evaluation.assessment import SliceResult

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
        pictures=shown.pictures.items(),
        importance=[(name, f"{value:.4f}") for name, value in shown.importance.items()],
        about=shown.about.items(),
        parameters=[(name, str(value)) for name, value in shown.parameters.items()],
        environment=shown.environment.items(),
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
