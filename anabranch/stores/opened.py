"""The stores of one process: each is opened when it is first asked for, and all are closed together."""

from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from anabranch.settings import StoreSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from anabranch.events.decoders.schemas import Schemas
    from anabranch.stores.cassandra.measures import Measures
    from anabranch.stores.cassandra.views import Views
    from anabranch.stores.files.reports import Reports
    from anabranch.stores.kafka.bus import Bus
    from anabranch.stores.lake.lake import Lake
    from anabranch.stores.models.registry import Models
    from anabranch.stores.webhooks.sending import Webhooks


class Stores:
    """The Spark session, the lake, the bus, the serving store and the registry, opened on first use.

    Jobs hand one `Stores` down instead of its parts. `session` starts the Spark session; a process that
    never asks for `spark` (the REST server, `anabranch answer`) never starts a JVM. Use it in a `with`, or
    call `close`.
    """

    def __init__(self, settings: StoreSettings, session: "Callable[[], SparkSession]") -> None:
        self.settings = settings
        self._session = session

    @cached_property
    def spark(self) -> "SparkSession":
        """The Spark session of this process."""
        return self._session()

    @cached_property
    def lake(self) -> "Lake":
        """The Delta lake."""
        from anabranch.stores.lake.lake import Lake

        return Lake(self.settings.lake)

    @cached_property
    def bus(self) -> "Bus":
        """Kafka."""
        from anabranch.stores.kafka.bus import Bus

        return Bus(self.settings.bus)

    @cached_property
    def schemas(self) -> "Schemas":
        """The schema registry, or none."""
        from anabranch.events.decoders.schemas import NoSchemas
        from anabranch.stores.schema_registry.client import SchemaRegistry

        bus = self.settings.bus
        return SchemaRegistry(bus) if bus.schema_registry else NoSchemas()

    @cached_property
    def views(self) -> "Views":
        """The serving store in Cassandra."""
        from anabranch.stores.cassandra.views import Views

        return Views(self.settings.views)

    @cached_property
    def measures(self) -> "Measures":
        """Measured values over time, in Cassandra."""
        from anabranch.stores.cassandra.measures import Measures

        return Measures(self.settings.views)

    @cached_property
    def models(self) -> "Models":
        """The model registry."""
        from anabranch.stores.models.registry import Models

        return Models(self.settings.models)

    @cached_property
    def reports(self) -> "Reports":
        """The reports of the quality gate, which lie beside the lake."""
        from anabranch.stores.files.reports import Reports

        return Reports(lake=self.settings.lake, files=self.settings.files)

    @cached_property
    def webhooks(self) -> "Webhooks":
        """The addresses that alerts are sent to besides their topic."""
        from anabranch.stores.webhooks.sending import Webhooks

        return Webhooks(self.settings.alerts)

    def close(self) -> None:
        """Stop the Spark session and close the connections that were opened."""
        if "spark" in self.__dict__:
            self.spark.stop()
        if "bus" in self.__dict__:
            self.bus.close()
        if "views" in self.__dict__ or "measures" in self.__dict__:
            from anabranch.stores.cassandra.session import close_sessions

            close_sessions()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
