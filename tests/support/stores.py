"""Stores made of parts that a test has opened already."""

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

    def session() -> SparkSession:
        assert spark is not None, "this test has given no Spark session"
        return spark

    settings = StoreSettings(
        lake=LakeSettings(root="nowhere") if lake is None else lake.settings,
        bus=BusSettings() if bus is None else bus.settings,
        views=ViewsSettings(),
        models=ModelsSettings() if models is None else models.settings,
        files=FileSettings(),
        times=TimeSettings(),
        quality=QualitySettings(),
    )
    return Stores(settings, session)
