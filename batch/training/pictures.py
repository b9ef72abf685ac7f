"""Curves of held-out rows as PNG: ROC and calibration for classes, predictions and errors for numbers."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from anabranch.stores.models.scoring import Scores

Floats = NDArray[np.float64]
_MOST_POINTS = 2_000


def pictures(task: str, target: Floats, scores: Scores) -> dict[str, bytes]:
    """File names and contents, drawn from the targets and scores of held-out rows."""
    if task == "class":
        return {"roc.png": _roc(target, scores), "calibration.png": _calibration(target, scores)}
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


def _calibration(target: Floats, scores: Scores) -> bytes:
    drawn, axes = figure("mean predicted probability", "observed share of class 1")
    points = calibration_points(target, scores)
    predicted, observed, rows = (np.array(column) for column in zip(*points, strict=True))
    errors = 1.96 * np.sqrt(observed * (1 - observed) / rows)
    axes.errorbar(
        predicted, observed, yerr=errors, color="#1f6f8b", marker="o", capsize=3, label="held-out rows, 95%"
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
