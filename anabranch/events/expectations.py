"""Expectations of a source's events: a suite in Great Expectations' own JSON, read and checked without it.

There are two kinds. An expectation about *rows* (a value lies between bounds, is one of a set, matches a
pattern) is a rule like those of anabranch/events/judging.py: a row that breaks a critical one goes to
quarantine, in batch and stream alike. An expectation about a *load* (its number of rows, a column's mean, the
number of distinct ids) is for the gate (batch/quality/gate.py). Severities `warning` and `info` are only
reported. anabranch/events/conditions.py translates expectations to SQL.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from anabranch.values.names import listed
from anabranch.values.sql.patterns import pattern_fault
from anabranch.values.types import DOUBLE, STRING, Column

SEVERITIES = ("critical", "warning", "info")
DERIVED = "derived from the declaration"
_BOUNDS = ("min_value", "max_value", "strict_min", "strict_max")
_LARGEST = 1.7976931348623157e308
_PAIR = ("column_A", "column_B")

ROWS: dict[str, tuple[str, ...]] = {
    "expect_column_values_to_not_be_null": (),
    "expect_column_values_to_be_null": (),
    "expect_column_values_to_be_between": _BOUNDS,
    "expect_column_values_to_be_in_set": ("value_set",),
    "expect_column_values_to_not_be_in_set": ("value_set",),
    "expect_column_values_to_match_regex": ("regex",),
    "expect_column_values_to_not_match_regex": ("regex",),
    "expect_column_value_lengths_to_be_between": _BOUNDS,
    "expect_column_value_lengths_to_equal": ("value",),
    "expect_column_pair_values_a_to_be_greater_than_b": ("or_equal",),
    "expect_column_pair_values_to_be_equal": (),
}
"""Expectations about rows, and the arguments of each beside its column (or columns) and `mostly`."""
LOADS: dict[str, tuple[str, ...]] = {
    "expect_table_row_count_to_be_between": _BOUNDS,
    "expect_table_row_count_to_equal": ("value",),
    "expect_column_min_to_be_between": _BOUNDS,
    "expect_column_max_to_be_between": _BOUNDS,
    "expect_column_mean_to_be_between": _BOUNDS,
    "expect_column_sum_to_be_between": _BOUNDS,
    "expect_column_stdev_to_be_between": _BOUNDS,
    "expect_column_unique_value_count_to_be_between": _BOUNDS,
    "expect_column_proportion_of_unique_values_to_be_between": _BOUNDS,
    "expect_column_proportion_of_non_null_values_to_be_between": _BOUNDS,
}
"""Expectations about a load as a whole."""
_NEEDED = {"value_set": list, "regex": str, "value": int}
_OF_NUMBERS = ("mean", "sum", "stdev")


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One expectation: `type` is its name in Great Expectations, `kwargs` are its arguments."""

    type: str
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    severity: str = "critical"
    notes: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads; empty for the number of rows."""
        return tuple(self.kwargs[name] for name in ("column", *_PAIR) if name in self.kwargs)

    @property
    def about_rows(self) -> bool:
        """Whether it judges row by row."""
        return self.type in ROWS

    @property
    def quarantines(self) -> bool:
        """Whether a row that breaks it goes to quarantine."""
        return self.about_rows and self.severity == "critical"

    @property
    def words(self) -> str:
        """The expectation for people, to follow the name of the column: ``between 0 and 120``."""
        return _words(self)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The expectations of one source; `origin` is their file, or tells that they were derived."""

    source: Source
    expectations: tuple[Expectation, ...]
    origin: str = DERIVED

    @property
    def rules(self) -> tuple[Expectation, ...]:
        """The expectations that send rows to quarantine."""
        return tuple(each for each in self.expectations if each.quarantines)


def derived_suite(source: Source, keys: Sequence[str]) -> Suite:
    """What any load of `source` should be like, by its declaration; `keys` are its key columns.

    Rows without id, event time or key and cells of a wrong type go to quarantine anyway
    (anabranch/events/judging.py), so these are warnings about a load that is odd as a whole.
    """
    own = () if source.id is None else (source.id,)
    found = [
        _warning("expect_table_row_count_to_be_between", "a load has rows", min_value=1),
        *(
            _warning("expect_column_values_to_not_be_null", "needed of every event", column=name)
            for name in dict.fromkeys((*own, source.time, *keys))
        ),
        *(
            _warning(
                "expect_column_proportion_of_unique_values_to_be_between",
                "of one id only the first event counts",
                column=name,
                min_value=0.9,
            )
            for name in own
        ),
        _warning(
            "expect_column_values_to_be_between",
            "1970-01-01 is what a missing time often becomes",
            column=source.time,
            **_SENSIBLE,
        ),
        *(
            _warning(
                "expect_column_values_to_be_between",
                "finite numbers: NaN and infinity count as unknown",
                column=c.name,
                **_FINITE,
            )
            for c in source.columns
            if c.type.floating
        ),
    ]
    return Suite(source=source, expectations=tuple(found))


