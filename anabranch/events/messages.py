"""From a decoded message to its events: the values of their columns, by the source's paths. Pure Python.

Landing, the stream and REST read nested messages by these functions alone, whatever the wire format.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from anabranch.declare.nesting import Nesting
from anabranch.errors import EventError
from anabranch.values.datatype import Column, show
from anabranch.values.nested import MOST_ITEMS
from anabranch.values.paths import ARRAYS, OBJECTS, Path, path_text, value_at
from anabranch.values.texts import JsonNumber

MOST_LEVELS = 64
"""Objects and arrays within one another in a nested message; one of more goes to quarantine."""
TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
POSITION = "_position"
"""The first field of an item in quarantine."""
LARGEST_MESSAGE = 16_777_216
"""Bytes of the items of one message, each with what it shares with the others."""
_NESTED = (*OBJECTS, *ARRAYS)
_KEPT = msgspec.json.Encoder(
    decimal_format="number", enc_hook=lambda number: msgspec.Raw(str(number).encode())
)

EXACT = msgspec.json.Decoder(float_hook=JsonNumber)
"""Reads JSON; numbers with a fraction or an exponent are JsonNumber."""


@dataclass(frozen=True)
class MessageEvent:
    """One event of a message: its values by column, or the reason for which it is broken.

    `position` is its item's in the array that the source explodes.
    """

    values: Mapping[str, object]
    fault: str | None = None
    position: int | None = None


def events_of(message: object, nesting: Nesting) -> Iterator[MessageEvent]:
    """The events of a message: one, or one for each item of the array that the source explodes.

    A value is None where its path leads to nothing. Raises EventError for a message that is broken as a
    whole: a path leads through a scalar, or to an object or array for a column that takes none, or there are
    too many items. Such a path within an item is the fault of that item's event alone.
    """
    shared = _values(message, nesting.outside)
    if nesting.explode is None:
        yield MessageEvent(shared)
        return
    for position, item in enumerate(_items(message, nesting.explode)):
        yield _item_event(shared, item, nesting, position)


def identity(value: object, position: int) -> str | None:
    """The id of an item's event: the message's and the position; None where the message has no id."""
    return None if value in (None, "") else f"{value}#{position}"


def kept_events(message: object, nesting: Nesting) -> Iterator[tuple[MessageEvent, str | None]]:
    """The events of a message and how quarantine keeps each: an item alone, None for the whole message.

    Raises EventError as `events_of` does, and for a message that its items repeat too often.
    """
    if nesting.explode is None:
        for event in events_of(message, nesting):
            yield event, None
        return
    size, items, shared = 0, _items(message, nesting.explode), None
    for event, item in zip(events_of(message, nesting), items, strict=True):
        if shared is None:
            part = _part(message, [path for _, path in nesting.outside])
            shared = msgspec.Raw(_KEPT.encode(_readable(part)))
        kept = _KEPT.encode({POSITION: event.position, "item": _readable(item), "message": shared}).decode()
        size += len(kept)
        if size > LARGEST_MESSAGE:
            raise EventError(
                f"explode: the items of {path_text(nesting.explode)} repeat the rest of the message, "
                f"to more than {LARGEST_MESSAGE:,} bytes"
            )
        yield event, kept


def event_alone(kept: Mapping[str, object], nesting: Nesting) -> MessageEvent:
    """The event of an item that quarantine kept; raises EventError as `events_of` does."""
    shared = _values(kept.get("message"), nesting.outside)
    return _item_event(shared, kept.get("item"), nesting, int(str(kept.get(POSITION))))


def _item_event(shared: Mapping[str, object], item: object, nesting: Nesting, position: int) -> MessageEvent:
    explode = nesting.explode or ()
    try:
        values = _values(item, nesting.within, explode)
    except EventError as error:
        return MessageEvent(shared, f"{path_text((*explode, position))}: {error}", position)
    return MessageEvent({**shared, **values}, None, position)


def _values(found: object, paths: Sequence[tuple[Column, Path]], root: Path = ()) -> dict[str, object]:
    """The values of columns in a message, or in an item, which lies at `root` for the paths."""
    values: dict[str, object] = {}
    for column, path in paths:
        try:
            value = value_at(found, path[len(root) :], root)
        except EventError as error:
            raise EventError(f"{column.name}: {error}") from error
        if isinstance(value, _NESTED) and not (column.type.text or column.type.nested):
            raise EventError(f"{column.name}: {path_text(path)} is {show(value)}, not {column.type}")
        values[column.name] = value
    return values


def _items(message: object, explode: Path) -> Sequence[object]:
    where = path_text(explode)
    try:
        items = value_at(message, explode)
    except EventError as error:
        raise EventError(f"explode: {error}") from error
    if items is None:
        return ()
    if not isinstance(items, list | tuple):
        raise EventError(f"explode: {where} is {show(items)}, not an array")
    if len(items) > MOST_ITEMS:
        raise EventError(f"explode: {where} has {len(items):,} items, a message may have {MOST_ITEMS:,}")
    return items


def _part(found: object, paths: Sequence[Path]) -> object:
    """The parts of a value that lie on the paths; arrays are whole."""
    if not isinstance(found, Mapping) or () in paths:
        return found
    names = dict.fromkeys(path[0] for path in paths)
    return {
        name: _part(found[name], [p[1:] for p in paths if p[0] == name]) for name in names if name in found
    }


def _readable(value: object) -> object:
    """A decoded value with texts for bytes, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _readable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def check_levels(message: object) -> None:
    """Raise EventError for a message of more than MOST_LEVELS levels."""
    within: list[object] = [message]
    for _ in range(MOST_LEVELS):
        inner: list[object] = []
        for one in within:
            if isinstance(one, Mapping):
                inner.extend(each for each in one.values() if isinstance(each, _NESTED))
            elif isinstance(one, list | tuple):
                inner.extend(each for each in one if isinstance(each, _NESTED))
        if not inner:
            return
        within = inner
    raise EventError(TOO_DEEP)
