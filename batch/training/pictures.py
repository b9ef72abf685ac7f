"""Curves of held-out rows as PNG: ROC and calibration for two classes, a confusion matrix and calibration for
several, predictions and errors for numbers.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from anabranch.stores.models.scoring import Scores

Floats = NDArray[np.float64]
_MOST_POINTS = 2_000
_MOST_WRITTEN = 20  # classes; above, counts would not be readable in their cells


def pictures(
    task: str,
    target: Floats,
    scores: Scores,
    classes: Sequence[str | int] = (),
    before: Scores | None = None,
) -> dict[str, bytes]:
    """File names and contents, drawn from the targets and scores of held-out rows.

    `before` are their scores without calibration, of a calibrated model.
    """
    if task == "classes":
        observed_as = "observed share of right labels"
        return {
            "confusion.png": _confusion(target, scores.argmax(axis=1), classes),
            "calibration.png": _calibration(target, scores, before, observed_as),
        }
    if task == "class":
        return {"roc.png": _roc(target, scores), "calibration.png": _calibration(target, scores, before)}
    return {"predictions.png": _predictions(target, scores), "errors.png": _errors(target, scores)}


def _roc(target: Floats, scores: Scores) -> bytes:
    drawn, axes = figure("false positive rate", "true positive rate")
    false, true, _ = roc_curve(target, scores)
    axes.plot(false, true, color="#1f6f8b", label=f"ROC AUC {roc_auc_score(target, scores):.3f}")
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="random scores")
    axes.legend(loc="lower right", frameon=False)
    return png(drawn)


def calibration_points(target: Floats, scores: Scores, most: int = 10) -> list[tuple[float, float, int]]:
    """Mean score, observed share of class 1 and row count of equally filled bins, from low to high scores."""
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(most, max(1, len(scores) // 15)))
    return [(float(scores[part].mean()), float(target[part].mean()), len(part)) for part in bins if len(part)]


def confusion(target: Floats, label: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Rows by true class (down; the last of classes that the model does not know) and by label (across)."""
    true = np.where((target >= 0) & (target < classes), target, classes).astype(np.int64)
    found = np.bincount(true * classes + label, minlength=(classes + 1) * classes)
    return found.reshape(classes + 1, classes)


def _confusion(target: Floats, label: NDArray[np.int64], classes: Sequence[str | int]) -> bytes:
    counts, names = confusion(target, label, len(classes)), [_shortened(str(name)) for name in classes]
    across = list(names)
    if counts[-1].any():
        names.append("unknown class")
    counts = counts[: len(names)]
    size = max(4.0, min(12.0, 1.5 + 0.45 * len(names)))
    drawn, axes = figure("label", "true class", size + 1, size)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(across)), across, rotation=90)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= _MOST_WRITTEN:
        for (down, right), count in np.ndenumerate(counts):
            dark = shares[down, right] > 0.5
            axes.text(right, down, f"{count:,}", ha="center", va="center", color="white" if dark else "black")
    return png(drawn)


def _shortened(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def surest(target: Floats, scores: Scores) -> tuple[Floats, Scores]:
    """Targets 0 and 1 and scores (n,): of several classes whether the label is right, and its probability."""
    if scores.ndim == 1:
        return target, scores
    return (target == scores.argmax(axis=1)).astype(np.float64), scores.max(axis=1)


def calibration_error(target: Floats, scores: Scores) -> float:
    """The mean distance of predicted from observed shares over the bins of `calibration_points`, by rows."""
    points = calibration_points(*surest(target, scores))
    return sum(abs(predicted - observed) * rows for predicted, observed, rows in points) / len(target)


def _calibration(
    target: Floats,
    scores: Scores,
    before: Scores | None,
    observed_as: str = "observed share of class 1",
) -> bytes:
    drawn, axes = figure("mean predicted probability", observed_as)
    if before is not None:
        plain = calibration_points(*surest(target, before))
        axes.plot(
            [point[0] for point in plain], [point[1] for point in plain], color="#b5651d", marker="x",
            linewidth=1, label=f"before calibration, error {calibration_error(target, before):.3f}",
        )  # fmt: skip
    points = calibration_points(*surest(target, scores))
    predicted, observed, rows = (np.array(column) for column in zip(*points, strict=True))
    errors = 1.96 * np.sqrt(observed * (1 - observed) / rows)
    axes.errorbar(
        predicted,
        observed,
        yerr=errors,
        color="#1f6f8b",
        marker="o",
        capsize=3,
        label=f"held-out rows, 95%, error {calibration_error(target, scores):.3f}",
    )
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="perfectly calibrated")
    axes.legend(loc="upper left", frameon=False)
    return png(drawn)


def _predictions(target: Floats, scores: Scores) -> bytes:
    some = np.linspace(0, len(target) - 1, min(len(target), _MOST_POINTS)).astype(int)
    drawn, axes = figure("predicted value", "actual value")
    axes.scatter(scores[some], target[some], s=9, alpha=0.5, color="#1f6f8b")
    ends = [float(min(target.min(), scores.min())), float(max(target.max(), scores.max()))]
    axes.plot(ends, ends, color="#999999", linestyle=":")
    return png(drawn)


def _errors(target: Floats, scores: Scores) -> bytes:
    drawn, axes = figure("error (predicted − actual)", "rows")
    errors = np.asarray(scores, dtype=np.float64) - target
    axes.hist(errors, bins=_edges(errors), color="#1f6f8b")
    return png(drawn)


def _edges(numbers: Floats) -> Floats:
    """Edges of up to 30 bins; fewer where the numbers are too close together for so many."""
    low, high = float(numbers.min()), float(numbers.max())
    found = np.unique(np.linspace(low, high, 31))
    size = max(1.0, abs(low))
    return found if len(found) > 1 else np.array([low - size, high + size])


def figure(across: str, up: str, width: float = 5, height: float = 4) -> tuple[Any, Any]:
    """An empty picture of `width` by `height` inches, and its axes labelled `across` and `up`."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    drawn = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = drawn.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    # 1200000, not 1.2 and 1e6 in a corner; but no label of 38 digits, beside which no axes fit.
    axes.ticklabel_format(style="sci", scilimits=(-9, 12), useOffset=False)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def png(drawn: Any) -> bytes:
    """The picture as a PNG file."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
