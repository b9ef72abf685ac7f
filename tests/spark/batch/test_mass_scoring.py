"""Mass scoring in parts: workers read and write Parquet, killed runs resume, every way scores the same."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow.models import infer_signature
from pyspark.sql import SparkSession
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from anabranch.declare.loading import load_project
from anabranch.declare.on_write import OnWrite
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, DeclarationError, MisuseError
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.connection import mlflow_module
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder
from anabranch.stores.models.shipping import _opened, ship
from anabranch.stores.models.versions import TrainingRecord
from batch.scoring import parts as scoring_parts
from batch.scoring.data_sets import Scored, score_data_set
from batch.scoring.frames import score
from batch.scoring.ledger import ScoringRun, plan_files
from batch.scoring.on_write import Follower, follow, followers
from batch.scoring.parquet import Part
from batch.scoring.parts import ScoringOrder
from batch.scoring.row_files import MARKER
from batch.settings import ScoringSettings
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.wiring.settings import ROOT
from tests.support.stores import stores

DECLARATION = '''
"""Visitors of a shop."""
from anabranch import FeatureView, Label, Last, Model, Project, Source

visits = Source(
    name="visits", id="id", time="at",
    schema="id STRING, who STRING, at TIMESTAMP, pages INT, spent DOUBLE, member BOOLEAN, town STRING, "
    "joined DATE, seen TIMESTAMP, bought INT",
)
features = {name: Last(name) for name in ("pages", "spent", "member", "town", "joined", "seen")}
view = FeatureView(name="last", source=visits, key="who", features=features)
label = Label(source=visits, key="who", target="bought > 0")
project = Project(name="masses", views=(view,), label=label, model=Model(trainer="xgboost"))
'''
ROWS = 60_000
PARTS = ScoringSettings(part_rows=100)


def made_rows(count: int, seed: int = 0) -> pa.Table:
    """Rows of every kind of feature, a fifth of each missing."""
    random = np.random.default_rng(seed)

    def some(values: pa.Array) -> pa.Array:
        return pc.if_else(pa.array(random.random(count) < 0.2), pa.nulls(count, values.type), values)

    when = datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1e6
    columns: dict[str, Any] = {
        "who": pa.array([f"w{i}" for i in range(count)]),
        "noted": pa.array(
            (when + random.integers(0, 10**12, count)).astype("int64"), pa.timestamp("us", "UTC")
        ),
        "pages": some(pa.array(random.integers(0, 50, count), pa.int32())),
        "spent": some(pa.array(random.normal(20, 9, count))),
        "member": some(pa.array(random.random(count) < 0.5)),
        "town": some(pa.array(random.choice(["Oslo", "Bergen", "Tromsø", "elsewhere"], count))),
        "joined": some(pa.array(random.integers(15_000, 19_000, count), pa.int32()).cast(pa.date32())),
        "seen": some(
            pa.array((when + random.integers(0, 10**12, count)).astype("int64"), pa.timestamp("us", "UTC"))
        ),
    }
    return pa.table(columns)


def learn(models: Models, project: Project) -> str:
    """A model of rows made up; its version, which is champion."""
    rows = made_rows(2_000, seed=1)
    columns: dict[str, Any] = {name: rows[name].to_pylist() for name in project.model_features}
    inputs = tuple(given.learnt(columns[given.name]) for given in model_inputs(project))
    matrix = InputCoder([given.described() for given in inputs]).matrix(columns)
    target = (np.nan_to_num(matrix[:, 1]) + 3 * np.nan_to_num(matrix[:, 0]) > 80).astype(np.float64)
    fitted = fit("xgboost", TrainingRows(matrix=matrix, target=target, inputs=inputs, task="class"))
    example: dict[str, Any] = {name: [None] for name in columns}
    version = models.log(
        project,
        TrainingRecord(metrics={"roc_auc": 1.0}, parameters={}, lake_versions={}, example=example),
        fitted,
    )
    models.promote(project.name, version)
    return version


class Shop:
    """The project, its models, and a lake without any event."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        (folder / "masses.py").write_text(DECLARATION)
        self.spark, self.folder = spark, folder
        self.project = load_project("masses", (folder,))
        self.models = Models(
            ModelsSettings(
                tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts")
            )
        )
        self.lake = Lake(LakeSettings(root=str(folder / "lake")))
        self.version = learn(self.models, self.project)
        self.stores = stores(spark=spark, lake=self.lake, models=self.models)
        pq.write_table(made_rows(ROWS), folder / "rows.parquet", row_group_size=100)
        pq.write_table(made_rows(1_000, seed=2), folder / "few.parquet", row_group_size=300)

    def score(self, source: Path, out: Path, **more: Any) -> Scored:
        more |= more.pop("order", {})
        return score_data_set(
            self.stores, self.project, ScoringOrder(source=str(source), out=str(out), **more), Silent()
        )

    def rows(self, path: Path, form: str = "parquet") -> list[Any]:
        return sorted(
            self.spark.read.format(form).load(str(path)).collect(), key=lambda row: int(row["who"][1:])
        )


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(spark, tmp_path_factory.mktemp("shop"))


