"""The law for views in roles and views of other projects: what the answer service makes of their states."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from anabranch import FeatureView, Project, StdDev, Variance
from anabranch.answers.features import Answers
from anabranch.answers.parts import Parts
from anabranch.folds.merge import BatchPart, Known
from anabranch.stores.cassandra.manifest import Gap, Manifest
from anabranch.stores.cassandra.own_events import OwnPlace, StreamPlaces
from anabranch.stores.cassandra.reads import DeclaredAnewError, states_of
from anabranch.stores.cassandra.views import Views
from anabranch.testing import oracle
from anabranch.testing.states import SLACK, SLOT, batch_part, tiles
from anabranch.values.times import MINUTE
from tests.support.law import START, Event, events_strategy, make_view
from tests.unit.folds.test_law import assert_lawful

_VIEWS = [make_view(("1h", "7d")), make_view(())]
# Every aggregate is tried in tests/unit/folds/test_law.py: a use of a view changes none.
VIEW, LIFELONG = (
    replace(
        view, features={name: each for name, each in view.features.items() if name.endswith(("_x", "_s"))}
    )
    for view in _VIEWS
)
KEYS = [("a", "b"), ("b", "b"), ("c", "a")]


@dataclass
class DoneRead:
    """A read that has its answer."""

    view: FeatureView
    manifest: Manifest | None
    known: Mapping[str, BatchPart | None]
    found: dict[str, Known]
    reads: Sequence[Any] = ()

    def result(self) -> dict[str, Known]:
        return self.found


@dataclass
class StatesInMemory:
    """What a store holds of events: batch parts up to each project's cut, and tiles since."""

    events: Sequence[Event]
    cuts: dict[str, int]
    built: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """By project, the views of others that it was built with."""
    reads: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    own: dict[tuple[str, str], OwnPlace] = field(default_factory=dict)
    """By topic and id, events that were published with a question."""
    streams: list[StreamPlaces] = field(default_factory=lambda: [StreamPlaces()])
    """The places of the stream, one a look; the last stays."""

    def manifest(self, project: str) -> Manifest | None:
        cut, shared = self.cuts.get(project), self.built.get(project, {})
        if cut is None:
            return None
        owners = {name.partition(".")[0] for name in shared}
        lent = {owner: self.manifest(owner) for owner in owners}
        return Manifest(
            project=project,
            batch_version=cut,
            cut=cut,
            slack=SLACK,
            built_at=cut,
            fingerprints={view.name: view.fingerprint for view in (VIEW, LIFELONG)},
            tables={},
            rows={},
            shared=shared,
            lent={owner: manifest for owner, manifest in lent.items() if manifest is not None},
        )

    def published(self, topic: str, ids: Sequence[str]) -> dict[str, OwnPlace]:
        return {one: self.own[topic, one] for one in ids if (topic, one) in self.own}

    def places(self, project: str, source: str) -> StreamPlaces:
        return self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]

    def ask(
        self,
        project: str,
        view: FeatureView,
        known: Mapping[str, BatchPart | None],
        manifest: Manifest | None,
        at: int,
        timeout: float | None = None,
        reader: object = None,
        *,
        look: bool = True,
    ) -> list[DoneRead]:
        assert view == view.unused
        assert manifest is None or manifest.project == project
        found = {}
        for key in known:
            self.reads[project, view.name, key] += 1
            mine = [event for event in oracle.distinct(self.events) if event.key == key]
            cut = None if manifest is None else manifest.cut
            part = None
            if cut is not None:
                part = known[key] or batch_part(view, [event for event in mine if event.arrival < cut], cut)
            since = [event for event in mine if cut is None or event.arrival >= cut]
            found[key] = (part, tiles(view, since) if since else None)
        return [DoneRead(view, manifest, known, found)]


