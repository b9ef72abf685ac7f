"""What Prometheus scrapes: files of targets, which servers write when they start and take away when they end.

    run/targets/<job>-<name>.json   [{"targets": ["127.0.0.1:8110"], "labels": {"job": "stream"}}]

The file of a server that was killed stays, so that Prometheus sees that nothing answers there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

JOBS = ("rest", "stream", "relay", "exporter", "spark")
"""The kinds of servers that show metrics."""


def targets_folder(data: Path) -> Path:
    """The folder of the files, in the data folder."""
    return data / "run" / "targets"


def write_targets(
    data: Path, job: str, name: str, places: Sequence[str], labels: Mapping[str, str] | None = None
) -> Path:
    """Have Prometheus scrape these places (``host:port``); the file is replaced as a whole."""
    folder = targets_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{job}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:100]}.json"
    draft = file.with_suffix(".new")
    document = [{"targets": list(places), "labels": {"job": job, **(labels or {})}}]
    draft.write_text(json.dumps(document), encoding="utf-8")
    draft.replace(file)
    return file


@contextmanager
def announced(data: Path, job: str, name: str, place: str | None) -> Iterator[None]:
    """Have Prometheus scrape `place` inside the block; None announces nothing."""
    if place is None:
        yield
        return
    file = write_targets(data, job, name, [place])
    yield
    # Not after an error: what was given up is to be seen.
    file.unlink(missing_ok=True)
