"""The gate, promotion by hand, trainings that outlive an absent registry; MLflow is an SQLite file here."""

import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow.models import get_model_info
from numpy.typing import NDArray

from anabranch import FeatureView, Gate, Label, Last, Model, Project, Search, Slice, Source
from anabranch.errors import AnabranchError, DeclarationError, MisuseError, UnavailableError
from anabranch.progress import Silent
from anabranch.settings import ModelsSettings
from anabranch.stores.models.registry import Models
from anabranch.stores.models.versions import TrainingRecord
from batch.evaluation.assessment import JudgedRows
from batch.evaluation.kept_runs import keep, unfinished
from batch.release.promotion import paired, promote, roll_back
from batch.release.registering import finish, register
from batch.training.fact_sheet import SECTIONS
from batch.training.job import TrainingJob, TrainingSet
from batch.training.train import Trained, fit_and_log, train_run
from tests.support.stores import stores
from tests.support.stump import registered, stump

visits = Source(
    name="visits",
    id="id",
    time="at",
    schema="id STRING, who STRING, at TIMESTAMP, pages INT, town STRING, weak DOUBLE, bought INT",
)
seen = FeatureView(
    name="seen",
    source=visits,
    key="who",
    features={"pages": Last("pages"), "town": Last("town"), "weak": Last("weak")},
)


def shop(name: str, **model: object) -> Project:
    declared = {"trainer": "logistic", "features": ("pages", "town"), **model}
    return Project(
        name=name,
        views=(seen,),
        label=Label(source=visits, key="who", target="bought > 0"),
        model=Model(**declared),  # type: ignore[arg-type]
    )


def table(count: int = 240) -> pa.Table:
    """Shoppers of two towns: pages predict what is bought, better in Oslo than in Bergen; `weak` a little."""
    random = np.random.default_rng(5)
    pages, oslo = random.integers(0, 20, count).astype(float), np.arange(count) % 2 == 0
    bought = (pages + np.where(oslo, 1.0, 9.0) * random.normal(0, 1, count) > 9.5).astype(float)
    return pa.table(
        {
            "_key": [f"w{number:03d}" for number in range(count)],
            "_time": np.arange(count, dtype=np.int64) * 1_000_000,
            "_target": bought,
            "pages": pa.array(pages, mask=np.arange(count) % 10 == 3),
            "town": ["Oslo" if there else "Bergen" for there in oslo],
            "weak": bought + random.normal(0, 3, count),
        }
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        ModelsSettings(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))
    )


def visited(rows: pa.Table | None = None) -> TrainingSet:
    return TrainingSet(table=table() if rows is None else rows, lake_versions={"visits": 3})


def run(models: Models, project: Project, **circumstances: Any) -> Trained:
    return fit_and_log(stores(models=models), TrainingJob(project=project, **circumstances), visited())


def checks(trained: Trained) -> Mapping[str, tuple[bool, str]]:
    return {check.name: (check.passed, check.said) for check in trained.checks}


def test_the_first_passes_a_worse_one_stays_challenger_and_forcing_needs_a_reason(models: Models) -> None:
    first = run(models, shop("gated"))
    assert (first.champion, first.reason) == (True, "every check passed")
    assert checks(first)["champion"] == (True, "there is no champion yet")
    assert checks(first)["parity"][0]
    worse = shop("gated", features=("weak",))
    second = run(models, worse)
    assert not second.champion
    assert checks(second)["parity"][0]
    assert "against" in second.reason
    assert f"of version {first.version} on the same rows, worse in 100% of resamples" in second.reason
    assert models.champion("gated") == first.version
    listed = {entry.version: entry for entry in models.list("gated")}
    assert (listed[first.version].aliases, listed[first.version].gate) == (("champion",), "passed")
    assert (listed[second.version].aliases, listed[second.version].gate, listed[second.version].reason) == (
        ("challenger",),
        "refused",
        second.reason,
    )
    assert {check["name"] for check in listed[second.version].checks} == {"parity", "champion"}
    with pytest.raises(MisuseError, match=r"did not pass the gate \(champion: .*use --force --reason"):
        promote(models, worse, second.version)
    promote(models, worse, second.version, reason="the other one reads what we may keep no more")
    listed = {entry.version: entry for entry in models.list("gated")}
    assert listed[second.version].aliases == ("champion",)
    assert listed[second.version].reason.startswith(
        "forced: the other one reads what we may keep no more (refused: champion:"
    )
    promote(models, worse, first.version)
    assert models.champion("gated") == first.version


