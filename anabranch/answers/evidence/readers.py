"""The very events behind a key's features: of the lake what has landed, of the topic what has not yet.

Both are read without a JVM, and within bounds: a reading that ends before it has seen everything says so.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from anabranch.declare.names import IDENTITY
from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.declare.views import FeatureView
from anabranch.errors import EventError
from anabranch.events.faults import row_fault
from anabranch.events.messages import EXACT, MessageEvent, kept_events
from anabranch.events.messages import identity as item_identity
from anabranch.events.origins import Origin
from anabranch.events.typed_rows import typed_row
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.lake.light import (
    MOST_FILES,
    LightFile,
    LightTable,
    among_parts,
    key_part,
    lake_place,
    landed_offsets,
    stored_name,
)
from anabranch.stores.opened import Stores
from anabranch.values.keys import SEPARATOR
from anabranch.values.texts import JsonNumber
from anabranch.values.times import SECOND, format_time, to_micros

MOST_MESSAGES = 20_000
"""Messages of a topic that are looked through for those of one key."""
_SECONDS = 10.0  # for them
_LOG_APPEND = 1
_ORIGIN = ("_arrival", "_file", "_topic", "_partition", "_offset")
BATCH, SPEED, LATER = "batch", "speed", "next build"
"""What counts an event in answers of now; events of files that came after the build began, nothing yet."""


@dataclass(frozen=True, kw_only=True)
class SeenEvent:
    """An event of a key; times in microseconds.

    `file`, or `topic`, `partition` and `offset`, are where it came from; `row` has its columns as JSON.
    """

    id: str
    time: int
    arrival: int
    channel: str
    landed: bool
    row: Mapping[str, Any]
    file: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None

    @property
    def order(self) -> tuple[Any, ...]:
        """Of the copies of an event the least one counts (events/copies.py)."""
        return (
            self.arrival, self.topic or "", self.file or "",
            -1 if self.partition is None else self.partition, -1 if self.offset is None else self.offset,
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The event as JSON."""
        place = {"file": self.file} if self.topic is None else {
            "topic": self.topic, "partition": self.partition, "offset": self.offset,
        }  # fmt: skip
        return {
            "id": self.id,
            "time": format_time(self.time),
            "arrival": format_time(self.arrival),
            "channel": self.channel,
            "landed": self.landed,
            **place,
            "event": self.row,
        }


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The distinct events of a key that a view reads, newest first; `missing` is why there may be more."""

    events: Sequence[SeenEvent]
    missing: str | None = None


@dataclass(frozen=True)
class EventReader:
    """Reads events of one view for one key, whose stored text is `key`, of event times below `until`."""

    stores: Stores
    owner: Project
    view: FeatureView
    key: str
    manifest: Manifest | None

    def evidence(self, since: int | None, until: int) -> Evidence:
        """The events of [since, until), since ever if None."""
        table = LightTable(self._place("events"), stored_name(self.source.time))
        files = table.files[:MOST_FILES]
        landed = self._landed(table, [file for file in files if file.may_have(since, until)])
        waiting, others, more = self._waiting() if self.source.topic is not None else ([], [], None)
        mine = [*landed, *waiting]
        ids = {event.id for event in mine}
        # A copy of another key or time may come first: then the event is that one.
        copies = [*mine, *self._copies(table, files, ids), *(one for one in others if one.id in ids)]
        first: dict[str, SeenEvent] = {}
        for event in sorted(copies, key=lambda event: event.order):
            first.setdefault(event.id, event)
        counted = {event.id: event for event in mine if event.order == first[event.id].order}
        inside = [
            event
            for event in counted.values()
            if event.time < until and (since is None or event.time >= since)
        ]
        left = len(table.files) - len(files)
        missing = f"{left} older files of the lake were not looked through" if left else None
        why = "; ".join(filter(None, (missing, more, self._table())))
        return Evidence(events=sorted(inside, key=lambda event: -event.time), missing=why or None)

    @property
    def source(self) -> Source:
        """The source of the view."""
        return self.view.source

    def _place(self, kind: str) -> str:
        return lake_place(self.stores.settings.lake.root, self.owner, kind, self.source)

    def _table(self) -> str | None:
        table = self.source.table
        return None if table is None else f"rows of {table}, which the source reads in place, are not shown"

    @cached_property
    def _names(self) -> dict[str, str]:
        """The source's columns by name, as the lake's table names them."""
        return {column.name: stored_name(column.name) for column in self.source.columns}

    def _landed(self, table: LightTable, files: Sequence[LightFile]) -> list[SeenEvent]:
        """Those of the key in the lake, copies included."""
        keys = [self._names[name] for name in self.view.keys]
        wanted = [*self._names.values(), *_ORIGIN, IDENTITY]
        found = [self._event(row, self._names) for row in table.rows(files, keys, self._has_key, wanted)]
        return [event for event in found if event is not None]

    def _copies(self, table: LightTable, files: Sequence[LightFile], ids: set[str]) -> list[SeenEvent]:
        """Every event of the lake that has one of the ids, whatever its key and time."""
        identity, wanted = self._names.get(self.source.identity, IDENTITY), pa.array(sorted(ids), pa.string())
        names = [*self._names.values(), *_ORIGIN, IDENTITY]
        rows = table.rows(
            files if ids else (), [identity], lambda part: _among(part.column(identity), wanted), names
        )
        found = [self._event(row, self._names, any_key=True) for row in rows]
        return [event for event in found if event is not None]

    def _has_key(self, rows: pa.Table) -> pa.Array:
        parts = dict(zip(self.view.keys, self.key.split(SEPARATOR), strict=True))
        mask = None
        for name, text in parts.items():
            kind = self.source.column(name, "key").type
            same = among_parts(rows.column(stored_name(name)), kind, {text})
            mask = same if mask is None else pc.and_(mask, same)
        return mask

    def _event(
        self, row: Mapping[str, Any], names: Mapping[str, str], *, any_key: bool = False
    ) -> SeenEvent | None:
        values = {name: row[stored] for name, stored in names.items()}
        kinds = {column.name: column.type for column in self.source.columns}
        time_ = kinds[self.source.time].value(values[self.source.time])
        arrival, identity = to_micros(row["_arrival"]), values.get(self.source.identity, row[IDENTITY])
        if time_ is None or identity is None:
            return None
        shown = {} if any_key else {name: kinds[name].to_json(value) for name, value in values.items()}
        return self._seen(
            SeenEvent(
                id=_shown_id(identity), time=self.source.event_time(time_),
                arrival=arrival, channel="", landed=True, row=shown, file=row["_file"], topic=row["_topic"],
                partition=row["_partition"], offset=row["_offset"],
            )
        )  # fmt: skip

    def _seen(self, event: SeenEvent) -> SeenEvent:
        """The event with what counts it."""
        manifest = self.manifest
        if event.file is not None or event.topic is None:
            counted = manifest is not None and event.arrival < (manifest.until or manifest.built_at)
            return replace(event, channel=BATCH if counted else LATER)
        counted = manifest is not None and event.arrival < manifest.cut
        return replace(event, channel=BATCH if counted else SPEED)

    def _waiting(self) -> tuple[list[SeenEvent], list[SeenEvent], str | None]:
        """Those of the key in the topic that have not landed, and those of other keys."""
        bus, source = self.stores.bus, self.source
        if source.format != "json" and self._decoder is None:
            return [], [], f"messages in {source.format} are shown when they have landed"
        topic = bus.read_as(str(source.topic))
        ends = bus.ends(topic)
        place = f"{self._place('checkpoints')}/{source.topic}"
        landed = landed_offsets(place, topic, bus.topic_id(topic))
        starts = {part: max(first, landed.get(part, 0)) for part, first in bus.beginnings(topic).items()}
        left = {part: (starts.get(part, 0), end) for part, end in ends.items() if starts.get(part, 0) < end}
        records, whole = bus.records(topic, left, MOST_MESSAGES, _SECONDS)
        events = [event for record in records for event in self._read(record)]
        waiting = sum(end - start for start, end in left.values())
        rest = f"of {waiting:,} messages of {topic} that have not landed {len(records):,} were looked through"
        mine = [event for event, own in events if own]
        return mine, [event for event, own in events if not own], None if whole else rest

    @cached_property
    def _decoder(self) -> Any:
        """What reads single messages; None where Spark reads them by columns."""
        # Not with the module: a server without Spark shows events in JSON.
        from anabranch.events.decoders.decoder import MessageDecoder, decoder_of

        found = decoder_of(self.source, self.stores.schemas)
        return found if isinstance(found, MessageDecoder) else None

    def _read(self, record: Any) -> Iterator[tuple[SeenEvent, bool]]:
        """The events of one message, each with whether it has the key; none that goes to quarantine."""
        try:
            events = list(self._decoded(record.value or b""))
        except Exception:  # noqa: BLE001 - whatever a decoder finds, the message is no event
            return
        origin = Origin.of(record.headers)
        topic, partition, offset = (
            (record.topic, record.partition, record.offset)
            if origin is None
            else (origin.topic, origin.partition, origin.offset)
        )
        stamp = record.timestamp if origin is None else origin.stamp
        arrival = record.timestamp * 1000
        for event in events:
            row, own = self._row(event, arrival)
            if not row:
                continue
            place = f"{topic}/{partition}/{offset}@{stamp}"
            value = place if self.source.id is None else row[self.source.id]
            foreign = record.timestamp_type != _LOG_APPEND
            kinds = {column.name: column.type for column in self.source.columns}
            seen = self._seen(
                SeenEvent(
                    id=_shown_id(value),
                    time=self.source.event_time(row[self.source.time]),
                    arrival=arrival, channel="", landed=False,
                    row={name: kinds[name].to_json(one) for name, one in row.items()},
                    file=f"topic:{topic}" if foreign else None,
                    topic=topic, partition=partition, offset=offset,
                )
            )  # fmt: skip
            yield seen, own

    def _decoded(self, value: bytes) -> Iterable[MessageEvent]:
        if self.source.format != "json":
            return [event for event, _ in self._decoder.events(self.source, value)]
        if self.source.nested:
            return [event for event, _ in kept_events(EXACT.decode(value), self.source.nesting)]
        try:
            message = EXACT.decode(value)
        except msgspec.DecodeError:
            # The stream reads NaN and infinities, which are unknown numbers; JSON has none.
            message = json.loads(value, parse_float=JsonNumber, parse_constant=lambda _: None)
        if not isinstance(message, dict):
            raise EventError("one JSON object is expected")
        return [MessageEvent({column.name: message.get(column.name) for column in self.source.columns})]

    def _row(self, event: MessageEvent, arrival: int) -> tuple[dict[str, Any], bool]:
        """The typed columns of an event, and whether it has the key; nothing for a faulty one."""
        values, source = dict(event.values), self.source
        if event.position is not None and source.id is not None:
            known = values.get(source.id)
            values[source.id] = item_identity(None if known is None else str(known), event.position)
        latest = arrival + self.stores.settings.times.future_skew_seconds * SECOND
        kinds = {column.name: column.type for column in source.columns}
        if event.fault is not None or row_fault(values, source, self.owner.key_sets(source), latest):
            return {}, False
        texts = [key_part(kinds[name], kinds[name].given(values[name])) for name in self.view.keys]
        own = None not in texts and SEPARATOR.join(map(str, texts)) == self.key
        return typed_row(source, values), own


def _shown_id(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _among(column: Any, ids: pa.Array) -> pa.Array:
    texts = column.combine_chunks()
    if not pa.types.is_string(texts.type):
        texts = pc.cast(texts, pa.string())
    return pc.is_in(texts, value_set=ids)
