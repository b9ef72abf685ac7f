"""What goes with a project, and what others still need."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch import Count, FeatureView, Project, Source
from anabranch.errors import DeclarationError, MisuseError
from anabranch.events.origins import copy_of
from jobs.flows.retiring import RetiredProject

SOURCE = Source(
    name="sales", schema="uid STRING, shop STRING, at TIMESTAMP", id="uid", time="at", topic="sales"
)


def project(name: str) -> Project:
    view = FeatureView(name="each", source=SOURCE, key="shop", windows=("1h",), features={"n": Count()})
    return Project(name=name, views=(view,))


class Unreadable:
    """A version that was kept by a later release."""

    previous, shared = None, ()

    @property
    def kept(self) -> Project:
        raise DeclarationError("format 99")


def retired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, Any]) -> RetiredProject:
    """Project `gone` beside `broken`, whose file does not load; all topics are there."""
    monkeypatch.setattr("jobs.flows.retiring.list_projects", lambda _: {"gone": tmp_path, "broken": tmp_path})

    def declared(name: str) -> Project:
        if name == "broken":
            raise DeclarationError("a file that does not load")
        return project(name)

    context: Any = SimpleNamespace(
        project=declared,
        settings=SimpleNamespace(projects=()),
        views=SimpleNamespace(manifest=versions.get),
        bus=SimpleNamespace(existing=list),
    )
    return RetiredProject(context, "gone")


def test_a_copy_stays_that_a_project_reads_whose_file_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = SimpleNamespace(kept=project("broken"), previous=None, shared={})
    assert copy_of("sales") not in retired(tmp_path, monkeypatch, {"broken": serves}).topics
    assert copy_of("sales") in retired(tmp_path, monkeypatch, {}).topics


def test_a_version_whose_declaration_cannot_be_read_hinders_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = retired(tmp_path, monkeypatch, {"gone": Unreadable(), "broken": Unreadable()})
    assert [one.name for one in found.declarations] == ["gone"]
    assert copy_of("sales") in found.topics


def test_a_project_stays_whose_views_another_one_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = retired(tmp_path, monkeypatch, {})
    user = SimpleNamespace(name="user", lenders=("gone",), sources={})
    monkeypatch.setattr(RetiredProject, "_others", lambda _: [user])
    with pytest.raises(MisuseError, match="while user uses its views"):
        found.check()
