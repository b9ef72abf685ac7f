"""Stores of which a test gives some parts opened, or has none of a Spark session."""

from pyspark.sql import SparkSession

from anabranch.settings import (
    BusSettings,
    FileSettings,
    LakeSettings,
    ModelsSettings,
    QualitySettings,
    StoreSettings,
    TimeSettings,
    ViewsSettings,
)
from anabranch.stores.kafka.bus import Bus
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.registry import Models
from anabranch.stores.opened import Stores


def stores(
    *,
    spark: SparkSession | None = None,
    lake: Lake | None = None,
    models: Models | None = None,
    bus: Bus | None = None,
) -> Stores:
    """Stores with the settings of the parts given; the others have defaults and must not be used."""
    settings = StoreSettings(
        lake=LakeSettings(root="nowhere") if lake is None else lake.settings,
        bus=BusSettings() if bus is None else bus.settings,
        views=ViewsSettings(),
        models=ModelsSettings() if models is None else models.settings,
        files=FileSettings(),
        times=TimeSettings(),
        quality=QualitySettings(),
    )
    return stores_with(settings, **({} if spark is None else {"spark": spark}))


def stores_with(settings: StoreSettings | None, **opened: object) -> Stores:
    """Stores of which those named are already open; without `spark`, asking for the session fails."""
    stores = Stores(settings, _no_session)  # type: ignore[arg-type]  # None where nothing else is opened
    vars(stores).update(opened)
    return stores


def _no_session() -> SparkSession:
    raise AssertionError("this test has no Spark session: pass spark=...")