def test_workers_that_read_parquet_score_as_mlflows_pyfunc_udf(shop: Shop, tmp_path: Path) -> None:
    source = shop.folder / "few.parquet"
    assert shop.score(source, tmp_path / "fast", sizes=PARTS).rows == 1_000
    assert sorted(path.name for path in (tmp_path / "fast").iterdir() if path.name[0] != ".") == [
        MARKER,
        *(f"part-{i:06d}.parquet" for i in range(4)),
    ]
    assert shop.score(source, tmp_path / "pyfunc", order={"pyfunc": True}).rows == 1_000
    # Files of Spark have its schema as metadata and INT96 times: both are read as Spark reads them.
    shop.spark.read.parquet(str(source)).repartition(3).write.parquet(str(tmp_path / "by-spark"))
    assert shop.score(tmp_path / "by-spark", tmp_path / "again").rows == 1_000
    # Lists are nothing the workers read themselves: Spark does, and hands over columns.
    shop.spark.read.parquet(str(source)).selectExpr("*", "array(1) AS list").write.parquet(
        str(tmp_path / "lists")
    )
    assert (
        shop.score(
            tmp_path / "lists", tmp_path / "columns", order={"keep": tuple(made_rows(1).column_names)}
        ).rows
        == 1_000
    )
    wanted = shop.rows(tmp_path / "pyfunc")
    assert len({row["score"] for row in wanted}) > 300
    for name in ("fast", "again", "columns"):
        assert shop.rows(tmp_path / name) == wanted, name
    fields = shop.spark.read.parquet(str(tmp_path / "fast")).schema
    assert fields == shop.spark.read.parquet(str(tmp_path / "pyfunc")).schema
    assert pq.read_table(tmp_path / "fast").column_names[-3:] == ["score", "label", "model_version"]


def test_scores_are_explained_by_columns_that_add_up_to_them(shop: Shop, tmp_path: Path) -> None:
    words = {"spent": "spends much", "pages": "looks at much", "town": "lives far away"}
    assert shop.project.model is not None
    explained = replace(shop.project, model=replace(shop.project.model, reasons=words))
    source, out = shop.folder / "few.parquet", tmp_path / "why"
    order = ScoringOrder(source=str(source), out=str(out), keep=("who",), explain=True)
    assert score_data_set(shop.stores, explained, order, Silent()).rows == 1_000
    found = pq.read_table(out).to_pandas()
    names = [f"contribution_{name}" for name in shop.project.model_features]
    reasons = [f"reason_{number}" for number in range(1, 5)]
    results = ["score", "label", "model_version", "explanation_base"]
    assert list(found.columns) == ["who", *results, *names, *reasons]
    margin = found["explanation_base"] + found[names].sum(axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-margin)), found["score"], atol=1e-6)
    scorer = shop.models.scorer("masses", shop.version)
    rows = pq.read_table(source)
    alone = scorer.explain({name: rows[name].to_pylist()[:5] for name in scorer.features})
    by_key = found.set_index("who").loc[[f"w{at}" for at in range(5)]]
    np.testing.assert_allclose(by_key[names].to_numpy(), alone.contributions, atol=1e-9)
    first = [
        max(((row[f"contribution_{name}"], text) for name, text in words.items()), default=(0, None))
        for _, row in found.iterrows()
    ]
    assert [text if value > 0 else None for value, text in first] == found["reason_1"].tolist()
    assert found["reason_4"].isna().all()
    with pytest.raises(MisuseError, match="current rows have no columns for explanations"):
        score_data_set(shop.stores, explained, replace(order, out="serving"), Silent())
    again = replace(order, source=str(out), out=str(tmp_path / "again"))
    with pytest.raises(MisuseError, match="already have a column 'score'"):
        score_data_set(shop.stores, explained, again, Silent())


