"""The overload curve, from half of what a server holds to four times as much, and a cold start."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from jobs.show import Steps
from tests.bench.load import Outcome
from tests.bench.report import FOLDER, Row, alone

OFFERED = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_CONNECTIONS = 512
_COLD_SECONDS = 5.0


def overload_rows(
    serve: Callable[[], AbstractContextManager[int]],
    load: Callable[..., Outcome],
    capacity: float,
    seconds: float,
    steps: Steps,
    quick: bool,
) -> list[Row]:
    """Rows for each of `OFFERED` times `capacity` calls a second, and for a server that has just started."""
    found: dict[float, Outcome] = {}
    with serve() as port:
        cold = load(port, seconds=_COLD_SECONDS, rate=capacity / 2, connections=_CONNECTIONS)
        steps.step(f"cold start at {capacity / 2:,.0f}/s: p99 {cold.p99:.1f} ms, {cold.refused} refused")
        for times in OFFERED:
            one = found[times] = load(
                port, seconds=seconds, rate=times * capacity, connections=_CONNECTIONS, after=2.0
            )
            steps.step(
                f"{times:g} x {capacity:,.0f}/s: {one.rate:,.0f}/s served, "
                f"{one.refused / max(1, one.sent):.0%} refused, "
                f"p50 {one.p50:.1f}, p99 {one.p99:.1f} ms, {one.errors} errors"
            )
            time.sleep(1)
    rows = []
    for times, one in found.items():
        work = f"{times:g} x the rate that is held ({times * capacity:,.0f}/s)"
        rows.append(alone(f"{work}: served", one.rate, "a second"))
        rows.append(alone(f"{work}: refused at once", 100 * one.refused / max(1, one.sent), "%"))
        rows.append(alone(f"{work}: p50 of those served", one.p50, "ms"))
        goal = "<= 50" if times <= 2 else ""
        rows.append(alone(f"{work}: p99 of those served", one.p99, "ms", goal=goal))
        rows.append(alone(f"{work}: errors", one.errors, "calls", goal="<= 0"))
    work = f"cold start, first {_COLD_SECONDS:g} s at {capacity / 2:,.0f}/s"
    rows.append(alone(f"{work}: p99 of those served", cold.p99, "ms"))
    rows.append(alone(f"{work}: refused at once", 100 * cold.refused / max(1, cold.sent), "%"))
    rows.append(alone(f"{work}: errors", cold.errors, "calls", goal="<= 0"))
    draw(found, capacity, "a quick run on a busy machine" if quick else "")
    return rows


def draw(found: dict[float, Outcome], capacity: float, title: str) -> None:
    """Save the curve as docs/benchmarks/overload.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "overload"
    from matplotlib import pyplot as plt

    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    offered = [times * capacity for times in found]
    series: dict[str, tuple[Any, list[float]]] = {
        "served": (rates, [one.rate for one in found.values()]),
        "refused at once": (
            rates,
            [times * capacity * one.refused / max(1, one.sent) for times, one in found.items()],
        ),
        "p50": (latencies, [one.p50 for one in found.values()]),
        "p99": (latencies, [one.p99 for one in found.values()]),
    }
    for label, (axes, values) in series.items():
        axes.plot(offered, values, marker="o", label=label)
    rates.plot(offered, offered, linestyle=":", color="grey", label="offered")
    latencies.axhline(50, linestyle=":", color="grey", label="50 ms")
    rates.set(xlabel="calls offered a second", ylabel="calls a second")
    latencies.set(xlabel="calls offered a second", ylabel="ms, of those served", ylim=(0, None))
    for axes in (rates, latencies):
        axes.axvline(capacity, color="lightgrey", zorder=0)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(FOLDER / "overload.svg", metadata={"Date": None})
    plt.close(figure)
