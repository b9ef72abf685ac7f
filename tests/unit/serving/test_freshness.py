"""Promises of freshness: the delay that a stream measures, and how the server judges both channels."""

from dataclasses import replace

import pytest

from anabranch import Freshness
from anabranch.answers.delays import Delay, as_measures, from_measures
from anabranch.declare.loading import load_project
from anabranch.stores.cassandra.measures import Measure
from anabranch.values.times import DAY, SECOND, format_time, from_micros
from serving.api.live import Served
from serving.api.metrics import of_projects
from serving.api.promises import ChannelFreshness, judged, kept
from speed.progress import Delays
from tests.support.serving_fakes import NOW, PROJECTS, Bench, FakeManifest, bench
from tests.unit.serving.test_serving_pages import PAGE, read

HEART = load_project("heart_disease", (PROJECTS,))


def delayed(source: str, behind: float, ago: float = 0, kept_since: int | None = None) -> list[Measure]:
    delay = Delay(
        source=source, at=NOW - int(ago * SECOND), behind=int(behind * SECOND), kept_since=kept_since
    )
    return as_measures("heart_disease", delay)


def stream(*measures: list[Measure]) -> ChannelFreshness:
    return judged(Served(project=HEART), [one for each in measures for one in each], NOW)["stream"]


def batch(cut: int) -> ChannelFreshness:
    return judged(Served(project=HEART, manifest=FakeManifest(cut=cut)), [], NOW)["batch"]


def test_the_batch_keeps_its_promise_until_its_cut_is_too_old_and_has_missed_it_from_that_moment_on() -> None:
    assert (batch(NOW - DAY).state, batch(NOW - DAY).since) == ("kept", FakeManifest().built_at)
    late = batch(NOW - DAY - 5 * SECOND)
    assert (late.state, late.since, late.behind) == ("missed", NOW - 5 * SECOND, DAY + 5 * SECOND)
    assert judged(Served(project=HEART), [], NOW)["batch"].state == "unknown"


