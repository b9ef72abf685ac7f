"""Events that come with a question: read, refused, and counted as if they had arrived."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source, Sum
from anabranch.answers import own as own_answers
from anabranch.answers.features import Answers
from anabranch.answers.own import publish_own
from anabranch.answers.own_requests import event_values
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, read_asked, read_message
from anabranch.errors import UnavailableError
from anabranch.events.own_events import OwnEvent
from anabranch.stores.cassandra.own_events import OwnPlace, StreamPlaces, counted
from anabranch.stores.cassandra.views import Views
from anabranch.stores.kafka.bus import Bus
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT
from anabranch.values.times import MINUTE, SECOND, format_time, now_micros
from tests.support.fraud import fraud
from tests.support.law import START, Event, events_strategy
from tests.unit.answers.test_derived_law import PROJECT, expected
from tests.unit.answers.test_view_uses import KEYS, LIFELONG, VIEW, StatesInMemory
from tests.unit.folds.test_law import assert_lawful

PAID = {"payment_id": "p1", "card": 7, "amount": 12.5, "shop": "kiosk", "paid_at": "2024-05-01T12:00:00Z"}


def as_json(event: Event) -> dict[str, Any]:
    """An event of the law's source as a caller sends it; JSON has no NaN."""
    decimal = None if event.d is None else str(event.d)
    number = event.x if event.x is not None and abs(event.x) < float("inf") else None
    return {**event.__dict__, "time": format_time(event.time), "d": decimal, "x": number}


