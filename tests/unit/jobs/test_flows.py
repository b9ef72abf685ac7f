"""Flows between the layers: why views have no key, and current rows after a change of champion."""

from types import SimpleNamespace
from typing import Any

import pytest

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import UnavailableError
from anabranch.values.times import HOUR, parse_time
from jobs.flows import building
from jobs.flows.building import no_key, score_current_rows
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
        return SimpleNamespace(views=SimpleNamespace(manifest=manifest))

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