_SENSIBLE = {"min_value": "1971-01-01T00:00:00Z", "max_value": "2200-01-01T00:00:00Z"}
_FINITE = {"min_value": -_LARGEST, "max_value": _LARGEST}


def _warning(kind: str, notes: str, **kwargs: object) -> Expectation:
    return Expectation(type=kind, kwargs=kwargs, severity="warning", notes=notes)


def project_suite(project: Project, source: Source) -> Suite:
    """The derived suite of a source with the key columns that every view of it in the project needs."""
    sets = [set(view.keys) for view in project.views_of(source.name)]
    if project.label is not None and project.label.source == source:
        sets.append(set(project.label.keys))
    needed = set.intersection(*sets) if sets else set()
    suite = derived_suite(source, [column.name for column in source.columns if column.name in needed])
    return replace(suite, expectations=(*suite.expectations, *_of_classes(project, source)))


def _of_classes(project: Project, source: Source) -> list[Expectation]:
    """That a label which is a column of numbers has two classes, where the model's metric is for these."""
    label, model = project.label, project.model
    if label is None or model is None or label.source != source or project.task != "class":
        return []
    return [
        Expectation(
            type="expect_column_values_to_be_in_set",
            kwargs={"column": column.name, "value_set": [0, 1], "mostly": 1.0},
            notes=f"the label of {project.name}: its metric {model.metric} is for two classes",
        )
        for column in source.columns
        if column.name == label.target.strip("` ") and (column.type.integral or column.type.floating)
    ]


def suite_text(name: str, suite: Suite) -> str:
    """A suite as Great Expectations' JSON, an expectation a line; `read_suite` reads it."""
    lines = []
    for each in suite.expectations:
        more = {"meta": {"notes": each.notes}} if each.notes else {}
        lines.append(
            "    "
            + json.dumps(
                {"type": each.type, "kwargs": dict(each.kwargs), "severity": each.severity, **more},
                ensure_ascii=False,
            )
        )
    listed = ",\n".join(lines)
    return f'{{\n  "name": {json.dumps(name)},\n  "expectations": [\n{listed}\n  ],\n  "meta": {{}}\n}}\n'


