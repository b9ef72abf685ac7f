"""Delta tables written by hand, action by action, as the lake's are."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = pa.schema(
    [
        ("id", pa.string()), ("who", pa.int64()), ("town", pa.string()), ("at", pa.timestamp("us", "UTC")),
        ("pages", pa.int32()), ("_arrival", pa.timestamp("us", "UTC")), ("_file", pa.string()),
        ("_topic", pa.string()), ("_partition", pa.int32()), ("_offset", pa.int64()),
        ("_identity", pa.string()),
    ]
)  # fmt: skip


def moment(hour: float) -> datetime:
    """An hour of the day of the tests."""
    return datetime.fromtimestamp(1_714_521_600 + hour * 3600, tz=UTC)


class HandMadeTable:
    """A table at a place; each method is one commit."""

    def __init__(self, place: Path) -> None:
        self.place, self.version = place, 0
        (place / "_delta_log").mkdir(parents=True)
        self.files: dict[str, dict[str, Any]] = {}
        self.commit([{"metaData": {"id": "x", "configuration": {}}}])

    def commit(self, actions: Sequence[Mapping[str, Any]]) -> None:
        path = self.place / "_delta_log" / f"{self.version:020}.json"
        path.write_text("\n".join(map(json.dumps, actions)))
        self.version += 1

    def add(self, name: str, rows: Sequence[Mapping[str, Any]], *, without: Sequence[str] = ()) -> None:
        table = pa.Table.from_pylist(
            [{column: row.get(column) for column in COLUMNS.names} for row in rows], COLUMNS
        )
        path = self.place / "_date=2024-05-01" / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.drop_columns(list(without)), path)
        times = sorted(row["at"] for row in rows)
        texts = [time.isoformat(timespec="milliseconds") for time in (times[0], times[-1])]
        added = {
            "path": quote(f"_date=2024-05-01/{name}"),
            "modificationTime": self.version,
            "stats": json.dumps({"minValues": {"at": texts[0]}, "maxValues": {"at": texts[1]}}),
        }
        self.files[name] = added
        self.commit([{"commitInfo": {}}, {"add": added}])

    def remove(self, name: str) -> None:
        self.commit([{"remove": {"path": self.files.pop(name)["path"]}}])

    def checkpoint(self) -> None:
        """All files in one Parquet file; the commits before it go, as Delta lets them."""
        configuration: list[tuple[str, str]] = []
        kind = pa.map_(pa.string(), pa.string())
        about = pa.struct([("id", pa.string()), ("configuration", kind)])
        added = pa.struct([("path", pa.string()), ("modificationTime", pa.int64()), ("stats", pa.string())])
        rows = [*self.files.values(), None]
        metadata = [None] * len(self.files) + [{"id": "x", "configuration": configuration}]
        table = pa.table({"add": pa.array(rows, added), "metaData": pa.array(metadata, about)})
        log = self.place / "_delta_log"
        for number in range(self.version):
            (log / f"{number:020}.json").unlink()
        pq.write_table(table, log / f"{self.version - 1:020}.checkpoint.parquet")
