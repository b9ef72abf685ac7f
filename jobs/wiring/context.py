"""The one place that wires settings to the real stores."""

import logging
import sys
from functools import cached_property, partial
from typing import TYPE_CHECKING

from anabranch.answers.features import Answers
from anabranch.declare.loading import Stamp, list_projects, load_project, module_name, stamp_of
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.opened import Stores
from jobs.lineage.sending import begin
from jobs.monitoring import runs
from jobs.wiring.settings import Settings
from jobs.wiring.suites import suites, suites_in_force

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from batch.quality.gate import QualityGate
    from speed.query import SpeedLayer

log = logging.getLogger(__name__)


class Context(Stores):
    """The stores of one job, with all of its settings. Verbs open one by `with job() as context`.

    What needs Spark is imported when a job first asks for it: a verb without Spark starts at once.
    """

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._open_session)
        self._borrowed = False
        self._modules: set[str] = set()
        self._declared: dict[str, tuple[Stamp, Project]] = {}

    def _open_session(self) -> "SparkSession":
        from pyspark.sql import SparkSession

        from jobs.wiring.spark_session import spark_session

        self._borrowed = SparkSession.getActiveSession() is not None
        runs.note_session(self.settings.data)
        self._travel()
        return spark_session(self.settings, "anabranch")

    def close(self) -> None:
        """Close what was opened here; a Spark session that ran before goes on."""
        if self._borrowed:
            self.__dict__.pop("spark", None)
        super().close()

    def project(self, name: str) -> Project:
        """The declared project `name`."""
        runs.note_project(name)
        project = load_project(name, self.settings.projects)
        self._modules |= {module_name(each) for each in (name, *project.lenders)}
        if "pyspark" in sys.modules:
            self._travel()
        begin(project, self.settings, self.settings.lineage, self.settings.data)
        return project

    def _travel(self) -> None:
        """Let what declarations define travel to Spark's workers by value: they cannot import its module."""
        from pyspark.cloudpickle import register_pickle_by_value

        for name in self._modules:
            register_pickle_by_value(sys.modules[name])  # type: ignore[no-untyped-call]

    def project_now(self, name: str) -> Project:
        """The project `name` as it is declared now; as before where the change does not load."""
        known, paths = self._declared.get(name), list_projects(self.settings.projects)
        used = (name, *(() if known is None else known[1].lenders))
        stamp = tuple(part for each in used if each in paths for part in stamp_of(paths[each]))
        if known is not None and (stamp == known[0] or not stamp):
            return known[1]
        try:
            project = self.project(name)
        except AnabranchError as error:
            if known is None:
                raise
            log.warning("project %s is streamed as it was declared before: %s", name, error)
            project = known[1]
        self._declared[name] = stamp, project
        return project

    def served(self, name: str) -> Project:
        """The declaration of the project `name` that its batch version answers by."""
        return self.answers.served(self.project(name))[0]

    @cached_property
    def answers(self) -> Answers:
        """Merged answers; the manifest is read for each of them."""
        return Answers(self.views)

    def gate(self, project: Project) -> "QualityGate | None":
        """The quality gate of the project's loads; None when it is off."""
        from batch.quality.gate import QualityGate

        quality = self.settings.quality
        if quality.mode == "off":
            return None
        return QualityGate(project=project, settings=quality, suites=suites(quality, project))

    def speed_layer(self, *, once: bool) -> "SpeedLayer":
        """The speed layer; `once` drains the topics and stops."""
        from speed.query import SpeedLayer

        speed = self.settings.speed
        return SpeedLayer(
            stores=self,
            suites=partial(suites_in_force, self.settings.quality),
            checkpoints=self.settings.checkpoints,
            trigger=None if once else speed.trigger,
            most_offsets=speed.max_offsets_per_trigger or None,
            partitions=speed.partitions,
        )
