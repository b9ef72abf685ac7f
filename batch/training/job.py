"""One training as a value: which project is trained, in which circumstances, and what is recorded with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from anabranch.declare.models import Model
from anabranch.declare.projects import Project
from anabranch.declare.sources import Label
from anabranch.errors import MisuseError
from anabranch.progress import Progress, Silent
from batch.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training of `project`.

    `folders` are searched for the user's own functions. `kept` is the folder that holds the trained model
    until it is registered; None for a temporary one. `about` is recorded with the version, such as the batch
    version and the commit. A training set of more than `local_bytes` is not brought into this process. The
    version is never promoted without `promote`, and devices hear of it only with `announce`. With
    `from_served` it learns from features as they were served, not from those of the lake.
    """

    project: Project
    progress: Progress = field(default_factory=Silent)
    folders: tuple[Path, ...] = ()
    kept: Path | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    local_bytes: int = TrainingSettings().local_bytes
    promote: bool = True
    announce: bool = False
    from_served: bool = False

    @property
    def model(self) -> Model:
        """The declared model; raises MisuseError when the project declares none."""
        return learnable(self.project)[1]


@dataclass(frozen=True, kw_only=True)
class TrainingLabels:
    """Where the labels of a training come from: `lake_versions` by source, and how many could be used.

    `left_out` have no key, time or target, or no served features. `on_workers` is the number of rows that
    trained on Spark's workers; None when the driver trained.
    """

    lake_versions: Mapping[str, int]
    usable: int
    left_out: int = 0
    on_workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A training set in memory, as `training_set` makes it, and where it comes from."""

    table: pa.Table
    lake_versions: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0

    @property
    def labels(self) -> TrainingLabels:
        """The labels as they are recorded."""
        return TrainingLabels(
            lake_versions=self.lake_versions, usable=self.table.num_rows, left_out=self.left_out
        )


def learnable(project: Project) -> tuple[Label, Model]:
    """The project's label and model; raises MisuseError when it declares none."""
    if project.label is None or project.model is None:
        raise MisuseError(
            f"project {project.name!r} declares no model: "
            "add label=Label(...) and model=Model(...) to train one"
        )
    return project.label, project.model
