"""The reasons for which rows are in quarantine: their kinds, meanings and remedies."""

import re
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from anabranch.events.rows import LONGEST_EVENT, kept_value
from anabranch.values.types import type_names

_VARYING = (
    # What differs from row to row: the cell that is quoted, moments, sizes.
    (r"(?s): '.*?' is not ", ": '…' is not "),
    (r": [-+0-9.eE]+ is not ", ": … is not "),
    (r"(?s) is (?:'.*?'|[-+0-9.eE]+), not ", " is …, not "),
    (r"\[\d+\]", "[…]"),
    (r"\b[0-9,]+ (items|names), ", "… $1, "),
    (r"\b\d{4}-\d{2}-\d{2}([ T][0-9:.]+)?Z? is after", "… is after"),
    (r"too large: \d+ bytes", "too large: … bytes"),
    (r"^(truncated|malformed Avro|no schema|unknown schema|another type): .*$", "$1: …"),
)


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A kind of reason: its meaning and remedy; `replays`: a replay may take such a row unchanged."""

    means: str
    do: str
    replays: bool = True


_AGAIN = (
    "correct it where it comes from and send it again under its id: "
    "what was kept here is not the row as it was"
)
_SET = "or replay with --set COLUMN=EXPRESSION"
_TYPES = "|".join(type_names())
# By pattern: what it means, what to do. The first that is found counts.
_LOST = (
    ("the text is not UTF-8", "the row has bytes that are no UTF-8", _AGAIN),
    ("^too large", "one event may have 1 MiB of text", _AGAIN),
    (
        "^no value",
        "a message without a value says that a key is gone; an event is never gone",
        "stop the producer from sending it, or let it be",
    ),
)
_KEPT = (
    ("malformed JSON", "the text is not one JSON object", "correct the producer and send the row again"),
    (
        "^unknown schema",
        "the schema registry has no schema of the id that the message names",
        "register the schema, or set bus.schema_registry to the right one, and replay",
    ),
    (
        "^no schema",
        "the message is not in the frame of a schema registry: a zero byte and the id of its schema",
        "look which producer writes to the topic; for messages without ids declare a wire_schema",
    ),
    (
        "^another type",
        "the message is of another type of its schema than the one that is declared",
        "leave it, or declare a source for that type",
    ),
    (
        "^truncated|^malformed Avro|^malformed Protocol Buffers|^too many items|levels deep|message's schema",
        "the bytes are no message of the schema: cut off, damaged, or written with another one",
        "correct the producer; if the schema was wrong, correct it and replay",
    ),
    (
        "^the change |^the time .* has no unit|is no Base64",
        "the change has no row that can be read",
        "let the connector send schemas and the table log its rows (docs/sources.md), and replay",
    ),
    (
        r"has not \d+ cells",
        "the row has more or fewer cells than its header",
        "look for a comma without quotes, and ingest the corrected row",
    ),
    (
        "a quote is not closed",
        "a quoted cell does not end, so that later rows stand within it",
        "double the quotes inside of cells, and ingest the corrected row",
    ),
    (
        "nested more than|(items|names), |repeat the rest of the message",
        "the message is nested too deeply, or has too many items for one event",
        "send it in smaller parts, under ids of their own",
    ),
    (
        "(is not|, not) an? (array|object)|, not [A-Z]+",
        "the message has another kind of value where a path of the source leads, or in a nested column",
        "correct the path in `fields` or `explode`, or the producer, and replay",
    ),
    (
        f"is not (an? )?({_TYPES})",
        "the cell cannot be read as the declared type of its column",
        f"send a corrected row, {_SET}; a wider type needs a new source",
    ),
    (
        "^from the future",
        "its time is further after its arrival than time.future_skew",
        "replay when that time has come, or correct the producer's clock or zone",
    ),
    (
        "no id: |no event time: |no key: ",
        "an event is nothing without its id, its time and a key",
        f"fill it where it comes from, {_SET}",
    ),
    (
        "a key may have",
        "the key is too long or has a control character",
        f"shorten it where it comes from, {_SET}",
    ),
    (
        " is not |missing, and expected",
        "it is against the suite of its source",
        "if the suite is wrong, edit it (anabranch quality P SOURCE) and replay; else correct the row",
    ),
)


_OTHER = Explained(means="a rule of another version", do="replay it: it is judged by today's rules")


def kind(reason: Column) -> Column:
    """A reason without its parts that differ from row to row, for counting."""
    for pattern, instead in _VARYING:
        reason = F.regexp_replace(reason, pattern, instead)
    return reason


def replayable(reason: Column, raw: Column) -> Column:
    """Whether the row can be judged again, because its text was kept unchanged."""
    lost = reason.rlike("|".join(pattern for pattern, _, _ in _LOST))
    return raw.isNotNull() & ~lost & (F.octet_length(kept_value(raw)) < LONGEST_EVENT)


def explain(reason: str) -> Explained:
    """The explanation of a reason or a kind of reason; of several reasons, one is explained."""
    for patterns, replays in ((_LOST, False), (_KEPT, True)):
        for pattern, means, do in patterns:
            if re.search(pattern, reason):
                return Explained(means=means, do=do, replays=replays)
    return _OTHER
