"""Watching on small arrays: drift by its formulas, profiles, accuracy by label, thresholds and the page."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from anabranch import Count, FeatureView, Label, Model, Project, Slice, Source, Watch
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.cassandra.measures import Measure
from anabranch.stores.models.inputs import ModelInput
from anabranch.values.times import DAY, from_micros, parse_time
from batch.evaluation.fairness import RATES
from batch.training.profile import Bins, profile, read_profile
from batch.watching.alerts import checks
from batch.watching.drift import drifts, jensen_shannon, psi, score_drift
from batch.watching.findings import Findings
from batch.watching.outcomes import Accuracy, JudgedPredictions, accuracies, fairness_by_version
from batch.watching.page import page
from batch.watching.skew import Skew

NOW = parse_time("2026-05-10T12:00:00Z")
COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(any)


def declare(watch: Watch, metric: str = "roc_auc", slices: tuple[Any, ...] = ()) -> Project:
    seen = Source(name="seen", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, bad BOOLEAN")
    view = FeatureView(
        name="counts", source=seen, key="who", features={"n": Count(), "m": Count(where="bad")}
    )
    return Project(
        name="people",
        views=(view,),
        label=Label(source=seen, key="who", target="bad"),
        model=Model(metric=metric, slices=slices),
        watch=watch,
    )


def test_the_stability_index_follows_its_formula() -> None:
    assert psi([50, 50], [50, 50]) == 0
    assert psi([50, 50], [75, 25]) == pytest.approx(0.25 * np.log(1.5) - 0.25 * np.log(0.5))
    # An empty bin counts as one in ten thousand.
    assert psi([100, 0], [50, 50]) == pytest.approx(
        (0.5 - 1) * np.log(0.5) + (0.5 - 1e-4) * np.log(0.5 / 1e-4)
    )


@given(COUNTS, st.randoms())
def test_the_divergence_is_scipys_and_both_measures_are_symmetric(expected: list[int], random: Any) -> None:
    found = [random.randint(0, 1000) for _ in expected]
    found[0] += 1
    assert jensen_shannon(expected, found) == pytest.approx(
        jensenshannon(expected, found, base=2) ** 2, abs=1e-9
    )
    assert jensen_shannon(expected, found) == pytest.approx(jensen_shannon(found, expected))
    assert psi(expected, found) == pytest.approx(psi(found, expected))
    assert 0 <= jensen_shannon(expected, found) <= 1
    assert psi(expected, expected) == 0


@given(
    st.lists(st.one_of(st.none(), st.floats(-5, 5, width=32)), min_size=1, max_size=60),
    st.lists(st.one_of(st.none(), st.floats(-9, 9, width=32)), max_size=60),
)
def test_every_value_is_counted_in_one_bin(training: list[float | None], later: list[float | None]) -> None:
    matrix = np.array([[np.nan if v is None else v] for v in training], dtype=np.float32)
    bins = profile([ModelInput(name="x", kind="number")], (), matrix, np.zeros(1)).features["x"]
    column = np.array([np.nan if v is None else v for v in later], dtype=np.float32)
    counts = bins.count(column)
    assert counts.sum() == len(later)
    assert len(counts) == len(bins.names) == len(bins.counts)
    assert counts[-1] == sum(v is None for v in later)
    assert sum(bins.counts) == len(training)


def test_numbers_are_counted_in_deciles_and_kinds_one_by_one() -> None:
    inputs = [
        ModelInput(name="x", kind="number"),
        ModelInput(name="town", kind="text", categories=("a", "b")),
        ModelInput(name="code", kind="number"),
    ]
    matrix = np.column_stack(
        [np.arange(100.0), np.resize([0.0, 1.0], 100), np.resize(np.arange(30.0), 100)]
    ).astype(np.float32)
    made = profile(inputs, ("code",), matrix, np.linspace(0, 1, 100))
    assert made.features["x"].counts == (10,) * 10 + (0,)
    assert (made.features["town"].names, made.features["town"].counts) == (
        ("a", "b", "other values", "missing"),
        (50, 50, 0, 0),
    )
    assert len(made.features["code"].values) == 30
    assert read_profile(made.text()) == made
    with pytest.raises(AnabranchError, match="train again"):
        read_profile(b'{"rows": 1}')


def test_the_feature_that_moved_furthest_comes_first() -> None:
    inputs = [ModelInput(name=name, kind="number") for name in ("still", "moved")]
    training = np.random.default_rng(1).normal(size=(4000, 2)).astype(np.float32)
    made = profile(inputs, (), training, training[:, 0].astype(np.float64))
    later = np.random.default_rng(2).normal(size=(4000, 2)).astype(np.float32) + np.array(
        [0, 1], dtype=np.float32
    )
    first, second = drifts(made, ("still", "moved"), later)
    assert (first.feature, second.feature) == ("moved", "still")
    assert first.psi > 0.5
    assert second.psi < 0.02
    assert score_drift(made, later[:, 0].astype(np.float64)).psi < 0.02
    assert "more" in first.most_moved


def outcomes() -> JudgedPredictions:
    """Version 2 is perfect on day one and wrong on day two; version 1 has labels of one class only."""
    days = np.repeat([NOW - DAY, NOW], 20)
    score = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 0, 20), [0.5, 0.6]])
    target = np.concatenate([np.linspace(0, 1, 20) > 0.5, np.linspace(0, 1, 20) > 0.5, [1, 1]]).astype(
        np.float64
    )
    used = [{"n": float(i % 2)} for i in range(42)]
    version = np.array(["2"] * 40 + ["1"] * 2, dtype=object)
    return JudgedPredictions(
        version=version,
        key=np.arange(42),
        time=np.append(days, [NOW, NOW]),
        score=score,
        target=target,
        used=used,
    )


def test_accuracy_is_measured_by_version_slice_and_day() -> None:
    project = declare(Watch(), slices=(Slice(feature="n"), Slice(feature="m")))
    assert project.model is not None
    found = accuracies(project.model, outcomes(), {}, DAY)
    told = {(one.version, one.part, one.period): one for one in found}
    first, second = (from_micros(NOW // DAY * DAY) - timedelta(days=back) for back in (1, 0))
    assert [told["2", "", day].value for day in (first, second)] == [1.0, 0.0]
    assert told["2", "", None].value == pytest.approx(0.5, abs=0.01)
    assert (told["1", "", None].labels, told["1", "", None].value) == (2, None)
    assert {part for _, part, _ in told} == {"", "n 0", "n 1"}  # predictions do not tell m
    assert told["2", "n 0", None].labels == 20
    whole = told["2", "", None]
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low < 0.5 < whole.high


def test_slices_over_time_are_what_a_loop_over_the_labels_finds() -> None:
    project = declare(Watch(), slices=(Slice(feature="n", bands=(3, 7)), Slice(feature="m")))
    assert project.model is not None
    draw = np.random.default_rng(5)
    rows = 600
    # Only version 2 reads m: it has slices of it, whatever version 1 was given.
    version = np.array(draw.choice(["1", "2"], rows), dtype=object)
    used = [
        {"n": float(n)} | ({"m": m} if v == "2" else {})
        for n, m, v in zip(draw.integers(0, 10, rows), draw.choice(["a", "b"], rows), version, strict=True)
    ]
    judged = JudgedPredictions(
        version=version,
        key=np.arange(rows),
        time=NOW - draw.integers(0, 4 * DAY, rows),
        score=draw.random(rows),
        target=draw.integers(0, 2, rows).astype(np.float64),
        used=used,
    )
    found = {(one.version, one.part, one.period): one for one in accuracies(project.model, judged, {}, DAY)}

    def bands(given: dict[str, Any]) -> list[str]:
        band = "n below 3" if given["n"] < 3 else "n 3 to below 7" if given["n"] < 7 else "n 7 and more"
        return ["", band, *([f"m {given['m']}"] if "m" in given else [])]

    places: dict[Any, list[int]] = {}
    for place in range(rows):
        for part in bands(used[place]):
            for period in (None, from_micros(int(judged.time[place]) // DAY * DAY)):
                places.setdefault((version[place], part, period), []).append(place)
    assert found.keys() == places.keys()
    assert len(found) == 60
    for which, mine in places.items():
        assert found[which].labels == len(mine)
        target, score = judged.target[mine], judged.score[mine]
        expected = roc_auc_score(target, score) if 0 < target.sum() < len(mine) else None
        assert found[which].value == (None if expected is None else pytest.approx(expected))
        assert (found[which].low is None) == (expected is None or (which[1] != "" and which[2] is not None))


def test_slices_over_time_are_kept_logged_once_and_shown() -> None:
    project = declare(Watch(), slices=(Slice(feature="n"),))
    found = watched(accuracy=tuple(accuracies(project.model or Model(), outcomes(), {}, DAY)))
    kept = [one for one in found.measures() if one.subject == "periods"]
    today = from_micros(NOW // DAY * DAY)
    assert {one.slice for one in kept} == {"", "n 0", "n 1"}
    (value,) = [
        one.value
        for one in kept
        if (one.name, one.version, one.slice, one.at) == ("roc_auc", "2", "n 1", today)
    ]
    assert value == 0.0
    assert found.changed_periods([])["2", today]["periods/roc_auc/n 1"] == 0.0
    # What the look before has kept is no news, unless later labels have corrected it.
    assert found.changed_periods(kept) == {}
    corrected = [
        replace(one, value=0.25) if one.name == "roc_auc" and one.slice == "n 1" and one.at == today else one
        for one in kept
    ]
    assert found.changed_periods(corrected) == {("2", today): {"periods/roc_auc/n 1": 0.0}}
    text = page(found, [])
    assert "<h2>Slices over time</h2>" in text
    assert "<td>n 1</td>" in text.split("<h2>Slices over time</h2>")[1]
    assert text.count("data:image/png;base64,") == page(watched(), []).count("data:image/png;base64,") + 1


def test_a_difference_between_the_parts_of_a_slice_is_measured_shown_and_an_alert() -> None:
    project = declare(Watch(rows=40, disparity_above=0.2), slices=(Slice(feature="n"), Slice(feature="m")))
    assert project.model is not None
    rows = 400
    n = np.arange(rows) % 2
    judged = JudgedPredictions(
        version=np.array(["2"] * rows, dtype=object),
        key=np.arange(rows),
        time=np.full(rows, NOW),
        score=np.where(n == 1, 0.9, np.arange(rows) % 8 / 10),  # class 1 of every odd row, of few even ones
        target=(np.arange(rows) // 2 % 2).astype(np.float64),
        used=[{"n": int(one)} for one in n],
    )
    fair = fairness_by_version(project.model, judged, {"2": 0.6})
    found = watched(fairness=fair)
    measures = {(one.name, one.slice): one.value for one in found.measures() if one.subject == "fairness"}
    assert measures["selection_rate", "n 1"] == 1.0
    assert measures["selection_rate", "n 0"] == 0.25
    assert measures["selection_rate_difference", "n"] == 0.75
    low = measures["selection_rate_difference_low", "n"]
    assert 0.6 < low < 0.75
    fired = {one.which: one for one in checks(project, found)}
    assert set(fired) == {f"n {name}" for name in RATES}
    one = fired["n selection_rate"]
    assert (one.what, one.value, one.crossed) == ("disparity", low, True)
    few = declare(Watch(rows=401, disparity_above=0.2), slices=(Slice(feature="n"),))
    assert checks(few, found) == []
    text = page(found, [])
    assert "<h2>Fairness by slice</h2>" in text
    assert "<h2>Differences between the parts of slices</h2>" in text
    numbers = declare(Watch(metric_above=9.0), "rmse", slices=(Slice(feature="n"),)).model
    assert numbers is not None
    assert fairness_by_version(numbers, judged, {}) == {}


def watched(**more: Any) -> Findings:
    matrix = np.arange(200, dtype=np.float32).reshape(-1, 1)
    made = profile([ModelInput(name="n", kind="number")], (), matrix, matrix[:, 0].astype(np.float64))
    model = declare(Watch()).model or Model()
    skew = Skew(
        version="2",
        batch_version=7,
        answers=10,
        unsettled=1,
        values=100,
        differing=3,
        features={"n": 3},
        example="n of <p>: 1, 2",
    )
    plain: dict[str, Any] = {
        "project": "people",
        "metric": "roc_auc",
        "at": NOW,
        "since": NOW - 30 * DAY,
        "champion": "2",
        "predictions": {"2": 200},
        "accuracy": tuple(accuracies(model, outcomes(), {}, DAY)),
        "features": {
            version: tuple(drifts(made, ("n",), matrix + moved))
            for version, moved in (("2", 100), ("1", 500))
        },
        "scores": {"2": score_drift(made, matrix[:, 0].astype(np.float64))},
        "means": {"2": 0.5},
        "current": (),
        "skew": skew,
        "approximation": {},
        "notes": ("a note",),
    }
    return Findings(**plain | more)


def test_thresholds_judge_the_champion_and_only_with_enough_rows() -> None:
    watch = Watch(rows=40, psi_above=0.2, score_psi_above=0.2, metric_below=0.7, skew_above=0.01)
    found = {(one.what, one.which): one for one in checks(declare(watch), watched())}
    assert {name: one.crossed for name, one in found.items()} == {
        ("psi", "n"): True,
        ("score_psi", ""): False,
        ("roc_auc", ""): True,
        ("skew", ""): True,
    }
    assert {one.version for one in found.values()} == {"2"}
    assert {one.what for one in checks(declare(replace(watch, rows=201)), watched())} == {"skew"}
    assert checks(declare(Watch(rows=1)), watched()) == []


def approximation(flips: float, count: float) -> dict[str, Measure]:
    values = {"flips": flips, "count": count, "mean": 0.1, "p99": 0.3}
    return {
        name: Measure(project="people", subject="approximation", name=name, at=from_micros(NOW), value=value)
        for name, value in values.items()
    }


LOSS = Accuracy(version="2", part="", labels=50, value=0.5)


@pytest.mark.parametrize(
    ("kind", "which", "value", "found"),
    [
        ("psi_above", "n", None, {}),
        ("js_above", "n", None, {}),
        ("score_psi_above", "", None, {"scores": "moved"}),
        ("metric_above", "", 0.5, {"metric": "log_loss", "accuracy": (LOSS,)}),
        ("skew_above", "", 0.03, {}),
        ("flips_above", "", 0.2, {"approximation": approximation(0.2, 50)}),
    ],
)
def test_each_threshold_fires_above_its_bound_and_not_at_it(
    kind: str, which: str, value: float | None, found: dict[str, Any]
) -> None:
    if found.get("scores"):
        found = {"scores": {"2": replace(watched().features["2"][0], feature="")}}
    look = watched(**found)
    if value is None:
        drift = look.scores["2"] if kind == "score_psi_above" else look.features["2"][0]
        value = drift.js if kind == "js_above" else drift.psi
    metric = str(found.get("metric", "roc_auc"))
    what = metric if kind == "metric_above" else kind.removesuffix("_above")
    below, above = float(np.nextafter(value, 0)), float(np.nextafter(value, 9))

    def declared(rows: int, bound: float) -> Project:
        threshold: dict[str, Any] = {kind: bound}
        return declare(Watch(rows=rows, **threshold), metric)

    for bound, crossed in ((below, True), (value, False), (above, False)):
        (one,) = checks(declared(40, bound), look)
        assert (one.what, one.which, one.version, one.value, one.threshold, one.crossed) == (
            what,
            which,
            "2",
            value,
            bound,
            crossed,
        )
    if kind != "skew_above":  # recomputed features are as many as the features of all answers
        assert checks(declared(1_000, below), look) == []


def test_a_metric_that_is_larger_when_better_fires_below_its_bound() -> None:
    look = watched(accuracy=(replace(LOSS, value=0.75),))
    fired = [
        checks(declare(Watch(rows=40, metric_below=bound)), look)[0].crossed for bound in (0.7, 0.75, 0.8)
    ]
    assert fired == [False, False, True]


def test_measures_and_metrics_have_the_same_values() -> None:
    found = watched()
    measures = {(one.subject, one.name, one.version, one.slice): one for one in found.measures()}
    assert measures["features", "psi", "2", "n"].value == found.features["2"][0].psi
    assert measures["predictions", "roc_auc", "2", ""].value == pytest.approx(0.5, abs=0.01)
    assert measures["skew", "share", "2", ""].value == 0.03
    assert {one.at for one in found.measures() if one.subject == "periods"} == {
        from_micros(day * DAY) for day in (NOW // DAY, NOW // DAY - 1)
    }
    assert found.registry_metrics()["2"]["features/psi/n"] == found.features["2"][0].psi
    few = replace(found, least=found.features["2"][0].rows + 1)
    assert [one for one in few.measures() if one.subject == "features"] == []
    assert not any("periods" in name for name in found.registry_metrics()["2"])


def test_the_page_shows_crossed_thresholds_and_escapes_data() -> None:
    found = watched()
    text = page(found, checks(declare(Watch(rows=1, psi_above=0.2)), found))
    assert "1 of 1 thresholds crossed" in text
    assert "n of &lt;p&gt;: 1, 2" in text
    assert text.count("data:image/png;base64,") == 4
    assert "No threshold is declared" in page(watched(accuracy=(), features={}, scores={}, skew=None), [])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: Watch(horizon="a week"), "watch: horizon 'a week' is not understood"),
        (lambda: Watch(rows=0), "rows is 0"),
        (lambda: Watch(psi_above=-0.1), "psi_above is -0.1"),
        (
            lambda: declare(Watch(metric_above=0.9)),
            "metric_above would be an alert for a good roc_auc: use metric_below",
        ),
        (lambda: declare(Watch(metric_below=0.9), metric="log_loss"), "use metric_above"),
    ],
)
def test_a_wrong_declaration_says_what_to_do(given: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        given()


def test_watch_settings_do_not_change_the_fingerprint() -> None:
    assert declare(Watch(psi_above=0.1, retrain=True)).fingerprint == declare(Watch()).fingerprint


def test_a_period_without_both_classes_is_not_drawn() -> None:
    one = Accuracy(version="1", part="", labels=3, value=None, period=from_micros(NOW))
    assert page(watched(accuracy=(one,)), []).count("data:image/png;base64,") == 3
    assert Bins().count(np.array([1.0, np.nan])).tolist() == [1, 1]
