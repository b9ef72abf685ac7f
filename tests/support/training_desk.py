"""A project to train, and a desk that trains nothing and counts how often it is asked to."""

from collections.abc import Sequence
from pathlib import Path

from anabranch.declare.loading import load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from batch.training.request_service import Rows
from batch.training.train import Trained

DECLARATION = '''
"""Things that are counted."""
from anabranch import Count, FeatureView, Label, Last, Model, Project, Source

things = Source(name="things", topic="{name}-things", id="id", time="at",
    schema="id STRING, thing STRING, at TIMESTAMP, x DOUBLE")
marks = Source(name="marks", topic="{name}-marks", id="id", time="at",
    schema="id STRING, thing STRING, at TIMESTAMP, good BOOLEAN")
view = FeatureView(name="ever", source=things, key="thing", features={{"n": Count(), "last": Last("x")}})
project = Project(
    name="{name}", views=(view,), label=Label(source=marks, key="thing", target="good"),
    model=Model(trainer="logistic", split="key")
)
'''


class FakeDesk:
    """Trains nothing and counts how often; one project fails as libraries do, one as ours do."""

    names = ("wheat", "rye", "stone")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: list[tuple[str, list[str]]] = []
        self.landed: list[Rows] = []

    def project(self, name: str) -> Project:
        (self.folder / f"{name}.py").write_text(DECLARATION.format(name=name))
        return load_project(name, (self.folder,))

    def check(self, project: Project, rows: Rows) -> None:
        if "bad" in rows:
            raise AnabranchError(f"{project.name} has no source 'bad'")

    def land(self, project: Project, rows: Sequence[Rows]) -> None:
        self.landed += rows
        if project.name == "rye":
            raise AnabranchError("the load is refused")

    def train(self, project: Project, requests: Sequence[str]) -> Trained:
        self.trained.append((project.name, list(requests)))
        if project.name == "stone":
            raise ZeroDivisionError("stones do not grow")
        return Trained(
            version="4",
            champion=True,
            metrics={"roc_auc": 0.9, "train_roc_auc": 1.0},
            rows=3,
            left_out=0,
            seconds=1.0,
        )