def finite(event: Event) -> Event:
    """The event as `as_json` sends it."""
    return replace(event, x=as_json(event)["x"])


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(events=events_strategy(), cut_slots=st.integers(0, 9 * 24), late=st.integers(0, SLACK // MINUTE))
def test_an_answer_with_events_equals_the_answer_after_they_arrived_in_every_role_and_derived_feature(
    events: list[Event], cut_slots: int, late: int
) -> None:
    cut = START + cut_slots * SLOT
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    ids = {event.id for event in arrived}
    news = [finite(event) for event in oracle.distinct(events) if event.id not in ids and event.time < at]
    answers = Answers(cast("Views", StatesInMemory(arrived, {"deals": cut})))
    asked = [dict(zip(("buyer", "seller"), key, strict=True)) for key in KEYS]
    own = [brought(news, key) for key in asked]
    for key, mine, answer in zip(asked, own, answers.features(PROJECT, asked, at, own), strict=True):
        assert answer.degraded is None
        counted = {event.id for event in mine}
        after = [*arrived, *(replace(event, arrival=at) for event in news if event.id in counted)]
        folded: dict[str, Any] = {}
        for view in PROJECT.views:
            found = oracle.answer(view, after, key[view.asked[0]], at)
            assert_lawful(view, after, found, dict(answer.values))
            folded |= found
        wanted = expected(folded, key["buyer"], key["seller"])
        assert {name: answer.values[name] for name in wanted} == wanted


def brought(news: Sequence[Event], key: dict[str, str]) -> tuple[OwnEvent, ...]:
    """The events of one of the key's columns, as a question brings them."""
    given = [{"source": "things", "event": as_json(e)} for e in news if e.key in key.values()]
    return event_values(given, PROJECT, key, None) if given else ()


def test_an_event_makes_its_key_known_and_a_question_without_it_is_not_touched() -> None:
    answers = Answers(cast("Views", StatesInMemory([], {})))
    event = Event(id="e", key="a", time=START, arrival=START, x=2.0, s="é")
    key = {"buyer": "a", "seller": "b"}
    own = brought([event], key)
    one, other = answers.features(PROJECT, [key, key], START + 1, [own, ()])
    assert one.known
    assert not other.known
    assert (one.values["buyer_count_x_1h"], other.values["buyer_count_x_1h"]) == (1, 0)
    assert one.values["buyer_last_s_7d"] == "é"
    assert (one.values["count_x"], other.values["count_x"]) == (0, 0)  # the seller is another key


def test_an_event_ahead_of_now_is_counted_as_of_just_after_it() -> None:
    answers = Answers(cast("Views", StatesInMemory([], {})))
    ahead = now_micros() + 2 * MINUTE
    key = {"buyer": "a", "seller": "b"}
    own = brought([Event(id="e", key="a", time=ahead, arrival=ahead, x=2.0)], key)
    one, other = answers.features(PROJECT, [key, key], events=[own, ()])
    assert (one.as_of, one.values["buyer_count_x_1h"]) == (ahead + 1, 1)
    assert other.as_of < ahead


def ask(body: object, project: Project = fraud) -> Asked:
    found = read_asked(json.dumps(body).encode(), project, now_micros())
    assert isinstance(found, Asked)
    return found


REQUEST = {"amount": 1}


def test_an_event_is_read_by_the_rules_of_landing() -> None:
    given = {"source": "payments", "event": {**PAID, "amount": " 12.5", "more": [1]}}
    (event,) = ask({"key": 7, "request": REQUEST, "event": given}).events
    assert (event.id, event.time, event.positions) == ("p1", 1_714_564_800_000_000, frozenset({0, 1}))
    assert event.row == {**PAID, "paid_at": event.time}
    body = {"request_id": "r", "key": 7, "request": REQUEST, "event": [given, given]}
    message = read_message(json.dumps(body).encode(), fraud)
    assert message.asked is not None
    assert [one.id for one in message.asked.events] == ["p1"]


def test_decimals_of_an_event_keep_their_digits() -> None:
    source = Source(name="b", id="id", time="at", schema="id BIGINT, k STRING, at DATE, d DECIMAL(30,10)")
    view = FeatureView(name="v", source=source, key="k", features={"sum": Sum("d"), "last": Last("d")})
    body = (
        b'{"instances": [{"key": "k"}, {"key": "k", "event": {"source": "b", "event": '
        b'{"id": 9, "k": "k", "at": "2024-05-01", "d": 1234567890123456789.0123456789}}}]}'
    )
    found = read_asked(body, Project(name="p", views=(view,)))
    assert isinstance(found, list)
    (event,) = found[1].events
    assert str(event.row["d"]) == "1234567890123456789.0123456789"
    assert (event.id, event.time) == ("9", 1_714_521_600_000_000)


@pytest.mark.parametrize(
    ("event", "field", "says"),
    [
        (7, "event", 'send {"source"'),
        ({"source": "payments", "event": PAID, "send": True}, "event.send", "does not belong"),
        ({"source": "refunds", "event": PAID}, "event.source", "it is no source of fraud: .*payments"),
        ({"source": "chargebacks", "event": PAID}, "event.source", "no view reads it"),
        ({"event": PAID}, "event.source", "source null: it is no source"),
        ({"source": "payments", "event": [PAID]}, "event.event.payment_id", "JSON object"),
        ({"source": "payments", "event": {**PAID, "card": 8}}, "event.event.card", "of '8'.*asks for '7'"),
        ({"source": "payments", "event": {**PAID, "card": None}}, "event.event.card", "card is missing"),
        ({"source": "payments", "event": {**PAID, "amount": "much"}}, "event.event.amount", "DOUBLE"),
        ({"source": "payments", "event": {**PAID, "payment_id": ""}}, "event.event.payment_id", "missing"),
        (
            {"source": "payments", "event": {**PAID, "paid_at": "2999-01-01"}},
            "event.event.paid_at",
            "in the future",
        ),
        ([], "event", "1 to 100"),
        ({"source": {}, "event": {}}, "event.source", "it is no source"),
        ([{"source": "payments", "event": PAID}, 1], "event[1]", "send"),
    ],
)
def test_an_event_that_cannot_count_is_refused_by_its_field(event: object, field: str, says: str) -> None:
    with pytest.raises(ProblemError, match=says) as refused:
        ask({"key": 7, "request": REQUEST, "event": event})
    assert (refused.value.status, refused.value.field) == (422, field)


def test_an_event_without_a_key_or_of_a_view_that_spark_alone_computes_is_refused() -> None:
    with pytest.raises(ProblemError, match="needs a key"):
        ask({"features": {"spent_1h": 1}, "request": REQUEST, "event": {"source": "payments", "event": PAID}})
    payments = fraud.views[0].source
    view = FeatureView(name="v", source=payments, key="card", features={"x": Last("soundex(shop)")})
    with pytest.raises(ProblemError, match=r"view 'v': feature 'x'.*publish them instead"):
        ask({"key": 7, "event": {"source": "payments", "event": PAID}}, Project(name="p", views=(view,)))


def test_events_the_filter_leaves_out_do_not_count() -> None:
    payments = fraud.views[0].source
    view = FeatureView(
        name="v",
        source=payments,
        key="card",
        features={"large": Count(where="amount > 100"), "all": Count()},
    )
    project = Project(name="p", views=(view,))
    own = event_values({"source": "payments", "event": PAID}, project, {"card": "7"}, None)
    answers = Answers(cast("Views", StatesInMemory([], {})))
    (answer,) = answers.features(project, [{"card": "7"}], events=[own])
    assert answer.values == {"large": 0, "all": 1}


def test_events_of_a_source_that_two_projects_declare_alike_count_in_the_views_of_both() -> None:
    assert VIEW.source == LIFELONG.source
    label = Label(source=VIEW.source, key="key", target="b")
    owner = Project(name="owner", views=(LIFELONG,), shared_with=("deals",))
    project = Project(name="deals", views=(VIEW, owner.lend(LIFELONG.name)), label=label, model=Model())
    given = {"id": "e", "key": "a", "time": format_time(START)}
    for name in ("things", "owner.things"):
        (event,) = event_values({"source": name, "event": given}, project, {"key": "a"}, None)
        assert event.positions == {0, 1}


ARRIVED, OWN = START + MINUTE, Event(id="e", key="a", time=START, arrival=START + MINUTE, x=2.0)
AT_7 = OwnPlace(claimed=START, partition=0, offset=7, arrived=ARRIVED)
BEFORE, WRITING = StreamPlaces({0: 7}, {0: 7}), StreamPlaces({0: 9}, {0: 7})
DONE = StreamPlaces({0: 9}, {0: 9})


@pytest.mark.parametrize(
    ("at", "before", "after", "cut", "expected"),
    [
        (AT_7, StreamPlaces(), StreamPlaces(), None, False),
        (AT_7, BEFORE, BEFORE, None, False),
        (AT_7, BEFORE, WRITING, None, None),  # it may have been written before or after the reads
        (AT_7, WRITING, DONE, None, None),
        (AT_7, DONE, DONE, None, True),
        (AT_7, StreamPlaces({1: 9}, {1: 9}), StreamPlaces({1: 9}, {1: 9}), None, False),
        (AT_7, StreamPlaces(), StreamPlaces(), ARRIVED, False),  # a batch holds what arrived before its cut
        (AT_7, StreamPlaces(), StreamPlaces(), ARRIVED + 1, True),
        (OwnPlace(claimed=START), DONE, DONE, ARRIVED + 1, None),
    ],
)
def test_places_tell_whether_what_was_read_holds_an_event(
    at: OwnPlace, before: StreamPlaces, after: StreamPlaces, cut: int | None, expected: bool | None
) -> None:
    assert counted(at, before, after, cut) is expected


@pytest.mark.parametrize(
    ("there", "streams", "known", "degraded"),
    [
        (False, [BEFORE], False, False),
        (True, [DONE], True, False),
        (True, [BEFORE, WRITING, WRITING, WRITING, DONE], True, False),
        (False, [WRITING], True, True),
    ],
)
def test_an_event_that_was_published_before_counts_once_wherever_its_stream_is(
    monkeypatch: pytest.MonkeyPatch, there: bool, streams: list[StreamPlaces], known: bool, degraded: bool
) -> None:
    # A busy machine may take long to look again; only where nothing ever comes is it waited for in vain.
    monkeypatch.setattr(own_answers, "PATIENCE", 0.2 if degraded else 30.0)
    events = [OWN] if there else []
    store = StatesInMemory(events, {}, own={("things", "e"): AT_7}, streams=[*streams])
    key = {"buyer": "a", "seller": "b"}
    own = brought([OWN, Event(id="f", key="a", time=START, arrival=START, x=3.0)], key)
    answers = Answers(cast("Views", store))
    (answer,) = answers.features(PROJECT, [key], START + 2 * MINUTE, [own])
    assert answer.counted == (known, False)
    assert (answer.degraded is not None) is degraded
    assert answer.values["buyer_count_x_1h"] == (1 if degraded else 2)


class Topic:
    """What a bus stores of one topic; `away` while it does not answer."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.away = False

    def publish_one(self, topic: str, key: bytes, value: bytes) -> tuple[int, int, int]:
        if self.away:
            raise UnavailableError("Kafka is away")
        self.messages.append(value)
        return 0, len(self.messages) - 1, START


class Claims:
    """The table of own events."""

    def __init__(self) -> None:
        self.rows: dict[str, OwnPlace] = {}

    def claim(self, topic: str, event: str, now: int, seconds: int) -> bool:
        return self.rows.setdefault(event, row := OwnPlace(claimed=now)) is row

    def published(self, topic: str, ids: Sequence[str]) -> dict[str, OwnPlace]:
        return {one: self.rows[one] for one in ids if one in self.rows}

    def note_published(self, topic: str, event: str, at: OwnPlace, seconds: int) -> None:
        self.rows[event] = at


def test_an_event_is_published_once_whoever_brings_it_and_again_where_it_failed() -> None:
    topic, claims = Topic(), Claims()

    def publish(now: int) -> bool:
        return publish_own(cast("Views", claims), cast("Bus", topic), VIEW.source, "e", b"{}", now, 3600)

    topic.away = True
    with pytest.raises(UnavailableError):
        publish(START)
    topic.away = False
    assert [publish(START), publish(START), publish(START + MINUTE)] == [True, False, False]
    assert claims.rows["e"] == OwnPlace(claimed=START, partition=0, offset=0, arrived=START)
    claims.rows["e"] = OwnPlace(claimed=START)  # a server was killed between claim and publication
    with pytest.raises(UnavailableError, match="for another question: try again"):
        publish(START + SECOND)
    assert publish(START + MINUTE)
    assert len(topic.messages) == 2


@pytest.mark.parametrize(
    ("publish", "says"), [("yes", "true or false"), (True, "no id, by which it would count once")]
)
def test_an_event_that_cannot_be_published_is_refused(publish: object, says: str) -> None:
    source = Source(name="b", topic="b", id=None, time="at", schema="k STRING, at TIMESTAMP")
    project = Project(
        name="p", views=(FeatureView(name="v", source=source, key="k", features={"n": Count()}),)
    )
    given = {"source": "b", "event": {"k": "k", "at": "2024-05-01"}, "publish": publish}
    with pytest.raises(ProblemError, match=says) as refused:
        ask({"key": "k", "event": given}, project)
    assert refused.value.field == "event.publish"


def test_an_event_to_publish_keeps_its_message_and_is_refused_by_message() -> None:
    given = {"source": "payments", "event": {**PAID, "more": {"a": 1.50}}, "publish": True}
    body = {"key": 7, "request": REQUEST, "event": given}
    (event,) = ask(body).events
    assert json.loads(event.message or b"") == given["event"]
    message = read_message(json.dumps({"request_id": "r", **body}).encode(), fraud)
    assert message.problem is not None
    assert message.problem.field == "event.publish"
