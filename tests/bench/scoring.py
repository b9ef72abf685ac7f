"""`make bench-scoring`: mass scoring, Parquet to Parquet, against the model library alone and MLflow's
`spark_udf`; XGBoost trained on Spark.

The library alone is a process a core, each with the model loaded before the clock starts, over the row groups
of the same file: the
fastest simple program for the job. All of them carry one column over and write the scores beside it.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from anabranch import FeatureView, Label, Last, Model, Project, Source
from anabranch.progress import Silent
from anabranch.settings import LakeSettings, ModelsSettings
from anabranch.stores.lake.lake import Lake
from anabranch.stores.models.inputs import Fitted, ModelInput, model_inputs
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import SkopsModel
from anabranch.stores.models.versions import TrainingRecord
from batch.scoring.data_sets import score_data_set
from batch.scoring.parts import ScoringOrder
from batch.settings import ScoringSettings
from batch.trainers.boosted import XGBOOST, LearntBooster, xgboost_params
from batch.trainers.frames import TrainingFrame
from batch.trainers.registry import fit
from batch.trainers.rows import TrainingRows
from jobs.show import Steps
from jobs.wiring.settings import load_settings
from jobs.wiring.spark_session import spark_session
from tests.bench.native import save_native
from tests.bench.report import Row, save
from tests.support.stores import stores

FEATURES = tuple(f"f{i}" for i in range(13))
SOURCE = Source(
    name="rows",
    id="id",
    time="at",
    schema="id STRING, k STRING, at TIMESTAMP, y INT, " + ", ".join(f"{name} DOUBLE" for name in FEATURES),
)
PROJECT = Project(
    name="bench",
    views=(FeatureView(name="v", source=SOURCE, key="k", features={name: Last(name) for name in FEATURES}),),
    label=Label(source=SOURCE, key="k", target="y > 0"),
    model=Model(trainer="xgboost"),
)
CORES = 2
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "xgboost, 100 trees": ("xgboost", {"rounds": 100, "max_depth": 6}),
    "scikit-learn forest, 100 trees": (
        "sklearn",
        {
            "estimator": "sklearn.ensemble.RandomForestClassifier",
            "n_estimators": 100,
            "max_depth": 8,
            "min_samples_leaf": 20,
            "random_state": 0,
        },
    ),
    "scikit-learn logistic regression": (
        "sklearn",
        {"estimator": "sklearn.linear_model.LogisticRegression", "max_iter": 200},
    ),
    "trainer forest (ONNX), 100 trees": ("forest", {"trees": 100, "max_depth": 8, "min_samples_leaf": 20}),
    "trainer logistic (ONNX)": ("logistic", {}),
}
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Size:
    """How much work: rows scored, rows trained on by Spark, rounds that are interleaved."""

    rows: int
    training: int
    rounds: int


def made(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (count, 13) and classes that depend on them, with noise."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, len(FEATURES)))
    margin = matrix[:, 0] + matrix[:, 1] * matrix[:, 2] - np.abs(matrix[:, 3]) + 0.5 * matrix[:, 4]
    return matrix, (margin + random.normal(size=count) > 0).astype(np.float64)


def write(path: Path, count: int, seed: int, groups: int, target: str | None = None) -> None:
    """A Parquet file of `row_id` and the features, in so many row groups."""
    matrix, y = made(count, seed)
    columns: dict[str, Any] = {
        "row_id": np.arange(count),
        **{name: matrix[:, i] for i, name in enumerate(FEATURES)},
    }
    pq.write_table(
        pa.table(columns | ({target: y} if target else {})), path, row_group_size=-(-count // groups)
    )


def learnt(kind: str) -> Fitted:
    """The model of a kind, of 20,000 rows."""
    trainer, params = KINDS[kind]
    matrix, target = made(20_000, 1)
    rows = TrainingRows(
        matrix=matrix.astype(np.float32),
        target=target,
        inputs=model_inputs(PROJECT),
        task="class",
        params=params,
    )
    return fit(trainer, rows)


# --- the library alone
# -------------------------------------------------------------------------------------------------

_library: Any = None


def _open(folder: str) -> None:
    """In a process of the pool: the model, before the clock starts."""
    global _library  # noqa: PLW0603 - a process of the pool has nothing else to keep it in
    threadpool_limits(1)  # a process a core: threads of BLAS would only wait for one another
    found = Path(folder)
    if (found / "model.ubj").exists():
        booster = xgboost.Booster({"nthread": 1}, model_file=str(found / "model.ubj"))
        _library = partial(booster.inplace_predict, missing=np.nan, validate_features=False)
    elif (found / "model.skops").exists():
        estimator = SkopsModel(found / "model.skops", "class")._estimator
        _library = lambda matrix: estimator.predict_proba(matrix)[:, 1]  # noqa: E731
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(found / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        output, name = (
            json.loads((found / "features.json").read_text(encoding="utf-8"))["output"],
            session.get_inputs()[0].name,
        )

        def by_onnx(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = session.run([output], {name: matrix})[0]
            return scores.reshape(len(matrix), -1)[:, -1]

        _library = by_onnx


def _score(job: tuple[str, int, str]) -> int:
    """One row group, as a program of its own would do it."""
    path, group, out = job
    schema = pa.schema([("row_id", pa.int64()), ("score", pa.float64())])
    rows = 0
    with pq.ParquetWriter(f"{out}/part-{group}.parquet", schema) as writer, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(
            _AT_ONCE, row_groups=[group], columns=["row_id", *FEATURES], use_threads=False
        ):
            matrix = np.empty((len(batch), len(FEATURES)), dtype=np.float32)
            for place, name in enumerate(FEATURES):
                matrix[:, place] = batch.column(name).to_numpy()
            scores = np.asarray(_library(matrix), dtype=np.float64)
            writer.write_batch(pa.record_batch([batch.column("row_id"), pa.array(scores)], schema=schema))
            rows += len(batch)
    return rows


def with_library(pool: Any, path: Path, out: Path) -> None:
    """All row groups, over the processes of the pool."""
    out.mkdir(exist_ok=True)
    pool.map(
        _score,
        [(str(path), group, str(out)) for group in range(pq.read_metadata(path).num_row_groups)],
        chunksize=1,
    )


# --- the others
# --------------------------------------------------------------------------------------------------------


def with_mlflow(spark: SparkSession, uri: str, several: bool, path: Path, out: Path) -> None:
    """As MLflow documents `spark_udf`: a struct of columns. `several`: the model gives a value a class."""
    import mlflow.pyfunc

    predict = mlflow.pyfunc.spark_udf(
        spark,
        uri,
        result_type="array<double>" if several else "double",
        env_manager="local",
    )
    given = predict(F.struct(*map(F.col, FEATURES)))
    score = F.element_at(given, -1) if several else given
    rows = spark.read.parquet(str(path)).select("row_id", score.alias("score"))
    rows.write.mode("overwrite").parquet(str(out))


def same(one: Path, other: Path) -> bool:
    """Do two results say the same of every row?"""
    a, b = (pq.read_table(path, columns=["row_id", "score"]).sort_by("row_id") for path in (one, other))
    return bool(
        a["row_id"].equals(b["row_id"])
        and np.allclose(a["score"].to_numpy(), b["score"].to_numpy(), rtol=0, atol=1e-6)
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def scoring_rows(spark: SparkSession, folder: Path, size: Size, steps: Steps) -> list[Row]:
    """Each kind of model: ours, the library and MLflow's UDF one after the other, `rounds` times."""
    big, small = folder / "rows.parquet", folder / "warm.parquet"
    write(big, size.rows, 2, 12)
    write(small, 20_000, 3, 4)
    rows = []
    for number, kind in enumerate(KINDS):
        models = Models(
            ModelsSettings(
                tracking_uri=f"sqlite:///{folder}/mlflow-{number}.db",
                artifact_root=str(folder / f"artifacts-{number}"),
            )
        )
        fitted = learnt(kind)
        example = {name: [0.0] for name in FEATURES}
        models.promote(
            PROJECT.name,
            models.log(
                PROJECT, TrainingRecord(metrics={}, parameters={}, lake_versions={}, example=example), fitted
            ),
        )
        native = folder / f"native-{number}"
        native.mkdir()
        fitted.write(native)
        rows += _compare(spark, models, kind, native, (big, small), folder / f"out-{number}", size, steps)
    return rows


