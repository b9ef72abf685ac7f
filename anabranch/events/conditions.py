"""Expectations in SQL: which rows break one, the reason these rows get, and what is measured of a load.

Columns in, columns out, all native and deterministic, so that any number of expectations costs one pass over
a load, and the stream judges a row by the same columns as the batch. A missing value breaks only an
expectation that the value be present.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.expectations import Expectation, Suite
from anabranch.values.sql.patterns import most_letters, sought
from anabranch.values.times import from_micros
from anabranch.values.types import INT, TIMESTAMP, DataType

_SHOWN = 40
_DISTINCT_ERROR = 0.02


def reasons(suite: Suite) -> list[Column]:
    """For every rule of the suite the reason for which a row goes to quarantine, NULL where it need not."""
    return [reason(suite.source, each) for each in suite.rules]


def reason(source: Source, each: Expectation) -> Column:
    """A text such as ``age: '150' is not between 0 and 120``, NULL for a row that is as expected."""
    if not each.type.endswith("to_not_be_null"):
        text = F.concat(
            F.lit(f"{each.columns[0]}: '"),
            F.left(named(each.columns[0]).cast("string"), F.lit(_SHOWN)),
            F.lit(f"' is not {each.words}"),
        )
    else:
        text = F.lit(f"{each.columns[0]}: missing, and expected to be there")
    return F.when(breaks(source, each), text)


def breaks(source: Source, each: Expectation) -> Column:
    """Whether a row breaks an expectation about rows; NULL and false alike mean that it does not."""
    value, kwargs = named(each.columns[0]), each.kwargs
    kind = source.column(each.columns[0], "column").type
    match each.type.removeprefix("expect_column_"):
        case "values_to_not_be_null":
            return value.isNull()
        case "values_to_be_null":
            return value.isNotNull()
        case "values_to_be_between":
            return _outside(value, kwargs, kind)
        case "value_lengths_to_be_between":
            return _outside(F.length(value), kwargs, INT)
        case "value_lengths_to_equal":
            return F.length(value) != F.lit(kwargs["value"])
        case "values_to_be_in_set":
            return ~value.isin([_literal(each, kind) for each in kwargs["value_set"]])
        case "values_to_not_be_in_set":
            return value.isin([_literal(each, kind) for each in kwargs["value_set"]])
        case "values_to_match_regex":
            return _searchable(value, kwargs["regex"], ~value.rlike(sought(kwargs["regex"])))
        case "values_to_not_match_regex":
            return _searchable(value, kwargs["regex"], value.rlike(sought(kwargs["regex"])))
        case "pair_values_to_be_equal":
            return value != named(each.columns[1])
        case _:  # a_to_be_greater_than_b
            other = named(each.columns[1])
            return value < other if kwargs.get("or_equal") else value <= other


def _searchable(value: Column, regex: str, broken: Column) -> Column:
    """`broken`, or true for a text of more letters than may be searched: nothing vouches for it."""
    return F.when(F.length(value) > most_letters(sought(regex)), F.lit(True)).otherwise(broken)


def measures(suite: Suite) -> list[Column]:
    """Aggregates over the judged rows of a load: `rows`, `bad`, and what `measured` reads by expectation.

    Every row pays for each aggregate, so what several expectations need is counted once, and rows that break
    a rule are counted among the bad ones only.
    """
    found = [F.count(F.lit(1)).alias("rows"), F.count("_reason").alias("bad")]
    found += [_missing(names).alias(f"missing_{number}") for number, names in enumerate(_read(suite))]
    for number, each in enumerate(suite.expectations):
        taken = _row_measures(suite.source, each) if each.about_rows else _load_measures(each)
        found += [column.alias(f"{number}_{name}") for name, column in taken.items()]
    return found


def measured(suite: Suite, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The measures of expectation `number`: `missing`, `unexpected`, `low`, `high`, `other`, `value`."""
    start, columns = f"{number}_", suite.expectations[number].columns
    found = {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
    return found | ({"missing": row[f"missing_{_read(suite).index(columns)}"]} if columns else {})


def _read(suite: Suite) -> list[tuple[str, ...]]:
    """The columns, or pairs of columns, that the expectations are about."""
    return list(dict.fromkeys(each.columns for each in suite.expectations if each.columns))


def _missing(names: Sequence[str]) -> Column:
    return F.count_if(reduce(operator.or_, [named(name).isNull() for name in names]))


def _row_measures(source: Source, each: Expectation) -> dict[str, Column]:
    broken = F.col("_reason").isNotNull() & breaks(source, each) if each.quarantines else breaks(source, each)
    text = F.when(broken, F.left(named(each.columns[0]).cast("string"), F.lit(_SHOWN)))
    found = {"unexpected": F.count_if(broken)}
    if not each.type.endswith("_not_be_null"):
        # Three of the values that fail, chosen without keeping any: an aggregate of fixed size.
        found |= {
            "low": F.min(text),
            "high": F.max(text),
            "other": F.max_by(text, F.when(broken, F.xxhash64(text))),
        }
    return found


def _load_measures(each: Expectation) -> dict[str, Column]:
    if not each.columns:
        return {}
    value = named(each.columns[0])
    return next(
        ({"value": aggregate(value)} for word, aggregate in _AGGREGATES.items() if word in each.type), {}
    )


def _distinct(value: Column) -> Column:
    return F.approx_count_distinct(value, _DISTINCT_ERROR)


_AGGREGATES: dict[str, Callable[[Column], Column]] = {
    "_min_": F.min,
    "_max_": F.max,
    "_mean_": F.mean,
    "_sum_": F.sum,
    "_stdev_": F.stddev_samp,
    "_unique_": _distinct,
}


def _outside(value: Column, kwargs: Mapping[str, Any], kind: DataType) -> Column:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    broken = F.lit(False)
    if low is not None:
        broken = (value <= _literal(low, kind)) if kwargs.get("strict_min") else (value < _literal(low, kind))
    if high is not None:
        above = (
            (value >= _literal(high, kind)) if kwargs.get("strict_max") else (value > _literal(high, kind))
        )
        broken = above if low is None else broken | above
    return broken


def _literal(value: Any, kind: DataType) -> Column:
    """A value of a suite as a literal that compares exactly with a column of the type."""
    if kind.time:
        return F.lit(from_micros(TIMESTAMP.value(value))).cast(kind.spark)
    return F.lit(kind.value(value))
