"""Files of scored rows: which columns get a dictionary, and that what is carried over stays as it was."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.scoring.parquet import plan_parts, repetitive


def test_only_columns_that_repeat_themselves_get_a_dictionary(tmp_path: Path) -> None:
    rows, random = 200_000, np.random.default_rng(4)
    table = pa.table(
        {
            "id": np.arange(rows),
            "x": random.normal(size=rows),
            "pages": random.integers(0, 40, rows),
            "town": random.choice(["Oslo", "Bergen"], rows),
            "member": random.random(rows) < 0.5,
            "rare": pa.array([None] * (rows - 2) + [1.5, 2.5]),
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    (part,) = plan_parts([str(path)], rows)
    assert repetitive(part.pieces[0], table.column_names) == ["pages", "town", "member", "rare"]
    assert repetitive(part.pieces[0], ["x", "town"]) == ["town"]
    pq.write_table(table, path, use_dictionary=False)
    assert repetitive(part.pieces[0], table.column_names) == ["town", "member", "rare"]
    # A part without row groups tells nothing.
    assert repetitive((str(path), ()), ["x"]) == ["x"]
