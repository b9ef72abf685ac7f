"""Spark agrees with the types and values of expressions, and no event makes one fail."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch import AGGREGATES, Aggregate, Count, Covariance, Distinct, FeatureView, Last, Source
from anabranch.errors import DeclarationError
from anabranch.folds.merge import LABELS, BatchPart, merge
from anabranch.folds.spark import batch_rows, grains, tiles
from anabranch.values.sql.expressions import compiled
from anabranch.values.sql.functions import SIGNATURES
from anabranch.values.sql.terms import plain
from anabranch.values.times import DAY, to_micros
from anabranch.values.types import TIMESTAMP, parse_schema
from tests.support.drill import LONG, SEED
from tests.support.expressions import SCHEMA, Expressions, extremes, row
from tests.support.law import ARGUMENTS

COLUMNS = parse_schema(SCHEMA)
SOURCE = Source(name="edges", schema=SCHEMA, id="id", time="at")
SAME = r"""
n + big; n - 7; n * n; n % 3; n / 2; n DIV 2; -n; abs(n); dec * n; dec + 1.5; dec - n; round(dec, 1)
round(x, 2); ceil(x); floor(dec); CASE WHEN n > 3 THEN 1 ELSE 0 END; if(n > 1, 2, 3.5); coalesce(n, 0)
greatest(n, big); least(x, n); substring(name, 1, 3); upper(name); concat(name, '-', n); name || n
length(name)
name LIKE 'A%'
name LIKE '%n%a,_'; name ILIKE '%N%N%X'; name LIKE '%a%n%'; name LIKE 'A%n%\\_%'; replace(name, 'n', '{0}')
name RLIKE '^A'; split(name, ',')[0]; element_at(split(name, ','), 2); size(split(name, ',')); day + 1
regexp_extract(name, '([A-Z])', 1); datediff(at, day); hour(at); date_trunc('HOUR', at); at + INTERVAL 1 DAY
unix_timestamp(at); date_format(at, 'EEEE'); CAST(name AS STRING); CAST(x AS DECIMAL(12,3)); CAST(flag AS INT)
at > '2024-01-01'; n BETWEEN 1 AND 3; n IN (1, 2); nullif(name, 'Anna,x'); md5(name); months_between(at, day)
extract(SECOND FROM at); n & 3; n << 2; pow(n, 2); log(x); r'a\d'; 'it\'s'; name IS NULL; flag IS TRUE
x <=> y; NOT flag OR n > 1; bit_count(n); hash(n, name); last_day(day); -9223372036854775808; 5L + 1.5BD; 2D
1e3; X'AB'
"""
NOW = datetime(2024, 5, 1, 10, 30, tzinfo=UTC)


@pytest.mark.proof(
    "3,000 drawn expressions and every function over extreme values: Spark's types, no exception"
)
def test_types_are_sparks_and_no_extreme_value_raises(spark: SparkSession) -> None:
    rows, made = extremes(), Expressions(SEED)
    frame = spark.createDataFrame(rows, SCHEMA).coalesce(1).cache()
    texts = [
        *(made.call(name, 0) for name in SIGNATURES),
        *(made.any(3) for _ in range(3000 if LONG else 40)),
    ]
    found = {text: one for text in texts if (one := accepted(text)) is not None}
    assert len(found) > 0.8 * len(set(texts))
    for start in range(0, len(found), 300):
        part = list(found.items())[start : start + 300]
        asked = frame.select(*[F.expr(one).alias(f"c{i}") for i, (_, (one, _)) in enumerate(part)])
        for field, (text, one) in zip(asked.schema.fields, part, strict=True):
            assert field.dataType.simpleString() == plain(one[1]).spark.lower(), (SEED, text, one)
        assert asked.toArrow().num_rows == len(rows)


def accepted(text: str) -> Any:
    """The compiled expression; None for one that is refused."""
    try:
        return compiled(text, COLUMNS, "here")
    except DeclarationError:
        return None


def test_values_are_sparks(spark: SparkSession) -> None:
    event = row(1, 0, at=NOW, n=5, big=10, x=1.25, y=2.5, dec=Decimal("1.10"), name="Anna,x", flag=True)
    frame = spark.createDataFrame([event], SCHEMA)
    texts = [text for line in SAME.split("\n") for text in line.split("; ") if text]
    (ours,) = frame.select(*[F.expr(compiled(text, COLUMNS, "here").sql) for text in texts]).collect()
    (theirs,) = frame.selectExpr(*texts).collect()
    assert {text: a for text, a, b in zip(texts, ours, theirs, strict=True) if a != b} == {}


def test_long_texts_neither_overflow_the_stack_nor_the_memory(spark: SparkSession) -> None:
    columns = parse_schema("s STRING")
    rows = [("ab" * 5000,), ("ab" * 450_000,), ("a😀" * 5000,)]
    frame = spark.createDataFrame(rows, "s STRING").coalesce(1)
    texts = {
        "s RLIKE '^(ab)*$'": (True, None, False),
        "s RLIKE '.*b😀.*'": (False, None, False),
        "s RLIKE '^(a|[^a]){0,500}c'": (False, None, False),
        "s RLIKE '^.{0,3900}c'": (False, None, False),
        "s LIKE '%a%b%c%'": (False, False, False),
        "length(repeat(s, 100))": (1_000_000, None, 1_000_000),
        "length(replace(s, 'a', repeat('b', 10000)))": (None, None, None),
        "length(replace(s, 'a', 'b'))": (10_000, 900_000, 10_000),
        "length(array_join(split(s, 'a'), repeat('-', 300)))": (None, None, None),
    }
    found = frame.select(*[F.expr(compiled(text, columns, "here").sql) for text in texts]).collect()
    assert dict(zip(texts, zip(*found, strict=True), strict=True)) == texts


def test_instants_beyond_all_years_are_truncated_to_null(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(-(2**63),), (2**63 - 1,), (0,)], "n BIGINT").coalesce(1)
    asked = compiled("date_trunc('HOUR', timestamp_micros(n)) IS NULL", parse_schema("n BIGINT"), "here").sql
    assert [row[0] for row in frame.select(F.expr(asked)).collect()] == [True, True, False]


def test_comparisons_with_nan_are_null(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(float("nan"),), (2.0,), (float("inf"),)], "x DOUBLE").coalesce(1)
    columns = parse_schema("x DOUBLE")
    texts = (
        "x > 1",
        "x BETWEEN 1 AND 3",
        "x = x",
        "x IN (2, x)",
        "greatest(x, 1)",
        "nullif(x, x)",
    )
    asked = [F.expr(compiled(text, columns, "here").sql) for text in (*texts, "isnan(x)")]
    found = frame.select(*asked).collect()
    infinity = float("inf")
    assert [tuple(row) for row in found[1:]] == [
        (True, True, True, True, 2.0, None, False),
        (True, False, True, True, infinity, None, False),
    ]
    assert tuple(found[0])[:5] == (None, None, None, None, 1.0)
    assert found[0][6] is True


def test_parquet_and_cells_keep_the_years_1_to_9999(spark: SparkSession, tmp_path: Path) -> None:
    texts = ["9999-12-31T23:59:59.999999Z", "2300-01-01T00:00:00.000001Z", "0001-01-01T00:00:00Z"]
    texts += ["9999-12-31T23:00:00-05:00", "0001-01-01T00:00:00+01:00"]
    frame = spark.createDataFrame([(text,) for text in texts], "text STRING").coalesce(1)
    frame.select("text", F.expr(TIMESTAMP.cell_sql("text")).alias("at")).write.parquet(
        str(tmp_path / "times")
    )
    kept = pq.read_table(tmp_path / "times")
    assert kept.schema.field("at").type.unit == "us"
    found = [None if at is None else TIMESTAMP.to_json(to_micros(at)) for at in kept["at"].to_pylist()]
    assert found == [*texts[:3], None, None]


def features(seed: int, count: int) -> dict[str, Aggregate]:
    """Random aggregates over random expressions, with random filters."""
    made, out = Expressions(seed), {}
    kinds: list[Any] = [kind for kind in AGGREGATES if kind.windows in ("any", "none")]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        more = dict(ARGUMENTS.get(kind.__name__, {}))
        more |= {"other": made.of("DOUBLE", 1)} if issubclass(kind, Covariance) else {}
        aggregate = kind(made.any(2), where=made.of("BOOLEAN", 1) if number % 2 else None, **more)
        try:
            aggregate.bind(COLUMNS, "here")
        except DeclarationError:
            continue
        out[f"f{number}"] = aggregate
    return out


@pytest.mark.proof("20 times 45 aggregates of drawn expressions over extreme values: built, served, in tiles")
def test_any_aggregate_of_any_expression_is_built_and_served(spark: SparkSession) -> None:
    rows = [{**one, "at": min(one["at"], NOW)} for one in extremes()]
    events = spark.createDataFrame(rows, SCHEMA).withColumn("_arrival", F.lit(NOW))
    cut = to_micros(NOW) + DAY
    for round_ in range(20 if LONG else 1):
        chosen = features(SEED + round_, 45)
        assert len(chosen) > 10
        chosen |= {
            f"bytes{i}": made for i, made in enumerate((Last("bytes"), Distinct("bytes"), Count("bytes")))
        }
        view = FeatureView(name="v", source=SOURCE, key="k", features=chosen)
        (built,) = batch_rows(view, grains(view, events, cut), cut, DAY).collect()
        states = np.array(built["states"]).reshape(-1, LABELS + view.layout.width)
        values = merge(view, BatchPart(cut, DAY, states, built["extras"]), None, cut).values
        for column in view.columns:
            column.type.to_json(values[column.name])
        assert tiles([view], events, 3600).count() > 0