@pytest.mark.drill  # a run that is cut off between two files resumes, below
def test_a_killed_run_resumes_where_it_stopped(shop: Shop, tmp_path: Path) -> None:
    source, out = shop.folder / "rows.parquet", tmp_path / "out"
    environment = os.environ | {
        "ANABRANCH_PROJECTS": str(shop.folder),
        "ANABRANCH__PATHS__DATA": str(tmp_path / "data"),
        "ANABRANCH__PATHS__LAKE": shop.lake.settings.root,
        "ANABRANCH__PATHS__JARS": str(ROOT / ".anabranch" / "jars"),
        "ANABRANCH__MODELS__TRACKING_URI": shop.models.settings.tracking_uri,
        "ANABRANCH__MODELS__ARTIFACT_ROOT": shop.models.settings.artifact_root,
        "ANABRANCH__SCORING__PART_ROWS": "100",
        "ANABRANCH__SPARK__DRIVER_MEMORY": "512m",
    }
    command = [sys.executable, "-m", "jobs.cli", "score", "masses", "--in", str(source), "--out", str(out)]
    parts = tmp_path / ".out-scoring" / "scored"

    def finished() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}

    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not finished() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    before = finished()
    assert 0 < len(before) < ROWS // 100, (tmp_path / "log").read_text()
    assert not out.exists()

    scored = shop.score(source, out, sizes=PARTS)
    assert scored.rows == ROWS
    assert (
        len(before) <= scored.resumed < ROWS // 100
    )  # a worker outlives its driver until it has finished its part
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before  # not scored again
    shop.score(source, tmp_path / "undisturbed", sizes=ScoringSettings(part_rows=ROWS))
    one, other = (pq.read_table(path).sort_by("who") for path in (out, tmp_path / "undisturbed"))
    assert one.equals(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "log", "out", "undisturbed"]


class Told:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[tuple[int, int | None, str]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        self.lines.append((done, total, note))


def test_progress_shows_finished_rows_speed_and_time_left(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_parts, "_LOOK_SECONDS", 0.01)
    told = Told()
    score_data_set(
        shop.stores,
        shop.project,
        ScoringOrder(
            source=str(shop.folder / "rows.parquet"),
            out=str(tmp_path / "out"),
            sizes=ScoringSettings(part_rows=3_000),
        ),
        told,
    )
    done = [line[0] for line in told.lines]
    assert done == sorted(done)
    assert set(done) <= {3_000 * number for number in range(21)}
    assert len(set(done)) > 2
    assert {line[1] for line in told.lines} == {ROWS}
    assert told.steps == [f"scoring with version {shop.version}"]
    for rows, _, note in told.lines:
        said = re.fullmatch(r"rows, ([\d,]+) rows/s, ([\d,]+) s left", note)
        assert (said is None) == (rows == 0)
        if said is not None:
            speed, left = (int(text.replace(",", "")) for text in said.groups())
            assert abs(left - (ROWS - rows) / speed) <= 1
    assert told.lines[-1][0] == ROWS
    assert told.lines[-1][2].endswith(" 0 s left")
    # What an earlier run had finished counts as done, and not as speed.
    pq.write_table(made_rows(300), tmp_path / "few.parquet", row_group_size=100)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring_parts, "_score_groups", scored_one)
        with pytest.raises(KeyboardInterrupt):
            shop.score(tmp_path / "few.parquet", tmp_path / "rest", sizes=PARTS)
    again = Told()
    score_data_set(
        shop.stores,
        shop.project,
        ScoringOrder(source=str(tmp_path / "few.parquet"), out=str(tmp_path / "rest"), sizes=PARTS),
        again,
    )
    assert again.steps == [f"scoring with version {shop.version}, 1 of 3 parts are finished already"]
    assert {line[0] for line in again.lines} <= {100, 200, 300}
    assert again.lines[-1][:2] == (300, 300)


