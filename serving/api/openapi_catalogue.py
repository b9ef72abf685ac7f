"""The catalogue's schema: what `catalogue.entry` gives, typed. A test holds every field of the one against the other."""

from typing import Any

from serving.api.promises import STATES

Schema = dict[str, Any]


def _object(about: str = "", /, **properties: Schema) -> Schema:
    """An object that has all of these members."""
    described = {"description": about} if about else {}
    return {"type": "object", **described, "required": list(properties), "properties": properties}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _text(description: str = "") -> Schema:
    return {"type": "string", **({"description": description} if description else {})}


def _number(description: str = "") -> Schema:
    return {**_text(description), "type": "number"}


def _whole(description: str = "") -> Schema:
    return {**_text(description), "type": "integer"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema, description: str) -> Schema:
    return {"type": "object", "description": description, "additionalProperties": values}


def _time(description: str = "") -> Schema:
    return {**_text(description), "format": "date-time"}


def _channel(what: str) -> Schema:
    return _object(
        what,
        promised_seconds=_or_null(_number("Null where nothing is promised")),
        seconds=_or_null(_number("Measured")),
        state={
            "enum": [*STATES, None],
            "type": ["string", "null"],
            "description": "How the promise stands; null without one",
        },
        since=_or_null(_time("From when on it stands so")),
    )


_STREAM = _channel("How long what arrives waits for its current row")
_STREAM["properties"]["sources"] = _map(_or_null(_number()), "Seconds, by source")
_VERSIONS = _map(_whole(), "Version of the lake's table, by source")
_FEATURE = _object(
    name=_text(), type=_text("As in SQL"), view=_text(), source=_text(), key=_list(_text()), window=_text(),
    aggregate=_text("As it is declared"), exactness=_text("Exact, or how far it may be off"),
)  # fmt: skip
_SOURCE = _object(
    name=_text(), description=_text(), topic=_or_null(_text()), id=_text("Column that names an event"), time=_text("Column of its event time"),
    schema=_list(_object(name=_text(), type=_text())),
)  # fmt: skip
_MODEL = _object(
    trainer=_text(), metric=_text("What versions are compared by"), description=_text(), features=_list(_text()),
    version=_or_null(_text("The one that answers")), created=_or_null(_time()), metrics=_map(_number(), "On held-out rows; of training rows: train_..."),
    gate=_or_null(_text("What the gate of promotion said")), intended_use=_text(), limits=_text(), card=_text("Where its model card is"),
    trial=_or_null(_object("A version that is tried beside it", kind=_text("shadow or canary"), version=_text(), share=_number("Of the keys"))),
)  # fmt: skip
_LABEL = _object(
    source=_text(),
    key=_list(_text()),
    target=_text("SQL that gives the class or number"),
    description=_text(),
)
_FRESHNESS = _object(
    cut=_or_null(_time("All that arrived before is in the batch")), built_at=_or_null(_time()), batch_version=_or_null(_whole()),
    model_version=_or_null(_text()), promised=_or_null(_object("As declared", batch=_or_null(_text()), stream=_or_null(_text()))),
    batch_age_seconds=_or_null(_number()), kept={"type": ["boolean", "null"], "description": "Whether every promise that can be judged is kept"},
    batch=_channel("Age of the batch's cut"), stream=_STREAM,
)  # fmt: skip
_LINEAGE = _object(
    lake=_VERSIONS, batch=_or_null(_object(version=_whole(), cut=_time(), keys=_map(_whole(), "Keys, by view"))),
    model=_or_null(_object(version=_text(), lake=_VERSIONS, run=_text("Of the tracking server"))), answers=_list(_text()),
)  # fmt: skip
_ADDRESSES = _object(
    page=_text(), predict=_or_null(_text()), features=_text(), scores=_or_null(_text()), events=_map(_text(), "By source"), topics=_map(_text(), "By source"),
    current_table=_text("In Cassandra"), batch_tables=_map(_text(), "By view"), spark=_list(_text("In Spark SQL")),
    predictions_topic=_or_null(_text()), scores_topic=_or_null(_text()), score_requests_topic=_or_null(_text()), models_topic=_or_null(_text()),
)  # fmt: skip

ENTRY = _object(
    name=_text(), owner=_text(), description=_text(), keys=_list(_text()), sources=_list(_SOURCE), features=_list(_FEATURE),
    model=_or_null(_MODEL), label=_or_null(_LABEL), freshness=_FRESHNESS, lineage=_LINEAGE, addresses=_ADDRESSES,
    troubles=_map(_text(), "What is wrong now, and why"),
)  # fmt: skip
"""One project."""
CATALOGUE = _object(projects=_list(ENTRY), broken=_map(_text(), "Declarations that never loaded, and why"))
"""All of them that the caller may see."""
