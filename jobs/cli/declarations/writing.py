"""A declaration as text: source, features that make sense for the columns, a label, and an example."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

from anabranch.aggregates.categories import named_categories
from anabranch.declare.models import MOST_CLASSES
from anabranch.declare.names import RESERVED
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.values.names import quoted
from anabranch.values.sql.expressions import expression_type
from anabranch.values.times import DAY, HOUR, SECOND, format_time, parse_time
from anabranch.values.types import BIGINT, BOOLEAN, STRING, Column, DataType
from jobs.cli.declarations.guessing import FoundColumn, Guess

_WIDTHS = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "90d": 90 * DAY, "365d": 365 * DAY}
_SUM_NAMES = "amount price total cost value quantity qty spent paid revenue sales duration distance"
_SUMS = frozenset(_SUM_NAMES.split())
_MOST_NUMBERS, _MOST_CATEGORIES, _FEW = 8, 4, 8
_WIDTH = 100
_EXAMPLE_EVENTS, _EXAMPLE_FEATURES = 5, 12


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a declaration is written from. `topic` is where further events come from."""

    name: str
    source: str
    place: str
    topic: str
    guess: Guess


def declaration(draft: Draft, example: str = "") -> str:
    """The module that declares the project; `example` is the text of its example."""
    guess = draft.guess
    features, windows = feature_texts(guess), window_names(guess)
    aggregates = sorted({text.partition("(")[0] for text in features.values()})
    names = sorted({"FeatureView", "Project", "Source", *aggregates})
    names = sorted({*names, *(["Label", "Model"] if guess.label else []), *(["Example"] if example else [])})
    lines = [
        f'"""{draft.name}: written from {_one_line(draft.place)}; say here what it is for."""',
        "",
        f"from anabranch import {', '.join(names)}",
        "",
        f"{draft.source} = Source(",
        f"    name={_text(draft.source)},",
        f"    topic={_text(draft.topic)},",
        f"    id={_text(guess.id) if guess.id else None},",
        f"    time={_text(guess.time)},",
        "    schema=(",
        *[f"        {_text(part)}" for part in _schema_lines(guess.columns)],
        "    ),",
    ]
    paths = {column.name: column.path for column in guess.columns if column.path}
    if paths:
        listed = [f"        {_text(name)}: {_text(path)}," for name, path in paths.items()]
        lines += ["    fields={", *listed, "    },"]
    key = _text(guess.key[0]) if len(guess.key) == 1 else _tuple(guess.key)
    lines += [
        ")",
        "recent = FeatureView(",
        '    name="recent",',
        f"    source={draft.source},",
        f"    key={key},",
        *([f"    windows={_tuple(windows)},"] if windows else []),
        "    features={",
        *[f"        {_text(name)}: {text}," for name, text in features.items()],
        "    },",
        ")",
    ]
    lines += ["project = Project(", f"    name={_text(draft.name)},", "    views=(recent,),"]
    if guess.label:
        target, metric = label_of(guess.column(guess.label), guess)
        lines += [
            "    # A label's features also count its own event, as the answer to a question that brings it.",
            f"    label=Label(source={draft.source}, key={key}, {target}, own_event=True),",
            f"    model=Model(metric={_text(metric)}),",
        ]
    return "\n".join([*lines, *([example] if example else []), ")", ""])


def feature_texts(guess: Guess) -> dict[str, str]:
    """Features by name, as text: counts, then means, sums and last values of numbers, counts by category."""
    schema = tuple(Column(column.name, column.type) for column in guess.columns)
    used = {guess.id, guess.time, guess.label, *guess.key}
    rest = [column for column in guess.columns if column.name not in used and column.present]
    found: dict[str, str] = {}

    def add(stem: str, ending: str, text: str) -> None:
        name = re.sub(r"[^a-z0-9]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", stem).lower()).strip("_")
        name = name[:30] if name[:1].isalpha() else f"c_{name[:28]}"
        name, number = f"{name.strip('_')}{ending}", 2
        name = f"{name}_value" if name in RESERVED else name
        while name in found:
            name, number = f"{name.rstrip('0123456789_')}_{number}", number + 1
        found[name] = text

    add("events", "", "Count()")
    for column in [column for column in rest if column.type.numeric and not _is_code(column)][:_MOST_NUMBERS]:
        argument = _text(argument_of(column.name, schema))
        if set(column.words) & _SUMS:
            add(column.name, "_sum", f"Sum({argument})")
        add(column.name, "_mean", f"Mean({argument})")
        add(column.name, "_last", f"Last({argument})")
    for column in [column for column in rest if column.type == BOOLEAN]:
        add(column.name, "_count", f"Count(where={_text(argument_of(column.name, schema))})")
    for column in [column for column in rest if _is_category(column)][:_MOST_CATEGORIES]:
        by = _text(argument_of(column.name, schema))
        add(f"by_{column.name}", "", f"Count(by={by}, among={_tuple(sorted(column.distinct))})")
    return found


def _is_code(column: FoundColumn) -> bool:
    """Whether whole numbers only name something."""
    named = column.words[-1:] and column.words[-1] in ("id", "no", "number", "code", "zip")
    return bool(named) and column.type == BIGINT


def _is_category(column: FoundColumn) -> bool:
    if column.type != STRING or not 2 <= len(column.distinct) <= _FEW:
        return False
    if 2 * len(column.distinct) > len(column.present) or max(map(len, column.distinct)) > 40:
        return False
    try:
        named_categories(sorted(column.distinct), "")
    except DeclarationError:  # two that have one name, or none
        return False
    return True


