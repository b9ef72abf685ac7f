"""What a data scientist declares about the time after release: how long labels take, what is looked at, and when to raise an alert."""

from dataclasses import dataclass

from anabranch.errors import DeclarationError
from anabranch.values.times import parse_duration


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A label judges the last prediction of each version made before its event time, and at most `horizon` before.

    Looked at are predictions and labels of the last `window`, accuracy also by `period`. Each threshold, where it is given, raises
    an alert: `psi_above` and `js_above` for a feature of the model, `score_psi_above` for its scores, `metric_below` (or
    `metric_above`, for metrics where smaller is better) for its metric on labels, `skew_above` for the share of recomputed features
    that are not what the model was given, `flips_above` for the share of approximate labels that a batch turned over. Fewer than
    `rows` predictions, labels or scores raise none. `retrain`: an alert that was raised asks for a training.
    """

    horizon: str = "30d"
    window: str = "30d"
    period: str = "1d"
    rows: int = 100
    psi_above: float | None = None
    js_above: float | None = None
    score_psi_above: float | None = None
    metric_below: float | None = None
    metric_above: float | None = None
    skew_above: float | None = None
    flips_above: float | None = None
    retrain: bool = False

    def __post_init__(self) -> None:
        for name in ("horizon", "window", "period"):
            parse_duration(getattr(self, name), f"watch: {name}")
        if self.rows < 1:
            raise DeclarationError(f"watch: rows is {self.rows}: it must be 1 or more")
        for name in ("psi_above", "js_above", "score_psi_above", "skew_above", "flips_above"):
            bound = getattr(self, name)
            if bound is not None and not 0 <= bound < float("inf"):
                raise DeclarationError(f"watch: {name} is {bound!r}: it must be 0 or more")

    def check(self, smaller_is_better: bool, metric: str) -> None:
        """Raise DeclarationError when the threshold of the metric lies on its good side."""
        wrong, right = (
            ("metric_below", "metric_above") if smaller_is_better else ("metric_above", "metric_below")
        )
        if getattr(self, wrong) is not None:
            raise DeclarationError(f"watch: {wrong} would be an alert for a good {metric}: use {right}")

    @property
    def spans(self) -> tuple[int, int, int]:
        """Horizon, window and period in microseconds."""
        return parse_duration(self.horizon), parse_duration(self.window), parse_duration(self.period)
