"""Flows between the layers: views without keys, views of other projects, rows of a new champion."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import AnabranchError, UnavailableError
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.values.times import HOUR, parse_time
from batch.building.publication import shared_views
from jobs.flows import building
from jobs.flows.building import no_key, score_current_rows, surprised_borrowers
from jobs.show import Steps

SALES = Source(name="sales", topic="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP")
VIEW = FeatureView(name="recent", source=SALES, key="shop", windows=("1h", "1d"), features={"n": Count()})
PROJECT = Project(name="shops", views=(VIEW,))
CUT = parse_time("2026-05-01T12:00:00Z")


def test_a_view_without_keys_says_why() -> None:
    assert no_key(PROJECT, VIEW, CUT, 0, None) == "no event of source 'sales' is in the lake"
    assert no_key(PROJECT, VIEW, CUT, 3, None).startswith(
        "all events of 'sales' arrived after the cut 2026-05-01T12:00:00Z: the stream counts them"
    )
    old = no_key(PROJECT, VIEW, CUT, 3, parse_time("1997-01-01T00:00:00Z"))
    assert old.startswith(
        "the newest event of 'sales' is of 1997-01-01T00:00:00Z, and its windows (1h, 1d) end at the cut"
    )
    assert "anabranch answer shops KEY --at TIME" in old


class Told(Steps):
    """Steps that are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)


def test_a_new_champion_scores_the_current_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(building, "reset_current_rows", lambda _, project: made.append(project.name))

    def context(manifest: Any) -> Any:
        answers = SimpleNamespace(served=lambda project: (project, None))
        return SimpleNamespace(views=SimpleNamespace(manifest=manifest), answers=answers)

    def away(_: str) -> None:
        raise UnavailableError("Cassandra does not answer")

    steps = Told()
    score_current_rows(context(lambda _: None), PROJECT, steps)
    assert (made, steps.texts) == ([], [])  # nothing was built yet
    score_current_rows(context(lambda _: HOUR), PROJECT, steps)
    assert made == ["shops"]
    score_current_rows(context(away), PROJECT, steps)
    assert steps.texts[-1] == (
        "current rows have no scores of the champion until the next build: Cassandra does not answer"
    )


def version(project: str, view: FeatureView | None = None, shared: Any = None) -> Manifest:
    return Manifest(
        project=project,
        batch_version=7,
        cut=CUT,
        slack=HOUR,
        built_at=CUT,
        fingerprints={} if view is None else {view.name: view.fingerprint},
        tables={},
        rows={},
        shared=shared or {},
    )


def test_a_build_notes_the_views_of_others_and_is_refused_until_their_owners_built_them() -> None:
    owner = Project(name="shops", views=(VIEW,), shared_with=("user",))
    user = Project(name="user", views=(owner.lend("recent").on(shop="seller", prefix="seller"),))
    built: dict[str, Manifest] = {}
    context: Any = SimpleNamespace(views=SimpleNamespace(manifest=built.get))
    with pytest.raises(AnabranchError) as caught:
        shared_views(context, user)
    assert str(caught.value) == (
        "project 'user' uses view 'recent' of project 'shops', which was never built: "
        "run 'anabranch build shops' first"
    )
    built["shops"] = version("shops", replace(VIEW, windows=("2h",)))
    with pytest.raises(
        AnabranchError, match="which declared it anew since its last build: run 'anabranch build"
    ):
        shared_views(context, user)
    built["shops"] = version("shops", VIEW)
    assert shared_views(context, user) == {"shops.recent": {"promise": VIEW.promise, "batch_version": 7}}
    assert shared_views(context, owner) == {}


def test_a_build_names_the_borrowers_whose_answers_it_ends() -> None:
    owner = Project(name="shops", views=(VIEW,), shared_with=("user", "never_built"))
    noted = {"shops.recent": {"promise": VIEW.promise, "batch_version": 7}}
    built = {"user": version("user", shared=noted)}
    context: Any = SimpleNamespace(views=SimpleNamespace(manifest=built.get))
    assert surprised_borrowers(context, owner) == []
    changed = replace(owner, views=(replace(VIEW, features={"n": Count(where="shop > 'a'")}),))
    gone = replace(owner, views=(replace(VIEW, name="other"),))
    for now in (changed, gone):
        (line,) = surprised_borrowers(context, now)
        assert line == (
            "project 'user' was built with another view 'recent' than this build makes: its answers are "
            "refused until 'anabranch build user'"
        )
