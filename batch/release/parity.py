"""Parity: whether a model, its ONNX form and its registered pyfunc give the same scores for the same rows.

REST scores few rows by the ONNX form and many by the model itself; devices use the ONNX form, mass scoring
the pyfunc. The rows are real ones, and copies of them with missing values, with no value at all and with
categories never seen.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import apart
from anabranch.stores.models.versions import Scorer

Columns = Mapping[str, NDArray[np.object_]]
SAMPLE = 256
_CHANGED = 16  # rows that each change is made in
_SEED = 17
_UNSEEN_TEXT, _UNSEEN_NUMBER = "\N{SNOWMAN} never seen", -98_765.0


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The largest difference of each form from the model itself (relative, see `apart`), over `rows` rows."""

    worst: Mapping[str, float]
    rows: int

    def within(self, allowed: float) -> bool:
        """Whether no form differs by more than `allowed`; a score that is no number differs."""
        return all(value <= allowed for value in self.worst.values())

    def described(self, allowed: float) -> str:
        """The finding as text, as the version keeps it."""
        found = ", ".join(
            f"{name} differs from the model by {value:.2g}" for name, value in self.worst.items()
        )
        without = "" if "ONNX" in self.worst else " (it has no ONNX form)"
        return f"{found}{without} on {self.rows} rows, {allowed:g} is allowed"


def compare(
    models: Models, project: str, scorer: Scorer, columns: Columns, categories: Collection[str] = ()
) -> Parity:
    """Compare the forms on the first rows of `columns` and on changed copies.

    `categories` are features whose numbers are names of kinds.
    """
    rows = harder({name: columns[name][:SAMPLE] for name in scorer.features}, scorer.kinds, categories)
    native, twin = scorer.both(rows)
    forms = {"pyfunc": models.pyfunc_scores(project, scorer.version, rows)} | (
        {} if twin is None else {"ONNX": twin}
    )
    return Parity(worst={name: apart(found, native) for name, found in forms.items()}, rows=len(native))


def harder(columns: Columns, kinds: Mapping[str, str], categories: Collection[str] = ()) -> Columns:
    """The rows, and some again: with each feature missing in turn, with unseen categories, with no value."""
    some = {name: values[:_CHANGED] for name, values in columns.items()}
    blocks = [
        dict(columns),
        {name: np.full(len(values[:1]), None, dtype=object) for name, values in columns.items()},
    ]
    for name in columns:
        blocks.append({**some, name: np.full(len(some[name]), None, dtype=object)})
        unseen = _UNSEEN_TEXT if kinds[name] == "text" else _UNSEEN_NUMBER
        if kinds[name] == "text" or name in categories:
            blocks.append({**some, name: np.full(len(some[name]), unseen, dtype=object)})
    return {name: np.concatenate([block[name] for block in blocks]).astype(object) for name in columns}


def made_up(scorer: Scorer, count: int = SAMPLE) -> Columns:
    """Rows for a version whose training rows are not at hand: numbers of several magnitudes, known texts."""
    random = np.random.default_rng(_SEED)
    found = {}
    for name, kind in scorer.kinds.items():
        known = scorer.categories.get(name, ())
        if kind == "text":
            found[name] = np.array(
                [str(random.choice(known)) if known else None for _ in range(count)], dtype=object
            )
        else:
            found[name] = np.round(
                random.normal(0, 1, count) * 10.0 ** random.integers(0, 4, count), 3
            ).astype(object)
    return found
