"""What each alerting rule is tried with: series under which it fires, and series under which it does not."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """Series in promtool's notation, a sample a minute; the alert fires at `at` under `fires`.

    Without a wait it fires with the first sample, but for a `rate`, which needs a second.
    """

    fires: Mapping[str, str]
    fine: Mapping[str, str]
    at: str = "5m"
    rate: bool = False


def _series(name: str, /, **labels: str) -> str:
    """A series of the project p."""
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"


def _up(job: str) -> str:
    return _series("up", job=job, instance="127.0.0.1:1")


def _asked(status: int) -> str:
    return _series("anabranch_requests_total", project="p", status=str(status))


def _stream(name: str, partition: str = "0") -> str:
    more = {"partition": partition} if name == "lag" else {}
    return _series(f"anabranch_stream_{name}", project="p", source="s", **more)


def _measure(subject: str) -> str:
    return _series("anabranch_measure", project="p", subject=subject, name="psi", slice="age", version="3")


def _fresh(state: str) -> str:
    return _series("anabranch_freshness", project="p", channel="batch", state=state)


_GROWS, _ALWAYS, _NEVER = "0+1x120", "1x120", "0x120"
_KAFKA = _series("anabranch_server_up", server="kafka")
_BUS = _series("anabranch_breaker_open", store="bus")
_CUT = _series("anabranch_batch_cut_seconds", project="p")
_DEGRADED = _series("anabranch_degraded_answers_total", project="p")
_DROPPED = _series("anabranch_predictions_dropped_total", reason="full")
_BUILD = _series("anabranch_job_failed", project="p", verb="build")
_DISK, _FREE = (_series(f"anabranch_disk_{name}", place="data") for name in ("bytes", "free_bytes"))

_TARGET = _series("anabranch_objective_target", project="p", objective="availability")


def _judged(kept: str) -> str:
    return _series("anabranch_objective_events_total", project="p", objective="availability", kept=kept)


TRIED = {
    # Of 99.9%, 0.1% may be missed. 2% of an hour is twenty times that.
    "BudgetBurnsFast": Tried(
        {_TARGET: "0.999x400", _judged("yes"): "0+98x400", _judged("no"): "0+2x400"},
        # A burst that is over: the hour shows it, its last half does not.
        {_TARGET: "0.999x400", _judged("yes"): "0+92x400", _judged("no"): "0+8x25 200x300"},
        at="60m",
        rate=True,
    ),
    "BudgetBurnsSlowly": Tried(
        {_TARGET: "0.999x400", _judged("yes"): "0+996x400", _judged("no"): "0+4x400"},
        {_TARGET: "0.999x400", _judged("yes"): "0+9995x400", _judged("no"): "0+5x400"},
        at="60m",
        rate=True,
    ),
    "ReplicaDown": Tried({_up("rest"): "1 0x120"}, {_up("rest"): "1 0 1x120", _up("stream"): _NEVER}),
    "TargetDown": Tried({_up("stream"): _NEVER}, {_up("stream"): "0 0 1x120", _up("rest"): _NEVER}),
    "ServerDown": Tried({_KAFKA: _NEVER}, {_KAFKA: "0 1x120"}),
    "StoreLeftAlone": Tried({_BUS: _ALWAYS}, {_BUS: "1 0x120"}),
    "ErrorRate": Tried(
        {_asked(200): "0+90x120", _asked(503): "0+10x120"},
        {_asked(200): "0+9999x120", _asked(404): "0+9999x120", _asked(503): _GROWS},
    ),
    "StreamWaits": Tried(
        {_stream("running"): _NEVER, _stream("failed"): _NEVER},
        {_stream("running"): _NEVER, _stream("failed"): _ALWAYS},
    ),
    "StreamFailed": Tried({_stream("failed"): _ALWAYS}, {_stream("failed"): _NEVER}),
    "StreamFallsBehind": Tried(
        {_stream("lag"): "90000+1000x120", _stream("lag", "1"): "90000+1000x120"},
        {_stream("lag"): "900000-1000x120"},
        at="20m",
    ),
    "MessagesLost": Tried({_stream("lost"): "7x120"}, {_stream("lost"): _NEVER}),
    # promtool's clock begins with 1970, so a cut two days old lies before it.
    "BatchIsOld": Tried({_CUT: "-172801x120"}, {_CUT: "-170000x120"}),
    "PromiseMissed": Tried({_fresh("missed"): _ALWAYS}, {_fresh("missed"): _NEVER, _fresh("kept"): _ALWAYS}),
    "DegradedAnswers": Tried({_DEGRADED: _GROWS}, {_DEGRADED: "5x120"}),
    "PredictionsLost": Tried({_DROPPED: _GROWS}, {_DROPPED: "9x120"}, rate=True),
    "JobFailed": Tried({_BUILD: _ALWAYS}, {_BUILD: _NEVER}),
    "DiskFills": Tried({_DISK: "100x120", _FREE: "9x120"}, {_DISK: "100x120", _FREE: "11x120"}, at="10m"),
    "WatchAlert": Tried(
        {_measure("alerts"): _ALWAYS}, {_measure("alerts"): _NEVER, _measure("features"): _ALWAYS}
    ),
}
"""By the name of the alert."""
