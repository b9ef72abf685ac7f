"""The table of a benchmark: a goal is a number, and a wrong result never reaches it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bench.report import Row, alone
from tests.bench.scoring import same


def row(goal: str, ratio: float, equal: bool | None) -> Row:
    return Row(work="w", peer="p", ours=1.0, theirs=ratio, unit="s", ratio=ratio, goal=goal, equal=equal)


@pytest.mark.parametrize("goal", ["more than 1", "flat", "> 0.9", "<= many"])
def test_a_goal_in_words_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        row(goal, 1.0, True)


def test_a_goal_is_judged_by_the_ratio_or_by_the_figure_alone() -> None:
    assert row(">= 0.9", 0.95, True).reached is True
    assert row(">= 0.9", 0.85, True).reached is False
    assert alone("p99", 42.0, "ms", "<= 50").reached is True
    assert alone("p99", 42.0, "ms").reached is None


def test_no_ratio_reaches_its_goal_when_the_results_differ() -> None:
    assert row(">= 0.9", 30.0, False).reached is False


def test_the_comparison_of_scores_finds_one_planted_error(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 1000)
    wrong = scores.copy()
    wrong[617] += 1e-4
    for name, values in (("ours", scores), ("theirs", scores), ("planted", wrong)):
        (tmp_path / name).mkdir()
        pq.write_table(
            pa.table({"row_id": np.arange(1000), "score": values}), tmp_path / name / "part.parquet"
        )
    assert same(tmp_path / "ours", tmp_path / "theirs")
    assert not same(tmp_path / "ours", tmp_path / "planted")
