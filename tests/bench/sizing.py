"""docs/sizing.md: what 1 TB of CSV needs, computed from the figures of the batch benchmark."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.show import say
from jobs.wiring.settings import ROOT

TERABYTE = 1e12
CLUSTERS = (2, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the benchmark measured on `cores`: bytes of a row of CSV, rows landed and keys published a
    second, microseconds of a
    full build an event,
    seconds of a day's build over a lake of so many events, peaks in MiB at the largest build.
    """  # fmt: skip

    bytes_a_row: float
    landed: float
    build: float
    build_events: int
    day: float
    day_events: int
    published: float
    events_a_key: int
    driver: float
    workers: float
    cores: int = len(os.sched_getaffinity(0))


def core_hours(found: Measured) -> dict[str, float]:
    """Core-hours for 1 TB of CSV, by what is to be done."""
    events = TERABYTE / found.bytes_a_row
    seconds = {
        "landing all of it": events / found.landed,
        "a full build": events * found.build / 1e6,
        "a build of one new day over 90": found.day * events / found.day_events,
        "of these, publishing every key": events / found.events_a_key / found.published,
    }
    return {name: value * found.cores / 3600 for name, value in seconds.items()}


def page(found: Measured) -> str:
    """The page."""
    events = TERABYTE / found.bytes_a_row
    lines = [
        "# Sizing: what 1 TB needs",
        "",
        "Computed by `make bench-batch` from [its figures](benchmarks/batch.md), which were measured on "
        f"{found.cores} cores with Cassandra beside Spark.",
        f"A row of it has {found.bytes_a_row:.0f} bytes: 1 TB holds {events / 1e9:.1f} billion events, "
        f"{events / found.events_a_key / 1e6:.1f} million keys.",
        "",
        "| for 1 TB of CSV | core-hours | "
        + " | ".join(f"hours on {cores} cores" for cores in CLUSTERS)
        + " |",
        "|---|" + "---|" * (1 + len(CLUSTERS)),
    ]
    for name, hours in core_hours(found).items():
        lines.append(
            f"| {name} | {hours:,.1f} | " + " | ".join(f"{hours / cores:,.1f}" for cores in CLUSTERS) + " |"
        )
    lines += [
        "",
        "**Measured**",
        "",
        f"- rows landed a second: {found.landed:,.0f}; a full build: {found.build:.2f} microseconds an "
        f"event at {found.build_events:,} events;",
        f"- a build of one new day: {found.day:.1f} s over {found.day_events:,} events; rows of keys "
        f"published a second: {found.published:,.0f};",
        (
            f"- peak memory of the largest build: {found.driver:,.0f} MiB for driver and JVM together, "
            f"{found.workers:,.0f} MiB for all Python workers. "
            "A worker holds 100,000 grains, or those of its largest key, at a time, whatever the size of "
            "the lake."
        ),
        "",
        "**Extrapolated**",
        "",
        "- from those events to 1 TB: linearly. The benchmark shows how flat the cost of an event is "
        "between its sizes; sorting adds a little beyond them.",
        "- from these cores to more: linearly, half of each hour being Spark's and half Cassandra's here. "
        "No cluster of that size was measured.",
        (
            "- the build of a day: all of it in proportion, also the seconds that any build takes, so "
            "less is to be expected. "
            "What grows with the lake is the scan of ids; what grows with keys is publishing."
        ),
        "",
        (
            "**Room on disk**: the lake about a third of the CSV (Parquet, snappy; estimated); while a "
            "full build looks for copies Spark "
            "writes 8 bytes an event to its local disks; grains are at most one row of states for each "
            "key and hop."
        ),
        "",
    ]
    return "\n".join(lines)


def save_sizing(found: Measured, file: Path = ROOT / "docs" / "sizing.md") -> None:
    """Write the page."""
    file.write_text(page(found), encoding="utf-8")
    say(f"saved {file.relative_to(ROOT)}")


def figure(rows: Sequence[tuple[str, float]], words: str) -> float:
    """Our figure of the last row whose work begins with the words."""
    return [ours for work, ours in rows if work.startswith(words)][-1]
