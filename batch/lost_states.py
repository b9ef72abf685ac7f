"""Keys whose states are more than the serving store takes, as a build tells of them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from anabranch.declare.views import FeatureView
from anabranch.folds.merge import LOST
from anabranch.values.keys import show_key

log = logging.getLogger(__name__)


@contextmanager
def lost_states_told(view: FeatureView, rows: DataFrame) -> Iterator[DataFrame]:
    """Batch rows, to be written in the block; then a warning tells how many keys lost states."""
    counted, lost = Observation(), F.get("states", F.lit(0)) == LOST
    yield rows.observe(
        counted, F.count_if(lost).alias("keys"), F.min(F.when(lost, F.col("key"))).alias("key")
    )
    found = counted.get
    if found["keys"]:
        log.warning(
            "view %s: keys with more states than the store takes: %d, such as %s: their answers lack values "
            "and are marked as degraded; keep fewer values (k=, most=) or give the view a longer hop=",
            view.name,
            found["keys"],
            show_key(view.keys, found["key"])[:100],
        )