def test_the_stream_keeps_its_promise_when_every_source_does() -> None:
    since = NOW - 100 * SECOND
    found = stream(
        delayed("exams", 0.5, kept_since=since), delayed("bracelet", 2, ago=6, kept_since=since + SECOND)
    )
    assert (found.state, found.behind, found.since) == ("kept", 2 * SECOND, since + SECOND)
    late = stream(delayed("exams", 0.5, kept_since=since), delayed("bracelet", 14, ago=6))
    # What arrived 20 s ago was not there 6 s ago: since 10 s ago that is longer than promised.
    assert (late.state, late.behind, late.since) == ("missed", 14 * SECOND, NOW - 10 * SECOND)
    assert late.sources == {"exams": SECOND // 2, "bracelet": 14 * SECOND}


def test_a_stream_that_is_silent_misses_its_promise_since_it_last_spoke() -> None:
    found = stream(delayed("exams", 1, ago=31, kept_since=NOW - DAY), delayed("bracelet", 1))
    assert (found.state, found.behind, found.since) == ("missed", 32 * SECOND, NOW - 22 * SECOND)
    assert stream(delayed("exams", 1, ago=29), delayed("bracelet", 1)).state == "kept"


def test_an_unmeasured_delay_is_unknown_and_a_channel_without_a_promise_has_no_state() -> None:
    assert stream() == ChannelFreshness(
        promised=10 * SECOND, state="unknown", sources={"exams": None, "bracelet": None}
    )
    assert stream(delayed("exams", 1)).state == "unknown"
    free = judged(Served(project=replace(HEART, freshness=Freshness(batch="1d"))), delayed("exams", 1), NOW)[
        "stream"
    ]
    assert (free.state, free.behind) == (None, SECOND)
    assert kept({"batch": batch(NOW), "stream": stream()}) is True
    assert kept({"batch": batch(NOW), "stream": stream(delayed("exams", 11))}) is False
    assert kept({"stream": stream()}) is None


def test_delays_come_back_as_they_were_kept() -> None:
    delay = Delay(source="exams", at=NOW, behind=1_500_000, kept_since=NOW - DAY)
    other = Measure(
        project="heart_disease",
        subject="features",
        name="delay",
        slice="exams",
        at=from_micros(NOW),
        value=9.0,
    )
    assert from_measures([*as_measures("heart_disease", delay), other], ["exams", "bracelet"]) == [delay]
    assert from_measures(as_measures("heart_disease", replace(delay, kept_since=None)), ["exams"]) == [
        replace(delay, kept_since=None)
    ]


def test_a_stream_finds_its_delay_by_where_the_topic_ended_and_when_it_got_there() -> None:
    found = Delays("readings", promised=10 * SECOND)
    assert found.report(0) is None
    found.topic_ended(1 * SECOND, {0: 5, 1: 2})
    found.query_reached(2 * SECOND, {0: 5})
    assert found.report(2 * SECOND) is None  # of what came before it started it knows nothing
    found.query_reached(3 * SECOND, {0: 5, 1: 3})
    assert found.report(4 * SECOND) == Delay(
        source="readings", at=4 * SECOND, behind=2 * SECOND, kept_since=2 * SECOND
    )
    assert found.report(9 * SECOND) == Delay(
        source="readings", at=9 * SECOND, behind=0, kept_since=2 * SECOND
    )
    found.topic_ended(10 * SECOND, {0: 6, 1: 3})
    found.topic_ended(15 * SECOND, {0: 9, 1: 3})
    found.query_reached(21 * SECOND, {0: 5, 1: 3})
    assert found.report(21 * SECOND) == Delay(source="readings", at=21 * SECOND, behind=11 * SECOND)
    found.query_reached(22 * SECOND, {0: 8, 1: 3})
    assert found.report(22 * SECOND) == Delay(source="readings", at=22 * SECOND, behind=12 * SECOND)
    found.query_reached(23 * SECOND, {0: 9, 1: 3})
    assert found.report(23 * SECOND) == Delay(
        source="readings", at=23 * SECOND, behind=8 * SECOND, kept_since=15 * SECOND
    )


def test_a_stream_that_never_reaches_the_end_reports_its_delay() -> None:
    found = Delays("readings", promised=10 * SECOND)
    found.topic_ended(0, {0: 1})
    found.query_reached(5 * SECOND, {})
    assert found.report(5 * SECOND) is None
    assert found.report(11 * SECOND) == Delay(source="readings", at=11 * SECOND, behind=11 * SECOND)


@pytest.fixture
def heart() -> Bench:
    since = NOW - 60 * SECOND
    measures = [*delayed("exams", 1, kept_since=since), *delayed("bracelet", 12)]
    found = bench(PROJECTS, HEART.model_features)
    found.stores.kept.latest = lambda _: measures
    return found


def test_catalogue_page_and_metrics_say_that_a_promise_is_missed_and_since_when(heart: Bench) -> None:
    found = heart.ask("GET", "/v1/projects/heart_disease")[1]["freshness"]
    since = format_time(NOW - 2 * SECOND)
    assert found["stream"] == {
        "promised_seconds": 10.0,
        "seconds": 12.0,
        "state": "missed",
        "since": since,
        "sources": {"exams": 1.0, "bracelet": 12.0},
    }
    assert (found["kept"], found["batch"]["state"]) == (False, "kept")
    page = read(heart, PAGE).text
    assert "12 s behind arrival in bracelet" in page
    assert f"missed since {since[:10]} {since[11:19]}" in page
    assert "stale" in read(heart, "/").text
    assert "kept_since" not in page
    heart.app.parts.measured.look(["heart_disease"])
    text = heart.raw("GET", "/metrics").body.decode()
    states = {
        state: f'anabranch_freshness{{channel="stream",project="heart_disease",state="{state}"}}'
        for state in ("kept", "missed", "unknown")
    }
    assert [
        f"{states[state]} {value}" in text
        for state, value in (("kept", "0.0"), ("missed", "1.0"), ("unknown", "0.0"))
    ] == [True] * 3
    assert 'anabranch_freshness_seconds{channel="stream",project="heart_disease"} 12.0' in text
    assert 'anabranch_freshness_promised_seconds{channel="batch",project="heart_disease"} 86400.0' in text


def test_figures_of_projects_that_a_caller_may_not_see_are_left_out() -> None:
    text = (
        b'# HELP x y\nx{project="a",state="1"} 1.0\nx{state="1",project="b"} 2.0\n'
        b'x{project=""} 3.0\nz 4.0\nx{slice="q,project=\\"b\\""} 5.0\n'
    )
    assert of_projects(text, lambda project: project == "a").splitlines() == [
        line for line in text.splitlines() if b" 2.0" not in line
    ]
