"""The law through the real river: Kafka, stream, builds and Cassandra answer as the naive fold does.

One history is lived through once, keeping what was answered at each moment; each test looks at one of them.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyspark.sql import SparkSession

from anabranch import Aggregate, FeatureView, Label, Model, Project, Source
from anabranch.answers.features import Answer
from anabranch.answers.own import publish_own
from anabranch.answers.own_requests import event_values
from anabranch.answers.problems import ProblemError
from anabranch.folds.spark import point_in_time
from anabranch.testing import oracle
from anabranch.values.times import MINUTE, SECOND, format_time, from_micros, now_micros
from batch.building.versions import rollback
from batch.landing.ingest import ingest
from jobs.flows.building import build_project
from jobs.flows.tracing import why_key
from jobs.flows.verifying import verify_settled
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.views import sources_of
from tests.support.law import Event, features_of, source
from tests.support.law_river import KEYS, Answered, LivedRiver, message, some_events, some_features
from tests.unit.folds.test_law import assert_lawful

BASKETS = Source(
    name="baskets",
    topic="baskets",
    id="id",
    time="time",
    schema="id STRING, key STRING, time TIMESTAMP, labels ARRAY<STRING>, "
    "facts STRUCT<x: DOUBLE, n: BIGINT, d: DECIMAL(12,2), b: BOOLEAN>",
    fields={
        "id": "basket.id",
        "key": "basket.things.who",
        "time": "basket.things.at.time",
        "labels": "basket.things.labels",
        "facts": "basket.things.facts",
    },
    explode="basket.things",
)
"""A nested message of several events."""
PARTS = {"x": "facts.x", "n": "facts.n", "d": "facts.d", "b": "facts.b", "s": "labels[0]"}
_OF_BASKETS = ("count_x", "sum_n", "sum_d_some", "mean_x", "last_s", "max_d", "countif_b", "distinct_s_some")
_EMPTY = b'{"basket": {"id": "empty"}}'
BASKET_FEATURES = {
    f"basket_{name}": each for name, each in features_of("finite").items() if name in _OF_BASKETS
}
PAIRS = (("a", "b"), ("b", "b"), ("never seen", "a"))
"""Keys of the project that uses the views in roles: of `buyer` and of `seller`."""


@dataclass(frozen=True)
class Moment(Answered):
    """Also the events that arrived as items of nested messages, the answers of the project that uses the
    views of the other, once it is built, and where the answers of the first keys come from, if it was asked.
    """

    baskets: list[Event]
    borrowed: list[Answer]
    traced: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class River(LivedRiver[Moment]):
    """The river of a project that also reads nested messages, and whose views another project uses."""

    borrower: Project = field(kw_only=True)
    brought: list[Answered] = field(default_factory=list)
    """Answers to questions that bring an event."""
    was_published: list[bool] = field(default_factory=list)

    def publish(self, events: Sequence[Event]) -> None:
        """Publish the events one by one, and in nested messages of two."""
        alone = {message(event): [event] for event in events}
        pairs = [list(events[start : start + 2]) for start in range(0, len(events), 2)]
        baskets = {basket(pair): in_basket(pair) for pair in pairs}
        self.published |= alone | baskets | {_EMPTY: []}
        sent = {
            self.project.name: [message(event) for event in events],
            f"{self.project.name}-baskets": [_EMPTY, *map(basket, pairs)],
        }
        self.context.bus.ensure_topics(list(sent))
        for topic, values in sent.items():
            self.context.bus.publish(topic, [(None, value) for value in values])

    def build_borrower(self, folder: Path) -> None:
        """Build the borrower once: its keys come from a file."""
        deals = folder / "deals.csv"
        rows = [f"{position},{buyer},{seller}" for position, (buyer, seller) in enumerate(PAIRS)]
        times = [",2024-05-01T12:00:00Z,1"] * len(rows)
        lines = [row + time for row, time in zip(rows, times, strict=True)]
        deals.write_text("\n".join(["id,buyer,seller,time,x", *lines]), encoding="utf-8")
        ingest(self.context, self.borrower, "deals", [str(deals)], Steps())
        build_project(self.context, self.borrower, None, Steps())

    def bring_an_event(self) -> None:
        """Ask with an event of key a, publish it, ask, publish it again, let the stream read it, ask."""
        context, views, bus = self.context, self.context.views, self.context.bus
        event = Event(
            id="own", key="a", time=now_micros() - MINUTE, arrival=now_micros(), x=2.5, n=3, s="own"
        )
        value, of = message(event), self.project.views[0].source
        self.published[value] = [event]
        given = {"source": of.name, "event": json.loads(value)}

        def ask() -> None:
            at, own = now_micros(), event_values(given, self.project, {"key": "a"}, None)
            (answer,) = context.answers.features(self.project, [{"key": "a"}], at, [own])
            arrived = [one for one in self.arrived(self.project.name) if one.id != event.id]
            self.brought.append(Answered(at, [*arrived, event], [answer]))

        def publish() -> None:
            self.was_published.append(publish_own(views, bus, of, event.id, value, now_micros(), 3600))

        ask()
        publish()
        ask()
        publish()
        self.drain()
        ask()

    def look(self, name: str, later: int = 0, *, traced: bool = False) -> None:
        """Keep the answers of now, or of `later` microseconds from now."""
        at = now_micros() + later
        traces = [why_key(self.context, self.project, {"key": key}, at, 1_000) for key in KEYS[:2] if traced]
        self.moments[name] = Moment(
            at,
            self.arrived(self.project.name),
            self.context.answers.features(self.project, [{"key": key} for key in KEYS], at),
            self.arrived(f"{self.project.name}-baskets"),
            self.context.answers.features(self.borrower, [pair_of(*pair) for pair in PAIRS], at)
            if self.cuts
            else [],
            traces,
        )


def make_project() -> Project:
    """A project of its own name and topic with every aggregate, in windows and for a lifetime."""
    name = f"law_{uuid.uuid4().hex[:8]}"
    fed = replace(source, topic=name)
    recent = FeatureView(
        name="recent", source=fed, key="key", windows=("1h", "7d"), features=some_features("finite")
    )
    lifelong = FeatureView(name="lifelong", source=fed, key="key", features=some_features("none", "life_"))
    nested = replace(BASKETS, topic=f"{name}-baskets")
    baskets = FeatureView(
        name="baskets",
        source=nested,
        key="key",
        windows=("1h", "7d", "1h offset 5m", "7d offset 2d", "week to date Asia/Kolkata"),
        features=of_parts(BASKET_FEATURES),
    )
    return Project(name=name, views=(recent, lifelong, baskets), shared_with=(f"{name}_user",))


def of_parts(features: dict[str, Aggregate]) -> dict[str, Aggregate]:
    """The same features over the parts of nested columns."""
    found: dict[str, Aggregate] = {}
    for name, each in features.items():
        made: Any = each
        where = None if each.where is None else "facts.n > 0"
        found[name] = replace(made, argument=PARTS[str(each.argument)], where=where)
    return found


def make_borrower(owner: Project) -> Project:
    """A project that uses the views of another in two roles, and has a label of its own."""
    recent, lifelong = owner.lend("recent"), owner.lend("lifelong")
    schema = "id STRING, buyer STRING, seller STRING, time TIMESTAMP, x DOUBLE"
    deals = Source(name="deals", id="id", time="time", schema=schema)
    return Project(
        name=f"{owner.name}_user",
        views=(
            recent.on(key="buyer", prefix="buyer"),
            recent.on(key="seller", prefix="seller"),
            lifelong.on(key="seller"),
        ),
        label=Label(source=deals, key=("buyer", "seller"), target="x > 0"),
        model=Model(),
    )


def pair_of(buyer: str, seller: str) -> dict[str, str]:
    """A key of the borrower."""
    return {"buyer": buyer, "seller": seller}


def in_basket(events: Sequence[Event]) -> list[Event]:
    """The events with the ids that they have as items of one message."""
    return [replace(event, id=f"{events[0].id}#{position}") for position, event in enumerate(events)]


def basket(events: Sequence[Event]) -> bytes:
    """The events as one nested message."""
    things = [
        {
            "who": event.key,
            "at": {"time": format_time(event.time)},
            "facts": {"x": event.x, "n": event.n, "d": event.d, "b": event.b},
            "labels": [event.s, "another"],
        }
        for event in events
    ]
    encoder = msgspec.json.Encoder(decimal_format="number")
    return encoder.encode({"basket": {"id": events[0].id, "things": things}})


def live(river: River, folder: Path) -> None:
    """The history. The borrower is built after the first build, and never again."""
    events = some_events(150)
    river.publish(events[:60])
    river.drain()
    river.look("before any batch")
    river.publish([*events[60:80], *events[10:20]])
    river.build()
    river.build_borrower(folder)
    river.publish([*events[80:110], *events[30:40], *events[65:75]])
    river.drain()
    river.look("after a build in the middle", traced=True)
    ahead = [
        replace(
            event,
            id=f"ahead-{event.id}",
            time=now_micros() + 4 * MINUTE + (position % 2) * 30 * SECOND + position * SECOND,
        )
        for position, event in enumerate(events[:6])
    ]
    river.publish([*ahead, *events[110:], *events[:30]])
    river.drain()
    river.look("with events ahead")
    river.look("when their time has come", later=10 * MINUTE)
    river.forget_the_checkpoint()
    river.drain()
    river.look("after a replay")
    river.build()
    river.look("after a second build", traced=True)
    river.look("after a second build, later", later=10 * MINUTE)
    rollback(river.context, river.project)
    river.look("after a rollback")
    river.bring_an_event()


@pytest.fixture(scope="module")
def river(servers: Settings, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> River:
    project = make_project()
    found = River(Context(servers), project, borrower=make_borrower(project))
    live(found, tmp_path_factory.mktemp("law"))
    return found


def assert_exact(river: River, name: str) -> None:
    """Every feature of every key equals the naive fold over the distinct events that had arrived."""
    moment = river.moments[name]
    for key, answer in zip(KEYS, moment.answers, strict=True):
        assert answer.degraded is None
        for view in river.project.views:
            arrived, plain = moment.arrived, view
            if view.name == "baskets":  # the naive fold knows the columns of an event, however it was sent
                arrived, plain = moment.baskets, replace(view, source=source, features=BASKET_FEATURES)
            expected = oracle.answer(plain, arrived, key, moment.at)
            assert_lawful(plain, arrived, expected, dict(answer.values))
    for pair, answer in zip(PAIRS, moment.borrowed, strict=name != "before any batch"):
        assert answer.degraded is None
        assert_roles_are_lawful(river, moment, pair, answer.values)


def assert_roles_are_lawful(
    river: River, moment: Moment, pair: tuple[str, str], values: Mapping[str, object]
) -> None:
    """Every feature of the borrower equals the fold over the events of the key in that role."""
    for view in river.borrower.views:
        of_view = pair_of(*pair)[view.asked[0]]
        expected = oracle.answer(view, moment.arrived, of_view, moment.at)
        assert_lawful(view, moment.arrived, expected, {name: values[name] for name in expected})


def test_the_stream_alone_answers_exactly_before_any_batch(river: River) -> None:
    assert_exact(river, "before any batch")


def test_late_events_are_exact_before_the_next_batch(river: River) -> None:
    (cut, _), moment = river.cuts, river.moments["after a build in the middle"]
    late = [event for event in moment.arrived if event.arrival >= cut > event.time]
    assert late
    assert any(event.arrival < cut for event in moment.arrived)
    assert_exact(river, "after a build in the middle")


def test_the_events_that_an_answer_is_traced_to_fold_to_it(river: River) -> None:
    """Some have landed, some wait in the topics; copies, nested messages and late events are among them."""
    for name in ("after a build in the middle", "after a second build"):
        moment = river.moments[name]
        seen = [
            event
            for key, answer, traced in zip(KEYS, moment.answers, moment.traced, strict=False)
            for event in assert_traced(river, moment, key, answer, traced)
        ]
        channels = {event["channel"] for event in seen}
        assert "batch" in channels
        assert channels <= {"batch", "speed"}
        landed = {event["landed"] for event in seen}
        assert landed == ({True, False} if name == "after a build in the middle" else {True})


def assert_traced(
    river: River, moment: Moment, key: str, answer: Answer, traced: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Folding exactly the events that are listed gives the answer; returns them."""
    found: list[dict[str, Any]] = []
    (cut, *_), at = (
        river.cuts[-1:] if moment is river.moments["after a second build"] else river.cuts,
        moment.at,
    )
    for view, shown in zip(river.project.views, traced["views"], strict=True):
        arrived, plain = moment.arrived, view
        if view.name == "baskets":
            arrived, plain = moment.baskets, replace(view, source=source, features=BASKET_FEATURES)
        assert "incomplete" not in shown
        listed = {event["id"]: event for event in shown["events"]}
        assert len(listed) == shown["found"] == shown["shown"]
        mine = [event for event in arrived if event.id in listed]
        assert_lawful(plain, mine, oracle.answer(plain, mine, key, at), dict(answer.values))
        # And none is listed that no window has.
        first = {event.id: event for event in oracle.distinct(arrived) if event.key == key}
        for name, event in listed.items():
            assert event["time"] == format_time(first[name].time)
            assert event["channel"] == ("batch" if first[name].arrival < cut else "speed")
            assert event["event"]["key"] == key
        for column in view.columns:
            tail, head = column.window.tail(at), column.window.head(at)
            inside = [one for one in first.values() if one.time < head and (tail is None or one.time >= tail)]
            (feature,) = [each for each in traced["features"] if each["name"] == column.name]
            assert feature["events"] == len(inside), column.name
            assert {one.id for one in inside} <= set(listed)
        places = {(event["topic"], event["partition"], event["offset"]) for event in listed.values()}
        assert len(places) == len(listed) or view.name == "baskets"
        found += listed.values()
    return found


