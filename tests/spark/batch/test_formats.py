"""Wire formats: messages are landed, streamed and replayed by their source's decoder, registered ones too."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Row, SparkSession

from anabranch import Count, FeatureView, Project, Source, register_format
from anabranch.errors import EventError, MisuseError
from anabranch.events.decoders.csv_lines import CsvDecoder
from anabranch.events.decoders.decoder import MessageDecoder, decoder_of
from anabranch.events.json_values import encode_event
from anabranch.events.judging import from_topic, good_events, judge, parse
from anabranch.events.rows import LONGEST_EVENT
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, TimeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.schemas import prepare_events
from batch.landing.loader import SourceLoader
from batch.quality.quarantine import ReplayChoice, Replayed, pending, replay
from tests.support.stores import stores

ARRIVAL = datetime(2024, 5, 1, 12, tzinfo=UTC)
AT = "2024-05-01T10:00:00Z"
SCHEMA = "id STRING, shop STRING, at TIMESTAMP, n INT, price DECIMAL(20,4), note BINARY"
MESSAGES = "value BINARY, timestamp TIMESTAMP, timestampType INT, topic STRING, partition INT, offset BIGINT"
NO_VALUE = "no value: a message without one (a tombstone) is no event"


class PairsDecoder(MessageDecoder):
    """A toy format: ``id=1;shop=a``."""

    def decode(self, value: bytes) -> Mapping[str, object]:
        pairs = [part.partition("=") for part in value.decode().split(";")]
        if any(not sign for _, sign, _ in pairs):
            raise EventError("malformed pairs: name=value;name=value is expected")
        return {name: Decimal(text) if name == "price" else text for name, _, text in pairs}

    def encode(self, source: Source, event: Mapping[str, object]) -> bytes:
        known = {column.name: event.get(column.name) for column in source.columns}
        return ";".join(f"{name}={value}" for name, value in known.items() if value is not None).encode()


register_format("pairs", f"{__name__}:PairsDecoder")


def source_of(form: str) -> Source:
    return Source(name="sales", topic="sales", id="id", time="at", schema=SCHEMA, format=form)


def project_of(source: Source) -> Project:
    by_shop = FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()})
    return Project(name="shops", views=(by_shop,))


def kafka(spark: SparkSession, *values: bytes | None) -> DataFrame:
    rows = [(value, ARRIVAL, 1, "sales", 0, offset) for offset, value in enumerate(values)]
    return spark.createDataFrame(rows, MESSAGES)


def judged(spark: SparkSession, source: Source, *values: bytes | None) -> list[Row]:
    events = parse(source, from_topic(kafka(spark, *values), TimeSettings()))
    return judge(source, (("shop",),), events, 300).orderBy("_offset").collect()


def reasons(spark: SparkSession, source: Source, *values: bytes | None) -> list[str | None]:
    return [row["_reason"] for row in judged(spark, source, *values)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


def test_a_registered_format_is_landed_and_replayed(spark: SparkSession, lake: Lake) -> None:
    source = source_of("pairs")
    project = project_of(source)
    good, wrong, broken = (f"id=1;shop=a;at={AT};n=7;price=1.50", f"id=2;shop=a;at={AT};n=many", "nonsense")
    prepare_events(spark, lake, project, source)
    opened = stores(spark=spark, lake=lake)
    loader = SourceLoader(stores=opened, project=project, source=source, gate=None)
    messages = kafka(spark, good.encode(), wrong.encode(), broken.encode(), None)
    load, _ = loader.stage(loader.judge(parse(source, from_topic(messages, TimeSettings()))))
    assert load.commit({"first": 0})

    (event,) = lake.events(spark, project, source).collect()
    assert (event["id"], event["n"], event["price"]) == ("1", 7, Decimal("1.5000"))
    bad = {row["raw"]: row["reason"] for row in lake.quarantine(spark, project).collect()}
    assert bad == {
        wrong: "n: 'many' is not INT",
        broken: "malformed pairs: name=value;name=value is expected",
        None: NO_VALUE,
    }

    choice = ReplayChoice(changes={"n": "replace(n, 'many', '9')"})
    again = replay(opened, project, source, Silent(), choice=choice)
    assert again == Replayed(landed=1, bad=2)
    assert {row["id"]: row["n"] for row in lake.events(spark, project, source).collect()} == {"1": 7, "2": 9}
    assert {row["raw"] for row in pending(opened, project, source).collect()} == {broken, None}


def test_a_registered_format_is_read_by_the_stream(spark: SparkSession, tmp_path: Path) -> None:
    source, found = source_of("pairs"), list[Row]()
    kafka(spark, f"id=1;shop=a;at={AT}".encode(), b"nonsense").write.parquet(str(tmp_path / "topic"))
    messages = spark.readStream.schema(MESSAGES).parquet(str(tmp_path / "topic"))
    events = good_events(project_of(source), source, messages, TimeSettings())
    query = events.writeStream.foreachBatch(lambda rows, _: found.extend(rows.collect()))
    query.option("checkpointLocation", str(tmp_path / "checkpoint")).trigger(
        availableNow=True
    ).start().awaitTermination()
    assert [(row["id"], row["_offset"]) for row in found] == [("1", 0)]


def test_a_decoder_that_fails_puts_the_message_in_quarantine(spark: SparkSession) -> None:
    (reason,) = reasons(spark, source_of("pairs"), b"price=cheap")
    assert str(reason).startswith("malformed pairs: InvalidOperation")


@pytest.mark.parametrize("form", ["json", "csv", "pairs"])
def test_every_format_refuses_what_no_format_can_read(spark: SparkSession, form: str) -> None:
    large = b"x" * (LONGEST_EVENT + 1)
    wanted = [NO_VALUE, f"too large: {len(large)} bytes, an event may have {LONGEST_EVENT}"]
    found = reasons(spark, source_of(form), None, b'"' + large[1:])
    assert [str(reason).partition(";")[0] for reason in found] == wanted


@pytest.mark.parametrize("form", ["json", "csv", "pairs"])
def test_an_event_that_comes_as_json_is_published_in_the_format_of_its_source(
    spark: SparkSession, form: str
) -> None:
    values = (
        f'"id": 5, "shop": "a,b", "at": "{AT}", "price": 1234567890123456.7891, "note": "x\\"y", "other": 1'
    )
    text = f"{{{values}}}"
    source = source_of(form)
    (row,) = judged(spark, source, encode_event(source, text.encode()))
    assert row["_reason"] is None
    assert [row[name] for name in ("id", "shop", "n", "price", "note")] == [
        "5", "a,b", None, Decimal("1234567890123456.7891"), bytearray(b'x"y'),
    ]  # fmt: skip


def test_csv_messages_have_the_columns_of_the_schema_in_order(spark: SparkSession) -> None:
    source = source_of("csv")
    rows = judged(spark, source, f'1,"a ""b""",{AT},,2.5,x'.encode(), b"1,a", b'1,"a', b"\xff,,,,,")
    assert (rows[0]["shop"], rows[0]["n"], rows[0]["note"]) == ('a "b"', None, bytearray(b"x"))
    assert [str(row["_reason"]).partition(":")[0] for row in rows] == [
        "None", "the row has not 6 cells", "a quote is not closed, or one within a text is not doubled",
        "the text is not UTF-8",
    ]  # fmt: skip


def test_a_format_without_a_writer_says_so(spark: SparkSession) -> None:
    class Silent(MessageDecoder):
        def decode(self, value: bytes) -> Mapping[str, object]:
            return {}

    assert isinstance(decoder_of(source_of("csv")), CsvDecoder)
    with pytest.raises(
        MisuseError, match="only reads: publish its events to the topic 'sales' with a producer"
    ):
        Silent().encode(source_of("csv"), {})
