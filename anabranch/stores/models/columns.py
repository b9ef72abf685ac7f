"""Feature columns of a Spark frame as a model takes them: DOUBLE or STRING, coded as in model_scoring.py."""

from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F

from anabranch.stores.models.inputs import ModelInput

_CODES: dict[str, Callable[[Column], Column]] = {
    "number": lambda value: value.cast("double"),
    "boolean": lambda value: value.cast("double"),
    "date": lambda value: F.unix_date(value).cast("double"),
    "timestamp": lambda value: F.unix_micros(value).cast("double"),
    "text": lambda value: value.cast("string"),
}


def input_column(given: ModelInput, value: Column | None = None) -> Column:
    """The input from `value` (the column of its own name by default), which has the declared type."""
    return _CODES[given.kind](F.col(f"`{given.name}`") if value is None else value).alias(given.name)
