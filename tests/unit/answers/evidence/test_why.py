"""From a score to the events behind it, without a JVM: over tables of the lake that are written by hand."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError, MisuseError
from anabranch.settings import LakeSettings
from anabranch.stores.lake.light import LightTable, landed_offsets
from anabranch.testing import fold
from anabranch.values.times import format_time, to_micros
from serving.http.messages import HttpRequest
from tests.support.light_lake import HandMadeTable, moment
from tests.support.serving_fakes import NOW, Bench, FakeManifest, bench

DECLARATION = """
from anabranch import Count, FeatureView, Label, Last, Model, Project, Source, Sum

visits = Source(name="visits", id="id", time="at",
    schema="id STRING, who BIGINT, town STRING, at TIMESTAMP, pages INT")
by_who = FeatureView(name="by_who", source=visits, key="who", windows=("3h", "lifetime"),
    features={"seen": Sum("pages"), "visits": Count(where="pages > 2")})
by_town = FeatureView(name="by_town", source=visits, key=("town",), windows=("6h",),
    features={"in_town": Count()})
project = Project(name="shop", views=(by_who, by_town),
    label=Label(source=visits, key=("who", "town"), target="pages > 5"),
    model=Model(features=("seen_3h", "in_town_6h"), reasons={"seen_3h": "looked at much today"}))
