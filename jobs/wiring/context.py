"""The one place that wires settings to the real stores."""

import sys
from functools import cached_property, partial

from pyspark.cloudpickle import register_pickle_by_value
from pyspark.sql import SparkSession

from anabranch.answers.features import Answers
from anabranch.declare.loading import load_project, module_name
from anabranch.declare.projects import Project
from anabranch.stores.opened import Stores
from batch.quality.gate import QualityGate
from jobs.lineage.sending import begin
from jobs.monitoring import runs
from jobs.wiring.settings import Settings
from jobs.wiring.spark_session import spark_session
from jobs.wiring.suites import suites, suites_in_force
from speed.query import SpeedLayer


class Context(Stores):
    """The stores of one job, with all of its settings. Verbs open one by `with job() as context`."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, self._open_session)
        self._borrowed = False

    def _open_session(self) -> SparkSession:
        self._borrowed = SparkSession.getActiveSession() is not None
        runs.note_session(self.settings.data)
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
        # Spark's workers cannot import its module: what a declaration defines travels by value.
        for each in (name, *project.lenders):
            register_pickle_by_value(sys.modules[module_name(each)])  # type: ignore[no-untyped-call]
        begin(project, self.settings, self.settings.lineage, self.settings.data)
        return project

    @cached_property
    def answers(self) -> Answers:
        """Merged answers; the manifest is read for each of them."""
        return Answers(self.views)

    def gate(self, project: Project) -> QualityGate | None:
        """The quality gate of the project's loads; None when it is off."""
        quality = self.settings.quality
        if quality.mode == "off":
            return None
        return QualityGate(project=project, settings=quality, suites=suites(quality, project))

    def speed_layer(self, *, once: bool) -> SpeedLayer:
        """The speed layer; `once` drains the topics and stops."""
        speed = self.settings.speed
        return SpeedLayer(
            stores=self,
            suites=partial(suites_in_force, self.settings.quality),
            checkpoints=self.settings.checkpoints,
            trigger=None if once else speed.trigger,
            most_offsets=speed.max_offsets_per_trigger or None,
            partitions=speed.partitions,
        )