_SCORE_GROUPS = scoring_parts._score_groups


def scored_one(job: Any, run: Any, plan: Any, todo: Any, kept: Any) -> None:
    """The first part alone, and then the end."""
    _SCORE_GROUPS(job, run, plan, todo[:1], kept)
    raise KeyboardInterrupt


def test_a_worker_process_loads_a_version_once_however_many_parts_and_runs_it_scores(
    shop: Shop, tmp_path: Path
) -> None:
    def loads() -> dict[int, int]:
        """Versions that each worker process has loaded in its life, after a few tasks with this one."""
        shipped = ship(shop.spark, shop.models, shop.project.name, shop.version)

        def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                shipped.opened()
                yield pa.RecordBatch.from_pydict(
                    {"pid": [os.getpid()] * len(batch), "loads": [_opened.cache_info().misses] * len(batch)}
                )

        rows = shop.spark.range(0, 16, 1, 8).mapInArrow(look, "pid LONG, loads LONG").collect()
        assert len(rows) == 16
        return {row["pid"]: row["loads"] for row in rows}

    before = loads()
    source = shop.folder / "few.parquet"
    for number in range(3):
        assert shop.score(source, tmp_path / f"parts-{number}", sizes=PARTS).rows == 1_000
        scored = score(shop.stores, shop.project, shop.spark.read.parquet(str(source)).repartition(5))
        assert scored.where("score IS NOT NULL").count() == 1_000
    after = loads()
    lasting = before.keys() & after.keys()
    assert lasting
    assert {pid: after[pid] for pid in lasting} == {pid: before[pid] for pid in lasting}


FROM_CODE = """
import os

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel


class Spending(PythonModel):
    def load_context(self, context):
        with open({loads!r}, "a") as file:
            file.write(str(os.getpid()) + chr(10))

    def predict(self, context, model_input, params=None):
        margin = 0.1 * (model_input["spent"].fillna(0) - model_input["pages"].fillna(0))
        return pd.DataFrame({{"ignored": 0.0, "said": 1 / (1 + np.exp(-margin))}})


mlflow.models.set_model(Spending())
"""


class Registry:
    """Logs models of others' making under the project's name."""

    def __init__(self, shop: Shop) -> None:
        self.mlflow = mlflow_module()
        self.mlflow.set_tracking_uri(shop.models.settings.tracking_uri)
        self.experiment = self.mlflow.get_experiment_by_name("masses").experiment_id

    def log(self, flavor: str, **more: Any) -> str:
        """The version of what `mlflow.<flavor>.log_model` makes of it."""
        if more.get("serialization_format") == "skops":
            more["skops_trusted_types"] = ["numpy.dtype"]
        with self.mlflow.start_run(experiment_id=self.experiment), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's advice
            log_model = getattr(self.mlflow, flavor).log_model
            return str(
                log_model(
                    name="model", registered_model_name="masses", pip_requirements=[], **more
                ).registered_model_version
            )


def two_features(rows: pa.Table) -> pd.DataFrame:
    found: pd.DataFrame = rows.select(["pages", "spent"]).to_pandas().astype(float)
    return found