def _compare(
    spark: SparkSession,
    models: Models,
    kind: str,
    native: Path,
    paths: tuple[Path, Path],
    out: Path,
    size: Size,
    steps: Steps,
) -> list[Row]:
    opened = stores(spark=spark, lake=Lake(LakeSettings(root=str(out / "lake"))), models=models)
    sizes = ScoringSettings(part_rows=250_000)
    out.mkdir()
    uri, several = save_native(native, out / "mlflow", FEATURES), (native / "model.skops").exists()

    def ours(path: Path, name: str) -> None:
        order = ScoringOrder(source=str(path), out=str(out / name), keep=("row_id",), sizes=sizes)
        score_data_set(opened, PROJECT, order, Silent())

    with multiprocessing.get_context("spawn").Pool(CORES, _open, (str(native),)) as pool:
        ways: dict[str, Callable[[Path, int | str], object]] = {
            "ours": lambda path, turn: ours(path, f"ours-{turn}"),
            "library": lambda path, turn: with_library(pool, path, out / f"library-{turn}"),
            "mlflow": lambda path, turn: with_mlflow(spark, uri, several, path, out / f"mlflow-{turn}"),
        }
        for way in ways.values():
            way(paths[1], "warm")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(size.rounds):
            for name, way in ways.items():
                seconds[name].append(timed(partial(way, paths[0], turn)))
            steps.step(
                f"{kind}: " + ", ".join(f"{name} {found[-1]:.1f} s" for name, found in seconds.items())
            )
    took = {name: statistics.median(found) for name, found in seconds.items()}
    goals = {
        "library": "the library alone, a process a core",
        "mlflow": "mlflow spark_udf of its own flavour, on a struct",
    }
    return [
        Row(work=f"score {size.rows:,} rows x {len(FEATURES)}: {kind}", peer=peer, ours=took["ours"],
        theirs=took[name], unit="s",
            ratio=took[name] / took["ours"], goal=">= 0.9" if name == "library" else ">= 1",
            equal=same(out / "ours-0", out / f"{name}-0"))
        for name, peer in goals.items()
    ]  # fmt: skip


