"""Users' names and ours never meet: a source whose columns have our own names, SQL's words and odd signs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from anabranch import Count, Distinct, FeatureView, Label, Last, LastK, Max, Model, Project, Source, Sum
from anabranch.events.copies import distinct
from anabranch.events.judging import from_topic, good, judge, parse
from anabranch.folds.merge import LABELS, BatchPart, Tiles, merge
from anabranch.folds.spark import batch_rows, grains, pieces_of, tiles
from anabranch.settings import LakeSettings, TimeSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.loads import stage
from anabranch.stores.lake.schemas import check_tables, prepare_events
from anabranch.values.names import quoted
from anabranch.values.times import HOUR, SECOND, to_micros
from batch.training.training_sets import label_rows, training_set
from tests.support.names import ODD, ONCE_OURS, internal_names

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CUT = to_micros(NOON + timedelta(hours=2))
KEYS = ("Unit Price (EUR)", "start", "a.b")
NUMBERS = [
    name
    for name in dict.fromkeys([*internal_names(), *ONCE_OURS, *ODD])
    if name not in (*KEYS, "flight-number", "event_micros")
]
SOURCE = Source(
    name="start",
    topic="start",
    id="flight-number",
    time="event_micros",
    schema=", ".join(
        ["`flight-number` STRING", "event_micros TIMESTAMP", *(f"{quoted(name)} STRING" for name in KEYS)]
        + [f"{quoted(name)} INT" for name in NUMBERS]
    ),
)
USER = 250 + NUMBERS.index("user")
"""A value of the column `user` between those of the second and the third event."""
VIEW = FeatureView(
    name="state",
    source=SOURCE,
    key=KEYS,
    windows=("1d",),
    features={
        "n": Count(),
        **{f"f{place}": Max(quoted(name)) for place, name in enumerate(NUMBERS)},
        "both": Sum("`end` - `order` + `x y  z`"),
        "text": Last("CAST(one AS STRING)", where="slot > 0"),
        "few": LastK("CAST(`done` AS STRING)", 2),
        "seen": Distinct("CAST(`it's` AS STRING)"),
    },
)
LABEL = Label(source=SOURCE, key=KEYS, target=f"`user` > {USER}")
PROJECT = Project(
    name="select",
    views=(VIEW,),
    label=LABEL,
    model=Model(trainer="auto", features=tuple(f"f{place}_1d" for place in range(5))),
)


def event(number: int) -> dict[str, object]:
    """An event of one of two keys: its number in every column, times the place of the column."""
    values = {name: number * 100 + place for place, name in enumerate(NUMBERS)}
    key = {name: f"{name}{number % 2}" for name in KEYS}
    at = NOON + timedelta(minutes=number)
    return {"flight-number": f"e{number}", "event_micros": at.isoformat(), **key, **values}


def expected(numbers: list[int]) -> dict[str, object]:
    """The features over events of these numbers."""
    last, where = max(numbers), {name: place for place, name in enumerate(NUMBERS)}
    both = [n * 100 + where["end"] - where["order"] + where["x y  z"] for n in numbers]
    values = {f"f{place}_1d": last * 100 + place for place in range(len(NUMBERS))}
    few = [str(n * 100 + where["done"]) for n in sorted(numbers, reverse=True)[:2]]
    return {
        "n_1d": len(numbers),
        **values,
        "both_1d": sum(both),
        "text_1d": str(last * 100 + where["one"]),
        "few_1d": few,
        "seen_1d": len(numbers),
    }


def messages(spark: SparkSession, numbers: range, arrival: datetime) -> DataFrame:
    """Events as Spark's Kafka source gives them."""
    rows = [(json.dumps(event(number)).encode(), arrival, 1, "start", 0, number) for number in numbers]
    return spark.createDataFrame(
        rows,
        "value BINARY, timestamp TIMESTAMP, timestampType INT, topic STRING, partition INT, offset BIGINT",
    )


def judged(spark: SparkSession, numbers: range, arrival: datetime) -> DataFrame:
    """The events judged, as landing and the stream do it."""
    events = parse(SOURCE, from_topic(messages(spark, numbers, arrival), TimeSettings()))
    return judge(SOURCE, PROJECT.key_sets(SOURCE), events, 300)


def test_names_of_users_meet_nothing_of_ours_from_the_message_to_answers_and_training_sets(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lake(LakeSettings(root=str(tmp_path)))
    prepare_events(spark, lake, PROJECT, SOURCE)
    check_tables(spark, lake, PROJECT)
    stage(lake, judged(spark, range(1, 5), NOON + timedelta(hours=1)), PROJECT, SOURCE).commit({"load": 0})
    events = distinct(SOURCE, lake.events(spark, PROJECT, SOURCE)).persist()
    assert events.columns[: len(SOURCE.columns)] == [column.name for column in SOURCE.columns]

    batch = {
        row["key"]: BatchPart(
            CUT,
            6 * HOUR,
            np.array(row["states"]).reshape(-1, LABELS + VIEW.layout.width),
            [[one and bytes(one) for one in state] for state in row["extras"]],
        )
        for row in batch_rows(VIEW, grains(VIEW, events, CUT), CUT, 6 * HOUR).collect()
    }
    later = good(SOURCE, judged(spark, range(5, 8), NOON + timedelta(hours=2, minutes=1)))
    wide: dict[str, list[Any]] = {}
    for row in tiles([VIEW], later, HOUR // SECOND, KEYS).collect():
        if not pieces_of([VIEW], KEYS)[row["piece"]].fine:
            start = to_micros(row["tile_start"].astimezone(UTC))
            wide.setdefault(row["key"], []).append((start, row["state"], row["extra"]))
    for last in (0, 1):
        key = "\x1f".join(f"{name}{last}" for name in KEYS)
        starts, states, more = zip(*wide[key], strict=True)
        speed = Tiles(np.array(starts), np.array(states), [[bytes(one) for one in found] for found in more])
        answer = merge(VIEW, batch[key], speed, CUT + HOUR)
        assert dict(answer.values) == expected([number for number in range(1, 8) if number % 2 == last])

    rows = training_set(PROJECT, {"start": events}, label_rows(LABEL, events)).orderBy("_time").collect()
    names = [f"f{place}_1d" for place in range(5)]
    assert [row["_target"] for row in rows] == [0, 0, 1, 1]
    assert [[row[name] for name in names] for row in rows] == [
        [None if number < 3 else expected([number - 2])[name] for name in names] for number in range(1, 5)
    ]
    assert events.where(F.col(quoted("a.b")) == "a.b1").count() == 2
