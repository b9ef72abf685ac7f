"""Feature columns of a Spark frame as a model takes them: DOUBLE or STRING, coded as in model_scoring.py."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from stores.model_inputs import ModelInput

_CODES = {
    "number": "CAST({0} AS DOUBLE)",
    "boolean": "CAST({0} AS DOUBLE)",
    "date": "CAST(unix_date({0}) AS DOUBLE)",
    "timestamp": "CAST(unix_micros({0}) AS DOUBLE)",
    "text": "CAST({0} AS STRING)",
}


def input_column(given: ModelInput) -> Column:
    """The input as a column of its own name, from a column of that name that has the declared type."""
    return F.expr(_CODES[given.kind].format(f"`{given.name}`")).alias(given.name)