def test_an_answer_of_a_borrower_is_traced_to_the_owners_events(river: River) -> None:
    at = river.moments["after a rollback"].at
    traced = why_key(river.context, river.borrower, pair_of("a", "b"), at, 5)
    roles = [(view["role"], view["source"], view["key"]) for view in traced["views"]]
    feed = f"{river.project.name}.things"
    assert roles[:2] == [("buyer", feed, {"key": "a"}), ("seller", feed, {"key": "b"})]
    assert all(view["shown"] == min(view["found"], 5) > 0 for view in traced["views"])
    with pytest.raises(ProblemError, match="nothing is known"):
        why_key(river.context, river.project, {"key": "never seen"}, at, 5)


def test_an_id_that_comes_again_after_the_cut_counts_once(river: River) -> None:
    cut, moment = river.cuts[0], river.moments["after a build in the middle"]
    for arrived in (moment.arrived, moment.baskets):
        before = {event.id for event in arrived if event.arrival < cut}
        assert any(event.id in before for event in arrived if event.arrival >= cut)
    assert_exact(river, "after a build in the middle")


def test_an_event_ahead_of_its_arrival_waits_for_its_time(river: River) -> None:
    waiting, come = river.moments["with events ahead"], river.moments["when their time has come"]
    ahead = [event for event in waiting.arrived if event.time > waiting.at]
    assert ahead
    assert all(event.time < come.at for event in ahead)
    assert_exact(river, "with events ahead")
    assert_exact(river, "when their time has come")


