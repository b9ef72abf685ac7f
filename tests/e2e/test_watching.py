"""The river's model after its release: answers over REST, labels that arrive later, and two looks."""

import csv
import json
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anabranch import Project, Watch
from anabranch.stores.cassandra.measures import Measures
from anabranch.values.times import format_time, now_micros
from jobs.demo import EXAMPLE, WEARERS
from jobs.flows.building import build_project
from jobs.flows.watching import Looked, watch_project
from jobs.servers.processes import wait_until
from jobs.show import Steps
from jobs.wiring.context import Context
from tests.servers.stores.test_bus import read
from tests.support.heart import DATA
from tests.support.heart_river import Lived


@dataclass(frozen=True)
class Released:
    """What was answered, how it came out, and what the looks found."""

    lived: Lived
    project: Project
    since: int
    scores: dict[str, float]
    sick: dict[str, bool]
    first: Looked
    second: Looked
    page: str


@pytest.fixture(scope="module")
def released(lived: Lived, rest_of_heart: str, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Patients are scored by key, strangers by features, all old; some patients are diagnosed later."""
    context, since, topic = lived.context, now_micros(), "predictions.heart_disease"
    context.bus.ensure_topics([topic])
    before = sum(context.bus.ends(topic).values())
    assert wait_until(lambda: ready(rest_of_heart), 60)
    with (DATA / "exams.csv").open(encoding="utf-8", newline="") as lines:
        patients = [row["patient_id"] for row in csv.DictReader(lines) if row["patient_id"] not in WEARERS][
            :40
        ]
    scores = {patient: asked(rest_of_heart, {"key": patient}) for patient in patients}
    for number in range(40):
        asked(rest_of_heart, {"features": {**EXAMPLE, "age": 90 + number % 5}})
    assert wait_until(lambda: sum(context.bus.ends(topic).values()) >= before + 80, 30)
    sick = {
        patient: (scores[patient] > 0.5) != (number % 5 == 0) for number, patient in enumerate(patients[:30])
    }
    now = format_time(now_micros())
    diagnoses = [
        {"diagnosis_id": f"later-{p}-{now}", "patient_id": p, "diagnosed_at": now, "num": int(ill)}
        for p, ill in sick.items()
    ]
    context.bus.publish("diagnoses", [(None, json.dumps(one).encode()) for one in diagnoses])
    project = replace(lived.project, watch=Watch(rows=20, psi_above=0.25, metric_below=0.999, skew_above=0.0))
    file = tmp_path_factory.mktemp("watch") / "report.html"
    first = watch_project(context, project, Steps(), since, file)
    second = watch_project(context, project, Steps(), since, landed=True)
    return Released(
        lived, project, since, scores, sick, first, second, Path(file).read_text(encoding="utf-8")
    )


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def asked(address: str, body: dict[str, Any]) -> float:
    """The score that the server answers."""
    request = urllib.request.Request(
        f"{address}/v1/projects/heart_disease/predict",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        score: float = json.loads(answer.read())["score"]
    return score


def test_labels_that_arrive_later_judge_the_predictions(released: Released) -> None:
    version = released.lived.demo.trained.version
    assert released.first.findings.predictions == {version: 80}
    whole = next(one for one in released.first.findings.accuracy if not one.part and one.period is None)
    expected = roc_auc_score(
        list(released.sick.values()), [released.scores[patient] for patient in released.sick]
    )
    assert (whole.version, whole.labels) == (version, 30)
    assert whole.value == pytest.approx(expected)
    assert {one.part.split()[0] for one in released.first.findings.accuracy if one.part} == {"sex", "age"}


def test_features_of_predictions_are_compared_with_the_training_data(released: Released) -> None:
    drifts = {
        one.feature: one for one in released.first.findings.features[released.lived.demo.trained.version]
    }
    assert drifts["age"].psi > 1
    current = {one.feature: one for one in released.first.findings.current}
    assert current["age"].psi < 0.05  # the very patients it was trained on
    assert current["age"].rows == 303


def test_answers_recomputed_from_the_lake_are_the_same(released: Released) -> None:
    skew = released.first.findings.skew
    assert skew is not None
    assert (skew.answers, skew.differing, skew.example) == (40, 0, "")
    assert skew.values == 40 * len(released.lived.context.models.scorer("heart_disease").features)


def test_alerts_are_raised_once_and_everything_is_kept(released: Released) -> None:
    crossed = {(one.what, one.which): one.news for one in released.first.checks if one.crossed}
    assert (crossed["psi", "age"], crossed["roc_auc", ""]) == ("raised", "raised")
    assert {one.news for one in released.second.checks} == {""}
    context, version = released.lived.context, released.lived.demo.trained.version
    latest = {
        (one.subject, one.name, one.slice): one.value
        for one in Measures(context.settings.views).latest("heart_disease")
        if one.version == version
    }
    assert latest["features", "psi", "age"] == pytest.approx(
        next(d.psi for d in released.second.findings.features[version] if d.feature == "age")
    )
    assert (latest["skew", "share", ""], latest["alerts", "psi", "age"]) == (0, 1)
    logged = context.models.entry("heart_disease", version).watched
    assert logged["predictions/labels"] == 30
    # Over time by slice too: all labels came in one day.
    assert {part.split()[0] for subject, _, part in latest if subject == "periods" and part} == {"sex", "age"}
    assert (
        sum(
            value
            for (subject, name, part), value in latest.items()
            if (subject, name) == ("periods", "labels") and part.startswith("sex")
        )
        == 30
    )
    assert sum(value for name, value in logged.items() if name.startswith("periods/labels/sex")) == 30
    assert "thresholds crossed" in released.page
    assert released.page.count("data:image/png") > 5


def test_a_served_value_changed_by_hand_is_found_as_skew_and_raises_an_alert(
    released: Released,
) -> None:
    context, topic, name = released.lived.context, "predictions.heart_disease", "chol"
    made = [json.loads(value or b"") for _, _, _, value, _, _ in read(context.bus, topic)]
    one = next(each for each in made if each["asked"]["key"] in released.scores)
    right, wrong = one["used"][name], one["used"][name] + 50
    planted = {**one, "prediction_id": "planted", "used": {**one["used"], name: wrong}}
    given = {
        **planted,
        "prediction_id": "given",
        "asked": {**one["asked"], "features": {name: wrong}},
    }  # what the caller says is no skew
    context.bus.publish(topic, [(None, json.dumps(each).encode()) for each in (planted, given)])
    looked = watch_project(context, released.project, Steps(), released.since)
    before, skew = released.first.findings.skew, looked.findings.skew
    assert before is not None
    assert skew is not None
    assert (skew.answers, skew.differing, skew.features) == (before.answers + 2, 1, {name: 1})
    features = len(context.models.scorer("heart_disease").features)
    assert skew.values == before.values + 2 * features - 1
    lake, served = skew.example.removeprefix(f"{name} of {one['asked']['key']}: ").split(", ")
    assert (float(lake.removesuffix(" in the lake")), float(served.removesuffix(" when served"))) == (
        right,
        wrong,
    )
    assert {each.what: each.news for each in looked.checks if each.crossed}["skew"] == "raised"
    (alert,) = [
        told
        for _, _, _, value, _, _ in read(context.bus, "alerts.heart_disease")
        if (told := json.loads(value or b""))["what"] == "skew"
    ]
    assert (alert["status"], alert["value"]) == ("raised", pytest.approx(1 / skew.values))


def test_a_batch_replaces_approximate_scores_and_measures_their_error(released: Released) -> None:
    context, project, version = (
        released.lived.context,
        released.lived.project,
        released.lived.demo.trained.version,
    )
    patients = list(released.scores)[:12]
    off = [(released.scores[patient] + 0.02 * (number - 4)) % 1.0 for number, patient in enumerate(patients)]
    said = {"layer": "speed", "batch_version": 1}
    rows = [
        {"key": p, "score": s, "label": int(s < 0.5), "model_version": version, **said}
        for p, s in zip(patients, off, strict=True)
    ]
    other = {"key": list(released.scores)[12], "score": 0.123, "label": 0, "model_version": "of old", **said}
    context.views.write_current(project.name, [*rows, other], now_micros())
    before = {
        row.key: row for row in current_rows(context) if row.layer == "speed" and row.model_version == version
    }
    assert before.keys() >= {*patients, WEARERS[0]}
    built = build_project(context, project, None, Steps())
    after = {row.key: row for row in current_rows(context)}
    assert {row.layer for row in after.values()} == {"batch"}
    assert {(row.model_version, row.batch_version) for row in after.values()} == {
        (version, built.manifest.batch_version)
    }
    assert all(row.as_of is not None for row in after.values())
    difference = np.array([abs(row.score - after[key].score) for key, row in before.items()])
    flips = np.mean([row.label != after[key].label for key, row in before.items()])
    expected = {
        "count": len(before),
        "mean": difference.mean(),
        "p99": np.percentile(difference, 99),
        "flips": flips,
    }
    assert built.approximation is not None
    assert built.approximation.values() == pytest.approx(expected)
    assert built.approximation.mean > 0.01
    kept = {
        one.name: one.value
        for one in Measures(context.settings.views).latest(project.name)
        if one.subject == "approximation"
    }
    assert kept == pytest.approx(expected)


def current_rows(context: Context) -> list[Any]:
    return list(
        context.views.session.execute(
            "SELECT key, score, label, layer, as_of, model_version, batch_version FROM heart_disease_current"
        )
    )
