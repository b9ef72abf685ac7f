"""Declarations about a project in service: its promises, monitoring with alerts, and schedules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from anabranch.errors import DeclarationError
from anabranch.values.cron import parse_cron
from anabranch.values.times import parse_duration


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Promised durations such as ``"1d"``; None promises nothing.

    `batch` limits the age of the serving batch's cut. `stream` limits the time from the arrival of an event
    until its key's current row includes it.
    """

    batch: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        if self.batch is None and self.stream is None:
            raise DeclarationError(
                'freshness promises nothing: give Freshness(batch="1d"), Freshness(stream="10s") or both'
            )
        for name, text in (("batch", self.batch), ("stream", self.stream)):
            if text is not None:
                parse_duration(text, f"freshness: {name}")

    @property
    def batch_micros(self) -> int | None:
        """The promised age of the cut in microseconds."""
        return None if self.batch is None else parse_duration(self.batch)

    @property
    def stream_micros(self) -> int | None:
        """The promised delay of the stream in microseconds."""
        return None if self.stream is None else parse_duration(self.stream)


BUDGET_DAYS = 30
"""The days over which an error budget is counted."""
_SHARE = 0.99
"""The share of answers that are quick (`p99` says so), and of the time in which a project is fresh."""


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What a project promises to those who ask it, over 30 days; None promises nothing.

    `availability` is the share of requests that are answered without a fault of the server (a status of 500
    and above). `p99` is the time, such as ``"50ms"``, in which 99 of 100 answers are given. `freshness` is a
    `Freshness`, or a duration for that of the stream, and holds 99% of the time. `quality` is the share of
    the landed rows that do not go to quarantine. Raises DeclarationError for what cannot be promised.
    """

    availability: float | None = None
    p99: str | None = None
    freshness: Freshness | str | None = None
    quality: float | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, one.name) is None for one in fields(self)):
            raise DeclarationError(
                'objectives promise nothing: give Objectives(availability=0.999, p99="50ms", '
                'freshness="5s", quality=0.99) or some of them'
            )
        for name in ("availability", "quality"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise DeclarationError(
                    f"objectives: {name} is {share!r}: it must be a share above 0 and below 1, such as 0.999"
                )
        if self.p99 is not None and self.p99_seconds is None:
            raise DeclarationError(
                f"objectives: p99 {self.p99!r} is not understood: write a whole number and ms, s or m, "
                "such as '50ms'"
            )
        if isinstance(self.freshness, str):
            object.__setattr__(self, "freshness", Freshness(stream=self.freshness))

    @property
    def p99_seconds(self) -> float | None:
        """The promised time of an answer in seconds."""
        match = re.fullmatch(r"([1-9]\d{0,6})(ms|s|m)", str(self.p99).strip())
        return int(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[match[2]] if match else None

    @property
    def targets(self) -> Mapping[str, float]:
        """By objective (availability, latency, freshness, quality) the share that is promised to be good."""
        latency, freshness = self.p99 and _SHARE, self.freshness and _SHARE
        found = {"availability": self.availability, "latency": latency, "freshness": freshness}
        return {name: float(one) for name, one in {**found, "quality": self.quality}.items() if one}


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a released model is monitored.

    A label judges each version's last prediction before its event time, at most `horizon` before.
    Predictions and labels of the last `window` are examined, accuracy also by `period`. Each threshold that
    is given raises an alert: `psi_above` and `js_above` on a feature of the model, `score_psi_above` on its
    scores, `metric_below` (or `metric_above` where smaller is better) on its metric, `skew_above` on the
    share of recomputed features that differ from the model's input, `flips_above` on the share of
    approximate labels that a batch reversed, `disparity_above` on the difference of a rate between the
    parts of a declared slice (by the lower end of its interval). Fewer than `rows` predictions, labels or
    scores raise no alert. With `retrain`, an alert requests a training.
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
    disparity_above: float | None = None
    retrain: bool = False

    def __post_init__(self) -> None:
        for name in ("horizon", "window", "period"):
            parse_duration(getattr(self, name), f"watch: {name}")
        if self.rows < 1:
            raise DeclarationError(f"watch: rows is {self.rows}: it must be 1 or more")
        for name in (
            "psi_above",
            "js_above",
            "score_psi_above",
            "skew_above",
            "flips_above",
            "disparity_above",
        ):
            bound = getattr(self, name)
            if bound is not None and not 0 <= bound < float("inf"):
                raise DeclarationError(f"watch: {name} is {bound!r}: it must be 0 or more")

    def check(self, smaller_is_better: bool, metric: str) -> None:
        """Raise DeclarationError when the metric's threshold would alert on good values."""
        wrong, right = (
            ("metric_below", "metric_above") if smaller_is_better else ("metric_above", "metric_below")
        )
        if getattr(self, wrong) is not None:
            raise DeclarationError(f"watch: {wrong} would be an alert for a good {metric}: use {right}")

    @property
    def spans(self) -> tuple[int, int, int]:
        """Horizon, window and period in microseconds."""
        return parse_duration(self.horizon), parse_duration(self.window), parse_duration(self.period)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a scheduler runs the rounds of a project.

    Each round has a time in UTC as cron writes it (``"0 3 * * *"``) or a preset (``"@hourly"``); None: only
    by hand. `build` makes a batch version current, `train` trains and promotes what passes the gate, `score`
    scores what has come or the current rows, `watch` measures the released model, `upkeep` tidies the lake;
    `river` is all of them in a row. With `on_request`, a message on `training-requests` starts a training.
    """

    river: str | None = None
    build: str | None = None
    train: str | None = None
    score: str | None = None
    watch: str | None = None
    upkeep: str | None = None
    on_request: bool = False

    def __post_init__(self) -> None:
        for name, text in self.times.items():
            if text is not None:
                parse_cron(text, f"schedule: {name}")
        if not isinstance(self.on_request, bool):
            raise DeclarationError(f"schedule: on_request is {self.on_request!r}: it must be True or False")

    @property
    def times(self) -> dict[str, str | None]:
        """The time of each round by its name; None for one that runs only by hand."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "on_request"}

    def check(self, *, learns: bool) -> None:
        """Raise DeclarationError when a round needs a model and the project `learns` nothing."""
        needing = [name for name in ("train", "score", "watch") if getattr(self, name) is not None]
        needing += ["on_request"] if self.on_request else []
        if needing and not learns:
            raise DeclarationError(f"schedule: {needing[0]} needs a model, and the project declares none")
