"""Spark agrees with the types of expressions, and no row makes one fail."""

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.errors import DeclarationError
from anabranch.values.expressions import compiled
from anabranch.values.functions import SIGNATURES
from anabranch.values.terms import plain
from anabranch.values.types import parse_schema
from tests.support.drill import LONG, SEED
from tests.support.expressions import SCHEMA, Expressions, extremes

COLUMNS = parse_schema(SCHEMA)


def expressions(seed: int, count: int) -> list[str]:
    """A call of every function with columns, and random nested expressions, that `check` accepts."""
    made = Expressions(seed)
    texts = [made.call(name, 0) for name in SIGNATURES]
    return list(dict.fromkeys([*texts, *(made.any(3) for _ in range(count))]))


def test_types_are_sparks_and_no_extreme_value_raises(spark: SparkSession) -> None:
    rows = extremes()
    frame = spark.createDataFrame(rows, SCHEMA).coalesce(1).cache()
    texts, found = expressions(SEED, 3000 if LONG else 120), {}
    for text in texts:
        try:
            found[text] = compiled(text, COLUMNS, "here")
        except DeclarationError:
            continue
    assert len(found) > 0.8 * len(texts)
    for start in range(0, len(found), 400):
        part = list(found.items())[start : start + 400]
        asked = frame.select(*[F.expr(one.sql).alias(f"c{i}") for i, (_, one) in enumerate(part)])
        for field, (text, one) in zip(asked.schema.fields, part, strict=True):
            assert field.dataType.simpleString() == plain(one.type).spark.lower(), (text, one.sql)
        assert len(asked.collect()) == len(rows)
