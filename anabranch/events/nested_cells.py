"""Cells of nested columns that are JSON text, as CSV files and tables of other types give them."""

from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from anabranch.declare.sources import Source
from anabranch.events.cells import named
from anabranch.events.rows import sealed
from anabranch.values.datatype import DataType


def read_nested(source: Source, raw: DataFrame) -> tuple[DataFrame, list[str]]:
    """`raw` with nested cells for texts of nested columns, and the columns that say what is wrong there."""
    types = {field.name: field.dataType.simpleString() for field in raw.schema.fields}
    texts = [column for column in source.columns if column.type.nested and types[column.name] == "string"]
    if not texts:
        return raw, []
    kept = [named(name) for name in raw.columns]
    read = [
        _read(named(column.name), column.name, column.type).alias(f"_nested_{place}")
        for place, column in enumerate(texts)
    ]
    rows = sealed(raw, *kept, *read)
    cells = {column.name: F.col(f"_nested_{place}.cell") for place, column in enumerate(texts)}
    faults = {f"_wrong_{place}": F.col(f"_nested_{place}.fault") for place in range(len(texts))}
    return rows.withColumns({**cells, **faults}), list(faults)


def _read(text: Column, name: str, kind: DataType) -> Column:
    spark = f"cell {kind.cell_spark}, fault STRING"

    @arrow_udf(spark)  # type: ignore[call-overload, untyped-decorator]
    def read(values: pa.Array) -> pa.Array:
        return nested_cells(values, name, kind)

    found: Column = read(text)
    return found


def nested_cells(texts: Any, name: str, kind: DataType) -> Any:
    """Of JSON texts the nested cells, `cell`, and what is wrong with them, `fault`, as a struct array."""
    cells, faults = list[Any](), list[str | None]()
    for text in texts.to_pylist():
        given = None if text is None else kind.given(text)
        wrong = None if given is None else kind.fault(given)
        faults.append(wrong and f"{name}: {wrong}")
        cells.append(None if given is None or wrong else kind.cell(given))
    return pa.StructArray.from_arrays(
        [pa.array(cells, kind.cell_arrow), pa.array(faults, pa.string())], names=["cell", "fault"]
    )