def test_a_model_that_chooses_one_town_far_more_often_is_refused(models: Models) -> None:
    rows = table()
    oslo = np.array(rows.column("town").to_pylist()) == "Oslo"
    bought = (np.nan_to_num(rows.column("pages").to_numpy(), nan=9.0) + np.where(oslo, 6, -6) > 9.5).astype(
        float
    )
    place = rows.column_names.index("_target")
    biased = TrainingSet(table=rows.set_column(place, "_target", pa.array(bought)))
    project = shop("fair", slices=("town",), gate=Gate(disparity=0.1))
    trained = fit_and_log(stores(models=models), TrainingJob(project=project), biased)
    assert trained.fairness is not None
    assert trained.fairness.largest is not None
    assert (trained.fairness.largest.rate, trained.fairness.largest.higher) == ("selection_rate", "Oslo")
    assert trained.fairness.largest.low > 0.1
    assert not trained.champion
    assert "disparity: selection rate where town is Oslo less that where it is Bergen: 0." in trained.reason
    entry = models.entry("fair", trained.version)
    assert entry.tags["fairness"] == trained.fairness.said
    files = models.files("fair", trained.version, ["report/model_card.html", "report/fairness.json"])
    assert b"Fairness by slice" in files["report/model_card.html"]
    assert len(json.loads(files["report/fairness.json"])["rates"]) == 2


def judged(target: NDArray[np.float64], scores: NDArray[np.float64]) -> JudgedRows:
    return JudgedRows(target=target, scores=scores, groups=np.arange(len(target)))


@pytest.mark.parametrize(
    ("noise", "count", "worse", "not_worse"),
    [
        (0.0, 300, True, True),  # the same scores
        (0.25, 60, True, False),  # a little worse, on too few rows to prove either
        (0.25, 6_000, False, True),  # a little worse for certain, and for certain within the margin
        (2.0, 300, False, False),  # much worse
    ],
)
def test_the_gate_refuses_what_is_proven_worse_or_what_is_not_proven_as_good(
    noise: float, count: int, worse: bool, not_worse: bool
) -> None:
    random = np.random.default_rng(2)
    target = np.resize([0.0, 1.0], count)
    theirs = target + random.normal(0, 1, count)
    mine = theirs + noise * random.normal(0, 1, count)
    gates = {"worse": Gate(), "not worse": Gate(proof="not worse", tolerance=0.03)}
    found = {
        name: paired(Model(gate=gate), "3", judged(target, mine), theirs) for name, gate in gates.items()
    }
    assert {name: check.passed for name, check in found.items()} == {"worse": worse, "not worse": not_worse}
    assert "of version 3 on the same rows, worse in " in found["worse"].said
    assert found["worse"].said.endswith("less than 95% is wanted")
    assert "worse by more than 0.03 in " in found["not worse"].said
    assert found["not worse"].said.endswith("at most 5% is wanted")


@pytest.fixture
def stumps() -> Iterator[None]:
    """Two trainers from outside: one is sound, the graph of the other differs from its model."""
    with registered(stump("stump"), stump("torn_stump", error=1e-3)):
        yield