def test_a_version_registered_outside_anabranch_is_scored_by_mlflow_and_loaded_once_a_worker(
    shop: Shop, tmp_path: Path
) -> None:
    registry, source, frame = (
        Registry(shop),
        shop.folder / "few.parquet",
        two_features(made_rows(2_000, seed=1)),
    )
    estimator = make_pipeline(SimpleImputer(), LogisticRegression()).fit(frame, frame["spent"].fillna(0) > 20)

    def scored(version: str, rows: Path, out: str) -> Scored:
        return score_data_set(
            shop.stores,
            shop.project,
            ScoringOrder(source=str(rows), out=str(tmp_path / out), version=version),
            Silent(),
        )

    named = infer_signature(frame, np.zeros((1, 2)))
    theirs = registry.log(
        "sklearn",
        sk_model=estimator,
        signature=named,
        serialization_format="skops",
        pyfunc_predict_fn="predict_proba",
    )
    assert (scored(theirs, source, "skops").rows, scored(theirs, source, "skops").again) == (1_000, True)
    rows, given = shop.rows(tmp_path / "skops"), two_features(pq.read_table(source))
    np.testing.assert_allclose(
        [row["score"] for row in rows], estimator.predict_proba(given)[:, 1], rtol=0, atol=1e-12
    )
    assert {(row["label"], row["score"] >= 0.5, row["model_version"]) for row in rows} == {
        (1, True, theirs),
        (0, False, theirs),
    }
    with pytest.raises(MisuseError, match=f"version {theirs} of 'masses' was registered outside Anabranch"):
        shop.score(source, tmp_path / "why", version=theirs, explain=True)

    loads, code = tmp_path / "loads", tmp_path / "spending.py"
    code.write_text(FROM_CODE.format(loads=str(loads)))
    by_code = registry.log(
        "pyfunc",
        python_model=str(code),
        signature=infer_signature(frame, pd.DataFrame({"ignored": [0.0], "said": [0.5]})),
    )
    shop.spark.read.parquet(str(source)).repartition(8).write.parquet(str(tmp_path / "many"))
    loads.unlink(missing_ok=True)
    assert scored(by_code, tmp_path / "many", "code").rows == 1_000
    pids = [int(line) for line in loads.read_text().split()]
    assert len(pids) == len(set(pids)) > 0
    margin = 0.1 * (given["spent"].fillna(0) - given["pages"].fillna(0))
    np.testing.assert_allclose(
        [row["score"] for row in shop.rows(tmp_path / "code")], 1 / (1 + np.exp(-margin)), rtol=1e-12
    )


