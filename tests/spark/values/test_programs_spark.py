"""Expressions evaluated without a JVM have Spark's values: random ones over the extremes of every type."""

import math
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from anabranch.errors import DeclarationError
from anabranch.values.sql.expressions import Expression
from anabranch.values.sql.programs import Programmer, evaluated
from anabranch.values.types import parse_schema
from anabranch.values.vectors.programs import Program
from tests.support.drill import LONG, SEED
from tests.support.evaluated import Evaluated
from tests.support.expressions import SCHEMA, extremes, row

COLUMNS = parse_schema(SCHEMA)
_NEAR = 1e-13
_CASES = ("lower(upper(name))", "upper(lower(name))", "length(upper(lower(upper(name))))")
"""Spark's optimizer would leave out the inner function, though `ß` is `SS` in upper case."""


def test_programs_have_sparks_values(spark: SparkSession) -> None:
    rows, made = [*extremes(), *_ordinary()], Evaluated(SEED)
    frame = spark.createDataFrame(rows, SCHEMA).coalesce(1).cache()
    texts = [*_CASES, *made.every(), *(made.any(3) for _ in range(2000 if LONG else 30))]
    found = {text: one for text in texts if (one := accepted(text)) is not None}
    assert len(found) > 0.9 * len(set(texts))
    for start in range(0, len(found), 100):
        part = list(found.items())[start : start + 100]
        asked = frame.select(*[F.expr(one.sql).alias(f"c{i}") for i, (_, one) in enumerate(part)])
        theirs = asked.toArrow()
        ours = program(part).run(plain_columns(), len(rows))
        for i, (text, one) in enumerate(part):
            values = [one.type.value(value) for value in theirs.column(i).to_pylist()]
            wrong = [
                (rows[place]["id"], mine, spark_value)
                for place, (mine, spark_value) in enumerate(zip(ours[f"c{i}"], values, strict=True))
                if not alike(mine, spark_value)
            ]
            assert not wrong, (SEED, text, one.sql, wrong[:3])


def _ordinary() -> list[dict[str, Any]]:
    texts = ["2024-05-01T12:34:56.5+02:00", " 12 ", "1.5e3", "yes", "a1,a2", "İß Σ", "-3.0", "2024-2-3 1:2:3"]
    return [
        row(50 + i, 0, name=text, n=i - 3, big=i * 1000, x=i / 8 - 0.5625, y=2.5, f=0.1 * i, flag=i % 2 == 0)
        for i, text in enumerate(texts)
    ]


def accepted(text: str) -> Expression | None:
    """The expression, None for one that is refused: a literal that does not fit, such as 'a' as a DOUBLE."""
    try:
        return evaluated(text, COLUMNS, "here")
    except DeclarationError:
        return None


def program(part: list[tuple[str, Expression]]) -> Program:
    """A program of all the expressions, by number."""
    programmer = Programmer(COLUMNS)
    for i, (text, one) in enumerate(part):
        programmer.add(f"c{i}", one, text)
    return Program(programmer.described)


def plain_columns() -> dict[str, list[Any]]:
    """The rows as plain values by column; FLOAT as Spark keeps it."""
    rows = [*extremes(), *_ordinary()]
    return {
        column.name: [
            None
            if row[column.name] is None
            else column.type.value(as_kept(column.type.name, row[column.name]))
            for row in rows
        ]
        for column in COLUMNS
    }


def as_kept(kind: str, value: Any) -> Any:
    import numpy as np

    with np.errstate(over="ignore"):
        return float(np.float32(value)) if kind == "FLOAT" else value


def alike(mine: Any, theirs: Any) -> bool:
    """Equal, or DOUBLEs within the last digits."""
    if isinstance(mine, float) and isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=_NEAR) or (math.isnan(mine) and math.isnan(theirs))
    return type(mine) is type(theirs) and mine == theirs
