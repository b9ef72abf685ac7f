"""The law through Spark: native aggregates build the states of numpy, and training sets equal the fold."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from anabranch import Aggregate, Count, Distinct, FeatureView, Label, Model, Project
from anabranch.folds.grains import start_sql
from anabranch.folds.merge import LABELS, BatchPart, Merged, Tiles, merge
from anabranch.folds.spark import batch_rows, coarsened, grains, pieces_of, point_in_time, sights, tiles
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import DAY, HOUR, MINUTE, SECOND, from_micros, to_micros
from batch.lost_states import lost_states_told
from batch.training.training_sets import label_rows, training_set
from tests.support.law import SCHEMA, SHIFTED, START, Event, events_strategy, source, start_of
from tests.unit.folds.test_law import LIFELONG, VIEW, assert_lawful

pytestmark = pytest.mark.usefixtures("compiled")
VIEWS = (VIEW, LIFELONG, SHIFTED)


def some_events(count: int) -> list[Event]:
    """A few hundred random events, from the very strategy of the pure law."""
    found: list[Event] = []

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(events=events_strategy())
    def gather(events: list[Event]) -> None:
        base = len(found)
        found.extend(
            Event(**{**event.__dict__, "id": f"{base}-{event.id}", "arrival": event.arrival + base})
            for event in events
        )

    gather()
    random.Random(7).shuffle(found)
    return found[:count]


def frame(spark: SparkSession, events: list[Event]) -> DataFrame:
    """Distinct events as the lake gives them; some of them came from a file."""
    rows = [
        (e.id, e.key, from_micros(e.time), e.x, e.n, e.d, e.s, e.b, from_micros(e.arrival), in_file(e))
        for e in events
    ]
    return spark.createDataFrame(rows, schema=f"{SCHEMA}, _arrival TIMESTAMP, _file STRING")


def in_file(event: Event) -> str | None:
    """The file that an event came from."""
    return "day.csv" if event.n == 1 else None


def as_extras(raw: list[list[bytes | None]] | None, count: int) -> list[list[bytes | None]]:
    """Extras of `count` states; NULL when the view has none."""
    return (
        [[None if v is None else bytes(v) for v in row] for row in raw] if raw else [[] for _ in range(count)]
    )


def tier_of(found: list[tuple[int, list[float], list[bytes | None]]], width: int) -> Tiles:
    """Collected rows of one key and tier."""
    return Tiles(
        np.array([s for s, _, _ in found], dtype=np.int64),
        np.array([r for _, r, _ in found]).reshape(-1, width),
        [e for _, _, e in found],
    )


@pytest.fixture(scope="module")
def arrivals() -> list[Event]:
    """Events with their copies."""
    return some_events(300)


@pytest.fixture(scope="module")
def events(arrivals: list[Event]) -> list[Event]:
    return oracle.distinct(arrivals)


CUT = START + 6 * DAY
AT = CUT + 2 * HOUR + 1


@pytest.fixture(scope="module")
def streamed(spark: SparkSession, events: list[Event]) -> list[Row]:
    """Tiles of all views of the source in one pass: pieces are the tiers of the first, then of the next."""
    after = [event for event in events if CUT <= event.arrival < AT]
    return tiles(VIEWS, frame(spark, after), SLOT // SECOND).collect()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_batch_rows_and_tiles_of_spark_answer_as_the_fold(
    spark: SparkSession, events: list[Event], streamed: list[Row], view: FeatureView
) -> None:
    cut, at = CUT, AT
    before = [event for event in events if event.arrival < cut]
    kept = grains_of_builds(spark, view, before, cut).persist()
    batch = {
        name: batch_parts(view, found, cut)
        for name, found in (("grains", kept), ("one build's", coarsened(view, kept, cut)))
    }
    kept.unpersist()
    speed: dict[tuple[str, int], list[tuple[int, list[float], list[bytes | None]]]] = {
        (key, tier): [] for key in "ab" for tier in (0, 1)
    }
    pieces = pieces_of(VIEWS)
    for row in streamed:
        assert to_micros(row["slot"].astimezone()) % SLOT == 0
        if pieces[row["piece"]].view is view:
            found = speed[row["key"], int(pieces[row["piece"]].fine)]
            found.append(
                (to_micros(row["tile_start"].astimezone()), row["state"], as_extras([row["extra"]], 1)[0])
            )
    for key in "ab":
        wide, fine = (tier_of(speed[key, tier], view.layout.width) for tier in (0, 1))
        part = replace(wide, fine=fine)
        arrived = [event for event in events if event.arrival < at]
        for known in batch.values():
            merged = merge(view, known.get(key), part, at)
            assert merged.degraded is None
            assert_lawful(view, arrived, oracle.answer(view, arrived, key, at), dict(merged.values))


def grains_of_builds(spark: SparkSession, view: FeatureView, events: list[Event], cut: int) -> DataFrame:
    """Grains of builds at two cuts."""
    edges = [0, cut - 3 * DAY, cut]
    made = [
        grains(view, frame(spark, [event for event in events if since <= event.arrival < until]), until)
        for since, until in pairwise(edges)
    ]
    return made[0].unionAll(made[1])


def batch_parts(view: FeatureView, kept: DataFrame, cut: int) -> dict[str, BatchPart]:
    """What is published, by key."""
    found = {}
    for row in batch_rows(view, kept, cut, SLACK).collect():
        rows = np.array(row["states"]).reshape(-1, LABELS + view.layout.width)
        found[row["key"]] = BatchPart(cut, SLACK, rows, as_extras(row["extras"], len(rows)))
    return found


def test_sql_and_python_agree_on_the_start_of_a_grain(spark: SparkSession) -> None:
    times = [START + minutes * MINUTE + more for minutes in range(-30_000, 3000, 397) for more in (-1, 0, 1)]
    frame = spark.createDataFrame([(time,) for time in times], "time BIGINT")
    mixed = replace(LIFELONG, name="mixed", windows=("1h", "7d", "lifetime"), features={"n": Count()})
    cuts = [START + hours * HOUR for hours in (-300, 0, 7)]
    asked = [(view, cut) for view in (*VIEWS, mixed) for cut in cuts]
    found = frame.select(
        "time", *[F.expr(start_sql(view, cut, "time")).alias(str(i)) for i, (view, cut) in enumerate(asked)]
    ).collect()
    for row in found:
        assert [row[str(i)] for i in range(len(asked))] == [
            start_of(view, cut, row["time"]) for view, cut in asked
        ]


def test_training_set_of_spark_equals_the_fold_with_hindsight_and_as_known(
    spark: SparkSession, arrivals: list[Event], events: list[Event]
) -> None:
    lifelong = FeatureView(
        name="lifelong",
        source=source,
        key="key",
        features={f"life_{name}": found for name, found in LIFELONG.features.items()},
    )
    lent = Project(name="owner", views=(lifelong,), shared_with=("law",)).lend("lifelong")
    project = Project(
        name="law",
        views=(
            VIEW.on(key="id"),
            SHIFTED.on(key="id"),
            lifelong.on(key="id"),
            lent.on(key="s", prefix="second"),
        ),
        label=Label(source=source, key=("id", "s"), target="n > 0"),
        model=Model(),
    )
    asked = [
        (key, START + minutes * MINUTE)
        for key in ("a", "b", "never seen")
        for minutes in (0, 61, 3000, 9000, 20_000)
    ]
    second = {"a": "b", "b": "b", "never seen": "a"}
    rows = spark.createDataFrame(
        [(key, second[key], from_micros(time), i) for i, (key, time) in enumerate(asked)],
        "id STRING, s STRING, time TIMESTAMP, number INT",
    )
    distinct_events = dict.fromkeys(("things", "owner.things"), frame(spark, events))
    features, names = sights(project, distinct_events, rows, "time", trust_files=True)
    found = features.collect()
    assert sorted(row["number"] for row in found) == list(range(len(asked)))
    differs = 0
    for row in found:
        key, time = asked[row["number"]]
        for view, name in zip(project.views, names, strict=True):
            values = {column.name: column.type.value(row[column.name]) for column in view.columns}
            of_view = second[key] if view.use.prefix else key
            assert_lawful(view, events, oracle.answer(view, events, of_view, time), values)
            # Of what had arrived, too, the first copy of an id counts.
            sight, had = row[name], [event for event in arrivals if event.arrival < time]
            differs += sight["late"] > 0
            assert (sight["known"] is None) == (sight["late"] == 0)
            known = values if sight["known"] is None else sight["known"].asDict()
            known = {column.name: column.type.value(known[column.name]) for column in view.columns}
            assert_lawful(view, events, oracle.answer(view, had, of_view, time), known)
            if view.name == lifelong.name:
                mine = [event for event in events if event.key == of_view and event.time < time]
                late = [event for event in mine if event.arrival >= time]
                loaded = [event for event in mine if in_file(event)]
                assert (sight["events"], sight["late"]) == (len(mine), len(late))
                assert sight["loaded"] == len(loaded)
    assert differs > 10
    key, time = ("a", START + 9000 * MINUTE)
    had = [event for event in arrivals if event.arrival < time]
    asked_once = rows.where(f"id = '{key}' AND number = {asked.index((key, time))}")
    one = Project(name="one", views=(VIEW.on(key="id"),))
    (row,) = point_in_time(one, distinct_events, asked_once, "time", as_known=True).collect()
    values = {column.name: column.type.value(row[column.name]) for column in VIEW.columns}
    assert_lawful(VIEW, events, oracle.answer(VIEW, had, key, time), values)


def test_training_set_of_spark_counts_each_label_s_own_event(
    spark: SparkSession, arrivals: list[Event], events: list[Event]
) -> None:
    label = Label(source=source, key="key", target="n > 0", own_event=True)
    lent = Project(name="owner", views=(SHIFTED,), shared_with=("law",)).lend(SHIFTED.name)
    second = replace(source, name="others", topic="others")
    other = FeatureView(name="other", source=second, key="key", windows=("1h",), features={"others": Count()})
    whole = Project(name="law", views=(VIEW, lent, other), label=label, model=Model())
    # In a role the event counts where its key is the one asked for.
    role = Project(
        name="role",
        views=(LIFELONG.on(key="s"),),
        label=replace(label, key="s"),
        model=Model(features=("count_x",)),
    )
    # Every other label has an event at its very time that does not count.
    chosen = [event for event in events if event.s in ("a", "b", None)][::5][:30]
    twins = [replace(event, id=f"twin {event.id}", n=3) for event in chosen[::2]]
    known, deliveries = [*events, *twins], [*arrivals, *twins]
    lake = frame(spark, known)
    feeds = dict.fromkeys(("things", "owner.things", "others"), lake)
    in_role = 0
    for project, column in ((whole, "key"), (role, "s")):
        assert project.label is not None
        asked = lake.where(F.col("id").isin([event.id for event in chosen]))
        labels = label_rows(project.label, asked).where(F.col(column).isNotNull())
        features, names = sights(project, feeds, labels, "_time", trust_files=True)
        found = {row["_own"]: row for row in features.collect()}
        asked_for = [event for event in chosen if getattr(event, column) is not None]
        assert found.keys() == {event.id for event in asked_for}
        for event in asked_for:
            row, key = found[event.id], getattr(event, column)
            in_role += column == "s" and event.key == key
            for view, name in zip(project.views, names, strict=True):
                own = event.id if view.source == source else None
                values = {each.name: each.type.value(row[each.name]) for each in view.columns}
                expected = oracle.answer_with_own(view, known, key, event.time, own)
                assert_lawful(view, known, expected, values)
                had = [one for one in deliveries if one.arrival < event.time and one.id != event.id]
                expected = oracle.answer_with_own(view, [*had, event], key, event.time, own)
                seen = values if row[name]["known"] is None else row[name]["known"].asDict()
                seen = {each.name: each.type.value(seen[each.name]) for each in view.columns}
                assert_lawful(view, known, expected, seen)
    assert 0 < in_role < len(asked_for)
    usable = [event for event in asked_for if event.n is not None]
    table = training_set(role, feeds, labels)
    assert table.count() == len(usable)
    assert "_own" not in table.columns


def test_a_build_tells_of_a_key_that_has_more_states_than_the_store_takes(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.folds.spark.LARGEST", 512)
    features: dict[str, Aggregate] = {"n": Count(), "texts": Distinct("s")}
    view = FeatureView(name="seen", source=source, key="key", windows=("7d",), features=features)
    cut = START + 6 * DAY
    crowd = [
        Event(id=f"a{i}", key="a", time=cut - i * HOUR - 1, arrival=cut - 1, s=f"{i:03}" * 100)
        for i in range(20)
    ]
    alone = Event(id="b", key="b", time=cut - HOUR, arrival=cut - 1, s="x")
    kept = grains(view, frame(spark, [*crowd, alone]), cut)
    with lost_states_told(view, batch_rows(view, kept, cut, SLACK)) as rows:
        found = rows.collect()
    assert (
        "view seen: keys with more states than the store takes: 1, such as a: their answers lack"
        in caplog.text
    )
    answers = {
        row["key"]: merge(
            view,
            BatchPart(
                cut,
                SLACK,
                np.array(row["states"]).reshape(-1, LABELS + view.layout.width),
                as_extras(row["extras"], 1),
            ),
            None,
            cut,
        )
        for row in found
    }
    assert answers["b"] == Merged({"n_7d": 1, "texts_7d": 1})
    assert answers["a"].values == {"n_7d": 20, "texts_7d": None}
    assert answers["a"].degraded is not None
