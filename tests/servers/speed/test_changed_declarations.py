"""The law while a declaration changes: no answer is refused, each is the fold by its version's declaration.

One history is lived through once, with a stream that never stops and somebody who never stops asking; each
test looks at one part of it. Every kind of change is in it: a feature more, one less, another window, another
meaning, another name of a view, another key, a wider source, another derived feature.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import speed.streams
from anabranch import Count, Derived, FeatureView, Last, Max, Mean, Project, Sum
from anabranch.answers.features import Answer
from anabranch.errors import MisuseError, UnknownProjectError
from anabranch.testing import oracle
from anabranch.values.times import now_micros
from jobs.flows import retiring
from jobs.flows.building import build_project, rollback_project
from jobs.flows.retiring import RetiredProject
from jobs.flows.verifying import verify_settled
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings
from speed.streams import Streams
from tests.support.law import Event, source
from tests.support.law_river import message, records_of, some_events
from tests.unit.folds.test_law import assert_lawful

KEYS = ({"who": "a", "n": "0"}, {"who": "b", "n": "1"}, {"who": "never seen", "n": "0"})
PATIENCE = 120.0


def first_and_second(name: str) -> tuple[Project, Project]:
    """Two declarations of a project: all that can change does."""
    schema = source.schema.replace("key STRING", "who STRING")
    fed = replace(source, topic=name, schema=schema, fields={"who": "key"})
    wider = replace(fed, schema=f"{fed.schema}, more INT")

    def view(name: str, **changes: object) -> FeatureView:
        given: dict[str, object] = {"source": fed, "key": "who", "windows": ("1h", "7d"), **changes}
        return FeatureView(name=name, **given)  # type: ignore[arg-type]

    first = Project(
        name=name,
        views=(
            view("same", features={"same": Count()}),
            view("more", features={"n": Count("x")}),
            view("less", features={"top": Max("n"), "gone": Sum("d")}),
            view("spans", features={"total": Sum("n")}),
            view("meant", features={"mean": Mean("x")}),
            view("named", features={"last": Last("s")}),
            view("keyed", features={"by_key": Count("n")}),
        ),
        derived={"ratio": Derived("n_1h / nullif(n_7d, 0)")},
    )
    views = (
        view("same", source=wider, features={"same": Count()}),
        view("more", source=wider, features={"n": Count("x"), "added": Sum("n")}),
        view("less", source=wider, features={"top": Max("n")}),
        view("spans", source=wider, windows=("1h", "30d", "7d offset 2d"), features={"total": Sum("n")}),
        view("meant", source=wider, features={"mean": Mean("x", where="n > 0")}),
        view("renamed", source=wider, features={"latest": Last("s")}),
        view("keyed", source=wider, key="n", features={"by_n": Count("n")}),
    )
    return first, Project(name=name, views=views, derived={"ratio": Derived("n_7d / nullif(n_1h, 0)")})


@dataclass(frozen=True)
class Asked:
    """What was answered at `at`, and the records that the stream had read; 0 while it may lag."""

    at: int
    settled: int
    answers: Sequence[Answer]


class AtStep(Steps):
    """Calls a function when a step of a build begins."""

    def __init__(self, begins: str, call: Callable[[], None]) -> None:
        super().__init__()
        self._begins, self._call = begins, call

    def step(self, text: str) -> None:
        super().step(text)
        if text.startswith(self._begins):
            self._call()


@dataclass
class Changed:
    """A project that is declared anew in the middle of its life."""

    context: Context
    first: Project
    second: Project
    declared: Project
    by_version: dict[int | None, Project] = field(default_factory=dict)
    published: dict[bytes, Event] = field(default_factory=dict)
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    refused: list[BaseException] = field(default_factory=list)
    mismatches: dict[str, tuple[int, int]] = field(default_factory=dict)
    queries: dict[str, set[str]] = field(default_factory=dict)
    phase: str = "before"
    settled: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    streams: Streams | None = None

    def stream(self) -> None:
        """Run the stream until the end, as the verb does."""
        layer = replace(self.context.speed_layer(once=False), trigger="1 second")
        self.streams = streams = Streams(layer, [self.first], lambda _name: self.declared)
        streams.start()
        while not self.stopping.wait(0.3):
            streams.look()
        streams.stop()

    def ask(self) -> None:
        """Ask again and again; keep what was answered, and whatever was raised."""
        while not self.stopping.wait(0.02):
            phase, settled = self.phase, self.settled
            try:
                project, manifest = self.context.answers.served(self.declared)
                keys = [{name: one[name] for name in project.keys} for one in KEYS]
                at = now_micros()
                found = self.context.answers.features(project, keys, at, manifest=manifest)
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller would have got no answer
                self.refused.append(error)
            else:
                still = settled if settled == self.settled else 0
                self.asked.setdefault(phase, []).append(Asked(at, still, found))

    def publish(self, events: Sequence[Event]) -> None:
        """Publish, and wait until the stream has read all for the views that serve."""
        self.settled = 0
        self.published |= {message(event): event for event in events}
        self.context.bus.publish(self.first.name, [(None, message(event)) for event in events])
        project, _ = self.context.answers.served(self.declared)
        self.wait_for(project)
        self.settled = len(self.records())

    def wait_for(self, project: Project) -> None:
        """Wait until the stream has read the whole topic for all views of a declaration."""
        views, bus = self.context.views, self.context.bus

        def reached() -> bool:
            ends = bus.ends(self.first.name)
            done = [views.places(self.first.name, view.tiles_name).done for view in project.own_views]
            return all(one.get(part, 0) >= end for one in done for part, end in ends.items())

        assert wait_until(reached, PATIENCE), self.said()

    def said(self) -> list[str]:
        return [] if self.streams is None else [one.line() for one in self.streams.look()]

    def records(self) -> list[Event]:
        """All that arrived, in order."""
        return [
            replace(self.published[one.value], arrival=one.timestamp * 1000)
            for one in records_of(self.context.bus, self.first.name)
        ]

    def build(self, steps: Steps) -> None:
        built = build_project(self.context, self.declared, None, steps)
        self.by_version[built.manifest.batch_version] = self.declared

    def verify(self) -> None:
        found = verify_settled(self.context, self.declared, None, Steps())
        self.mismatches[self.phase] = (found.mismatches, found.keys)

    def note_queries(self) -> None:
        assert self.streams is not None
        self.queries[self.phase] = {one.source for one in self.streams.look() if one.unit == "events"}


def live(found: Changed) -> None:
    """The history."""
    # JSON has no NaN: a message with one is bad where its fields lie elsewhere than in their names.
    events = [
        event if event.x is None or isfinite(event.x) else replace(event, x=None)
        for event in some_events(130)
    ]
    found.context.bus.ensure_topics([found.first.name])
    found.publish(events[:50])
    found.build(Steps())
    time.sleep(0.5)
    found.phase = "served by the first"
    found.publish(events[50:70])
    time.sleep(0.5)
    found.phase, found.declared = "declared anew", found.second
    found.publish([*events[70:80], *events[5:15]])
    found.verify()
    found.note_queries()
    # What arrives while the build validates is after its cut: in tiles alone, of both meanings.
    found.build(AtStep("validating", lambda: found.publish(events[80:100])))
    found.phase = "served by the second"
    time.sleep(0.5)
    found.verify()
    found.publish(events[100:115])
    found.wait_for(found.first)
    rollback_project(found.context, found.declared, Steps())
    found.phase = "rolled back"
    time.sleep(0.5)
    found.verify()
    found.publish(events[115:])
    time.sleep(0.5)


@pytest.fixture(scope="module")
def changed(servers: Settings, spark: SparkSession) -> Changed:
    first, second = first_and_second(f"changed_{uuid.uuid4().hex[:8]}")
    found = Changed(Context(servers), first, second, declared=first)
    found.by_version[None] = first
    found.context.spark = spark
    before, speed.streams._LAG_SECONDS = speed.streams._LAG_SECONDS, 1.0
    threads = [threading.Thread(target=run, daemon=True) for run in (found.stream, found.ask)]
    found.context.bus.ensure_topics([first.name])
    found.context.views.ensure_own_events()
    for thread in threads:
        thread.start()
    try:
        live(found)
    finally:
        found.stopping.set()
        for thread in threads:
            thread.join(30)
        speed.streams._LAG_SECONDS = before
    return found


def test_no_answer_is_refused_whatever_changes(changed: Changed) -> None:
    assert changed.refused == []
    assert set(changed.asked) == {
        "before",
        "served by the first",
        "declared anew",
        "served by the second",
        "rolled back",
    }


def assert_by(
    project: Project, arrived: Sequence[Event], answer: Answer, key: dict[str, str], at: int
) -> None:
    """The answer has the columns of this declaration, each the naive fold."""
    assert answer.degraded is None
    assert list(answer.values) == [column.name for column in project.columns]
    for view in project.views:
        mine, text = arrived, key["who"]
        if view.keys == ("n",):
            first = oracle.distinct(arrived)  # a copy of another key counts no more than one of the same
            mine = [replace(event, key=str(event.n)) for event in first if event.n is not None]
            text = key["n"]
        assert_lawful(view, mine, oracle.answer(view, mine, text, at), dict(answer.values))
    above, below = ("n_1h", "n_7d") if project.views[1].column_names == ("n_1h", "n_7d") else ("n_7d", "n_1h")
    wanted = answer.values[above] / answer.values[below] if answer.values[below] else None  # type: ignore[operator]
    assert answer.values["ratio"] == wanted


def test_every_answer_is_the_fold_by_the_declaration_of_the_version_that_it_names(changed: Changed) -> None:
    records, compared = changed.records(), set()
    for phase, moments in changed.asked.items():
        for one in moments[:: max(1, len(moments) // 12)] + moments[-3:]:
            if one.settled:
                for key, answer in zip(KEYS, one.answers, strict=True):
                    project = changed.by_version[answer.batch_version]
                    assert_by(project, records[: one.settled], answer, key, one.at)
                    compared.add((phase, project is changed.second))
    assert compared >= {
        ("served by the first", False),
        ("declared anew", False),
        ("served by the second", True),
        ("rolled back", False),
    }


def test_a_version_takes_over_with_all_that_arrived_while_it_was_built(changed: Changed) -> None:
    """The first answers by the new declaration count what only tiles of the new meaning have."""
    moments = [one for moments in changed.asked.values() for one in moments]
    new = [one for one in moments if changed.by_version[one.answers[0].batch_version] is changed.second]
    records = changed.records()
    assert new[0].settled == 110
    for one in new[:3]:
        for key, answer in zip(KEYS, one.answers, strict=True):
            assert_by(changed.second, records[:110], answer, key, one.at)


def test_verify_holds_between_after_and_after_a_rollback(changed: Changed) -> None:
    assert {phase: wrong for phase, (wrong, _) in changed.mismatches.items()} == {
        "declared anew": 0,
        "served by the second": 0,
        "rolled back": 0,
    }
    assert all(keys for _, keys in changed.mismatches.values())


def test_the_stream_feeds_both_declarations(changed: Changed) -> None:
    assert changed.queries == {"declared anew": {"things", "things-2"}}


def test_a_project_is_retired_whole_and_the_topic_of_its_events_stays(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its declaration is nowhere any more: what it was built with tells what it has."""
    context, name = changed.context, changed.first.name
    with pytest.raises(MisuseError, match="a stream feeds project"):
        RetiredProject(context, name).check()
    monkeypatch.setattr(retiring, "_RUNNING", 0)
    going = RetiredProject(context, name)
    going.check()
    listed = dict(going.listed())
    assert f"{name}_current" in listed["tables in Cassandra"]
    assert listed["topics"] == f"scores.{name}"
    assert len([one for one in going.tables if "__w" in one]) >= len(changed.first.views)
    going.go(Steps())
    assert context.views.manifest(name) is None
    assert [one for one in context.views.tables if name[:12] in one] == []
    assert not any(Path(folder).exists() for folder in going.folders)
    assert context.bus.existing([name, f"scores.{name}"]) == [name]
    with pytest.raises(UnknownProjectError):
        RetiredProject(context, name).check()
