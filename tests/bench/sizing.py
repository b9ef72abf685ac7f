"""docs/sizing.md: what 1 TB of CSV needs, computed from the figures of the batch benchmark."""

from pathlib import Path

from jobs.capacity.figures import TERABYTE, Measured, core_hours
from jobs.show import say
from jobs.wiring.settings import ROOT

CLUSTERS = (2, 16, 64, 256)


def page(measured: Measured) -> str:
    """The page as Markdown."""
    events = TERABYTE / measured.bytes_a_row
    lines = [
        "# Sizing: what 1 TB needs",
        "",
        "`make bench-batch` computes this page from [its figures](benchmarks/batch.md), measured on "
        f"{measured.cores} cores with Cassandra on the same machine.",
        f"A row has {measured.bytes_a_row:.0f} bytes: 1 TB holds {events / 1e9:.1f} billion events, "
        f"{events / measured.events_a_key / 1e6:.1f} million keys.",
        "",
        "| for 1 TB of CSV | core-hours | "
        + " | ".join(f"hours on {cores} cores" for cores in CLUSTERS)
        + " |",
        "|---|" + "---|" * (1 + len(CLUSTERS)),
    ]
    for name, hours in core_hours(measured).items():
        lines.append(
            f"| {name} | {hours:,.1f} | " + " | ".join(f"{hours / cores:,.1f}" for cores in CLUSTERS) + " |"
        )
    lines += [
        "",
        "**Measured**",
        "",
        f"- Landing: {measured.landed:,.0f} rows per second.",
        f"- A full build: {measured.build:.2f} microseconds per event at {measured.build_events:,} events.",
        f"- A build of one new day: {measured.day:.1f} s over {measured.day_events:,} events.",
        f"- Publishing: {measured.published:,.0f} rows of keys per second.",
        (
            f"- Peak memory of the largest build: {measured.driver:,.0f} MiB for driver and JVM together, "
            f"{measured.workers:,.0f} MiB for all Python workers. "
            "A worker holds 100,000 grains, or those of its largest key, at a time; "
            "this does not depend on the size of the lake."
        ),
        "",
        "**Extrapolated**",
        "",
        "- From the measured number of events to 1 TB: linearly. In the benchmark the cost per event falls "
        "with the number of events, as fixed costs are spread over more of them; sorting adds a little at "
        "larger sizes.",
        "- From the measured cores to more: linearly. The time includes Cassandra's, which shares the cores. "
        "No cluster of these sizes was measured.",
        (
            "- The build of one day: in proportion, including its fixed part, so the actual time is shorter. "
            "The scan of ids grows with the lake, and publishing grows with the number of keys."
        ),
        "",
        (
            "**Disk space**: the lake needs about a third of the CSV (Parquet, snappy; estimated). While a "
            "full build looks for copies, Spark writes 8 bytes per event to its local disks. Grains take at "
            "most one row of states per key and hop."
        ),
        "",
    ]
    return "\n".join(lines)


def save_sizing(measured: Measured, file: Path = ROOT / "docs" / "sizing.md") -> None:
    """Write the page to `file`."""
    file.write_text(page(measured), encoding="utf-8")
    say(f"saved {file.relative_to(ROOT)}")
