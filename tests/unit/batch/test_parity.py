"""What the check of parity looks at beyond plain rows."""

from typing import Any, cast

import numpy as np

from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import apart
from anabranch.stores.models.versions import Scorer
from batch.release.parity import Columns, compare, harder

KINDS = {"pages": "number", "town": "text", "cp": "number"}
ROWS: Columns = {
    "pages": np.array([1.0, 2.0, 3.0], dtype=object),
    "town": np.array(["Oslo", "Bergen", "Oslo"], dtype=object),
    "cp": np.array([1.0, 4.0, 1.0], dtype=object),
}


class Twins:
    """A version whose forms agree except where `odd` says otherwise; registry and scorer in one."""

    version, features, kinds = "1", tuple(KINDS), KINDS

    def __init__(self, odd: Any) -> None:
        self._odd = odd

    def both(self, columns: Columns) -> tuple[Any, Any]:
        plain = np.zeros(len(columns["pages"]))
        return plain, np.array(
            [0.5 if self._odd(row) else 0.0 for row in zip(*columns.values(), strict=True)]
        )

    def pyfunc_scores(self, project: str, version: str, columns: Columns) -> Any:
        return np.zeros(len(columns["pages"]))


def worst(odd: Any) -> dict[str, float]:
    twins = Twins(odd)
    return dict(compare(cast("Models", twins), "shop", cast("Scorer", twins), ROWS, ("cp",)).worst)


def test_rows_are_tried_again_with_each_value_missing_with_unseen_categories_and_with_nothing_known() -> None:
    found = list(zip(*harder(ROWS, KINDS, ("cp",)).values(), strict=True))
    plain = list(zip(*ROWS.values(), strict=True))
    assert found[:3] == plain
    for position in range(3):
        assert [row[position] for row in found].count(None) == 4
    assert (None, None, None) in found
    assert [row[0] for row in found if row[1] not in ("Oslo", "Bergen", None)] == [1.0, 2.0, 3.0]
    assert [row[0] for row in found if row[2] not in (1.0, 4.0, None)] == [1.0, 2.0, 3.0]


def test_forms_that_differ_only_where_something_is_missing_or_unseen_are_found_out() -> None:
    assert worst(lambda _: False) == {"pyfunc": 0.0, "ONNX": 0.0}
    assert worst(lambda row: row[2] is None and row[1] is not None)["ONNX"] == 0.5
    assert worst(lambda row: row[1] not in ("Oslo", "Bergen", None))["ONNX"] == 0.5
    assert worst(lambda row: row[2] not in (1.0, 4.0, None))["ONNX"] == 0.5
    assert worst(lambda row: row == (None, None, None))["ONNX"] == 0.5


def test_a_score_that_is_no_number_is_not_parity() -> None:
    twins = Twins(lambda _: False)
    count = len(harder(ROWS, KINDS, ())["pages"])
    twins.pyfunc_scores = lambda *_: np.full(count, np.nan)  # type: ignore[method-assign]
    found = compare(cast("Models", twins), "shop", cast("Scorer", twins), ROWS)
    assert not found.within(1e-6)


def test_a_score_near_0_among_large_ones_is_compared_by_their_size() -> None:
    right = np.array([1e9, -2e9, 3.0, 4e9])
    assert apart(right + 50, right) < 1e-7
    assert apart(np.array([0.25, 0.75]), np.array([0.25, 0.5])) == 0.25
    assert apart(np.array([1.0, 5.0, 1.0]), np.array([1.0, 1e30, 1.0])) == 1.0
    assert apart(np.array([np.nan]), np.array([1.0])) == np.inf
