"""Stores of which tests give some parts opened: those of their own making, or without a Spark session."""

from typing import TYPE_CHECKING

from anabranch.settings import StoreSettings
from anabranch.stores.opened import Stores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def stores_with(settings: StoreSettings | None, **opened: object) -> Stores:
    """Stores of which those named are already open; without `spark`, asking for the session fails."""
    stores = Stores(settings, _no_session)  # type: ignore[arg-type]  # None where nothing else is opened
    vars(stores).update(opened)
    return stores


def _no_session() -> "SparkSession":
    raise AssertionError("this test has no Spark session: pass spark=...")