def argument_of(name: str, schema: tuple[Column, ...]) -> str:
    """The column as a SQL expression: in backticks where its bare name means something else."""
    kind = next(column.type for column in schema if column.name == name)
    try:
        plain = re.fullmatch(r"[A-Za-z_]\w*", name) and expression_type(name, schema, "") == kind
    except AnabranchError:
        plain = False
    return name if plain else quoted(name)


def label_of(column: FoundColumn, guess: Guess) -> tuple[str, str]:
    """The label's arguments and the model's metric."""
    schema = tuple(Column(each.name, each.type) for each in guess.columns)
    target = f"target={_text(argument_of(column.name, schema))}"
    if column.type == BOOLEAN or set(column.distinct) == {"0", "1"}:
        return target, "roc_auc"
    if column.type == STRING and len(column.distinct) <= MOST_CLASSES:
        return f"{target}, classes={_tuple(sorted(column.distinct))}", "log_loss"
    if column.type == BIGINT and len(column.distinct) <= 10:
        return f"{target}, classes=({', '.join(sorted(column.distinct, key=int))},)", "log_loss"
    return target, "rmse"


def window_names(guess: Guess) -> tuple[str, ...]:
    """Two windows that hold some events of a key each; none where keys have one event."""
    times = guess.column(guess.time)
    moments: dict[tuple[str, ...], list[int]] = {}
    for key, time in zip(guess.key_rows, times.values, strict=True):
        if time is not None and times.type.fault(time) is None:
            moments.setdefault(key, []).append(parse_time(str(time)))
    gaps = sorted(two - one for each in moments.values() for one, two in pairwise(sorted(each)))
    if len(gaps) < len(moments):
        return ()
    names, usual = list(_WIDTHS), gaps[len(gaps) // 2]
    wide = (place for place, width in enumerate(_WIDTHS.values()) if width >= 3 * usual)
    first = min(next(wide, len(names)), len(names) - 2)
    return tuple(names[first : first + 2])


def example_events(draft: Draft) -> tuple[list[dict[str, Any]], dict[str, Any], str] | None:
    """The first events of a key that has some, the key, and a time just after them; None without any."""
    guess = draft.guess
    rows: dict[tuple[str, ...], list[int]] = {}
    good = set(range(len(guess.columns[0].values))) - {row - 1 for c in guess.columns for row, _ in c.odd}
    needed = [column for column in guess.columns if column.name in (guess.time, guess.id, *guess.key)]
    for row, key in enumerate(guess.key_rows):
        if row in good and all(column.values[row] is not None for column in needed):
            rows.setdefault(key, []).append(row)
    if not rows:
        return None
    chosen = max(rows.values(), key=lambda each: min(len(each), _EXAMPLE_EVENTS))[:_EXAMPLE_EVENTS]
    events = [
        {
            column.name: _plain(column.type, column.values[row])
            for column in guess.columns
            if column.values[row] is not None and not isinstance(column.values[row], bytes)
        }
        for row in chosen
    ]
    asked = {name: events[0][name] for name in guess.key}
    last = max(parse_time(str(event[guess.time])) for event in events)
    return events, asked, format_time(last // SECOND * SECOND + SECOND)


def example_text(
    events: Sequence[Mapping[str, Any]], key: Mapping[str, Any], at: str, gives: Mapping[str, Any]
) -> str:
    """The example as an argument of Project."""
    shown = {name: value for name, value in gives.items() if value is not None}
    picked = dict(list(shown.items())[:_EXAMPLE_FEATURES])
    lines = [
        "    # Rows as they were found, and what they give: 'anabranch test' runs it.",
        "    examples=(",
        "        Example(",
        '            name="as found",',
        "            events=[",
        *[line for event in events for line in _event_lines(event)],
        "            ],",
        f"            key={literal(key)},",
        f"            at={_text(at)},",
        "            gives={",
        *[f"                {_text(name)}: {literal(value)}," for name, value in picked.items()],
        "            },",
        "        ),",
        "    ),",
    ]
    return "\n".join(lines)


def _event_lines(event: Mapping[str, Any]) -> list[str]:
    whole = f"                {literal(event)},"
    if len(whole) <= _WIDTH:
        return [whole]
    items = [f"                    {_text(name)}: {literal(value)}," for name, value in event.items()]
    return ["                {", *items, "                },"]


def literal(value: Any) -> str:
    """A value as Python that `Example` takes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(name))}: {literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, date | datetime):
        return _text(value.isoformat().replace("+00:00", "Z"))
    if isinstance(value, Decimal):
        return _text(str(value))
    return _text(value) if isinstance(value, str) else repr(value)


def _plain(kind: DataType, value: Any) -> Any:
    """A value of the rows as one would write it: a number of CSV as a number."""
    if kind in (BIGINT, BOOLEAN):
        return kind.read(value)
    if kind.floating:
        number = kind.read(value)
        return number if math.isfinite(number) else str(value)
    if isinstance(value, Mapping | list):
        return value
    return str(value)


def _schema_lines(columns: Sequence[FoundColumn]) -> list[str]:
    named = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
    names = [one.name if named.fullmatch(one.name) else quoted(one.name) for one in columns]
    parts = [f"{name} {column.type}" for name, column in zip(names, columns, strict=True)]
    return [f"{part}, " for part in parts[:-1]] + parts[-1:]


def _text(text: str | None) -> str:
    """A text as Python writes it, in double quotes."""
    shown = repr(text)
    if shown.startswith("'") and '"' not in shown:
        return f'"{shown[1:-1]}"'.replace("\\'", "'")
    return shown


def _tuple(texts: Sequence[str]) -> str:
    return f"({', '.join(map(_text, texts))}{',' if len(texts) == 1 else ''})"


def _one_line(text: str) -> str:
    return " ".join(text.replace('"', "'").replace("\\", "/").split())
