"""The rules that make events of text: one for files and topics, and a reason for every row they refuse."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from chispa import assert_df_equality
from chispa.schema_comparer import assert_schema_equality
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.events.copies import distinct
from anabranch.events.faults import find_fault
from anabranch.events.judging import from_topic, good, judge, parse, read_cells
from anabranch.events.origins import Origin
from anabranch.events.rows import LAKE_COLUMNS, LONGEST_EVENT
from anabranch.settings import TimeSettings
from anabranch.values.keys import LONGEST_KEY
from anabranch.values.times import to_micros

SOURCE = Source(
    name="sales",
    topic="sales",
    id="id",
    time="at",
    schema="id STRING, shop STRING, at TIMESTAMP, n INT, big BIGINT, price DECIMAL(20,4), weight DOUBLE, "
    "open BOOLEAN, day DATE, note BINARY",
)
PROJECT = Project(
    name="shops",
    views=(FeatureView(name="by_shop", source=SOURCE, key="shop", features={"n": Count()}),),
    label=Label(source=SOURCE, key=("shop", "day"), target="n > 1"),
    model=Model(),
)
ARRIVAL = datetime(2024, 5, 1, 12, tzinfo=UTC)
RAW = "value STRING, _arrival TIMESTAMP, _file STRING, _topic STRING, _partition INT, _offset BIGINT"
GOOD = {"id": "1", "shop": "a", "at": "2024-05-01T10:00:00Z"}


def judged(
    spark: SparkSession, texts: Iterable[str | None], source: Source = SOURCE, project: Project = PROJECT
) -> list[Row]:
    rows = [(text, ARRIVAL, None, source.topic, 0, offset) for offset, text in enumerate(texts)]
    parsed = parse(source, spark.createDataFrame(rows, RAW))
    return judge(source, project.key_sets(source), parsed, 300).orderBy("_offset").collect()


def reasons(spark: SparkSession, texts: Iterable[str | None]) -> list[str | None]:
    return [row["_reason"] for row in judged(spark, texts)]


def event(**fields: Any) -> str:
    return json.dumps(GOOD | fields)


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


VALUES: list[tuple[str, object, object]] = [
    ("n", "45", 45), ("n", 45, 45), ("n", 45.0, 45), ("n", "45.0", 45), ("n", " 45 ", 45), ("n", "4.5e1", 45),
    ("n", "", None), ("n", None, None), ("n", " ", None),
    ("big", "9223372036854775807", 9223372036854775807), ("big", 9223372036854775807, 9223372036854775807),
    ("price", "1234567890123456.7891", Decimal("1234567890123456.7891")),
    ("price", "0.10", Decimal("0.1000")),
    ("weight", "-1.5e-3", -0.0015), ("weight", 2, 2.0),
    ("weight", "Infinity", float("inf")), ("weight", float("-inf"), float("-inf")),
    ("open", True, True), ("open", "false", False), ("open", 1, True),
    ("day", "2024-02-29", date(2024, 2, 29)), ("day", "2024-05-01T10:00:00Z", date(2024, 5, 1)),
    ("at", "2024-05-01", moment(2024, 5, 1)), ("at", "2024-05-01 10:30", moment(2024, 5, 1, 10, 30)),
    ("at", "2024-05-01T10:30Z", moment(2024, 5, 1, 10, 30)),
    ("at", "2024-05-01T10:30+02:00", moment(2024, 5, 1, 8, 30)),
    ("at", "2024-05-01T10:30:00.123456789z", moment(2024, 5, 1, 10, 30, 0, 123456)),
    ("at", "2024-05-01T10:30:00-0130", moment(2024, 5, 1, 12)),
    ("note", "é", bytearray("é".encode())), ("shop", 7, "7"), ("shop", {"a": 1}, '{"a":1}'),
]  # fmt: skip


def test_values_are_read_as_declared_whether_json_has_them_as_numbers_or_text(spark: SparkSession) -> None:
    rows = judged(spark, [event(**{name: given}) for name, given, _ in VALUES])
    assert [row["_reason"] for row in rows] == [None] * len(VALUES)
    read = [
        row[name].astimezone(UTC) if isinstance(row[name], datetime) else row[name]
        for row, (name, _, _) in zip(rows, VALUES, strict=True)
    ]
    assert read == [wanted for _, _, wanted in VALUES]


def test_decimals_keep_all_their_digits_however_their_name_is_written(spark: SparkSession) -> None:
    names = ("größe", "a/b", "x\\E(", "😀.")
    schema = ", ".join(
        ["id STRING, shop STRING, at TIMESTAMP", *(f"`{name}` DECIMAL(38,18)" for name in names)]
    )
    source = Source(name="sales", topic="sales", id="id", time="at", schema=schema)
    project = Project(name="shops", views=(FeatureView(
        name="by_shop", source=source, key="shop", features={"n": Count()}),))  # fmt: skip
    number = "12345678901234567890.123456789012345678"
    ascii_, plain = (
        json.dumps(GOOD | dict.fromkeys(names, "#"), ensure_ascii=escapes).replace('"#"', number)
        for escapes in (True, False)
    )
    texts = [ascii_, plain, ascii_.replace("/", r"\/"), plain.replace("a/b", r"\u0061\u002Fb")]
    for row in judged(spark, texts, source, project):
        assert [row["_reason"], *(row[name] for name in names)] == [None, *[Decimal(number)] * 4]


def test_decimals_in_json_numbers_keep_all_their_digits_and_nan_is_kept(spark: SparkSession) -> None:
    plain = event()[:-1]
    first, second = judged(spark, [plain + ', "price": 1234567890123456.7891}', plain + ', "weight": NaN}'])
    assert first["price"] == Decimal("1234567890123456.7891")
    assert second["_reason"] is None
    assert second["weight"] != second["weight"]


WRONG = [
    ("n", "abc", "n: 'abc' is not INT"), ("n", 45.5, "n: '45.5' is not INT"),
    ("n", "1e-30", "n: '1e-30' is not INT"),
    ("n", 2147483648, "n: '2147483648' is not INT"),
    ("n", [1], "n: '[1]' is not INT"), ("price", "1e30", "price: '1e30' is not DECIMAL(20,4)"),
    ("price", "1,5", "price: '1,5' is not DECIMAL(20,4)"),
    ("weight", "12d", "weight: '12d' is not DOUBLE"), ("weight", "0x1p3", "weight: '0x1p3' is not DOUBLE"),
    ("open", "maybe", "open: 'maybe' is not BOOLEAN"),
    ("day", "2024", "day: '2024' is not DATE (ISO 8601, such as 2024-05-01)"),
    ("day", "2024-02-30", "day: '2024-02-30' is not DATE (ISO 8601, such as 2024-05-01)"),
    *[("at", bad, f"at: '{bad}' is not TIMESTAMP (ISO 8601, such as 2024-05-01T12:00:00Z)")
      for bad in ("yesterday", "12:00", "2024", "1714560000", "2024-05-01T25:00:00Z", "01/05/2024",
                  "0000-01-01")],
]  # fmt: skip


def test_a_cell_that_is_not_of_its_type_is_named_with_its_text(spark: SparkSession) -> None:
    assert reasons(spark, [event(**{name: given}) for name, given, _ in WRONG]) == [
        wanted for _, _, wanted in WRONG
    ]


def test_two_wrong_cells_are_both_named(spark: SparkSession) -> None:
    assert reasons(spark, [event(n="x", weight="y")]) == ["n: 'x' is not INT; weight: 'y' is not DOUBLE"]


def test_text_that_is_not_one_json_object_is_malformed(spark: SparkSession) -> None:
    kind = "malformed JSON: one JSON object is expected"
    one = event()
    texts = [
        "",
        "5",
        "null",
        "[]",
        one[:-1],
        one + one,
        f"[{one}]",
        f"{one}, {one}",
        f"{one} x",
        f"{one}]",
        one.replace('"', "'"),
        "no json",
    ]
    assert reasons(spark, texts) == [kind] * len(texts)
    assert reasons(spark, [f" {one}\n"]) == [None]


def test_a_message_without_value_is_no_event(spark: SparkSession) -> None:
    assert reasons(spark, [None]) == ["no value: a message without one (a tombstone) is no event"]


def test_an_event_that_is_too_large_or_not_utf8_is_refused(spark: SparkSession) -> None:
    assert reasons(spark, [event(note="x" * LONGEST_EVENT)]) == [
        f"too large: {len(event(note='')) + LONGEST_EVENT} bytes, an event may have {LONGEST_EVENT}"
    ]
    raw = spark.createDataFrame(
        [(bytearray(b'{"id":"\xff"}'), ARRIVAL, None, "sales", 0, 0)],
        RAW.replace("value STRING", "value BINARY"),
    )
    parsed = parse(SOURCE, raw.withColumn("value", F.col("value").cast("string")))
    assert [row["_reason"] for row in parsed.select("_reason").collect()] == ["the text is not UTF-8"]


def test_fields_that_are_not_declared_are_ignored_and_names_are_exact(spark: SparkSession) -> None:
    row = judged(spark, [event(extra=1, N=5)])[0]
    assert (row["_reason"], row["n"]) == (None, None)


def test_an_event_without_id_or_time_or_key_says_so(spark: SparkSession) -> None:
    wanted = [
        "no id: id is missing",
        "no id: id is missing",
        "no event time: at is missing",
        "no key: shop or shop and day is missing",
    ]
    assert reasons(spark, [event(id=None), event(id=""), event(at=None), event(shop=None)]) == wanted


def test_an_event_is_kept_when_one_of_its_keys_is_there(spark: SparkSession) -> None:
    both = Project(
        name="two",
        views=(
            PROJECT.views[0],
            FeatureView(name="by_day", source=SOURCE, key="day", features={"m": Last("n")}),
        ),
        label=None,
        model=None,
    )
    row = judged(spark, [event(shop="", day="2024-05-01")], project=both)[0]
    assert (row["_reason"], row["shop"]) == (None, None)  # an empty text is no key


def test_a_key_that_the_store_cannot_hold_is_refused(spark: SparkSession) -> None:
    wanted = f"shop: a key may have {LONGEST_KEY} bytes and not the control character U+001F"
    assert reasons(
        spark, [event(shop="a\x1fb"), event(shop="x" * (LONGEST_KEY + 1)), event(shop="x" * LONGEST_KEY)]
    ) == [wanted, wanted, None]


def test_an_event_from_the_future_is_refused_by_its_own_arrival(spark: SparkSession) -> None:
    times = [(ARRIVAL + timedelta(seconds=seconds)).isoformat() for seconds in (300, 301)]
    assert reasons(spark, [event(at=at) for at in times]) == [
        None,
        "from the future: at 2024-05-01 12:05:01 is after its arrival",
    ]


def test_an_event_that_the_server_accepts_is_not_quarantined(spark: SparkSession) -> None:
    changes = [{name: value} for name, value, _ in [*VALUES, *WRONG]]
    changes += [{"id": None}, {"id": ""}, {"at": None}, {"shop": None}, {"shop": ""}, {"shop": "a\x1fb"}]
    changes += [{"shop": "x" * (LONGEST_KEY + 1)}, {"at": (ARRIVAL + timedelta(seconds=301)).isoformat()}]
    latest = to_micros(ARRIVAL + timedelta(seconds=300))
    faults = [find_fault(GOOD | change, SOURCE, PROJECT.key_sets(SOURCE), latest) for change in changes]
    found = reasons(spark, [event(**change) for change in changes])
    assert [(change, reason) for change, fault, reason in zip(changes, faults, found, strict=True)
            if fault is None and reason is not None] == []  # fmt: skip
    refused = [change for change, fault in zip(changes, faults, strict=True) if fault is not None]
    assert refused[-8:] == changes[-8:]


def test_text_columns_and_json_agree(spark: SparkSession) -> None:
    cells = {column.name: [GOOD.get(column.name)] for column in SOURCE.columns}
    names, given = (
        list(cells),
        [(name, value) for name, value, _ in [*VALUES, *WRONG] if isinstance(value, str) and value.strip()],
    )
    rows = [
        (
            *[(value if each == name else GOOD.get(each)) for each in names],
            ARRIVAL,
            None,
            "sales",
            0,
            n,
            "raw",
        )
        for n, (name, value) in enumerate(given)
    ]
    schema = (
        ", ".join(f"{name} STRING" for name in names)
        + ", "
        + RAW.removeprefix("value STRING, ")
        + ", _raw STRING"
    )
    texts = judge(
        SOURCE, PROJECT.key_sets(SOURCE), read_cells(SOURCE, spark.createDataFrame(rows, schema)), 300
    ).drop("_raw")
    from_json = spark.createDataFrame(
        [(event(**{name: value}), ARRIVAL, None, "sales", 0, n) for n, (name, value) in enumerate(given)], RAW
    )
    others = judge(SOURCE, PROJECT.key_sets(SOURCE), parse(SOURCE, from_json), 300).drop("_raw")
    assert_df_equality(texts.orderBy("_offset"), others.orderBy("_offset"), ignore_nullable=True)


def test_a_message_that_no_broker_stamped_in_time_is_a_batchs_and_arrived_no_later_than_now(
    spark: SparkSession,
) -> None:
    now, minute = datetime.now(UTC), timedelta(minutes=1)
    given = [
        (now, 1),
        (now + 4 * minute, 1),
        (now + 60 * minute, 1),
        (now - 60 * minute, 0),
        (datetime(9999, 1, 1, tzinfo=UTC), 0),
    ]
    rows = [(b"{}", at, kind, "sales", 0, n) for n, (at, kind) in enumerate(given)]
    kinds = "value BINARY, timestamp TIMESTAMP, timestampType INT, topic STRING, partition INT, offset BIGINT"
    messages = spark.createDataFrame(rows, kinds)
    found = from_topic(messages, TimeSettings()).orderBy("_offset").collect()
    assert [row["_file"] for row in found] == [None, None, "topic:sales", "topic:sales", "topic:sales"]
    arrivals = [row["_arrival"].astimezone(UTC) for row in found]
    assert [arrivals[0], arrivals[1], arrivals[3]] == [at for at, _ in (given[0], given[1], given[3])]
    assert all(now - minute < at < now + minute for at in (arrivals[2], arrivals[4]))


def test_a_message_without_an_id_is_its_place_in_the_original_and_a_row_its_values(
    spark: SparkSession,
) -> None:
    bare = replace(SOURCE, id=None)
    origin = Origin("theirs", 3, 42, 1_764_529_452_123, "an-id").header()
    forged = [("anabranch.origin", b"elsewhere/9/9/9/x"), ("anabranch.origin", origin)]
    rows = [
        (event().encode(), ARRIVAL, 1, "anabranch.theirs", 3, 50, forged),
        (event().encode(), ARRIVAL + timedelta(seconds=1), 1, "anabranch.theirs", 3, 51, forged),
        (event().encode(), ARRIVAL, 1, "anabranch.theirs", 3, 52, None),
    ]
    kinds = "value BINARY, timestamp TIMESTAMP, timestampType INT, topic STRING, partition INT, offset BIGINT"
    messages = spark.createDataFrame(rows, f"{kinds}, headers ARRAY<STRUCT<key: STRING, value: BINARY>>")
    found = parse(bare, from_topic(messages, TimeSettings()))
    places = [(row["_topic"], row["_partition"], row["_offset"]) for row in found.collect()]
    assert places == [("theirs", 3, 42), ("theirs", 3, 42), ("anabranch.theirs", 3, 52)]
    assert [row["_identity"] for row in found.collect()] == [
        "theirs/3/42@1764529452123",
        "theirs/3/42@1764529452123",
        f"anabranch.theirs/3/52@{int(ARRIVAL.timestamp() * 1000)}",
    ]
    assert [row["_offset"] for row in distinct(bare, found).orderBy("_offset").collect()] == [42, 52]
    assert {row["_identity"] for row in parse(SOURCE, from_topic(messages, TimeSettings())).collect()} == {
        None
    }

    texts = [event(n=1), event(n=1), event(n="1", unknown=2), event(n=2), event(), event(shop="a\x1f")]
    of_file = [(text, ARRIVAL, "f.json", None, None, number) for number, text in enumerate(texts)]
    parsed = parse(bare, spark.createDataFrame(of_file, RAW))
    names = [row["_identity"] for row in parsed.orderBy("_offset").collect()]
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == 4
    assert all(len(name) == 36 and name.startswith("row:") for name in names)
    typed = parsed.where("_offset = 0").drop("_identity", "_reason")
    assert [row["_identity"] for row in read_cells(bare, typed).collect()] == names[:1]
    assert judged(spark, [json.dumps(GOOD | {"id": None})], bare)[0]["_reason"] is None


def test_good_events_have_the_declared_columns_and_the_lakes(spark: SparkSession) -> None:
    parsed = parse(SOURCE, spark.createDataFrame([(event(), ARRIVAL, None, "sales", 3, 9)], RAW))
    kept = good(SOURCE, judge(SOURCE, PROJECT.key_sets(SOURCE), parsed, 300))
    declared = {column.name: str(column.type) for column in SOURCE.columns} | LAKE_COLUMNS
    assert_schema_equality(
        kept.schema,
        spark.createDataFrame([], ", ".join(f"{name} {kind}" for name, kind in declared.items())).schema,
        ignore_nullable=True,
    )
    assert kept.first()["_date"] == ARRIVAL.date()  # type: ignore[index]