def read_suite(text: str, source: Source, place: str) -> Suite:
    """The suite in `text`. Raises MisuseError, beginning with `place`, for anything that is no suite."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise MisuseError(f"{place} is no JSON ({error}): correct that place") from error
    if not isinstance(found, dict) or not isinstance(found.get("expectations"), list):
        raise MisuseError(f'{place} is no suite: write {{"name": ..., "expectations": [...]}}')
    listed = [
        _read(each, source, f"{place}: expectation {number}")
        for number, each in enumerate(found["expectations"], start=1)
    ]
    return Suite(source=source, expectations=tuple(listed), origin=place)


def _read(given: object, source: Source, place: str) -> Expectation:
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("type"), str)
        or not isinstance(given.get("kwargs", {}), dict)
    ):
        raise MisuseError(f'{place} is not understood: write {{"type": "expect_...", "kwargs": {{...}}}}')
    kind, kwargs, severity = given["type"], given.get("kwargs", {}), given.get("severity", "critical")
    allowed = ROWS.get(kind, LOADS.get(kind))
    if allowed is None:
        raise MisuseError(
            f"{place}: {kind} is not one that a load is measured for in its one pass: "
            f"{listed(kind, (*ROWS, *LOADS), 'use')}"
        )
    if severity not in SEVERITIES:
        raise MisuseError(f"{place}: severity {severity!r} is unknown: {listed(severity, SEVERITIES, 'use')}")
    domain = () if "_table_" in kind else _PAIR if "_pair_" in kind else ("column",)
    names = (*domain, *allowed, *(("mostly",) if kind in ROWS else ()))
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        raise MisuseError(f"{place}: {kind} has no argument {unknown[0]!r} here: {listed(unknown[0], names)}")
    columns = [_column(kwargs.get(name), name, source, place) for name in domain]
    _check(kind, kwargs, columns, f"{place}: {kind}")
    meta = given.get("meta") or {}
    return Expectation(
        type=kind,
        kwargs=kwargs,
        severity=severity,
        notes=str(meta.get("notes") or "") if isinstance(meta, dict) else "",
    )


def _column(name: object, argument: str, source: Source, place: str) -> Column:
    for column in source.columns:
        if column.name == name:
            return column
    known = listed(name, [column.name for column in source.columns], f"source {source.name!r} has")
    raise MisuseError(f"{place}: {argument} {name!r} is no column: {known}")


def _check(kind: str, kwargs: Mapping[str, Any], columns: Sequence[Column], place: str) -> None:
    """Raise MisuseError for an argument that is not of the kind that the column needs."""
    allowed = ROWS.get(kind, LOADS.get(kind, ()))
    for name, wanted in _NEEDED.items():
        if name in allowed and (
            not isinstance(kwargs.get(name), wanted) or isinstance(kwargs.get(name), bool)
        ):
            expected = "text" if wanted is str else f"a {wanted.__name__}"
            raise MisuseError(f"{place}: {name} is {kwargs.get(name)!r}: expected {expected}")
    mostly = kwargs.get("mostly", 1)
    if not isinstance(mostly, int | float) or isinstance(mostly, bool) or not 0 <= mostly <= 1:
        raise MisuseError(f"{place}: mostly is {mostly!r}: expected a share from 0 to 1")
    if columns and any(word in kind for word in _OF_NUMBERS) and not columns[0].type.numeric:
        raise MisuseError(f"{place}: column {columns[0].name!r} is {columns[0].type}: expected a number")
    for column in columns:
        if column.type.nested and "be_null" not in kind:
            raise MisuseError(
                f"{place}: column {column.name!r} is {column.type}: only its absence can be expected; "
                "take a part as a column of its own by `fields`"
            )
    if "lengths" in kind and columns[0].type != STRING:
        raise MisuseError(
            f"{place}: column {columns[0].name!r} is {columns[0].type}: only STRING has a length"
        )
    counted = "_table_" in kind or "lengths" in kind or "unique" in kind or "proportion" in kind
    if "min_value" in allowed:
        bounds = [kwargs[name] for name in ("min_value", "max_value") if kwargs.get(name) is not None]
        if not bounds:
            raise MisuseError(f"{place}: give min_value, max_value or both")
        _check_values(bounds, None if counted else columns[0], place)
    if "value_set" in allowed:
        _check_values(kwargs["value_set"], columns[0], place)
    if "regex" in allowed:
        _check_regex(kwargs["regex"], columns[0], place)


def _check_values(values: Sequence[object], column: Column | None, place: str) -> None:
    kind = DOUBLE if column is None else column.type
    for value in values:
        if float in kind.json_types:
            right = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            right = kind.fault(value, strict=True) is None
        if not right:
            what = (
                "a number" if column is None else f"a value of {column.type}, which column {column.name!r} is"
            )
            raise MisuseError(f"{place}: {value!r} is not {what}")


def _check_regex(regex: str, column: Column, place: str) -> None:
    if column.type != STRING:
        raise MisuseError(
            f"{place}: column {column.name!r} is {column.type}: only STRING can match a pattern"
        )
    fault = pattern_fault(regex)
    if fault is not None:
        raise MisuseError(f"{place}: the regular expression {regex!r} {fault}")


def _words(each: Expectation) -> str:
    kwargs = each.kwargs
    if "value_set" in kwargs:
        listed = ", ".join(map(_shown, kwargs["value_set"]))
        return f"none of {listed}" if "not_be" in each.type else f"one of {listed}"
    if "regex" in kwargs:
        return f"{'no match' if 'not_match' in each.type else 'a match'} of {kwargs['regex']}"
    if each.type.endswith("a_to_be_greater_than_b"):
        return f"{'at least' if kwargs.get('or_equal') else 'greater than'} {kwargs['column_B']}"
    if each.type.endswith("pair_values_to_be_equal"):
        return f"equal to {kwargs['column_B']}"
    if each.type.endswith("_null"):
        return "there" if "not_be" in each.type else "missing"
    what = next((text for word, text in _MEASURES.items() if word in each.type), "")
    return f"{what}{kwargs['value']}" if "value" in kwargs else f"{what}{_range(kwargs)}"


_MEASURES = {
    "row_count": "", "lengths": "of a length ", "_min_": "a minimum ", "_max_": "a maximum ",
    "_mean_": "a mean ", "_sum_": "a sum ", "_stdev_": "a deviation ",
    "unique_value_count": "a number of values ", "proportion_of_unique": "a share of different values ",
    "proportion_of_non_null": "a share of known values ",
}  # fmt: skip


def _range(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if (low, high) == (-_LARGEST, _LARGEST):
        return "a finite number"
    above = "above" if kwargs.get("strict_min") else "at least"
    below = "below" if kwargs.get("strict_max") else "at most"
    if low is None:
        return f"{below} {_shown(high)}"
    if high is None:
        return f"{above} {_shown(low)}"
    strict = kwargs.get("strict_min") or kwargs.get("strict_max")
    return (
        f"{above} {_shown(low)} and {below} {_shown(high)}"
        if strict
        else f"between {_shown(low)} and {_shown(high)}"
    )


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value:g}" if isinstance(value, float) else str(value)
