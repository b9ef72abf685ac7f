"""The stream for twenty minutes: its memory, sampled, and its answers in the end.

python -m tests.bench.soak [MINUTES]
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from features.loading import load_project
from jobs.context import Context
from jobs.settings import ROOT
from jobs.show import Steps
from stores.answers import now_micros
from tests.bench.publisher import message
from tests.bench.report import Row, save
from tests.bench.river import PROJECTS, river
from tests.bench.speed import KEYS, NAME, TOPIC, check, read_probes

RATE = 500
EVERY = 5.0


def resident(pid: int) -> float:
    """MiB of a process and what it started."""
    sizes = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return float(sum(sizes)) / 2**20


def soak(minutes: float, steps: Steps) -> list[Row]:
    """Publish at a steady rate and look at the stream's memory; then compare every key with a plain fold."""
    project = load_project(NAME, (PROJECTS,))
    # Slots of a minute, so that many are opened and closed.
    with river(time__slot="1m", time__dedup_horizon="2m") as found:
        context = Context(found.settings)
        context.bus.ensure_topics([TOPIC])
        stream = found.verb("stream", NAME, log=Path(found.settings.data) / "stream.log")
        context.bus.publish(TOPIC, [(None, message("first", "first-probe-0", 1.0, now_micros()))])
        read_probes(context.answers, project, "first", 1)
        words = [found.settings.bus.bootstrap_servers, TOPIC, str(RATE), str(60 * minutes), str(KEYS), "s"]
        publisher = subprocess.Popen([sys.executable, "-m", "tests.bench.publisher", *words], cwd=ROOT, stdout=subprocess.PIPE, env=dict(found.environment))
        sizes: list[float] = []
        while publisher.poll() is None:
            time.sleep(EVERY)
            sizes.append(resident(stream.pid))
            steps.step(f"{sizes[-1]:,.0f} MiB")
        last = context.bus.ends(TOPIC)
        context.bus.publish(TOPIC, [(None, message("last", "last-probe-0", 1.0, now_micros()))])
        read_probes(context.answers, project, "last", 1)
        same = check(context, project, 0)
        stream.send_signal(signal.SIGTERM)
        stream.wait(120)
        context.close()
    quarter = max(1, len(sizes) // 4)
    early, late = (float(np.median(part)) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    work = f"memory of the stream, {minutes:g} minutes at {RATE} events/s ({sum(last.values()):,} events)"
    return [Row(work=work, peer="itself, second quarter", ours=late, theirs=early, unit="MiB", ratio=early / late, goal="about 1 (flat)", equal=same)]


def main(arguments: list[str]) -> None:
    """Minutes may be given; 20 by default, and only those are saved."""
    minutes = float(arguments[0]) if arguments else 20.0
    rows = soak(minutes, Steps())
    notes = ["The driver's JVM, its Python and the Python workers together, every five seconds; medians of the second and the last quarter.",
             "In the end the answer of every key is compared with a plain fold over the topic."]  # fmt: skip
    save("soak", "The stream for a long time", rows, ["pyspark", "cassandra-driver"], notes, dry=minutes < 20, command="make soak")


if __name__ == "__main__":
    main(sys.argv[1:])
