"""Freshness, measured from outside: a publisher of its own, and here a reader who asks for each probe until
it is there.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.answers.features import Answers
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.values.times import SECOND, now_micros
from jobs.servers.processes import wait_until
from jobs.wiring.settings import ROOT
from tests.bench.publisher import PROBES
from tests.bench.river import River

PATIENCE = 300.0
ENOUGH = 0.95
"""Share of its rate that a publisher has to reach, up to SURE events a second."""
SURE = 2_000


class NotMeasuredError(AnabranchError):
    """What was to be measured did not happen: a probe was lost, or the publisher was too slow. Nothing is
    saved.
    """


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Of one run: the rate that was reached (events a second), how many events that were, and the lags of
    probes that count, in seconds.
    """

    rate: int
    reached: float
    events: int
    lags: NDArray[np.float64]

    @property
    def percentiles(self) -> dict[str, float]:
        """p50, p95 and p99."""
        return dict(
            zip(("p50", "p95", "p99"), map(float, np.percentile(self.lags, [50, 95, 99])), strict=True)
        )

    def __str__(self) -> str:
        said = ", ".join(f"{name} {value:.3g} s" for name, value in self.percentiles.items())
        return f"{said} of {len(self.lags)} probes (reached {self.reached:,.0f} of {self.rate:,} events/s)"


def sent_by(answers: Answers, project: Project) -> Callable[[str], object]:
    """When the newest event of a key was sent, as an answer has it."""
    return lambda key: answers.features(project, [{"thing": key}])[0].values["sent_1h"]


def published(
    found: River, topic: str, rate: int, seconds: float, keys: int, run: str
) -> "subprocess.Popen[bytes]":
    """The publisher as an outside process; `outcome` reads what it says in the end."""
    words = [found.settings.bus.bootstrap_servers, topic, str(rate), str(seconds), str(keys), run]
    command = [sys.executable, "-m", "tests.bench.publisher", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=dict(found.environment))


def outcome(publisher: "subprocess.Popen[bytes]", rate: int) -> tuple[float, int]:
    """The rate that was reached and how many events that were; raises NotMeasuredError when that is too
    few.
    """
    said = publisher.communicate()[0].split()
    if publisher.returncode != 0:
        raise NotMeasuredError(
            f"the publisher ended with exit code {publisher.returncode}: what it wrote above says why"
        )
    reached, events = float(said[0]), int(said[1])
    if rate <= SURE and reached < ENOUGH * rate:
        raise NotMeasuredError(
            f"the publisher reached {reached:,.0f} of {rate:,} events/s: measure on a machine that does "
            "nothing else"
        )
    return reached, events


def freshness(
    found: River,
    topic: str,
    sent: Callable[[str], object],
    rate: int,
    warm: float,
    seconds: float,
    keys: int,
    run: str,
) -> Freshness:
    """Publish for `warm` and then `seconds` seconds, of which the latter count, and read each probe until
    it is there.
    """
    publisher = published(found, topic, rate, warm + seconds, keys, run)
    try:
        lags = read_probes(sent, run, int(PROBES * (warm + seconds)))
        reached, events = outcome(publisher, rate)
    finally:
        if publisher.poll() is None:
            publisher.kill()
    return Freshness(
        rate=rate, reached=reached, events=events, lags=np.array(lags[int(PROBES * warm) :]) / SECOND
    )


def read_probes(sent: Callable[[str], object], run: str, count: int) -> list[int]:
    """Microseconds from a probe's publishing to its being readable, in the order they were published.

    Raises NotMeasuredError when one does not come.
    """
    lags: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while len(lags) < count:
        when = sent(f"{run}-probe-{len(lags)}")
        if isinstance(when, int):
            lags.append(now_micros() - when)
            deadline = time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            raise NotMeasuredError(
                f"probe {len(lags)} of {count} of {run!r} is not readable after {PATIENCE:.0f} s: look "
                "into the stream's log"
            )
        else:
            time.sleep(0.02)  # the reader shares the cores with what it measures
    return lags


def counted(answers: Answers, project: Project, run: str, keys: int, events: int) -> bool:
    """Whether the answers of the run's keys come to count every event that was published, and none twice."""
    asked = [{"thing": f"{run}-k{number}"} for number in range(keys)]

    def total() -> int:
        return sum(int(str(answer.values["events"] or 0)) for answer in answers.features(project, asked))

    wait_until(lambda: total() >= events, 30.0)
    return total() == events
