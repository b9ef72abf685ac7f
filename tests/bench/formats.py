"""Landing by wire format, measured on the same events. Run by `make bench-formats`; `--quick` for a try.

The messages lie in a file as Kafka hands them over: what is measured is decoding, judging and writing.
"""

import io
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.events.decoders.decoder import decoder_of
from anabranch.events.decoders.protobuf_messages import ProtobufDecoder
from anabranch.events.decoders.schemas import framed
from anabranch.events.judging import from_topic, parse
from anabranch.settings import LakeSettings, TimeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import prepare_events
from anabranch.values.times import format_time
from batch.landing.loader import SourceLoader
from jobs.wiring.settings import ROOT, load_settings
from jobs.wiring.spark_session import spark_session
from tests.bench.report import Row, save, seconds_of
from tests.support.schemas import DOUBLE, INT64, STRING, TIMESTAMP, Known, descriptor_set, record
from tests.support.stores import stores_with

SCHEMA = (
    "payment_id STRING, card STRING, merchant STRING, category STRING, amount DOUBLE, n BIGINT, "
    "paid_at TIMESTAMP"
)
SOURCE = Source(name="payments", topic="payments", id="payment_id", time="paid_at", schema=SCHEMA)
NOON = 1_714_557_600_000_000
ARRIVAL = datetime(2024, 5, 2, tzinfo=UTC)
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
TYPES: dict[str, Any] = {
    "payment_id": "string", "card": "string", "merchant": "string", "category": ["null", "string"],
    "amount": "double", "n": ["null", "long"], "paid_at": MICROS,
}  # fmt: skip
AVRO = record(*TYPES.items())
PROTO = dict.fromkeys(TYPES, STRING) | {"amount": DOUBLE, "n": INT64, "paid_at": TIMESTAMP}
GOAL = ">= 0.8"


def event(number: int) -> dict[str, Any]:
    """The fields of an event, its time in microseconds."""
    return {
        "payment_id": f"p{number}", "card": f"c{number % 10_007}", "merchant": f"m{number % 997}",
        "category": "food" if number % 3 else None, "amount": number * 0.13, "n": number,
        "paid_at": NOON + number * 1000 % 3_600_000_000,
    }  # fmt: skip


def json_of(value: dict[str, Any]) -> bytes:
    """An event as a JSON object."""
    return json.dumps({**value, "paid_at": format_time(value["paid_at"])}).encode()


def changes_of(value: dict[str, Any]) -> bytes:
    """An event as the row of a change in Debezium's JSON without a schema."""
    return json.dumps(
        {"before": None, "after": value, "source": {"lsn": value["n"], "ts_ms": 1}, "op": "c", "ts_ms": 2}
    ).encode()


def writers(folder: Path) -> dict[str, tuple[Source, Callable[[dict[str, Any]], bytes]]]:
    """By format its source and what writes an event."""
    parsed, descriptor = fastavro.parse_schema(AVRO), folder / "payment.desc"

    def avro(value: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, value)
        return framed(1, out.getvalue())

    descriptor.write_bytes(descriptor_set("Payment", PROTO))
    protobuf = replace(SOURCE, format="protobuf", wire_schema=f"{descriptor}:shop.Payment")
    made = decoder_of(protobuf)
    assert isinstance(made, ProtobufDecoder)
    kind = made.type

    def proto(value: dict[str, Any]) -> bytes:
        message: Any = kind(
            **{name: one for name, one in value.items() if name != "paid_at" and one is not None}
        )
        message.paid_at.FromMicroseconds(value["paid_at"])
        return bytes(message.SerializeToString())

    return {
        "json": (SOURCE, json_of),
        "avro": (replace(SOURCE, format="avro"), avro),
        "protobuf": (protobuf, proto),
        "debezium": (replace(SOURCE, format="debezium", wire_schema="micros"), changes_of),
    }


