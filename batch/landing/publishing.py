"""Publishing of a file's rows to a topic, for tests, demos and sources without a producer of their own.

Nothing is judged here: what cannot be converted is sent as it is, so that landing and the stream treat it as
they treat everybody's events.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import EventError, MisuseError
from anabranch.events.json_values import encode_event
from anabranch.progress import Progress
from anabranch.stores.kafka.bus import Bus
from anabranch.values.keys import key_text
from anabranch.values.texts import AROUND
from anabranch.values.types import BOOLEAN, DataType
from batch.landing.event_files import check_file, find_files, open_text
from batch.landing.loader import find_source

_TOLD_EVERY = 10_000
_LONE = re.compile("[\ud800-\udfff]")  # bytes that are not UTF-8 (see open_text)
_DIGITS = re.compile("[+-]?[0-9]+")
_BOOLEANS = {"true": True, "false": False}


def publish_file(bus: Bus, project: Project, source_name: str, path: Path, progress: Progress) -> int:
    """Publish the rows of a CSV or JSON lines file to the source's topic; returns how many.

    A message's key is the text of the source's first key, so that events of one key keep their order.
    """
    source = find_source(project, source_name)
    if source.topic is None:
        raise MisuseError(
            f"source {source.name!r} has no topic: "
            "give it one in the declaration, or load the file with 'anabranch ingest'"
        )
    found = find_files([str(path)], None)
    if len(found) != 1:
        raise MisuseError(f"{path} names {len(found)} files: publish them one by one")
    file = check_file(found[0], source, None)
    if file.format == "parquet":
        raise MisuseError(
            f"{path} is Parquet, which cannot be published row by row: "
            "give CSV or JSON lines, or load it with 'anabranch ingest'"
        )
    progress.step(f"publishing {path.name} to {source.topic}")
    bus.ensure_topics([source.topic])
    keys = (project.key_sets(source) or ((),))[0]
    read = _csv_messages if file.format == "csv" else _json_messages
    return bus.publish(source.topic, _counted(read(file.path, source, keys), progress))


def publish_rows(bus: Bus, project: Project, source: Source, rows: Sequence[Mapping[str, object]]) -> int:
    """Publish rows as events of the source's topic, keyed as those of a file; returns how many."""
    if source.topic is None:
        raise MisuseError(
            f"source {source.name!r} has no topic: "
            "give it one in the declaration, or load its rows with 'anabranch ingest'"
        )
    keys = (project.key_sets(source) or ((),))[0]
    bus.ensure_topics([source.topic])
    return bus.publish(source.topic, [_message(row, json.dumps(row).encode(), source, keys) for row in rows])


def _csv_messages(path: str, source: Source, keys: tuple[str, ...]) -> Iterator[tuple[bytes | None, bytes]]:
    types = {column.name: column.type for column in source.columns}
    with open_text(path) as text:
        lines = csv.reader(text)
        header = next(lines)
        for cells in lines:
            if len(cells) == len(header) and not any(_LONE.search(cell) for cell in cells):
                event = {name: _value(cell, types[name]) for name, cell in zip(header, cells, strict=True)}
                yield _message(event, json.dumps(event).encode(), source, keys)
            elif cells:
                yield None, ",".join(cells).encode(errors="surrogateescape")


def _json_messages(path: str, source: Source, keys: tuple[str, ...]) -> Iterator[tuple[bytes | None, bytes]]:
    with open_text(path) as text:
        for line in filter(str.strip, text):
            message = line.strip().encode(errors="surrogateescape")
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            yield _message(event, message, source, keys) if isinstance(event, dict) else (None, message)


def _message(
    event: Mapping[str, object], text: bytes, source: Source, keys: tuple[str, ...]
) -> tuple[bytes | None, bytes]:
    """Key and value of the message for an event, which `text` has as JSON."""
    return _key(event, source, keys), encode_event(source, text)


def _key(event: Mapping[str, object], source: Source, keys: tuple[str, ...]) -> bytes | None:
    try:
        texts = {name: source.column(name, "key").type.key_text(event.get(name)) for name in keys}
        return key_text(keys, texts).encode() if keys else None
    except (EventError, UnicodeEncodeError):
        return None


def _value(cell: str, kind: DataType) -> object:
    """A cell as a JSON value: number or boolean where type and cell are one, else text; empty is null.

    DECIMAL stays text, which keeps all its digits, as does what JSON has no number for.
    """
    if cell == "":
        return None
    if kind == BOOLEAN:
        return _BOOLEANS.get(cell.strip().lower(), cell)
    if not kind.reads(cell) or not (kind.integral or kind.floating):
        return cell
    if kind.integral:
        return int(cell.strip(AROUND)) if _DIGITS.fullmatch(cell.strip(AROUND)) else cell
    number = float(cell.strip(AROUND))
    return number if math.isfinite(number) else cell


def _counted(
    messages: Iterator[tuple[bytes | None, bytes]], progress: Progress
) -> Iterator[tuple[bytes | None, bytes]]:
    for count, message in enumerate(messages):
        if count and count % _TOLD_EVERY == 0:
            progress.advance(count, None)
        yield message
