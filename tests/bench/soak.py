"""The stream for twenty minutes: its memory, sampled, and its answers in the end.

python -m tests.bench.soak [MINUTES]
"""

import sys
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import psutil

from anabranch.declare.loading import load_project
from anabranch.values.times import now_micros
from jobs.show import Steps
from jobs.wiring.context import Context
from tests.bench.freshness import NotMeasuredError, outcome, published, read_probes, sent_by
from tests.bench.publisher import message
from tests.bench.report import Row, save
from tests.bench.river import PROJECTS, river
from tests.bench.serving_data import train
from tests.bench.speed import DECIDING, KEYS, NAME, TOPIC, check, scored

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
    with (
        river(time__slot="1m", time__dedup_horizon="2m") as found,
        closing(Context(found.settings)) as context,
    ):
        context.bus.ensure_topics([TOPIC])
        train(context.models, project, DECIDING)
        sent = sent_by(context.answers, project)
        sizes: list[float] = []
        with found.streaming(NAME) as stream:
            context.bus.publish(TOPIC, [(None, message("first", "first-probe-0", 1.0, now_micros()))])
            read_probes(sent, "first", 1)
            publisher = published(found, TOPIC, RATE, 60 * minutes, KEYS, "s")
            while publisher.poll() is None:
                time.sleep(EVERY)
                sizes.append(resident(stream.pid))
                steps.step(f"{sizes[-1]:,.0f} MiB")
            reached, _ = outcome(publisher, RATE)
            last = context.bus.ends(TOPIC)
            context.bus.publish(TOPIC, [(None, message("last", "last-probe-0", 1.0, now_micros()))])
            read_probes(sent, "last", 1)
            same = check(context, project, 0)
            scored(context, project, "s-probe-0")
    steps.step(f"published at {reached:,.0f} events/s; answers equal: {same}")
    return rows_of(
        sizes,
        f"memory of the stream, {minutes:g} minutes at {RATE} events/s ({sum(last.values()):,} events)",
        same,
    )


def rows_of(sizes: Sequence[float], work: str, same: bool) -> list[Row]:
    """The median of the last quarter of the sizes (MiB, four at least) beside those of the two before it."""
    _, second, third, end = (float(np.median(part)) for part in np.array_split(np.asarray(sizes), 4))
    before = {"itself, second quarter": second, "itself, third quarter": third}
    return [
        Row(
            work=work,
            peer=peer,
            ours=end,
            theirs=size,
            unit="MiB",
            ratio=size / end,
            goal=">= 0.9",
            equal=same,
        )
        for peer, size in before.items()
    ]


def main(arguments: list[str]) -> None:
    """Minutes may be given; 20 by default, and only those are saved."""
    minutes = float(arguments[0]) if arguments else 20.0
    try:
        rows = soak(minutes, Steps())
    except NotMeasuredError as error:
        raise SystemExit(f"error: {error}") from error
    notes = ["The driver's JVM, its Python and the Python workers together, every five seconds.",
             "Medians of quarters: the last beside the second and the third.",
             "In the end the answer of every key is compared with a plain fold over the topic.",
             "Current rows are scored by a champion."]  # fmt: skip
    save(
        "soak",
        "The stream for a long time",
        rows,
        ["pyspark", "cassandra-driver"],
        notes,
        dry=minutes < 20,
        command="make soak",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
