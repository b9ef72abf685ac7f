"""Several classes by name: which are allowed, their positions as targets, and scores among other classes."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anabranch.declare.models import MOST_CLASSES
from anabranch.errors import AnabranchError

Floats = NDArray[np.float64]
TARGET = "_target"


def check_named_classes(found: Sequence[str], labels: int, declared: Sequence[str]) -> None:
    """Raise AnabranchError unless the classes `found` among so many labels are 2 to 100, and `declared`."""
    strange = [name for name in found if declared and name not in declared]
    if strange:
        raise AnabranchError(
            f"the label's target gives {strange[0]!r}, which is none of the declared classes "
            f"{', '.join(declared)}: add it to Label(classes=...), or make the target NULL to leave it out"
        )
    if len(found) > MOST_CLASSES:
        shown = ", ".join(map(repr, found[:3]))
        raise AnabranchError(
            f"the label's target gives {len(found)} classes ({shown}, ...), and a model has at most "
            f"{MOST_CLASSES}: join rare ones in the target, such as CASE WHEN ... ELSE 'other' END"
        )
    if len(found) == 1:
        raise AnabranchError(
            f"all {labels} labels are of class {found[0]!r}: "
            "a model needs examples of two classes or more, so bring in labels of another"
        )


def class_codes(names: Iterable[str | None], classes: Sequence[str | int]) -> Floats:
    """The position of each class's name among `classes`, -1 for a name that is none of them."""
    places = {str(name): float(place) for place, name in enumerate(classes)}
    return np.array([places.get(name or "", -1.0) for name in names], dtype=np.float64)


def coded_targets(table: pa.Table, classes: Sequence[str | int]) -> Floats:
    """The targets of a training set: numbers, or of several `classes` positions as in `class_codes`."""
    column = table.column(TARGET)
    return class_codes(column.to_pylist(), classes) if classes else np.asarray(column.to_numpy(), np.float64)


def in_classes(scores: Floats, classes: Sequence[str | int], wanted: Sequence[str | int]) -> Floats:
    """Scores (n, classes) as (n, wanted): 0 for a class that the model does not know."""
    found = np.zeros((len(scores), len(wanted)))
    found[:, [wanted.index(name) for name in classes]] = scores
    return found