def test_a_pickled_version_is_refused_with_how_to_log_it(shop: Shop, tmp_path: Path) -> None:
    registry, frame = Registry(shop), two_features(made_rows(50, seed=1))
    estimator = make_pipeline(SimpleImputer(), LogisticRegression()).fit(frame, np.arange(50) > 20)
    named, other = (
        infer_signature(frame, np.zeros(1)),
        infer_signature(frame.rename(columns={"pages": "paces"}), np.zeros(1)),
    )

    def refused(version: str, says: str) -> None:
        with pytest.raises(MisuseError, match=f"version {version} of 'masses' {says}"):
            score_data_set(
                shop.stores,
                shop.project,
                ScoringOrder(
                    source=str(shop.folder / "few.parquet"), out=str(tmp_path / "out"), version=version
                ),
                Silent(),
            )

    pickled = registry.log("sklearn", sk_model=estimator, serialization_format="cloudpickle", signature=named)
    refused(
        pickled,
        r"is kept as a pickle \(model.pkl\), which runs whatever is in it: it is not loaded; "
        "log it again as data",
    )
    refused(
        registry.log("sklearn", sk_model=estimator, serialization_format="skops", signature=other),
        "reads 'paces', which is no feature: there are pages",
    )
    refused(
        registry.log("sklearn", sk_model=estimator, serialization_format="skops"),
        "has no signature that names its inputs: log it again with one",
    )
    # The version says itself what is to be trusted: that is no reason to.
    version = registry.log("sklearn", sk_model=estimator, serialization_format="skops", signature=named)
    described = Path(shop.models.uri("masses", version).removeprefix("file://")) / "MLmodel"
    text = described.read_text()
    assert text.count("- numpy.dtype") == 1
    described.write_text(text.replace("- numpy.dtype", "- os.system"))
    refused(version, "trusts os.system, which may run whatever is in it")
    described.write_text(text.replace("loader_module: mlflow.sklearn", "loader_module: somebodys.own"))
    refused(version, "is loaded by somebodys.own, which may unpickle what it reads")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_not_repeated_unless_something_changed(shop: Shop, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    pq.write_table(made_rows(50), source)
    assert not shop.score(source, tmp_path / "out").again
    assert shop.score(source, tmp_path / "out").again
    assert not shop.score(source, tmp_path / "out", order={"keep": ("who",)}).again
    assert pq.read_table(tmp_path / "out").column_names == ["who", "score", "label", "model_version"]
    pq.write_table(made_rows(60), source)
    assert shop.score(source, tmp_path / "out", order={"keep": ("who",)}).rows == 60
    with pytest.raises(MisuseError, match="have no column 'whom' to keep"):
        shop.score(source, tmp_path / "other", order={"keep": ("whom",)})


def test_files_of_other_forms_are_scored_file_by_file_and_resume_too(shop: Shop, tmp_path: Path) -> None:
    shop.spark.createDataFrame(made_rows(300)).repartition(3).write.option("header", "true").csv(
        str(tmp_path / "rows.csv")
    )
    shop.spark.createDataFrame(made_rows(300)).write.json(str(tmp_path / "rows.jsonl"))
    assert shop.score(tmp_path / "rows.csv", tmp_path / "one").rows == 300
    assert shop.score(tmp_path / "rows.jsonl", tmp_path / "two").rows == 300
    assert [row["score"] for row in shop.rows(tmp_path / "one")] == [
        row["score"] for row in shop.rows(tmp_path / "two")
    ]
    with pytest.MonkeyPatch.context() as patched:
        # Cut off between the second and the third file.
        real = ScoringRun.keep

        def keep(run: ScoringRun, part: Part, write: Callable[[str], int]) -> int:
            if part.number == 2:
                raise KeyboardInterrupt
            return real(run, part, write)

        patched.setattr(ScoringRun, "keep", keep)
        patched.setattr(
            scoring_parts, "plan_files", lambda files, _: plan_files([(path, 2**20) for path, _ in files], 1)
        )
        with pytest.raises(KeyboardInterrupt):
            shop.score(tmp_path / "rows.csv", tmp_path / "parts")
    scored = shop.score(tmp_path / "rows.csv", tmp_path / "parts")
    assert (scored.rows, scored.resumed) == (300, 2)
    assert shop.rows(tmp_path / "parts") == shop.rows(tmp_path / "one")


def test_delta_tables_of_any_form_are_read_and_written(shop: Shop, tmp_path: Path) -> None:
    source = shop.folder / "few.parquet"
    rows = shop.spark.read.parquet(str(source))
    rows.write.format("delta").save(str(tmp_path / "plain"))
    rows.write.format("delta").partitionBy("member").option("delta.enableDeletionVectors", "true").save(
        str(tmp_path / "special")
    )
    shop.spark.sql(f"DELETE FROM delta.`{tmp_path}/special` WHERE who = 'w7'")
    assert shop.score(source, tmp_path / "wanted").rows == 1_000
    wanted = [row["score"] for row in shop.rows(tmp_path / "wanted")]
    assert shop.score(tmp_path / "plain", tmp_path / "scores.delta").rows == 1_000
    assert [row["score"] for row in shop.rows(tmp_path / "scores.delta", "delta")] == wanted
    assert shop.score(tmp_path / "plain", tmp_path / "scores.delta").again
    # The same table gets what is scored next, in one commit; the name needs not say what it is.
    assert shop.score(tmp_path / "special", tmp_path / "scores.delta").rows == 999
    assert [row["score"] for row in shop.rows(tmp_path / "scores.delta", "delta")] == wanted[:7] + wanted[8:]
    assert shop.spark.sql(f"DESCRIBE HISTORY delta.`{tmp_path}/scores.delta`").count() == 2
    assert shop.score(source, tmp_path / "named", order={"form": "delta"}).rows == 1_000
    assert shop.rows(tmp_path / "named", "delta") == shop.rows(tmp_path / "wanted")
    rows.limit(1).write.format("delta").save(str(tmp_path / "theirs"))
    with pytest.raises(MisuseError, match="Anabranch did not write"):
        shop.score(source, tmp_path / "theirs")


def test_a_version_whose_inputs_are_now_declared_differently_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "masses.py").write_text(DECLARATION.replace("member BOOLEAN", "member STRING"))
    changed = load_project("masses", (tmp_path,))
    rows = shop.folder / "few.parquet"
    with pytest.raises(
        AnabranchError,
        match="version 1 of 'masses' reads 'member' as a boolean, but it is declared as a text: train again",
    ):
        score_data_set(
            shop.stores, changed, ScoringOrder(source=str(rows), out=str(tmp_path / "out")), Silent()
        )
    assert not (tmp_path / ".out-scoring").exists()


