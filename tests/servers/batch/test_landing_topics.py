"""Topics land exactly once, with the broker's time as arrival and every bad message in quarantine."""

import json
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from kafka import TopicPartition
from pyspark.sql import SparkSession

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.lake.staging import commit_files
from anabranch.values.times import SECOND, now_micros
from batch.landing.comparing import ComparedTopic, compare_topic
from batch.landing.loader import LoadSummary
from batch.landing.publishing import publish_file
from batch.landing.topics import land, landed_offsets
from jobs.flows.building import check_complete
from jobs.wiring.context import Context
from tests.support.stores import stores
from tests.support.topics import delete, transaction

pytestmark = pytest.mark.usefixtures("servers")
AT = "2024-05-01T10:00:00Z"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeSettings(root=str(tmp_path / "lake")))


SCHEMA = "id STRING, shop STRING, at TIMESTAMP, n INT, price DECIMAL(20,4), open BOOLEAN"


@pytest.fixture
def project() -> Project:
    return declared(f"sales-{uuid.uuid4().hex[:12]}", SCHEMA)


def declared(topic: str, schema: str) -> Project:
    source = Source(name="sales", topic=topic, id="id", time="at", schema=schema)
    return Project(
        name="shops", views=(FeatureView(name="by_shop", source=source, key="shop", features={"n": Count()}),)
    )


def source_of(project: Project) -> Source:
    return project.sources["sales"]


def topic_of(project: Project) -> str:
    return str(source_of(project).topic)


def run(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project, progress: Silent | None = None
) -> LoadSummary:
    return land(stores(spark=spark, lake=lake, bus=bus), project, progress or Silent())["sales"]


def landed(spark: SparkSession, lake: Lake, bus: Bus, project: Project) -> dict[int, int]:
    return landed_offsets(stores(spark=spark, lake=lake, bus=bus), project, source_of(project))


def sale(number: int, **more: object) -> bytes:
    return json.dumps({"id": str(number), "shop": "a", "at": AT, "n": number} | more).encode()


def ids(spark: SparkSession, lake: Lake, project: Project) -> list[str]:
    return sorted(row["id"] for row in lake.events(spark, project, source_of(project)).collect())