def test_a_replay_of_the_whole_stream_changes_nothing(river: River) -> None:
    assert_exact(river, "after a replay")


def test_a_second_build_changes_no_answer(river: River) -> None:
    first, second = river.cuts
    assert first < second
    assert_exact(river, "after a second build")
    assert_exact(river, "after a second build, later")


def test_a_rollback_is_exact(river: River) -> None:
    versions = [
        river.moments[name].answers[0].batch_version
        for name in ("after a replay", "after a second build", "after a rollback")
    ]
    assert versions[0] == versions[2] != versions[1]
    assert_exact(river, "after a rollback")


def test_an_event_that_comes_with_questions_counts_once_before_and_after_the_stream_reads_it(
    river: River,
) -> None:
    assert river.was_published == [True, False]
    assert [one.answers[0].counted for one in river.brought] == [(False,), (False,), (True,)]
    assert len([one for one in river.arrived(river.project.name) if one.id == "own"]) == 1
    for moment in river.brought:
        (answer,) = moment.answers
        assert answer.degraded is None
        for view in (each for each in river.project.views if each.name != "baskets"):
            expected = oracle.answer(view, moment.arrived, "a", moment.at)
            assert_lawful(view, moment.arrived, expected, {name: answer.values[name] for name in expected})


def test_a_view_that_two_projects_use_is_landed_streamed_and_built_once(river: River) -> None:
    context, borrower = river.context, river.borrower
    assert sources_of(borrower) == []
    tables = context.views.session.cluster.metadata.keyspaces[context.settings.views.keyspace].tables
    mine = [name for name in tables if name.startswith(borrower.name)]
    assert sorted(mine) == [f"{borrower.name}_current", f"{borrower.name}_history"]
    manifest = context.views.manifest(borrower.name)
    assert manifest is not None
    assert (manifest.tables, manifest.fingerprints, set(manifest.lake_versions)) == ({}, {}, {"deals"})
    # Each answer is made with the version that the owner has now.
    owners = context.views.manifest(river.project.name)
    assert manifest.lent[river.project.name].batch_version == (owners and owners.batch_version)


