"""Publishing of a file's rows to a topic, for tests, demos and sources without a producer of their own.

Nothing is held back: what cannot be converted is sent as it is, so that landing and the stream treat it as
they treat everybody's events, and landing keeps it in quarantine. Rows that REST would refuse are counted.
"""

import csv
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import decode
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import AnabranchError, EventError, MisuseError
from anabranch.events.decoders.schemas import Schemas
from anabranch.events.faults import find_fault, find_text_fault
from anabranch.events.json_values import encode_event
from anabranch.events.messages import MessageEvent, events_of
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


@dataclass
class Published:
    """How many rows of a file were published, how many of these are faulty, and the fault of the first."""

    events: int = 0
    faulty: int = 0
    first_fault: str | None = None


@dataclass(frozen=True)
class _Judge:
    """The judge of REST, for the text of a row."""

    source: Source
    keys: tuple[tuple[str, ...], ...]
    latest: int | None
    schemas: Schemas | None = None

    def fault(self, text: bytes) -> str | None:
        try:
            event = decode(text, exact=True, what="it")
        except ProblemError as problem:
            return problem.detail
        fault = find_fault(event, self.source, self.keys, self.latest) or find_text_fault(text, self.source)
        return None if fault is None else fault.reason


@dataclass(frozen=True)
class _Row:
    """A row of a file as JSON; without an `event`, where it cannot be read, the bytes that stand there."""

    line: int
    text: bytes
    event: Mapping[str, object] | None = None
    fault: str | None = None


def publish_file(
    bus: Bus,
    project: Project,
    source_name: str,
    path: Path,
    progress: Progress,
    latest: int | None = None,
    schemas: Schemas | None = None,
) -> Published:
    """Publish the rows of a CSV or JSON lines file to the source's topic, faulty ones too, which are counted.

    A message's key is the text of the source's first key, so that events of one key keep their order.
    `latest` (microseconds) is the last event time that is not in the future. `schemas`: the schema registry.
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
    if file.format == "csv" and source.by_path:
        raise MisuseError(
            f"{path} is CSV, and the messages of source {source.name!r} are nested: "
            "give JSON lines, one message a line, or load it with 'anabranch ingest'"
        )
    progress.step(f"publishing {path.name} to {source.topic}")
    bus.ensure_topics([source.topic])
    judge, published = _Judge(source, project.key_sets(source), latest, schemas), Published()
    rows = (_csv_rows if file.format == "csv" else _json_rows)(file.path, source)
    bus.publish(source.topic, _messages(file.path, rows, judge, published, progress))
    return published


def publish_rows(
    bus: Bus,
    project: Project,
    source: Source,
    rows: Sequence[Mapping[str, object]],
    schemas: Schemas | None = None,
) -> int:
    """Publish rows as events of the source's topic, keyed as those of a file; returns how many."""
    if source.topic is None:
        raise MisuseError(
            f"source {source.name!r} has no topic: "
            "give it one in the declaration, or load its rows with 'anabranch ingest'"
        )
    keys = (project.key_sets(source) or ((),))[0]
    bus.ensure_topics([source.topic])
    messages = (_message(row, json.dumps(row).encode(), source, keys, schemas)[0] for row in rows)
    return bus.publish(source.topic, list(messages))


def _csv_rows(path: str, source: Source) -> Iterator[_Row]:
    types = {column.name: column.type for column in source.columns}
    with open_text(path) as text:
        lines = csv.reader(text)
        header = next(lines)
        for cells in filter(None, lines):
            fault = None
            if any(_LONE.search(cell) for cell in cells):
                fault = "the text is not UTF-8"
            elif len(cells) != len(header):
                fault = f"{len(cells)} cells, where the header has {len(header)}"
            if fault is None:
                event = {name: _value(cell, types[name]) for name, cell in zip(header, cells, strict=True)}
                yield _Row(lines.line_num, json.dumps(event).encode(), event)
            else:
                raw = ",".join(cells).encode(errors="surrogateescape")
                yield _Row(lines.line_num, raw, fault=fault)


def _json_rows(path: str, _: Source) -> Iterator[_Row]:
    with open_text(path) as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            raw = line.strip().encode(errors="surrogateescape")
            yield _Row(number, raw, event if isinstance(event, dict) else None)


def _messages(
    path: str, rows: Iterator[_Row], judge: _Judge, found: Published, progress: Progress
) -> Iterator[tuple[bytes | None, bytes]]:
    """The messages for the rows of a file; what is wrong with them is noted in `found`."""
    source, keys = judge.source, (judge.keys or ((),))[0]
    try:
        for row in rows:
            message: tuple[bytes | None, bytes] = (None, row.text)
            unfit = None
            if row.event is not None:
                message, unfit = _message(row.event, row.text, source, keys, judge.schemas)
            fault = row.fault or judge.fault(row.text) or unfit
            if fault is not None:
                found.faulty += 1
                found.first_fault = found.first_fault or f"line {row.line}: {fault}"
            yield message
            found.events += 1
            if found.events % _TOLD_EVERY == 0:
                progress.advance(found.events, None)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise AnabranchError(
            f"{path} cannot be read to its end ({error}) after {found.events:,} rows: check that it is whole "
            "and stays in its place, and publish it again; each event counts once"
        ) from error


def _message(
    event: Mapping[str, object],
    text: bytes,
    source: Source,
    keys: tuple[str, ...],
    schemas: Schemas | None,
) -> tuple[tuple[bytes | None, bytes], str | None]:
    """Key and value of the message for an event, which `text` has as JSON, and why it could not be encoded.

    The value then is the text itself, which landing keeps in quarantine.
    """
    key = _key(event, source, keys)
    try:
        return (key, encode_event(source, text, schemas)), None
    except msgspec.DecodeError as error:  # NaN and halves of surrogate pairs have no other form
        return (None, text), str(error)
    except EventError as error:  # the format's schema cannot hold it
        return (key, text), str(error)


def _key(event: Mapping[str, object], source: Source, keys: tuple[str, ...]) -> bytes | None:
    try:
        # The items of a message may have several keys: their order is that of the message's first.
        values = next(iter(events_of(event, source.nesting)), MessageEvent({})).values
        texts = {name: source.column(name, "key").type.key_text(values.get(name)) for name in keys}
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