def test_messages_land_exactly_once_and_bad_ones_go_to_quarantine(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    first = run(spark, lake, bus, project)  # the topic is not there yet
    assert (first.rows, first.quarantined) == (0, 0)
    assert bus.ends(topic_of(project)) == {0: 0}
    messages = [sale(1), b"nonsense", sale(2), None, b'{"id":"\xff"}', sale(3, n="x")]
    bus.publish(topic_of(project), [(b"a", value) for value in messages])  # type: ignore[misc]
    second = run(spark, lake, bus, project)
    assert (second.rows, second.quarantined) == (2, 4)
    bus.publish(topic_of(project), [(b"a", sale(4))])
    third, fourth = run(spark, lake, bus, project), run(spark, lake, bus, project)
    assert (third.rows, third.quarantined, fourth.rows, fourth.quarantined) == (1, 0, 0, 0)
    assert ids(spark, lake, project) == ["1", "2", "4"]
    assert landed(spark, lake, bus, project) == bus.ends(topic_of(project)) == {0: 7}
    bad = {
        row["offset"]: (row["topic"], row["partition"], row["reason"].partition(":")[0])
        for row in lake.quarantine(spark, project).collect()
    }
    place = (topic_of(project), 0)
    assert bad == {
        1: (*place, "malformed JSON"),
        3: (*place, "no value"),
        4: (*place, "the text is not UTF-8"),
        5: (*place, "n"),
    }


def test_arrival_is_the_brokers_time_to_the_last_digit(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    bus.ensure_topics([topic_of(project)])
    bus.publish(topic_of(project), [(None, sale(1))])
    run(spark, lake, bus, project)
    (row,) = (
        lake.events(spark, project, source_of(project))
        .selectExpr("unix_micros(_arrival) micros", "_topic", "_partition", "_offset", "_file")
        .collect()
    )
    assert (row["_topic"], row["_partition"], row["_offset"], row["_file"]) == (topic_of(project), 0, 0, None)
    assert bus.offsets_at(topic_of(project), row["micros"]) == {0: 0}
    assert bus.offsets_at(topic_of(project), row["micros"] + 1) == {0: 1}


def test_a_crash_between_quarantine_and_lake_lands_every_message_once(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.ensure_topics([topic_of(project)])
    bus.publish(topic_of(project), [(None, sale(1)), (None, b"nonsense")])
    with monkeypatch.context() as patched:
        patched.setattr(
            "anabranch.stores.lake.loads.commit_files",
            lambda spark, path, *rest: commit_files(spark, path, *rest) if "quarantine" in path else 1 / 0,
        )
        with pytest.raises(AnabranchError, match="could not be landed"):
            run(spark, lake, bus, project)
    assert landed(spark, lake, bus, project) == {}
    assert lake.quarantine(spark, project).count() == 1
    bus.publish(topic_of(project), [(None, sale(2))])
    result = run(spark, lake, bus, project)
    assert (result.rows, result.quarantined) == (2, 1)
    assert (ids(spark, lake, project), lake.quarantine(spark, project).count()) == (["1", "2"], 1)


def test_only_committed_messages_land_and_a_cut_waits_for_an_open_transaction(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    topic, built = topic_of(project), cast("Context", stores(spark=spark, lake=lake, bus=bus))
    bus.ensure_topics([topic])
    with transaction(bus, topic, [sale(1), sale(2)], commit=True):
        pass
    with transaction(bus, topic, [sale(3), sale(4)], commit=False):
        pass
    assert run(spark, lake, bus, project).rows == 2
    with transaction(bus, topic, [sale(5)], commit=True):
        bus.publish(topic, [(None, sale(6))])
        cut = now_micros() + SECOND
        # Nothing can be read behind the open transaction: nobody waits for it, and no cut lies above it.
        assert run(spark, lake, bus, project).rows == 0
        assert landed(spark, lake, bus, project) == bus.ends(topic) == {0: 6}
        with pytest.raises(AnabranchError, match=f"a transaction is open on {topic}/0 at offset 6"):
            check_complete(built, project, cut)
    assert run(spark, lake, bus, project).rows == 2
    check_complete(built, project, cut)
    assert ids(spark, lake, project) == ["1", "2", "5", "6"]
    assert landed(spark, lake, bus, project) == bus.ends(topic) == {0: 9}


def test_a_topic_made_anew_is_landed_from_its_beginning_which_is_said(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    topic = topic_of(project)
    bus.ensure_topics([topic])
    bus.publish(topic, [(None, sale(1)), (None, sale(2))])
    run(spark, lake, bus, project)
    delete(bus, topic)
    bus.ensure_topics([topic])
    bus.publish(topic, [(None, sale(3)), (None, sale(4)), (None, sale(5))])
    said = Said()
    assert run(spark, lake, bus, project, said).rows == 3
    assert f"topic {topic} was deleted and made again: messages of the one before" in said.text
    assert ids(spark, lake, project) == ["1", "2", "3", "4", "5"]
    assert landed(spark, lake, bus, project) == bus.ends(topic) == {0: 3}


def test_what_retention_removed_before_the_first_landing_is_said_and_what_never_landed_is_found_on_the_bus(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    topic, source, said = topic_of(project), source_of(project), Said()
    opened = stores(spark=spark, lake=lake, bus=bus)
    bus.ensure_topics([topic])
    bus.publish(topic, [(None, sale(1)), (None, sale(2)), (None, b"nonsense"), (None, sale(3))])
    with bus._admin() as admin:
        admin.delete_records({TopicPartition(topic, 0): 1})
    with transaction(bus, topic, [sale(4)], commit=False):
        pass
    assert run(spark, lake, bus, project, said).rows == 2
    assert f"topic {topic} no longer holds its first 1 messages: they are lost" in said.text
    assert compare_topic(opened, project, source) == ComparedTopic(topic=topic, messages=3, missing=0)
    spark.sql(f"DELETE FROM delta.`{lake.path(project, source)}` WHERE id = '2'").collect()
    found = compare_topic(opened, project, source)
    assert found == ComparedTopic(topic=topic, messages=3, missing=1, example=f"{topic}/0/1")


class Said(Silent):
    """Progress that keeps what it was told."""

    text = ""

    def step(self, text: str) -> None:
        self.text += f"{text}\n"


def test_a_source_that_moves_to_another_topic_goes_on_there(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    bus.ensure_topics([topic_of(project)])
    bus.publish(topic_of(project), [(None, sale(1))])
    run(spark, lake, bus, project)
    other = replace(source_of(project), topic=f"{topic_of(project)}-new")
    moved = replace(project, views=(replace(project.views[0], source=other),))
    bus.ensure_topics([str(other.topic)])
    bus.publish(str(other.topic), [(None, sale(2))])
    assert run(spark, lake, bus, moved).rows == 1
    assert ids(spark, lake, moved) == ["1", "2"]


def test_a_declaration_that_grows_is_followed_and_any_other_change_is_refused(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project
) -> None:
    topic = topic_of(project)
    bus.ensure_topics([topic])
    bus.publish(topic, [(None, sale(1, note="early"))])
    run(spark, lake, bus, project)
    wider = declared(topic, f"{SCHEMA}, note STRING")
    bus.publish(topic, [(None, sale(2, note="late"))])
    assert run(spark, lake, bus, wider).rows == 1
    bus.publish(topic, [(None, sale(3, note="last"))])
    retyped = declared(topic, f"{SCHEMA.replace('n INT', 'n STRING')}, note STRING")
    for other, said in (
        (project, "column 'note' (STRING) is in the lake and no longer declared"),
        (retyped, "column 'n' has another type in the lake (INT)"),
    ):
        with pytest.raises(AnabranchError, match=re.escape(said)):
            run(spark, lake, bus, other)
    assert run(spark, lake, bus, wider).rows == 1
    found = lake.events(spark, wider, source_of(wider)).collect()
    assert sorted((row["id"], row["note"]) for row in found) == [("1", None), ("2", "late"), ("3", "last")]


def test_rows_of_a_file_are_published_as_events_and_judged_when_they_land(
    spark: SparkSession, lake: Lake, bus: Bus, project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "sales.csv"
    lines = [
        f"1,a,{AT},45.0,1234567890123456.7891,true",
        f'2,"b, c",{AT},,,',
        f"3,a,{AT},many,,",
        f"4,a,{AT}",
        "",
        f"5,,{AT},1,,",
    ]
    file.write_text("id,shop,at,n,price,open\n" + "\n".join(lines) + "\n")
    told = publish_file(bus, project, "sales", file, Silent())
    assert (told.events, told.faulty, told.first_fault) == (5, 3, "line 4: n: 'many' is not an INT")
    more = tmp_path / "more.jsonl"
    more.write_bytes(sale(6) + b"\n\n" + b"\xff\n")
    told = publish_file(bus, project, "sales", more, Silent())
    assert (told.events, told.faulty) == (2, 1)
    result = run(spark, lake, bus, project)
    assert (result.rows, result.quarantined) == (3, 4)
    rows = {
        row["id"]: (row["shop"], row["n"], str(row["price"]), row["open"])
        for row in lake.events(spark, project, source_of(project)).collect()
    }
    assert rows == {
        "1": ("a", 45, "1234567890123456.7891", True),
        "2": ("b, c", None, "None", None),
        "6": ("a", 6, "None", None),
    }
    reasons = sorted(row["reason"].partition(":")[0] for row in lake.quarantine(spark, project).collect())
    assert reasons == ["malformed JSON", "n", "no key", "the text is not UTF-8"]


def test_a_file_for_a_source_without_a_topic_is_refused(bus: Bus, project: Project, tmp_path: Path) -> None:
    silent = replace(
        project, views=(replace(project.views[0], source=replace(source_of(project), topic=None)),)
    )
    with pytest.raises(MisuseError, match="source 'sales' has no topic"):
        publish_file(bus, silent, "sales", tmp_path / "none.csv", Silent())
