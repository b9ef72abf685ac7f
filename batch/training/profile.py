"""The profile of a model's training data, kept with its version: counts of inputs' values and of scores.

Values are taken as the model sees them (coded, see anabranch/stores/models/scoring.py), so what is missing
and what is an unknown text is one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import AnabranchError
from anabranch.pages.formats import plain
from anabranch.stores.models.inputs import ModelInput
from anabranch.stores.models.scoring import Matrix, Scores

FILE = "profile.json"
_BINS = 10
_MOST_VALUES = 50
_FEW_VALUES = 12
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Bins of values and the number of values in each.

    Numbers have `edges`: below the first, from each up to the next, from the last on. Kinds have `values`:
    each, then all others. The last count is of missing values. `names` are for people.
    """

    edges: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    def count(self, column: NDArray[Any]) -> Counts:
        """The number of values of `column` in each bin."""
        known = column[np.isfinite(column)].astype(np.float64)
        if self.values:
            place = np.searchsorted(self.values, known)
            same = np.append(self.values, np.nan)[place] == known
            found = np.bincount(np.where(same, place, len(self.values)), minlength=len(self.values) + 1)
        else:
            found = np.bincount(
                np.searchsorted(self.edges, known, side="right"), minlength=len(self.edges) + 1
            )
        return np.append(found, len(column) - len(known)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Bins of each input of a model over `rows` rows, and of its scores of the held-out ones.

    Of several classes the scores are those of the labels, and `labels` counts the labels by class.
    """

    rows: int
    features: Mapping[str, Bins]
    scores: Bins
    labels: Bins | None = None

    def text(self) -> bytes:
        """The profile as JSON, as it is kept."""
        return (json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n").encode()


def read_profile(content: bytes) -> Profile:
    """The profile that `Profile.text` wrote; raises AnabranchError for anything else."""
    try:
        found = json.loads(content)
        features = {name: _read(bins) for name, bins in found["features"].items()}
        labels = found.get("labels")
        return Profile(
            rows=int(found["rows"]),
            features=features,
            scores=_read(found["scores"]),
            labels=None if labels is None else _read(labels),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnabranchError(
            f"the profile of the training data ({FILE}) cannot be read ({error}): train again to have one"
        ) from error


def _read(bins: Mapping[str, Sequence[Any]]) -> Bins:
    return Bins(**{name: tuple(values) for name, values in bins.items()})


def profile(
    inputs: Sequence[ModelInput],
    categories: Sequence[str],
    matrix: Matrix,
    scores: Scores,
    classes: Sequence[str | int] = (),
) -> Profile:
    """The profile of coded rows; `categories` are inputs whose numbers are names of kinds."""
    features = {}
    for place, given in enumerate(inputs):
        kinds = given.kind in ("text", "boolean") or given.name in categories
        features[given.name] = _bins(matrix[:, place], kinds, given.categories)
    best = scores.max(axis=1) if classes else scores
    made = Profile(rows=len(matrix), features=features, scores=_bins(best, False, ()))
    return replace(made, labels=_class_bins(scores.argmax(axis=1), classes)) if classes else made


def _class_bins(places: NDArray[Any], classes: Sequence[str | int]) -> Bins:
    """Counts by class of labels, given as positions among `classes`; every class has a bin."""
    bins = Bins(
        values=tuple(float(place) for place in range(len(classes))),
        names=(*map(str, classes), "other classes", "missing"),
    )
    return replace(bins, counts=tuple(bins.count(places.astype(np.float64)).tolist()))


def _bins(column: NDArray[Any], kinds: bool, categories: Sequence[str]) -> Bins:
    known = column[np.isfinite(column)].astype(np.float64)
    values, counts = np.unique(known, return_counts=True)
    if kinds or len(values) <= _FEW_VALUES:
        kept = np.sort(values[np.argsort(-counts, kind="stable")][:_MOST_VALUES]).tolist()
        names = [categories[int(value)] if categories else plain(value) for value in kept]
        made = Bins(values=tuple(kept), names=(*names, "other values", "missing"))
    else:
        edges = np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS)).tolist()
        middle = [f"{plain(low)} to {plain(high)}" for low, high in pairwise(edges)]
        made = Bins(
            edges=tuple(edges),
            names=(f"below {plain(edges[0])}", *middle, f"{plain(edges[-1])} and more", "missing"),
        )
    return Bins(
        edges=made.edges, values=made.values, names=made.names, counts=tuple(made.count(column).tolist())
    )