def test_training_rows_and_verification_of_a_borrower_read_the_owners_lake(
    river: River, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, borrower, moment = river.context, river.borrower, river.moments["after a rollback"]
    versions = context.lake.versions_read(context.spark, borrower)
    assert set(versions) == {"deals", f"{river.project.name}.things"}
    rows = context.spark.createDataFrame(
        [(*pair, from_micros(moment.at)) for pair in PAIRS], "buyer STRING, seller STRING, at TIMESTAMP"
    )
    events = context.lake.distinct_events(context.spark, borrower, versions)
    found = point_in_time(borrower, events, rows, "at").collect()
    assert len(found) == len(PAIRS)
    for row in found:
        values = {column.name: column.type.value(row[column.name]) for column in borrower.columns}
        assert_roles_are_lawful(river, moment, (row["buyer"], row["seller"]), values)
    declared = {river.project.name: river.project}
    monkeypatch.setattr(context, "project", declared.__getitem__)  # neither is declared in a file
    verified = verify_settled(context, borrower, None, Steps())
    assert (verified.keys, verified.mismatches, verified.degraded) == (len(PAIRS), 0, 0)


def test_a_key_never_seen_has_empty_values(river: River) -> None:
    values = river.moments["after a rollback"].answers[KEYS.index("never seen")].values
    assert values["count_x_7d"] == 0
    assert values["life_sum_x"] is None