# --- training
# ----------------------------------------------------------------------------------------------------------


def training_row(spark: SparkSession, folder: Path, size: Size, steps: Steps) -> Row:
    """XGBoost over Spark's workers against XGBoost with a thread a core: the same Parquet in, the same
    parameters, a booster out.
    """
    path = folder / "training.parquet"
    write(path, size.training, 4, 8, target="_target")
    sample, target = made(20_000, 4)
    inputs: Sequence[ModelInput] = model_inputs(PROJECT)
    given = TrainingRows(
        matrix=sample.astype(np.float32),
        target=target,
        inputs=tuple(inputs),
        task="class",
        params={"rounds": 100, "max_depth": 6, "subsample": 1.0},
    )
    boosters: dict[str, xgboost.Booster] = {}

    def ours() -> None:
        frame = spark.read.parquet(str(path))
        learnt = XGBOOST.train_frame(TrainingFrame(frame=frame, count=size.training, rows=given))
        assert isinstance(learnt, LearntBooster)
        boosters["ours"] = learnt.booster

    def library() -> None:
        table = pq.read_table(path)
        matrix = np.column_stack([table[name].to_numpy().astype(np.float32) for name in FEATURES])
        params = {
            name: value
            for name, value in xgboost_params(XGBOOST.complete(given, size.training)).items()
            if name not in ("rounds", "categories", "distributed")
        }
        boosters["library"] = xgboost.train(
            {**params, "nthread": CORES}, xgboost.DMatrix(matrix, table["_target"].to_numpy()), 100
        )

    seconds: dict[str, list[float]] = {"ours": [], "library": []}
    for _ in range(size.rounds):
        seconds["ours"].append(timed(ours))
        seconds["library"].append(timed(library))
        steps.step(f"training: ours {seconds['ours'][-1]:.1f} s, library {seconds['library'][-1]:.1f} s")
    test, truth = made(50_000, 5)
    for booster in boosters.values():
        booster.feature_names = None
    areas = {
        name: roc_auc_score(truth, booster.inplace_predict(test.astype(np.float32), validate_features=False))
        for name, booster in boosters.items()
    }
    took = {name: statistics.median(found) for name, found in seconds.items()}
    work = f"train xgboost on Spark, {size.training:,} rows x {len(FEATURES)}, 100 trees"
    work += f" (ROC AUC {areas['ours']:.4f} and {areas['library']:.4f})"
    return Row(work=work, peer="the library alone, a thread a core", ours=took["ours"],
    theirs=took["library"], unit="s",
               ratio=took["library"] / took["ours"], goal="",
               equal=abs(areas["ours"] - areas["library"]) < 0.003)  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """All of it; with --quick in a minute, to see that it runs, and nothing is saved."""
    quick = "--quick" in arguments
    size = (
        Size(rows=60_000, training=30_000, rounds=1)
        if quick
        else Size(rows=3_000_000, training=1_000_000, rounds=3)
    )
    steps = Steps()
    spark = spark_session(
        load_settings(None, None),
        "bench-scoring",
        **{"spark.driver.memory": "2g", "spark.master": f"local[{CORES}]"},
    )
    with tempfile.TemporaryDirectory(prefix="anabranch-bench-") as folder:
        rows = scoring_rows(spark, Path(folder), size, steps)
        rows.append(training_row(spark, Path(folder), size, steps))
    spark.stop()
    notes = [
        "One Parquet file of 12 row groups in, Parquet with a row's id and its score out; ours writes "
        "label and version too, in parts that outlive a kill.",
        f"Ours is `anabranch score` in a running session on local[{CORES}]: Spark hands out row groups, "
        "its Python workers read, score and write them.",
        "The library alone reads, scores and writes the same row groups in processes that are started and "
        "have loaded the model before the clock starts.",
        "MLflow's UDF is that of the registered version, with plain Parquet reading and writing around "
        "it. Everything was run once before, on few rows.",
        "Scores are compared row by row to 1e-6: sums in single precision depend on how many rows go "
        "together. Ways take turns, medians of three turns.",
        "Training: the same parameters on both sides; sums over rows in another order give other trees, "
        "so their ROC AUC on fresh rows is compared.",
    ]
    save(
        "scoring",
        "Mass scoring",
        rows,
        ["pyspark", "xgboost-cpu", "scikit-learn", "onnxruntime", "mlflow", "pyarrow"],
        notes,
        dry=quick,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
