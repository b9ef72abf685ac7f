"""The one place that wires settings to the real stores."""

import sys
from dataclasses import dataclass
from functools import cached_property, partial

from pyspark.cloudpickle import register_pickle_by_value
from pyspark.sql import SparkSession

from anabranch.answers.features import Answers
from anabranch.declare.loading import load_project, module_name
from anabranch.declare.projects import Project
from anabranch.stores.cassandra.views import Views
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.stores.opened import Stores
from batch.quality.gate import QualityGate
from jobs.wiring.settings import Settings
from jobs.wiring.spark_session import spark_session
from jobs.wiring.suites import suites, suites_in_force
from speed.views import Channel


@dataclass
class Context:
    """What a job works with; a Spark session is started only when it is first needed."""

    settings: Settings

    def project(self, name: str) -> Project:
        """The declared project `name`."""
        found = load_project(name, self.settings.projects)
        # Its module has no name that a worker of Spark could import: what a declaration defines travels by value.
        register_pickle_by_value(sys.modules[module_name(name)])  # type: ignore[no-untyped-call]
        return found

    @cached_property
    def stores(self) -> Stores:
        """The stores, each opened when it is first asked for."""
        return Stores(self.settings.stores, lambda: spark_session(self.settings, "anabranch"))

    @property
    def spark(self) -> SparkSession:
        """This process's session."""
        return self.stores.spark

    @property
    def lake(self) -> Lake:
        """The Delta lake."""
        return self.stores.lake

    @property
    def bus(self) -> Bus:
        """Kafka."""
        return self.stores.bus

    @property
    def views(self) -> Views:
        """Cassandra."""
        return self.stores.views

    @property
    def models(self) -> Models:
        """MLflow."""
        return self.stores.models

    @cached_property
    def answers(self) -> Answers:
        """Merged answers, with the manifest of this very moment."""
        return Answers(self.views)

    def gate(self, project: Project) -> QualityGate | None:
        """The quality gate of the project's loads; None when it is off."""
        quality = self.settings.quality
        return (
            None
            if quality.mode == "off"
            else QualityGate(project=project, settings=quality, suites=suites(quality, project))
        )

    def channel(self, *, once: bool) -> Channel:
        """What the stream works with; `once` drains what is there and stops."""
        speed = self.settings.speed
        return Channel(
            lake=self.lake,
            bus=self.bus,
            views=self.views,
            models=self.models,
            times=self.settings.times,
            suites=partial(suites_in_force, self.settings.quality),
            checkpoints=self.settings.checkpoints,
            trigger=None if once else speed.trigger,
            most_offsets=speed.max_offsets_per_trigger or None,
            partitions=speed.partitions,
        )

    def close(self) -> None:
        """Stop what was started."""
        if "stores" in self.__dict__:
            self.stores.close()
