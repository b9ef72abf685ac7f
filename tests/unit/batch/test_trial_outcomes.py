"""A version on trial beside the champion by labels: paired, wherever a prediction tells what both read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anabranch.stores.cassandra.measures import by_outcomes
from anabranch.values.times import DAY, from_micros, parse_time
from batch.watching.outcomes import JudgedPredictions
from batch.watching.trial_outcomes import TrialOutcome, trial_outcome
from tests.unit.batch.test_watching import watched

NOW = parse_time("2026-05-10T12:00:00Z") or 0


class Sharp:
    """A scorer of one column, or of the sum of several."""

    def __init__(self, version: str, *features: str) -> None:
        self.version, self.features, self.threshold = version, features, 0.5

    def score(self, columns: Any) -> Any:
        return np.clip(sum(np.array(columns[name], dtype=float) for name in self.features), 0, 1)


def judged(rows: int, *, canary: bool = False) -> tuple[JudgedPredictions, Any, Any]:
    """Predictions of the champion, which reads a weak column; the tried version reads a better one."""
    random = np.random.default_rng(4)
    target = (np.arange(rows) % 2).astype(np.float64)
    weak, strong = (np.clip(target * gap + random.normal(0.3, 0.3, rows), 0, 1) for gap in (0.1, 0.35))
    version = np.array(["7"] * rows, dtype=object)
    if canary:
        version[: rows // 4] = "8"
    found = JudgedPredictions(
        version=version,
        key=np.arange(rows),
        time=np.full(rows, NOW),
        score=np.where(version == "8", strong, weak),
        target=target,
        used=[{"weak": one, "strong": two} for one, two in zip(weak.tolist(), strong.tolist(), strict=True)],
    )
    return found, weak, strong


def compared(found: JudgedPredictions, since: int = NOW - DAY, *reads: str) -> TrialOutcome | None:
    champion: Any = Sharp("7", "weak")
    tried: Any = Sharp("8", *(reads or ("strong",)))
    return trial_outcome("roc_auc", found, champion, tried, since)


@pytest.mark.parametrize("canary", [False, True])
def test_both_versions_are_judged_on_every_label_whoever_answered(canary: bool) -> None:
    found, weak, strong = judged(400, canary=canary)
    told = compared(found)
    assert told is not None
    assert (told.version, told.champion, told.labels, told.left_out) == ("8", "7", 400, 0)
    assert told.tried == pytest.approx(roc_auc_score(found.target, strong))
    assert told.ours == pytest.approx(roc_auc_score(found.target, weak))
    assert told.gain is not None
    assert told.low is not None
    assert told.high is not None
    assert 0 < told.low < told.gain < told.high
    assert told.needed == 0
    assert "enough labels" in told.said


def test_few_labels_say_how_many_more_are_needed_and_more_of_them_suffice() -> None:
    few = compared(judged(24)[0])
    assert few is not None
    assert few.needed is not None
    assert few.low is not None
    assert few.low < 0
    assert 0 < few.needed < 400
    enough = compared(judged(24 + 4 * few.needed)[0])
    assert enough is not None
    assert enough.needed == 0
    same = compared(judged(100)[0], NOW - DAY, "weak")
    assert same is not None
    assert (same.gain, same.needed) == (0.0, None)
    assert "no difference to prove" in same.said


def test_labels_before_the_trial_and_predictions_that_do_not_tell_count_for_nothing() -> None:
    found, _, _ = judged(100)
    assert compared(found, NOW + 1) is None
    told = compared(replace(found, used=[{"weak": 0.1}] * 60 + list(found.used[60:])))
    assert told is not None
    assert (told.labels, told.left_out) == (40, 60)
    ones = replace(found, target=np.ones(100))
    alone = compared(ones)
    assert alone is not None
    assert (alone.gain, alone.needed) == (None, None)
    assert "100 labels do not tell version 8 from 7 yet" in alone.said
    twice = replace(found, key=np.arange(100) // 2)  # two versions answered one key: one label, once
    told = compared(twice)
    assert told is not None
    assert told.labels == 50


def test_the_report_is_kept_as_measures_and_read_from_the_newest_look() -> None:
    told = compared(judged(400)[0])
    assert told is not None
    kept = [one for one in watched(trial=told).measures() if one.subject == "trial"]
    assert {one.name: one.value for one in kept} == told.values
    assert {(one.version, one.slice) for one in kept} == {("8", "7")}
    stale = replace(kept[0], name="gone", value=1.0, at=from_micros(NOW - DAY))
    (found,) = by_outcomes([stale, *kept])
    assert found == {"version": "8", "beside": "7", "at": kept[0].at, **told.values}
