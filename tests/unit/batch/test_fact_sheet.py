"""Fact sheets: eight sections, none empty, what nobody declared asked for by name."""

import json
from pathlib import Path

import pytest

from anabranch import Count, FeatureView, Label, Model, Project, Source
from anabranch.declare.loading import load_project
from batch.training.card import CardContents
from batch.training.fact_sheet import SECTIONS, fact_sheet, files_of
from jobs.wiring.settings import ROOT

SHOWN = CardContents(
    metrics={"roc_auc": 0.8, "roc_auc_low": 0.7, "roc_auc_high": 0.9, "rows_train": 100.0, "rows_test": 25.0},
    slices=(),
    hindsight=None,
    fairness=None,
    importance={"n_1h": 0.2},
    parameters={},
    about={"split": "by time", "label": "x > 1", "declaration": "abc", "lake version of events": "7"},
    environment={"python": "3.11"},
    pictures={},
)


def bare() -> Project:
    events = Source(
        name="events",
        topic="events",
        id="id",
        time="at",
        schema="id STRING, k STRING, at TIMESTAMP, x DOUBLE",
    )
    view = FeatureView(name="recent", source=events, key="k", windows="1h", features={"n": Count()})
    return Project(
        name="bare", views=(view,), label=Label(source=events, key="k", target="x > 1"), model=Model()
    )


@pytest.mark.parametrize("name", ["bare", "heart_disease", "card_fraud", "wine_origins"])
def test_no_section_is_empty_and_none_has_a_fact_without_content(name: str) -> None:
    project = bare() if name == "bare" else load_project(name, (ROOT / "projects",))
    sheet = fact_sheet(project, SHOWN, 3)
    assert list(sheet) == list(SECTIONS)
    for section in sheet.values():
        assert section.facts
        assert all(key and value.strip() for key, value in section.facts.items())


def test_what_nobody_declared_is_asked_for_by_name() -> None:
    missing = " ".join(each for section in fact_sheet(bare(), SHOWN, 3).values() for each in section.missing)
    for how in (
        "Model(intended_use=...)", "Model(limits=...)", "Project(description=...)", "Project(owner=...)",
        "Gate(minimum=...)", "Gate(disparity=...)", "Model(slices=(...))", "Model(reasons=",
        "Watch(", "Freshness(",
    ):  # fmt: skip
        assert how in missing


def test_what_is_declared_and_measured_stands_in_it() -> None:
    project = load_project("heart_disease", (ROOT / "projects",))
    sheet = fact_sheet(project, SHOWN, 3)
    assert project.model is not None
    assert sheet["purpose"].facts["intended use"] == project.model.intended_use
    assert sheet["evaluation"].facts["roc_auc"] == "0.8000 [0.7000, 0.9000]"
    assert sheet["data"].facts["labels left out"] == "3"
    assert sheet["lineage"].facts["lake version of events"] == "7"
    assert sheet["explainability"].facts["importance of n_1h"] == "0.2000"


def test_the_three_files_say_the_same_and_hold_no_markup_of_authors(tmp_path: Path) -> None:
    project = bare()
    object.__setattr__(project, "description", "For <b>us</b>")
    files = files_of(project, fact_sheet(project, SHOWN, 3))
    assert set(files) == {"fact_sheet.html", "fact_sheet.md", "fact_sheet.json"}
    page, text = files["fact_sheet.html"].decode(), files["fact_sheet.md"].decode()
    assert "For &lt;b&gt;us&lt;/b&gt;" in page
    assert "For &lt;b>us" in text
    value = json.loads(files["fact_sheet.json"])
    for name, title in SECTIONS.items():
        assert f"<h2>{title}</h2>" in page
        assert f"## {title}" in text
        for fact in value[name]["facts"]:
            assert f"- **{fact}**".replace("*", "") in text.replace("*", "").replace("\\", "")