@pytest.mark.usefixtures("stumps")
def test_a_trainer_registered_from_outside_is_declared_trained_judged_promoted_and_scored(
    models: Models,
) -> None:
    project = shop("stumps", trainer="stump", features=("pages",))
    with pytest.raises(DeclarationError, match="'stump' has no parameter 'depth': it takes bound"):
        run(models, shop("stumps", trainer="stump", features=("pages",), params={"depth": 2}))
    trained = run(models, project)
    assert trained.champion
    assert checks(trained)["parity"][0]
    assert models.entry("stumps", trained.version).parameters["bound"] == "9.5"
    low, high, missing = models.scorer("stumps").score({"pages": [3.0, 15.0, None]})
    assert missing == low < 0.3
    assert high > 0.7
    again = models.pyfunc_scores("stumps", trained.version, {"pages": [3.0, 15.0, None]})
    np.testing.assert_allclose(again, [low, high, missing], atol=1e-6)


@pytest.mark.usefixtures("stumps")
def test_a_trainer_whose_graph_differs_from_its_model_makes_no_version(models: Models) -> None:
    with pytest.raises(AnabranchError, match=r"ONNX form of the model differs from the model by 0\.001"):
        run(models, shop("torn_stumps", trainer="torn_stump", features=("pages",)))
    assert models.list("torn_stumps") == []


def test_a_gate_for_metrics_where_smaller_is_better_and_for_rows_that_say_nothing() -> None:
    target = np.random.default_rng(3).normal(0, 1, 400)
    near, far = target + 0.1, target + 0.4
    model = Model(metric="rmse", gate=Gate(proof="not worse", tolerance=0.2))
    assert paired(model, "1", judged(target, near), far).passed
    refused = paired(model, "1", judged(target, far), near)
    assert not refused.passed
    assert refused.said == (
        "rmse 0.4000 against 0.1000 of version 1 on the same rows, "
        "worse by more than 0.2 in 100% of resamples, at most 5% is wanted"
    )
    for proof, passed in (("worse", True), ("not worse", False)):
        model = Model(gate=Gate(proof=proof, tolerance=0.1))
        nothing = paired(model, "1", judged(np.ones(9), near[:9]), far[:9])
        assert (nothing.passed, nothing.said) == (
            passed,
            "held-out rows are too few to be compared with version 1 on",
        )


def test_a_minimum_and_limits_of_slices_hold_a_version_back(models: Models) -> None:
    strict = run(models, shop("strict", gate=Gate(minimum=0.999)))
    assert not strict.champion
    assert models.champion("strict") is None
    assert "at least 0.999 is wanted" in strict.reason
    slices = (Slice(feature="town"), Slice(feature="weak", bands=(0,)))
    by_town = run(models, shop("strict", slices=slices, gate=Gate(slices=0.95, slice_rows=10)))
    assert not by_town.champion
    assert "slices: roc_auc" in by_town.reason
    assert "where town is Bergen (" in by_town.reason
    assert "where town is Oslo" not in by_town.reason
    assert run(models, shop("strict", slices=slices, gate=Gate(slices=0.95, slice_rows=1000))).champion
    numbers = shop("strict", metric="log_loss", gate=Gate(minimum=0.01))
    assert "at most 0.01 is wanted" in run(models, numbers).reason


def test_a_champion_that_reads_what_is_declared_no_more_is_no_reason_to_keep_it(models: Models) -> None:
    old = run(models, shop("moved"))
    less = FeatureView(
        name="seen", source=visits, key="who", features={"pages": Last("pages"), "weak": Last("weak")}
    )
    changed = replace(shop("moved", features=("weak",)), views=(less,))
    new = run(models, changed)
    assert new.champion
    assert (
        "it cannot be compared: version 1 of 'moved' reads 'town', which is declared no more"
        in checks(new)["champion"][1]
    )
    with pytest.raises(MisuseError, match="reads 'town', which is declared no more: train again"):
        promote(models, changed, old.version)
    kinds = FeatureView(
        name="seen",
        source=visits,
        key="who",
        features={"pages": Last("pages"), "town": Last("pages"), "weak": Last("weak")},
    )
    with pytest.raises(MisuseError, match="reads 'town' as a text, but it is declared as a number"):
        promote(models, replace(shop("moved"), views=(kinds,)), old.version)


