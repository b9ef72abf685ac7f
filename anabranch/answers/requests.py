"""Bodies, keys and feature values of requests, checked against a project. Every problem names its field."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from anabranch.answers.own_requests import event_values
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.declare.derived import DerivedColumn
from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureColumn
from anabranch.errors import EventError
from anabranch.events.messages import EXACT
from anabranch.events.own_events import OwnEvent
from anabranch.values.datatype import show
from anabranch.values.keys import LONGEST_KEY, SEPARATOR, read_key
from anabranch.values.names import listed
from anabranch.values.texts import AROUND
from anabranch.values.types import STRING

Key = dict[str, str]
_KEYS = ("key", "keys")
MOST_INSTANCES = 1000
"""Keys or instances of one request."""
_ASKED = ("key", "features", "request", "event", "explain")
_BY_HTTP, _BY_MESSAGE = (
    "key, features and explain, or keys, or instances",
    "request_id, key, features and explain",
)
LONGEST_REQUEST = 1_048_576
"""Bytes of one request by message."""
_LONGEST_ID = 512
MOST_EXPLAINED = 100
"""Scores of one request that are explained."""
MOST_SHOWN, SHOWN = 1_000, 100
"""Events of a view that a traced answer shows: at most, and by default."""
MOST_TEXT = 65_536
"""Characters of the texts among the features of one request: its record must fit a message of its topic."""
_HALF = re.compile("[\ud800-\udfff]")
_PLAIN = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to predict: a key whose features are read, features that win over them, or both.

    `field` is where the question has its key, `request` its columns as JSON, None where the project has none.
    With `explain` the answer says what each feature contributed to the score.
    `events` come with the question: they count as if they had arrived.
    """

    key: Key | None
    features: Mapping[str, object]
    field: str = "key"
    request: Mapping[str, object] | None = None
    explain: bool = False
    events: tuple[OwnEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Requested:
    """A request by message: its `id`, None when unreadable, and what is asked, or the `problem` with it."""

    id: str | int | None
    asked: Asked | None = None
    problem: ProblemError | None = None


def check_json(content_type: str) -> None:
    """Raises a 415 problem unless the content is declared as JSON."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(
            415, "wrong-content-type", f"content type {content_type or 'none'!r}: send application/json"
        )


def decode(body: bytes, *, exact: bool = False, what: str = "the body") -> object:
    """The JSON of a body; raises a 400 problem when it is not JSON and a 422 for NaN and infinities.

    With `exact` numbers with a fraction are Decimal, which keeps all their digits. Problems call it `what`.
    """
    try:
        return (EXACT if exact else _PLAIN).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _diagnosis(body, error, what) from error


def decode_with_nan(body: bytes) -> object:
    """The JSON of a body as `decode` reads it, but NaN, which pandas writes for what is missing, is null."""
    try:
        return decode(body)
    except ProblemError as problem:
        if problem.field is None:
            raise
    # Python writes a float with all its digits, so that it is read again as it was.
    document = json.loads(body, parse_constant=lambda name: None if name == "NaN" else float(name))
    return decode(json.dumps(document).encode())


def _with_exact_keys(document: object, body: bytes) -> object:
    """The document of a body, in which a number in a key is as it was sent, as an event's is."""
    if any(type(part) is float for one in _askers(document) for part in _key_parts(one)):
        for one, same in zip(_askers(document), _askers(EXACT.decode(body)), strict=True):
            one.update({name: same[name] for name in _KEYS if name in same})
    return document


def _askers(document: object) -> Iterator[dict[str, object]]:
    """The objects of a document that may have a key, or keys."""
    if isinstance(document, dict):
        yield document
        instances = document.get("instances")
        yield from (
            one for one in (instances if isinstance(instances, list) else ()) if isinstance(one, dict)
        )


def _key_parts(asker: Mapping[str, object]) -> Iterator[object]:
    for given in (asker[name] for name in _KEYS if name in asker):
        for key in given if isinstance(given, list) else (given,):
            yield from key.values() if isinstance(key, dict) else (key,)


def _diagnosis(body: bytes, error: Exception, what: str) -> ProblemError:
    """The problem with a body; Python's own parser reads NaN, 1e999 and halves of pairs, so it finds them."""
    try:
        document = json.loads(body)
        fields = list(_unreal(document, ""))
        half = _HALF.search(json.dumps(document, ensure_ascii=False))
    except (ValueError, RecursionError):
        fields, half = [], None
    if fields:
        place = fields[0] or what
        return unprocessable(
            place, f"{place}: NaN and infinities are not values: leave the field out or send null"
        )
    if half:
        return ProblemError(
            400,
            "bad-json",
            f"{what} has half of a surrogate pair, \\u{ord(half[0]):x}, which is no character: "
            "write both halves, or the character itself",
        )
    if "Integer value out of range" in str(error):
        return ProblemError(400, "bad-json", f"{what} has a number of more digits than any type has")
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return ProblemError(400, "bad-json", f"{what} is not JSON: {reason}")


def _unreal(document: object, path: str) -> Iterator[str]:
    if isinstance(document, float) and not math.isfinite(document):
        yield path
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from _unreal(value, f"{path}.{name}" if path else str(name))
    elif isinstance(document, list):
        for position, value in enumerate(document):
            yield from _unreal(value, f"{path}[{position}]")


def read_asked(body: bytes, project: Project, latest: int | None = None) -> Asked | list[Asked]:
    """The predict request in `body`: one, or the list of ``{"keys": [...]}`` or ``{"instances": [...]}``.

    `latest` (microseconds) is the last time of an event that is not in the future. Events may be published.
    """
    document = _with_exact_keys(decode(body), body)
    if not isinstance(document, dict):
        raise unprocessable(
            "key", f'the body is {show(document)}: send an object such as {{"key": ..., "features": {{...}}}}'
        )
    explain = _explain(document, "")
    if "instances" in document:
        listed = _listed(document, "instances")
        given = _events_of(body, len(listed))
        return at_most_explained(
            [
                read_one(
                    each,
                    project,
                    f"instances[{i}].",
                    explain=explain,
                    events=given[i],
                    latest=latest,
                    publishes=True,
                )
                for i, each in enumerate(listed)
            ]
        )
    if "keys" in document:
        return at_most_explained(
            [
                Asked(
                    body_key(each, project, f"keys[{i}]"),
                    {},
                    f"keys[{i}]",
                    request_values(None, project),
                    explain,
                )
                for i, each in enumerate(_listed(document, "keys"))
            ]
        )
    return read_one(document, project, "", events=_events_of(body)[0], latest=latest, publishes=True)


def _explain(document: Mapping[str, object], place: str) -> bool:
    """Whether an explanation is asked for."""
    given = document.get("explain")
    if given is None or isinstance(given, bool):
        return bool(given)
    raise unprocessable(f"{place}explain", f"explain is {show(given)}: send true or false", "wrong-type")


def at_most_explained(asked: list[Asked]) -> list[Asked]:
    """`asked`; raises a 422 problem when more scores are to be explained than one request may have."""
    count = sum(one.explain for one in asked)
    if count > MOST_EXPLAINED:
        raise unprocessable(
            "explain",
            f"{count} scores are to be explained: ask for {MOST_EXPLAINED} explanations at most at once",
            "too-many",
        )
    return asked


def _events_of(body: bytes, instances: int | None = None) -> list[object]:
    """What each question of a body has as its events, numbers as they were sent."""
    if b"event" not in body:
        return [None] * (instances or 1)
    document = EXACT.decode(body)
    questions = [document] if instances is None else document["instances"]
    return [one.get("event") if isinstance(one, dict) else None for one in questions]


def read_message(value: bytes | None, project: Project, latest: int | None = None) -> Requested:
    """The predict request in a message: an HTTP body with a `request_id`. Never raises.

    `latest` as for `read_asked`.
    """
    request_id = None
    try:
        document = _message(value)
        request_id = _request_id(document.pop("request_id", None))
        events = _events_of(value or b"")[0]
        return Requested(
            request_id, read_one(document, project, "", _BY_MESSAGE, events=events, latest=latest)
        )
    except ProblemError as problem:
        return Requested(request_id or _readable_id(value), problem=problem)


def _message(value: bytes | None) -> dict[str, object]:
    if value is None:
        raise ProblemError(
            400,
            "bad-json",
            'the message has no value: send an object such as {"request_id": ..., "key": ...}',
        )
    if len(value) > LONGEST_REQUEST:
        raise ProblemError(
            413, "too-large", f"the message has {len(value)} bytes: a request may have {LONGEST_REQUEST}"
        )
    document = _with_exact_keys(decode(value), value)
    if not isinstance(document, dict):
        raise unprocessable(
            "request_id",
            f'the message is {show(document)}: send an object such as {{"request_id": ..., "key": ...}}',
        )
    return document


def _request_id(value: object) -> str | int:
    if value is None or value == "":
        raise unprocessable(
            "request_id", "request_id is missing: give each request one of its own, its answer carries it"
        )
    plain = isinstance(value, (str, int)) and not isinstance(value, bool) and STRING.fault(value) is None
    if not isinstance(value, (str, int)) or not plain or len(str(value).encode()) > _LONGEST_ID:
        raise unprocessable(
            "request_id",
            f"request_id is {show(value)}: send a text or a whole number of up to {_LONGEST_ID} bytes",
        )
    return value


def _readable_id(value: bytes | None) -> str | int | None:
    """The id of a message that only Python's own parser reads, since it holds NaN or infinities."""
    if value is None or len(value) > LONGEST_REQUEST:
        return None
    try:
        document = json.loads(value)
        return _request_id(document.get("request_id")) if isinstance(document, dict) else None
    except (ValueError, RecursionError, ProblemError):
        return None


def _listed(document: Mapping[str, object], name: str) -> list[object]:
    for other in document:
        if other not in (name, "explain"):
            raise unprocessable(
                other, f"{other!r} does not go with {name}: send {name} alone", "unknown-field"
            )
    found = document[name]
    if not isinstance(found, list) or not found:
        raise unprocessable(
            name,
            f"{name} is {'empty' if found == [] else show(found)}: send an array of 1 to {MOST_INSTANCES}",
        )
    if len(found) > MOST_INSTANCES:
        raise unprocessable(
            name, f"{name} has {len(found)} entries: send at most {MOST_INSTANCES} at once", "too-many"
        )
    return found


def read_one(
    document: object,
    project: Project,
    place: str,
    known: str = _BY_HTTP,
    *,
    explain: bool = False,
    events: object = None,
    latest: int | None = None,
    publishes: bool = False,
) -> Asked:
    """The question in a decoded object; problems begin the names of fields with `place`."""
    if not isinstance(document, dict):
        raise unprocessable(
            place.rstrip("."),
            f"{place.rstrip('.')} is {show(document)}: "
            'send an object such as {"key": ..., "features": {...}}',
        )
    for name in document:
        if name not in _ASKED or (name == "request" and project.request is None):
            parts = "key, features, explain" if place else known
            parts += ", request" if project.request is not None else ""
            parts += " and event"
            raise unprocessable(
                f"{place}{name}", f"{name!r} does not belong to this request: it has {parts}", "unknown-field"
            )
    key, features = document.get("key"), document.get("features")
    if features is not None and not isinstance(features, dict):
        raise unprocessable(
            f"{place}features", f"features is {show(features)}: send an object of names and values"
        )
    request = request_values(document.get("request"), project, f"{place}request")
    if key is None and not features:
        raise unprocessable(f"{place}key", "there is nothing to score: give a key, features, or both")
    field = f"{place}key"
    asked_key = None if key is None else body_key(key, project, field)
    return Asked(
        asked_key,
        _checked(features or {}, project, f"{place}features"),
        field,
        request,
        _explain(document, place) or explain,
        ()
        if events is None
        else event_values(events, project, asked_key, latest, f"{place}event", publishes=publishes),
    )


def request_values(given: object, project: Project, place: str = "request") -> dict[str, object] | None:
    """The request's columns as JSON, defaults filled in; None for a project without a request.

    Raises a 422 problem that names a column that is unknown, missing or of another type.
    """
    if project.request is None:
        return None
    if given is not None and not isinstance(given, dict):
        raise unprocessable(place, f"request is {show(given)}: send an object of names and values")
    columns = {column.name: column for column in project.request_columns}
    values: dict[str, object] = given or {}
    for name, value in values.items():
        if name not in columns:
            raise unprocessable(
                f"{place}.{name}",
                f"{name!r} is no column of the request of {project.name}: {listed(name, columns)}",
                "unknown-field",
            )
        reason = None if value is None else columns[name].type.fault(value, strict=True)
        if reason is not None:
            raise unprocessable(f"{place}.{name}", f"{name}: {reason}", "wrong-type")
        if isinstance(value, str) and len(value) > MOST_TEXT:
            raise ProblemError(
                413, "too-large", f"{name} has more than {MOST_TEXT} characters", field=f"{place}.{name}"
            )
    for name, column in columns.items():
        if name not in values and column.required:
            raise unprocessable(
                f"{place}.{name}",
                f"request column {name!r} is missing: send it, or null where it is not known",
                "missing-field",
            )
    return {name: values.get(name, column.default) for name, column in columns.items()}


def _checked(features: dict[str, object], project: Project, place: str) -> dict[str, object]:
    columns, length = feature_columns(project), 0
    for name, value in features.items():
        column = columns.get(name)
        if column is None:
            raise unprocessable(
                f"{place}.{name}",
                f"{name!r} is not a feature of {project.name}: {listed(name, columns)}",
                "unknown-feature",
            )
        reason = None if value is None else column.type.fault(value, strict=True)
        if reason is not None:
            raise unprocessable(f"{place}.{name}", f"{name}: {reason}", "wrong-type")
        length += sum(len(one) for one in (value if type(value) is list else (value,)) if type(one) is str)
        if length > MOST_TEXT:
            raise ProblemError(
                413,
                "too-large",
                f"the texts of the features have more than {MOST_TEXT} characters: shorten {name}",
                field=f"{place}.{name}",
            )
    return features


def feature_columns(project: Project) -> Mapping[str, FeatureColumn | DerivedColumn]:
    """Feature columns and derived features by name."""
    return project.column_of


def body_key(key: object, project: Project, place: str = "key") -> Key:
    """The key in a body: a text or number for one key column, an object for several."""
    names = project.keys
    if not isinstance(key, dict):
        if len(names) > 1:
            raise unprocessable(
                place,
                f"key {show(key)}: this project has several key columns: "
                f"send an object with {' and '.join(names)}",
            )
        return {names[0]: _key_value(names[0], key, place, project)}
    for name in key:
        if name not in names:
            raise unprocessable(
                f"{place}.{name}",
                f"{name!r} is not a key column of {project.name}: the key is {' and '.join(names)}",
                "unknown-field",
            )
    return {name: _key_value(name, key.get(name), f"{place}.{name}", project) for name in names}


def path_key(text: str, project: Project) -> Key:
    """The key in a path: the value of one key column, or ``tailnum=N14228,origin=EWR`` for several."""
    names = project.keys
    words = [text]
    if len(names) > 1:
        words = re.split(rf",(?=(?:{'|'.join(map(re.escape, names))})=)", text)
    try:
        found = {names[0]: text} if len(names) == 1 else read_key(names, words)
    except EventError as error:
        form = ",".join(f"{name}=VALUE" for name in names)
        raise unprocessable("key", f"key {show(text)} does not fit: write {form}") from error
    return stored_key(found, project)


def stored_key(key: Mapping[str, object], project: Project) -> Key:
    """The stored texts of a key's values; raises a 422 problem for a value that cannot be one."""
    names = project.keys
    return {
        name: _key_value(name, key[name], "key" if len(names) == 1 else f"key.{name}", project)
        for name in names
    }


def _key_value(name: str, value: object, field: str, project: Project) -> str:
    """The stored text of a key's value, equal to Spark's CAST(... AS STRING) of the value that landed."""
    kind = project.key_types[name]
    if value is None or (isinstance(value, str) and not (value if kind.text else value.strip(AROUND))):
        raise unprocessable(field, f"key {name!r} is missing: give {' and '.join(project.keys)}")
    if isinstance(value, dict | list):
        raise unprocessable(field, f"key {name!r} is {show(value)}: send a text or a number")
    text = kind.key_text(value)
    if text is None:
        raise unprocessable(field, f"key {name!r}: {kind.fault(value)}")
    if SEPARATOR in text or len(text.encode("utf-8", "replace")) > LONGEST_KEY:
        raise unprocessable(
            field, f"key {name!r}: a key may have {LONGEST_KEY} bytes and not the control character U+001F"
        )
    return text