def write_messages(file: Path, write: Callable[[dict[str, Any]], bytes], count: int) -> None:
    """A file of messages as Spark's source of Kafka has them."""
    values = pa.array([write(event(number)) for number in range(count)], pa.binary())
    columns = {
        "value": values,
        "timestamp": pa.array([ARRIVAL] * count, pa.timestamp("us", "UTC")),
        "timestampType": pa.array([1] * count, pa.int32()),
        "topic": pa.array(["payments"] * count),
        "partition": pa.array([0] * count, pa.int32()),
        "offset": pa.array(range(count), pa.int64()),
    }
    pq.write_table(pa.table(columns), file, row_group_size=count // 8)


def landed(
    spark: SparkSession, lake: Lake, source: Source, file: Path, number: int
) -> tuple[float, list[Any]]:
    """Seconds of landing the messages of a file in a new table, and what shows that the rows are right."""
    view = FeatureView(name="by_card", source=source, key="card", features={"n": Count()})
    project = Project(name=f"land_{source.format}_{number}", views=(view,))
    prepare_events(spark, lake, project, source)
    stores = stores_with(load_settings({}), spark=spark, lake=lake, schemas=Known({1: AVRO}))
    loader = SourceLoader(stores=stores, project=project, source=source, gate=None)

    def run() -> None:
        raw = from_topic(spark.read.parquet(str(file)), TimeSettings())
        load, _ = loader.stage(loader.judge(parse(source, raw, decoder_of(source, stores.schemas))))
        assert load.commit({"bench": 0})

    seconds = seconds_of(run)
    sums = (
        "count(*)",
        "count(category)",
        "sum(amount)",
        "sum(n)",
        "sum(CAST(unix_micros(paid_at) AS DECIMAL(38, 0)))",
        "sum(hash(card, merchant))",
    )
    rows = lake.events(spark, project, source).selectExpr(*sums).collect()
    return seconds, [round(one, 2) if isinstance(one, float) else one for one in rows[0]]


def main() -> None:
    """Measure and save."""
    quick = "--quick" in sys.argv
    count, rounds = (100_000, 1) if quick else (400_000, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(
            {},
            {
                "paths.data": name,
                "paths.jars": str(ROOT / ".anabranch" / "jars"),
                "spark.driver_memory": "2g",
            },
        )
        spark, lake = spark_session(settings, "bench"), Lake(LakeSettings(root=str(folder / "lake")))
        formats = writers(folder)
        for form, (_, write) in formats.items():
            write_messages(folder / f"{form}.parquet", write, count)
        seconds: dict[str, list[float]] = {form: [] for form in formats}
        found: dict[str, list[Any]] = {}
        for turn in range(rounds + 1):
            for form, (source, _) in formats.items():
                took, found[form] = landed(spark, lake, source, folder / f"{form}.parquet", turn)
                if turn or quick:  # the first turn warms up
                    seconds[form].append(took)
        spark.stop()
    rates = {form: count / statistics.median(each) for form, each in seconds.items()}
    rows = [
        Row(
            work=f"landing {count:,} messages of {form}", peer="the same events in JSON", ours=rates[form],
            theirs=rates["json"], unit="events/s", ratio=rates[form] / rates["json"],
            goal=GOAL if form == "avro" else "", equal=found[form] == found["json"],
        )
        for form in formats if form != "json"
    ]  # fmt: skip
    notes = (
        "Spark runs on local[2] with a heap of 2g; medians of three runs in turns, after one that warms up.",
        "The messages lie in a file as Kafka hands them over: decoding, judging and writing are measured.",
        "An event has seven columns; Avro names its schema, Debezium's envelope is JSON without a schema.",
        "Results are compared by count, sums and a hash over the texts.",
    )
    save(
        "formats",
        "Wire formats",
        rows,
        ["pyspark", "fastavro", "protobuf", "pyarrow", "numpy"],
        notes,
        dry=quick,
    )


if __name__ == "__main__":
    main()