def test_the_model_alone_goes_back_to_the_champion_before_and_forward_again_if_it_fits(
    models: Models,
) -> None:
    project, again = shop("back"), shop("back", features=("pages",))
    with pytest.raises(MisuseError, match="has no earlier champion to go back to: promote a version instead"):
        roll_back(models, project)
    assert run(models, project).champion
    second = run(models, again)
    promote(models, again, second.version, reason=None if second.champion else "it reads less")
    assert [roll_back(models, project), models.champion("back")] == ["1", "1"]
    assert [roll_back(models, project), models.champion("back")] == ["2", "2"]
    less = FeatureView(
        name="seen", source=visits, key="who", features={"pages": Last("pages"), "weak": Last("weak")}
    )
    with pytest.raises(
        MisuseError, match="version 1 of 'back' reads 'town', which is declared no more: train again"
    ):
        roll_back(models, replace(again, views=(less,)))
    assert models.champion("back") == "2"


def test_a_corrupt_version_is_not_promoted(models: Models) -> None:
    trained = run(models, shop("broken"))
    again = run(models, shop("broken"))
    folder = Path(models.uri("broken", again.version).removeprefix("file://"))
    next(folder.rglob("model.onnx")).write_bytes(b"no graph")
    # As another process would find it.
    other = Models(
        replace(
            models.settings, tracking_uri=models.settings.tracking_uri.replace("sqlite:///", "sqlite:////")
        )
    )
    with pytest.raises(AnabranchError, match=f"version {again.version} of project 'broken' cannot be loaded"):
        promote(other, shop("broken"), again.version)
    assert trained.champion


@pytest.mark.parametrize(
    ("trainer", "params", "file"),
    [
        ("sklearn", {"estimator": "sklearn.naive_bayes.GaussianNB"}, "model.skops"),
        ("xgboost", {}, "model.ubj"),
    ],
)
def test_a_pickle_in_the_place_of_a_model_is_refused_and_never_run(
    models: Models, tmp_path: Path, trainer: str, params: dict[str, object], file: str
) -> None:
    trap = tmp_path / "run"
    project = shop(f"trapped_{trainer}", trainer=trainer, params=params)
    version = run(models, project).version
    folder = Path(models.uri(project.name, version).removeprefix("file://"))
    (place,) = folder.rglob(file)
    place.write_bytes(pickle.dumps(_Trap(trap)))
    assert pickle.loads(place.read_bytes()) is None  # noqa: S301 - our own trap
    assert trap.exists()
    trap.rmdir()
    other = Models(
        replace(
            models.settings, tracking_uri=models.settings.tracking_uri.replace("sqlite:///", "sqlite:////")
        )
    )
    with pytest.raises(
        AnabranchError, match=f"version {version} of project '{project.name}' cannot be loaded"
    ):
        promote(other, project, version, reason="whatever it is")
    with pytest.raises(Exception, match=r"zip|format|UBJSON|parse|Unknown|Invalid|model"):
        other.pyfunc_scores(project.name, version, {"pages": [1.0], "town": ["Oslo"]})
    assert not trap.exists()