def test_an_empty_parquet_file_gives_an_empty_result(shop: Shop, tmp_path: Path) -> None:
    pq.write_table(made_rows(0), tmp_path / "none.parquet")
    assert shop.score(tmp_path / "none.parquet", tmp_path / "out").rows == 0
    assert pq.read_table(tmp_path / "out").num_rows == 0


def test_rows_that_arrive_in_a_table_are_scored_once_by_the_champion_of_the_moment(
    shop: Shop, tmp_path: Path
) -> None:
    table, out = tmp_path / "asked", tmp_path / "scores"
    wanted = (Follower(source=str(table), out=str(out), label="asked"),)

    def add(first: int, count: int) -> None:
        rows = made_rows(40).slice(first, count)
        shop.spark.createDataFrame(rows).write.format("delta").mode("append").save(str(table))

    def scored() -> int:
        end = threading.Event()
        return follow(shop.stores, shop.project, wanted, Silent(), every_seconds=None, stopping=end)["asked"]

    add(0, 30)
    assert (scored(), scored()) == (30, 0)
    add(30, 10)
    checkpoint = next(Path(shop.lake.settings.root).glob("masses/checkpoints/scoring/*"))
    version = learn(shop.models, shop.project)
    assert scored() == 10
    rows = shop.rows(out, "delta")
    assert [row["model_version"] for row in rows] == [shop.version] * 30 + [version] * 10
    # Killed after the append and before the commit of the query: the repeated batch appends nothing.
    newest = max((checkpoint / "commits").glob("[0-9]*"), key=lambda path: int(path.name))
    newest.unlink()
    (newest.parent / f".{newest.name}.crc").unlink(missing_ok=True)
    assert scored() == 10
    assert shop.rows(out, "delta") == rows
    pq.write_table(made_rows(40), tmp_path / "all.parquet")
    assert shop.score(tmp_path / "all.parquet", tmp_path / "whole").rows == 40
    assert [row["score"] for row in shop.rows(tmp_path / "whole")] == [row["score"] for row in rows]
    shop.models.promote("masses", shop.version)


def test_followers_are_those_that_the_project_declares(shop: Shop) -> None:
    declared = replace(
        shop.project,
        score_on_write=(OnWrite(source="visits", to="/scores"), OnWrite(table="/rows", to="/other")),
    )
    found = followers(shop.stores, declared)
    assert [(one.source, one.out) for one in found] == [
        (shop.lake.path(declared, declared.sources["visits"]), "/scores"),
        ("/rows", "/other"),
    ]
    with pytest.raises(MisuseError, match="declares no score_on_write"):
        followers(shop.stores, shop.project)
    with pytest.raises(DeclarationError, match="source 'sales' is none of the project's: there are visits"):
        replace(shop.project, score_on_write=(OnWrite(source="sales", to="/scores"),))
    with pytest.raises(DeclarationError, match="give to= and one of source= and table="):
        OnWrite(to="/scores")