"""
KEY = {"who": "7", "town": "Oslo"}
WHY = "/v1/projects/shop/why/who=7,town=Oslo"


def visit(
    number: int, who: int, town: str, hour: float, pages: int, came: float | None = None
) -> dict[str, Any]:
    """A visit at an hour of the day, which came with a file at another one; NOW is noon."""
    return {
        "id": f"v{number}", "who": who, "town": town, "at": moment(hour), "pages": pages,
        "_arrival": moment(hour + 0.1 if came is None else came), "_file": f"day-{number}.csv",
        "_offset": number,
    }  # fmt: skip


VISITS = [
    [visit(1, 7, "Oslo", 1, 1), visit(2, 7, "Bergen", 8, 2), visit(3, 8, "Oslo", 8.5, 3)],
    [visit(4, 7, "Oslo", 10, 4), visit(5, 7, "Oslo", 11, 5), visit(6, 9, "Bergen", 11, 6)],
    # An id that came before, with another time; and a visit that came after the build began.
    [visit(5, 7, "Oslo", 11.2, 50, came=11.6), visit(7, 7, "Oslo", 11.5, 7, came=11.7)],
]


@pytest.fixture
def table(tmp_path: Path) -> HandMadeTable:
    made = HandMadeTable(tmp_path / "lake" / "shop" / "events" / "visits")
    for number, rows in enumerate(VISITS):
        made.add(f"part {number}%.parquet", rows)
    return made


@pytest.fixture
def shop(table: HandMadeTable, tmp_path: Path) -> Bench:
    (tmp_path / "shop.py").write_text(DECLARATION)
    return served(tmp_path)


def served(folder: Path) -> Bench:
    found = bench(folder, ("seen_3h", "in_town_6h"))
    found.stores.settings = replace(found.stores.settings, lake=LakeSettings(root=str(folder / "lake")))
    # What was counted: all but the visits that came last, which wait for the next build.
    found.store.served = FakeManifest(
        project="shop", until=to_micros(moment(11.65)), cut=to_micros(moment(11))
    )
    values = {"seen_3h": 9, "seen_lifetime": 12, "visits_3h": 2, "visits_lifetime": 2, "in_town_6h": 3}
    found.store.stored[("7", "Oslo")] = values
    found.app.live.refresh()
    return found


def traced(shop: Bench, query: str = "") -> dict[str, Any]:
    status, found = shop_ask(shop, query)
    assert status == 200, found
    return dict(found)


def shop_ask(shop: Bench, query: str = "") -> tuple[int, Any]:
    request = HttpRequest("GET", WHY, b"", "application/json", query=query)
    response = asyncio.run(shop.app.handle(request))
    return response.status, json.loads(response.body)


def test_an_answer_is_traced_to_the_events_that_it_folds(shop: Bench, tmp_path: Path) -> None:
    found = traced(shop)
    assert (found["score"], found["model_version"]) == (pytest.approx(0.012), "3")
    assert found["explanation"]["reasons"][0]["text"] == "looked at much today"
    who, town = found["views"]
    assert [event["id"] for event in who["events"]] == ["v7", "v5", "v4", "v2", "v1"]
    assert [event["id"] for event in town["events"]] == ["v7", "v5", "v4", "v3"]
    assert {event["id"]: event["channel"] for event in who["events"]} == {
        "v7": "next build", **dict.fromkeys(("v5", "v4", "v2", "v1"), "batch"),
    }  # fmt: skip
    assert who["events"][1] == {
        "id": "v5", "time": "2024-05-01T11:00:00Z", "arrival": "2024-05-01T11:06:00Z", "channel": "batch",
        "landed": True, "file": "day-5.csv",
        "event": {"id": "v5", "who": 7, "town": "Oslo", "at": "2024-05-01T11:00:00Z", "pages": 5},
    }  # fmt: skip
    features = {one["name"]: one for one in found["features"]}
    assert features["seen_3h"]["contribution"] == pytest.approx(0.009)
    assert (features["seen_3h"]["since"], features["seen_3h"]["events"]) == ("2024-05-01T09:00:00Z", 3)
    assert features["seen_3h"]["by_channel"] == {"next build": 1, "batch": 2}
    assert features["seen_lifetime"]["since"] is None
    # The fold of what is counted is the answer.
    project = load_project("shop", (tmp_path,))
    for view in found["views"]:
        counted = [event["event"] for event in view["events"] if event["channel"] == "batch"]
        values = fold(project, counted, KEY, format_time(NOW))
        columns = [one["name"] for one in found["features"] if one["view"] == view["view"]]
        assert {name: values[name] for name in columns} == {name: features[name]["value"] for name in columns}


def test_what_is_shown_is_bounded_and_what_is_counted_is_not(shop: Bench) -> None:
    found = traced(shop, "events=2")
    assert [(view["found"], view["shown"]) for view in found["views"]] == [(5, 2), (4, 2)]
    assert [event["id"] for event in found["views"][0]["events"]] == ["v7", "v5"]
    features = {one["name"]: one["events"] for one in found["features"]}
    assert features["seen_lifetime"] == 5


def test_an_earlier_moment_has_the_events_before_it(shop: Bench) -> None:
    found = traced(shop, "at=2024-05-01T10:30:00Z")
    assert [event["id"] for event in found["views"][0]["events"]] == ["v4", "v2", "v1"]
    assert found["as_of"] == "2024-05-01T10:30:00Z"


@pytest.mark.parametrize(
    ("query", "field", "told"),
    [
        ("at=noon", "at", "noon"),
        ("events=many", "events", "give a number from 0 to 1000"),
        ("events=1001", "events", "give a number from 0 to 1000"),
        ("key=1", "key", "is not a parameter"),
    ],
)
def test_a_wrong_question_is_refused(shop: Bench, query: str, field: str, told: str) -> None:
    status, problem = shop_ask(shop, query)
    assert (status, problem["field"]) == (422, field)
    assert told in problem["detail"]


def test_an_unknown_key_and_a_project_without_a_model(shop: Bench, tmp_path: Path) -> None:
    del shop.store.stored["7", "Oslo"]
    status, problem = shop_ask(shop)
    assert (status, problem["type"]) == (404, "urn:anabranch:problem:unknown-key")
    text = DECLARATION.partition("    label=")[0].rstrip().rstrip(",") + ")\n"
    (tmp_path / "shop.py").write_text(text)
    plain = served(tmp_path)
    found = traced(plain)
    assert (found["score"], found["model_version"]) == (None, None)
    assert {one["contribution"] for one in found["features"]} == {None}
    assert [view["found"] for view in found["views"]] == [5, 4]


def test_removed_files_are_gone_and_a_checkpoint_changes_nothing(shop: Bench, table: HandMadeTable) -> None:
    before = traced(shop)
    table.checkpoint()
    assert traced(shop) == before
    table.remove("part 1%.parquet")
    assert [event["id"] for event in traced(shop)["views"][0]["events"]] == ["v7", "v5", "v2", "v1"]
    table.add("again.parquet", [visit(9, 7, "Oslo", 11.9, 1)], without=["pages"])  # before it was declared
    newest = traced(shop)["views"][0]["events"][0]
    assert (newest["id"], newest["event"]["pages"]) == ("v9", None)


def test_a_copy_that_came_first_with_another_key_is_the_event(shop: Bench, table: HandMadeTable) -> None:
    table.add("earlier.parquet", [visit(4, 99, "Oslo", 1, 1, came=0.5)])
    assert "v4" not in [event["id"] for event in traced(shop)["views"][0]["events"]]


def test_a_table_that_is_not_understood_is_refused(table: HandMadeTable, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"hdfs://node/lake.* only Spark reads"):
        LightTable("hdfs://node/lake", "at")
    assert LightTable(str(tmp_path / "nothing"), "at").files == []
    table.commit([{"add": {"path": "x.parquet", "deletionVector": {"storageType": "u"}}}])
    with pytest.raises(AnabranchError, match="marks rows as deleted beside its files"):
        LightTable(str(table.place), "at")
    (table.place / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(AnabranchError, match="has a log with gaps"):
        LightTable(str(table.place), "at")


def test_files_beyond_the_windows_are_not_read(table: HandMadeTable) -> None:
    files = LightTable(str(table.place), "at").files
    assert files[0].path == "_date=2024-05-01/part 2%.parquet"
    since, until = to_micros(moment(9)), to_micros(moment(11.1))
    assert [file.may_have(since, until) for file in files] == [False, True, False]
    assert [file.may_have(None, until) for file in files] == [False, True, True]


def test_how_far_a_topic_has_landed_is_read_from_landings_own_notes(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints" / "visits" / "topic"
    assert landed_offsets(str(place), "topic", "id-1") == {}
    for number, offset in ((0, 5), (1, 9), (2, 12)):
        for kind in ("offsets", "commits"):
            (place / kind).mkdir(parents=True, exist_ok=True)
        (place / "offsets" / str(number)).write_text(f'v1\n{{}}\n{{"topic": {{"0": {offset}}}}}')
        if number < 2:  # the last batch was cut off
            (place / "commits" / str(number)).write_text("v1")
    (place.parent / "topic.topic").write_text("id-1")
    assert landed_offsets(str(place), "topic", "id-1") == {0: 9}
    assert landed_offsets(str(place), "topic", "another") == {}