def assert_roles_are_lawful(
    project: Project, events: Sequence[Event], store: StatesInMemory, at: int
) -> None:
    """Every role's features equal the fold over the events of the key that stands in that role."""
    answers = Answers(cast("Views", store), parts=Parts(10_000_000))
    asked = [dict(zip(("buyer", "seller"), key, strict=True)) for key in KEYS]
    for _ in range(2):  # the second time from cached parts
        for key, answer in zip(asked, answers.features(project, asked, at), strict=True):
            assert answer.degraded is None
            assert answer.key == key
            assert set(answer.values) == {column.name for column in project.columns}
            for view in project.views:
                expected = oracle.answer(view, events, key[view.asked[0]], at)
                assert_lawful(view, events, expected, dict(answer.values))


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(events=events_strategy(), cut_slots=st.integers(0, 12 * 24), late=st.integers(0, SLACK // MINUTE))
def test_a_view_in_two_roles_equals_the_fold_over_each_roles_events(
    events: list[Event], cut_slots: int, late: int
) -> None:
    cut = START + cut_slots * SLOT
    at = cut + late * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    roles = (VIEW.on(key="buyer", prefix="buyer"), VIEW.on(key="seller", prefix="seller"))
    project = Project(name="deals", views=(*roles, LIFELONG.on(key="seller")))
    store = StatesInMemory(arrived, {"deals": cut})
    assert_roles_are_lawful(project, arrived, store, at)
    # Twice each state: a view in two roles is read once for the keys of both.
    assert store.reads == {
        **{("deals", "everything", key): 2 for key in "abc"},
        **{("deals", "lifelong", key): 2 for key in "ab"},
    }


def lent(owner: str, view: FeatureView) -> FeatureView:
    return Project(name=owner, views=(view,), shared_with=("deals",)).lend(view.name)


def noted(*views: FeatureView) -> dict[str, dict[str, Any]]:
    return {view.full_name: {"promise": view.promise, "batch_version": 1} for view in views}


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    events=events_strategy(),
    cut_slots=st.integers(0, 12 * 24),
    ahead=st.integers(-5, 5),
    late=st.integers(5 * 60, SLACK // MINUTE),
)
def test_views_of_another_project_equal_the_fold_whatever_version_their_owner_has(
    events: list[Event], cut_slots: int, ahead: int, late: int
) -> None:
    own, theirs = START + cut_slots * SLOT, START + (cut_slots + ahead) * SLOT
    at = max(own, theirs) + (late - 5 * 60) * MINUTE + 1
    arrived = [event for event in events if event.arrival < at]
    view = lent("merchants", VIEW)
    roles = (view.on(key="buyer", prefix="buyer"), view.on(key="seller", prefix="seller"))
    project = Project(name="deals", views=(*roles, LIFELONG.on(key="seller")))
    store = StatesInMemory(arrived, {"deals": own, "merchants": theirs}, {"deals": noted(view)})
    assert_roles_are_lawful(project, arrived, store, at)
    store.cuts["merchants"] = own  # the owner builds, or goes back to an earlier version
    assert_roles_are_lawful(project, arrived, store, at)
    assert {name for name, _, _ in store.reads} == {"deals", "merchants"}
    assert {view for name, view, _ in store.reads if name == "deals"} == {"lifelong"}


def test_parts_of_a_shared_view_are_cached_once_for_owner_and_borrower() -> None:
    view, parts = lent("merchants", VIEW), Parts(10_000_000)
    store = StatesInMemory([], {"deals": START, "merchants": START}, {"deals": noted(view)})
    answers = Answers(cast("Views", store), parts=parts)
    answers.features(Project(name="merchants", views=(VIEW,)), [{"key": "a"}], START)
    answers.features(Project(name="deals", views=(view.on(key="card"),)), [{"card": "a"}], START)
    assert (len(parts), parts.hits) == (1, 1)


@pytest.mark.parametrize(
    ("cuts", "built", "message"),
    [
        (
            {"merchants": START},
            False,
            "'deals' was not built with view 'everything' of project 'merchants' yet",
        ),
        ({"deals": START, "merchants": START}, False, "run 'anabranch build deals'"),
        ({"deals": START}, True, "project 'merchants' has no batch version any more"),
    ],
)
def test_a_shared_view_that_cannot_be_read_is_an_error_that_says_what_to_do(
    cuts: dict[str, int], built: bool, message: str
) -> None:
    view = lent("merchants", VIEW)
    store = StatesInMemory([], cuts, {"deals": noted(view)} if built else {})
    with pytest.raises(DeclaredAnewError) as caught:
        Answers(cast("Views", store)).features(Project(name="deals", views=(view,)), [{"key": "a"}], START)
    assert message in str(caught.value)
    assert not store.reads


def test_a_shared_view_that_its_owner_changed_is_refused_until_the_borrower_is_built_again() -> None:
    view = lent("merchants", replace(VIEW, features={"spread": Variance("x")}))
    changed = lent("merchants", replace(VIEW, features={"spread": StdDev("x")}))
    assert changed.fingerprint == view.fingerprint  # the same states, of which another value is made
    store = StatesInMemory([], {"deals": START, "merchants": START}, {"deals": noted(view)})
    with pytest.raises(
        DeclaredAnewError, match="its owner declared it anew; run 'anabranch build deals' and"
    ):
        Answers(cast("Views", store)).features(Project(name="deals", views=(changed,)), [{"key": "a"}], START)


def test_a_gap_of_the_owners_stream_degrades_the_borrowers_answers() -> None:
    view = lent("merchants", VIEW)
    store = StatesInMemory([], {"deals": START, "merchants": START}, {"deals": noted(view)})
    manifest = store.manifest("deals")
    assert manifest is not None
    gap = Gap("things", START, "the topic was made again")
    lacking = replace(manifest, lent={"merchants": replace(manifest.lent["merchants"], gaps=(gap,))})
    store.manifest = lambda _: lacking  # type: ignore[method-assign,assignment]
    project = Project(name="deals", views=(view,))
    (answer,) = Answers(cast("Views", store)).features(project, [{"key": "a"}], START)
    assert str(gap) in str(answer.degraded)


def test_a_shared_view_that_its_owner_built_anew_is_read_from_the_version_before() -> None:
    view, changed = lent("merchants", VIEW), replace(VIEW, features={"spread": Variance("x")})
    store = StatesInMemory([], {"deals": START, "merchants": START}, {"deals": noted(view)})
    manifest = store.manifest("deals")
    assert manifest is not None
    before = manifest.lent["merchants"]
    after = replace(before, fingerprints={VIEW.name: changed.fingerprint}, cut=START + 1, previous=before)
    known = replace(manifest, lent={"merchants": after})
    deals = Project(name="deals", views=(view,))
    assert states_of(deals, view, known) == ("merchants", before)
    gone = replace(manifest, lent={"merchants": replace(after, previous=None)})
    assert states_of(deals, view, gone) == ("merchants", gone.lent["merchants"])  # whose read is refused