class _Trap:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_version_that_contradicts_itself_is_promoted_only_when_that_very_thing_is_forced(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = shop("torn")
    good = run(models, project)
    trained, other = (
        train_run(TrainingJob(project=declared), visited())
        for declared in (shop("torn", trainer="xgboost"), project)
    )
    torn = replace(
        trained, fitted=replace(trained.fitted, onnx=other.fitted.onnx, output=other.fitted.output)
    )
    keep(torn, tmp_path / "torn")
    found = register(stores(models=models), project, tmp_path / "torn", Silent())
    assert not found.champion
    assert (
        "parity: pyfunc differs from the model by 0, ONNX differs from the model by 0."
        in found.verdict.reason
    )
    assert models.champion("torn") == good.version
    for forced in ({}, {"reason": "it is quick"}, {"without_parity": True}):
        with pytest.raises(
            MisuseError,
            match=r"did not pass the gate|not say the same everywhere \(.*--without-parity --reason TEXT",
        ):
            promote(models, project, found.version, **forced)
    assert models.champion("torn") == good.version
    promote(models, project, found.version, reason="no device has it", without_parity=True)
    entry = models.entry("torn", found.version)
    assert "ONNX differs from the model" in entry.tags["forced_without_parity"]
    assert entry.tags["forced_reason"] == "no device has it"
    assert (
        "forced promotion project=torn version=2 reason=no device has it gate=refused parity=pyfunc"
        in caplog.text
    )
    # One that never met the gate is compared when it is promoted.
    assert (
        models.log(
            project,
            TrainingRecord(metrics={}, parameters={}, lake_versions={}, example=trained.example),
            torn.fitted,
        )
        == "3"
    )
    with pytest.raises(MisuseError, match="does not say the same everywhere"):
        promote(models, project, "3", reason="it is quick")


def test_everything_of_a_training_is_recorded(models: Models) -> None:
    purpose = {"intended_use": "Sending <letters>", "limits": "Not for <minors>"}
    declared = shop("told", slices=("town",), search=Search(trials=3), description="Who buys", **purpose)
    trained = run(models, declared, about={"batch_version": "12", "commit": "abc"})
    client = models.client
    entry = models.entry("told", trained.version)
    found = client.get_run(entry.run)
    reported = {
        item.path.removeprefix("report/"): item for item in client.list_artifacts(entry.run, "report")
    }
    assert set(reported) == {
        "model_card.html", "roc.png", "calibration.png", "slices.json", "importance.json", "environment.json",
        "trials.json", "profile.json", "fairness.json", "fact_sheet.html", "fact_sheet.md", "fact_sheet.json",
    }  # fmt: skip
    folder = Path(client.download_artifacts(entry.run, "report"))
    facts = json.loads((folder / "fact_sheet.json").read_text(encoding="utf-8"))
    assert facts["purpose"]["facts"]["intended use"] == "Sending <letters>"
    assert facts["lineage"]["facts"]["commit"] == "abc"
    assert all(facts[name]["facts"] for name in SECTIONS)
    page = (folder / "model_card.html").read_text(encoding="utf-8")
    for text in (
        "Sending &lt;letters&gt;",
        "Not for &lt;minors&gt;",
        "Judged on 60 held-out rows; an interval is the 95% bootstrap by key",
        "town",
        "Bergen",
        "by time: trained before",
        "batch_version",
        "lake version of visits",
        "data:image/png;base64",
    ):
        assert text in page
    assert {"numpy", "onnxruntime", "python"} <= set(json.loads((folder / "environment.json").read_text()))
    assert set(json.loads((folder / "importance.json").read_text())) == {"pages", "town"}
    assert (found.data.tags["batch_version"], found.data.tags["commit"], found.data.tags["fingerprint"]) == (
        "12",
        "abc",
        declared.fingerprint,
    )
    assert json.loads(found.data.tags["lake_versions"]) == {"visits": 3}
    assert "slices/town/Oslo/value" in found.data.metrics
    assert not [name for name in entry.metrics if name.startswith("slices/")]
    assert (found.data.params["trials"], found.data.params["trained_on"]) == ("3", "driver")
    for side in ("", "train_"):
        low, value, high = (found.data.metrics[f"{side}roc_auc{bound}"] for bound in ("_low", "", "_high"))
        assert low < value < high
    signature = get_model_info(models.uri("told", trained.version).removeprefix("file://")).signature
    assert signature.inputs.to_dict() == [
        {"type": "double", "name": "pages", "required": True},
        {"type": "string", "name": "town", "required": True},
    ]
    assert signature.outputs.to_dict() == [{"type": "double", "name": "score", "required": True}]
    nested = client.search_runs([found.info.experiment_id], f"tags.`mlflow.parentRunId` = '{entry.run}'")
    assert len(nested) == 3
    assert all("validated" in trial.data.metrics for trial in nested)


def test_a_search_sees_no_held_out_row() -> None:
    declared = shop("blind", split="time", search=Search(trials=5, space={"C": (0.001, 10.0, "log")}))
    rows = table()
    later = np.arange(240) >= 180  # the quarter that is held out
    other = rows.set_column(
        2, "_target", pa.array(np.where(later, 1 - rows["_target"].to_numpy(), rows["_target"].to_numpy()))
    )
    first, second = (train_run(TrainingJob(project=declared), visited(each)) for each in (rows, other))
    assert first.metrics["rows_test"] == 60
    assert first.metrics["roc_auc"] > 0.8 > second.metrics["roc_auc"]
    assert first.trials == second.trials
    assert first.fitted.onnx == second.fitted.onnx


def test_a_training_outlives_a_registry_that_is_away(models: Models, tmp_path: Path) -> None:
    project = shop("patient")
    (tmp_path / "file").write_text("no folder")
    away = Models(
        ModelsSettings(tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db", artifact_root=str(tmp_path))
    )
    kept = tmp_path / "unfinished"
    with pytest.raises(
        UnavailableError, match=r"the trained model is kept in .*: run 'anabranch train patient --finish'"
    ):
        run(away, project, kept=kept)
    (folder,) = unfinished(tmp_path / "unfinished", "patient")
    kept_run = json.loads((folder / "run.json").read_text())
    assert (kept_run.pop("rows"), kept_run.pop("left_out")) == (240, 0)
    (folder / "run.json").write_text(json.dumps(kept_run))  # as an earlier release kept it
    with pytest.raises(AnabranchError, match="is of another declaration"):
        finish(stores(models=models), shop("patient", features=("pages",)), tmp_path / "unfinished", Silent())
    (done,) = finish(stores(models=models), project, tmp_path / "unfinished", Silent())
    assert done.champion
    assert models.champion("patient") == done.version
    assert not folder.exists()
    direct = run(models, project, kept=kept)
    assert direct.metrics == models.entry("patient", done.version).metrics
    with pytest.raises(MisuseError, match="has no unfinished training"):
        finish(stores(models=models), project, tmp_path / "unfinished", Silent())


def test_a_training_that_was_cut_off_after_registering_is_not_registered_twice(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Models, "tag", cut)
        with pytest.raises(KeyboardInterrupt):
            run(models, shop("cut"), kept=tmp_path)
    (done,) = finish(stores(models=models), shop("cut"), tmp_path, Silent())
    assert (done.version, done.champion) == ("1", True)
    assert [entry.version for entry in models.list("cut")] == ["1"]


def test_a_damaged_kept_training_is_named(models: Models, tmp_path: Path) -> None:
    (tmp_path / "shop" / "1").mkdir(parents=True)
    (tmp_path / "shop" / "1" / "run.json").write_text("{")
    with pytest.raises(AnabranchError, match=r"the kept training in .* cannot be read"):
        finish(stores(models=models), shop("shop"), tmp_path, Silent())


def test_roles_are_read_again_only_when_somebody_wrote(models: Models, tmp_path: Path) -> None:
    registry = tmp_path / "mlflow.db"
    shutil.copy(models.settings.tracking_uri.removeprefix("sqlite:///"), registry)
    copied = Models(replace(models.settings, tracking_uri=f"sqlite:///{registry}"))
    with sqlite3.connect(registry) as writer:
        name, version = writer.execute(
            "SELECT name, version FROM registered_model_aliases WHERE alias = 'champion' LIMIT 1"
        ).fetchone()
    # A file that was just written is read every time: a second change within the same moment would not show.
    os.utime(registry, ns=(1_000_000_000, 1_000_000_000))
    assert copied.champion(name) == str(version)
    locked = sqlite3.connect(registry, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    assert copied.champion(name) == str(version)
    locked.execute(
        "UPDATE registered_model_aliases SET version = 77 WHERE alias = 'champion' AND name = ?", (name,)
    )
    locked.execute("COMMIT")
    locked.close()
    assert copied.champion(name) == "77"
