"""What a plan is compared with, and what it says of other projects: over stores in memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from anabranch import Count, FeatureView, Project, Source, Sum
from anabranch.errors import UnavailableError
from anabranch.kept.writing import written
from anabranch.planning.plans import ChangePlan
from anabranch.planning.report import lines, summary
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, TimeSettings
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.measures import Measure
from jobs.flows.planning import PlanOptions, plan_project
from jobs.wiring.context import Context
from tests.support.serving_fakes import FakeManifest

payments = Source(
    name="payments", id="id", time="at", schema="id STRING, card STRING, amount DOUBLE, at TIMESTAMP"
)
view = FeatureView(name="spending", source=payments, key="card", features={"spent": Sum("amount")})
PROJECT = Project(name="cards", views=(view,), shared_with=("risk", "shops"))
CHANGED = replace(PROJECT, views=(replace(view, features={"spent": Sum("amount"), "payments": Count()}),))


class Kept:
    """Manifests by project and measures; `away` is a store that does not answer."""

    def __init__(self, manifests: Mapping[str, Manifest], measures: Sequence[Measure] = ()) -> None:
        self.manifests, self.measures, self.away = manifests, measures, False

    def manifest(self, project: str) -> Manifest | None:
        if self.away:
            raise UnavailableError(
                "Cassandra does not answer at 127.0.0.1:9042: start it with 'anabranch up'"
            )
        return self.manifests.get(project)

    def latest(self, project: str) -> Sequence[Measure]:
        self.manifest(project)
        return self.measures


def served(**more: Any) -> FakeManifest:
    return FakeManifest(
        project="cards", fingerprints={"spending": view.fingerprint}, rows={"spending": 12}, **more
    )


def planned(kept: Kept, folder: Path, project: Project = CHANGED, against: Path | None = None) -> ChangePlan:
    settings = SimpleNamespace(lake=LakeSettings(root=str(folder / "lake")), times=TimeSettings())
    context = SimpleNamespace(views=kept, measures=kept, settings=settings)
    return plan_project(cast("Context", context), project, PlanOptions(against=against), Silent())


def test_a_plan_is_against_the_declaration_that_the_version_keeps(tmp_path: Path) -> None:
    found = planned(Kept({"cards": served(declaration=written(PROJECT))}), tmp_path)
    assert (found.against, found.notes) == ("batch version 7", [])
    assert found.changes is not None
    assert [(one.kind, one.name) for one in found.changes.features] == [("comes", "payments")]
    assert found.steps == ["anabranch build cards"]
    same = planned(Kept({"cards": served(declaration=written(PROJECT))}), tmp_path, PROJECT)
    assert (same.changed, same.steps) == (False, [])


def test_before_the_first_build_everything_comes(tmp_path: Path) -> None:
    found = planned(Kept({}), tmp_path)
    assert found.changes is not None
    assert len(found.changes.features) == 2
    assert "nothing, as no batch version serves yet" in summary(found)
    assert found.steps == ["anabranch build cards"]


def test_a_version_that_keeps_no_declaration_is_compared_by_its_views(tmp_path: Path) -> None:
    found = planned(Kept({"cards": served()}), tmp_path)
    assert found.changes is None
    assert [one.becomes for one in found.views] == ["built anew"]
    assert "does not keep the declaration it was built by" in found.notes[0]
    assert "1 view is built anew" in summary(found)
    broken = planned(Kept({"cards": served(declaration="{}")}), tmp_path)
    assert broken.changes is None
    assert "keeps a declaration that cannot be read" in broken.notes[0]


def test_a_declaration_in_a_folder_needs_no_river(tmp_path: Path) -> None:
    text = """
from anabranch import FeatureView, Project, Source, Sum
payments = Source(name="payments", id="id", time="at",
    schema="id STRING, card STRING, amount DOUBLE, at TIMESTAMP")
view = FeatureView(name="spending", source=payments, key="card", features={"spent": Sum("amount")})
project = Project(name="cards", views=(view,))
"""
    (tmp_path / "cards.py").write_text(text, encoding="utf-8")
    kept = Kept({})
    kept.away = True
    found = planned(kept, tmp_path, replace(CHANGED, shared_with=()), tmp_path)
    assert found.changes is not None
    assert [(one.kind, one.name) for one in found.changes.features] == [("comes", "payments")]
    assert [one.becomes for one in found.views] == ["built anew"]
    assert any("Cassandra does not answer" in note for note in found.notes)
    with pytest.raises(UnavailableError):
        planned(kept, tmp_path)


def test_borrowers_of_a_view_that_changes_are_named_and_others_are_not(tmp_path: Path) -> None:
    noted = {"promise": view.promise, "batch_version": 7}
    manifests = {
        "cards": served(declaration=written(PROJECT)),
        "risk": FakeManifest(project="risk", shared={"cards.spending": noted, "other.view": noted}),
        "shops": FakeManifest(project="shops"),
    }
    (line,) = planned(Kept(manifests), tmp_path).borrowers
    assert line == "project 'risk' borrows view 'spending', which changes: anabranch build risk"
    other = replace(CHANGED, views=(replace(view, name="outgo"),))
    assert "which goes" in planned(Kept(manifests), tmp_path, other).borrowers[0]
    assert planned(Kept(manifests), tmp_path, PROJECT).borrowers == []


def test_a_view_that_its_owner_has_not_built_is_in_the_way(tmp_path: Path) -> None:
    mine = Project(name="risk", views=(PROJECT.lend("spending"),))
    (told,) = lines(replace(planned(Kept({}), tmp_path, mine), notes=()))
    assert told == (
        "a build will fail: view 'cards.spending' is of project 'cards' and was never built: "
        "anabranch build cards comes first"
    )
    manifests = {"cards": served()}
    assert planned(Kept(manifests), tmp_path, mine).obstacles == []


def test_the_rate_of_another_view_tells_of_one_that_was_never_built(tmp_path: Path) -> None:
    measures = [
        Measure(
            project="cards", subject="build", name="events_per_second", at=datetime(2024, 5, 1, tzinfo=UTC),
            value=value, slice=name,
        )
        for name, value in (("one", 10.0), ("two", 30.0))
    ]  # fmt: skip
    log = tmp_path / "lake" / "cards" / "events" / "payments" / "_delta_log"
    log.mkdir(parents=True)
    added = {"path": "x.parquet", "size": 100, "stats": '{"numRecords": 400}'}
    (log / f"{0:020}.json").write_text(json.dumps({"add": added}))
    found = planned(Kept({"cards": served()}, measures), tmp_path)
    assert (found.views[0].rows, found.seconds) == (400, 20.0)
    assert "1 view is built anew (400 events to read, about 20 s)" in summary(found)
