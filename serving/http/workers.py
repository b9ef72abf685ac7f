"""Metrics of all workers of a server, whichever of them is asked: each leaves its own in a shared folder at every look, labelled by worker."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_STALE_SECONDS = 15.0


def leave(folder: Path, text: bytes) -> None:
    """Leave this worker's metrics for the others; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{os.getpid()}.new"
    draft.write_bytes(text)
    draft.replace(folder / f"{os.getpid()}.prom")


def together(folder: Path, own: bytes) -> bytes:
    """This worker's metrics of now and what the others left last; a worker that ended is left out after some seconds."""
    found = {str(os.getpid()): own.decode()}
    for file in sorted(folder.glob("*.prom")):
        with suppress(OSError):  # it ended just now
            if file.stem not in found and time.time() - file.stat().st_mtime < _STALE_SECONDS:
                found[file.stem] = file.read_text(encoding="utf-8")
    return joined(found).encode()


def joined(texts: Mapping[str, str]) -> str:
    """Several pages of Prometheus' text format as one, every sample with the label `worker`, families kept together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for worker, text in texts.items():
        family: tuple[list[str], list[str]] = ([], [])
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                family[0].append(line)
            elif line:
                family[1].append(_labelled(line, worker))
    return "".join(
        f"{line}\n" for heads, samples in families.values() for line in (*dict.fromkeys(heads), *samples)
    )


def _labelled(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
