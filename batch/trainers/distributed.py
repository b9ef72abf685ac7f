"""Training on Spark's workers: `spark-logistic`, `spark-linear`, `spark-forest`, `spark-gbt`, and XGBoost's own Spark form.

What Spark learns is turned into ONNX (or XGBoost's format) and scores without a JVM. The columns are designed on a sample: medians,
scales and which values of a category get a column. For Spark's trees, which take no missing values, missing is below every number.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anabranch.errors import AnabranchError
from anabranch.stores.models.inputs import Fitted, ModelInput
from anabranch.stores.models.scoring import Matrix, Scores
from batch.trainers.boosted import LearntBooster, centre, xgboost_params
from batch.trainers.design import Design, linear_design, tree_design
from batch.trainers.graphs import OUTPUT, Tree, run, tree_model
from batch.trainers.linear import LearntLinear
from batch.trainers.rows import Learnt, Trainer, TrainingRows, check_params, chosen_categories, pins, whole

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_MISSING = -3.0e38
_TARGET, _COLUMNS, _WEIGHT = "_target", "_columns", "_weight"


@dataclass(frozen=True, kw_only=True)
class TrainingFrame:
    """`frame` has `_target` DOUBLE and the inputs by name (DOUBLE or STRING, NULL = missing), `count` rows; `rows` are a sample of it.

    With `parts` it has `_key` and `_time` too, and is learnt from in so many parts, laid out by them; with 0 as it lies.
    """

    frame: "DataFrame"
    count: int
    rows: TrainingRows
    parts: int = 0

    def in_order(self, parts: int) -> "DataFrame":
        """The same rows in the same parts and order every time: what learns by parts, or draws rows by their place, then learns the same."""
        if not self.parts:
            return self.frame
        return self.frame.repartition(parts, "_key", "_time").sortWithinPartitions("_key", "_time", _TARGET)


class LearntTrees:
    """Trees of Spark as a graph."""

    def __init__(self, onnx: bytes, rows: TrainingRows, parameters: Mapping[str, object]) -> None:
        self.onnx, self.rows, self.parameters = onnx, rows, parameters

    def scores(self, matrix: Matrix) -> Scores:
        """Of the graph."""
        return run(self.onnx, OUTPUT, matrix)

    def fitted(self) -> Fitted:
        """The graph."""
        return Fitted(
            native="onnx",
            inputs=self.rows.inputs,
            task=self.rows.task,
            onnx=self.onnx,
            output=OUTPUT,
            parameters=self.parameters,
            pip_requirements=pins(),
        )


def _learn_logistic(given: TrainingFrame) -> LearntLinear:
    from pyspark.ml.classification import LogisticRegression

    rows = given.rows
    params: dict[str, Any] = {"C": 0.3, "categories": (), **rows.params}
    check_params("spark-logistic", rows.params, {"C", "categories"})
    design = linear_design(rows, chosen_categories(rows, params))
    # Spark takes the mean of the losses where scikit-learn's C weighs their sum.
    strength = 1 / (float(params["C"]) * given.count)
    learner = LogisticRegression(
        featuresCol=_COLUMNS,
        labelCol=_TARGET,
        weightCol=_WEIGHT,
        regParam=strength,
        standardization=False,
        maxIter=200,
        tol=1e-9,
    )
    model = learner.fit(_designed(given, design, missing=None))
    return LearntLinear(
        design, np.asarray(model.coefficients.toArray()), float(model.intercept), rows, params
    )


def _learn_linear(given: TrainingFrame) -> LearntLinear:
    from pyspark.ml.regression import LinearRegression

    rows = given.rows
    params: dict[str, Any] = {"alpha": 1.0, "categories": (), **rows.params}
    check_params("spark-linear", rows.params, {"alpha", "categories"})
    design = linear_design(rows, chosen_categories(rows, params))
    # Spark takes the mean of the squares where scikit-learn's alpha is weighed against their sum, and weighs by the target's deviation.
    strength = float(params["alpha"]) / given.count * float(rows.target.std())
    learner = LinearRegression(
        featuresCol=_COLUMNS, labelCol=_TARGET, weightCol=_WEIGHT, regParam=strength, standardization=False
    )
    model = learner.fit(_designed(given, design, missing=None))
    return LearntLinear(
        design, np.asarray(model.coefficients.toArray()), float(model.intercept), rows, params
    )


def _learn_forest(given: TrainingFrame) -> LearntTrees:
    from pyspark.ml.regression import RandomForestRegressor

    # A regression of 0 and 1: its leaves are the share of class 1, and its splits are those of the Gini impurity.
    rows = given.rows
    check_params(
        "spark-forest", rows.params, {"trees", "max_depth", "min_samples_leaf", "max_bins", "categories"}
    )
    params: dict[str, Any] = {
        "trees": 100,
        "max_depth": 8,
        "min_samples_leaf": 5,
        "max_bins": 64,
        "categories": (),
        **rows.params,
    }
    design = tree_design(rows, chosen_categories(rows, params))
    learner = RandomForestRegressor(
        featuresCol=_COLUMNS, labelCol=_TARGET, weightCol=_WEIGHT, numTrees=whole(params, "trees"), maxDepth=whole(params, "max_depth"),
        minInstancesPerNode=whole(params, "min_samples_leaf"), maxBins=whole(params, "max_bins"), featureSubsetStrategy="sqrt", seed=rows.seed,
    )  # fmt: skip
    model = learner.fit(_designed(given, design, missing=_MISSING))
    trees, _ = parse_trees(model.toDebugString)
    return LearntTrees(
        tree_model(design, trees, [1 / len(trees)] * len(trees), len(rows.inputs)), rows, params
    )


def _learn_gbt(given: TrainingFrame) -> LearntTrees:
    from pyspark.ml.classification import GBTClassifier
    from pyspark.ml.regression import GBTRegressor

    rows, classes = given.rows, given.rows.task == "class"
    check_params(
        "spark-gbt", rows.params, {"rounds", "max_depth", "eta", "subsample", "max_bins", "categories"}
    )
    params: dict[str, Any] = {
        "rounds": 50,
        "max_depth": 3,
        "eta": 0.1,
        "subsample": 0.8,
        "max_bins": 64,
        "categories": (),
        **rows.params,
    }
    design = tree_design(rows, chosen_categories(rows, params))
    kind = GBTClassifier if classes else GBTRegressor
    learner = kind(
        featuresCol=_COLUMNS, labelCol=_TARGET, weightCol=_WEIGHT, maxIter=whole(params, "rounds"), maxDepth=whole(params, "max_depth"),
        stepSize=float(params["eta"]), subsamplingRate=float(params["subsample"]), maxBins=whole(params, "max_bins"), seed=rows.seed,
    )  # fmt: skip
    model = learner.fit(_designed(given, design, missing=_MISSING))
    trees, weights = parse_trees(model.toDebugString)
    # Spark's margin is half the log odds.
    factor = 2.0 if classes else 1.0
    onnx = tree_model(
        design, trees, [factor * weight for weight in weights], len(rows.inputs), probability=classes
    )
    return LearntTrees(onnx, rows, params)


def learn_xgboost_on_spark(given: TrainingFrame) -> LearntBooster:
    """XGBoost over Spark's workers, with the same defaults as on the driver."""
    from pyspark.sql import functions as F
    from xgboost.spark import SparkXGBClassifier, SparkXGBRegressor

    rows = given.rows
    params = xgboost_params(rows, given.count)
    design = tree_design(rows, chosen_categories(rows, rows.params))
    # XGBoost takes parts as they are when there is one for each worker, and deals rows out anew otherwise.
    workers = max(1, min(int(given.frame.sparkSession.sparkContext.defaultParallelism), 8))
    frame = _designed(given, design, missing=float("nan"), vector=False, parts=workers)
    shift = centre(rows, float(rows.target.mean()))
    frame = frame.withColumn(_TARGET, F.col(_TARGET) - F.lit(shift))
    names = {"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "seed": "random_state"}
    left = {"rounds", "categories", "distributed", "objective", "nthread", "verbosity"}
    chosen: dict[str, Any] = {
        names.get(name, name): value for name, value in params.items() if name not in left
    }
    kind = SparkXGBClassifier if rows.task == "class" else SparkXGBRegressor
    base: dict[str, Any] = {} if rows.task == "class" else {"base_score": rows.params.get("base_score", 0.0)}
    learner = kind(
        features_col=_COLUMNS, label_col=_TARGET, weight_col=_WEIGHT, num_workers=workers, n_estimators=whole(params, "rounds"), missing=float("nan"),
        **base, **chosen,
    )  # fmt: skip
    try:
        booster = learner.fit(frame).get_booster()
    except Exception as error:
        # What fails on a worker comes back as an error of Spark, of Py4J or of XGBoost.
        raise AnabranchError(
            f"xgboost could not train on Spark: {str(error).splitlines()[0]}: check Model(params=...)"
        ) from error
    return LearntBooster(booster, design, rows, {**params, "workers": workers}, shift)


def _designed(
    given: TrainingFrame,
    design: Design,
    *,
    missing: float | None,
    vector: bool = True,
    parts: int | None = None,
) -> "DataFrame":
    """`_columns` (a vector, or an array of FLOAT), `_target` and `_weight`; `missing` stands for a missing number, None when it is filled."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    coded = [coded_column(one) for one in given.rows.inputs]
    plain = []
    for place, position in enumerate(design.plain):
        value = coded[position]
        if design.fill is not None and design.shift is not None and design.scale is not None:
            value = (
                F.coalesce(value, F.lit(float(design.fill[place]))) - float(design.shift[place])
            ) / float(design.scale[place])
        elif missing is not None:
            value = F.coalesce(value, F.lit(missing))
        plain.append(value)
    equal = [
        coded[at].isNull() if np.isnan(value) else F.coalesce(coded[at] == F.lit(value), F.lit(False))
        for at, value in design.equal
    ]
    columns = F.array(*[column.cast("double" if vector else "float") for column in (*plain, *equal)])
    weight = _weight(given)
    frame = given.in_order(parts or given.parts)
    return frame.select(
        (array_to_vector(columns) if vector else columns).alias(_COLUMNS),
        F.col(_TARGET),
        weight.alias(_WEIGHT),
    )


def coded_column(given: ModelInput) -> "Column":
    """An input as scoring codes it: a float32 in a DOUBLE, NULL = missing."""
    from pyspark.sql import functions as F

    value = F.col(f"`{given.name}`")
    if given.kind == "text":
        codes = [F.lit(part) for code, text in enumerate(given.categories) for part in (text, float(code))]
        return F.create_map(*codes)[value] if codes else F.lit(None).cast("double")
    single = value.cast("float").cast("double")
    return F.when(F.abs(single) < float("inf"), single)


def _weight(given: TrainingFrame) -> "Column":
    from pyspark.sql import functions as F

    weights = given.rows.weights
    if weights is None:
        return F.lit(1.0)
    ones = given.rows.target == 1
    return F.when(F.col(_TARGET) == 1, float(weights[ones][0])).otherwise(float(weights[~ones][0]))


def parse_trees(text: str) -> tuple[list[Tree], list[float]]:
    """Trees and their weights from Spark's own description, which tells every threshold and leaf in full."""
    trees, weights = [], []
    for part in re.split(r"\n\s*Tree \d+ ", text)[1:]:
        head, *lines = part.splitlines()
        found = re.search(r"weight ([-\d.eE]+)", head)
        weights.append(float(found.group(1)) if found else 1.0)
        trees.append(_parse_tree(iter([line.strip() for line in lines if line.strip()])))
    if not trees:
        raise AnabranchError(
            "Spark describes its trees in an unknown way: use the trainer 'forest' or 'xgboost'"
        )
    return trees, weights


def _parse_tree(lines: Iterator[str]) -> Tree:
    nodes: list[tuple[int, float, int, int, float]] = []

    def grow() -> int:
        line, place = next(lines), len(nodes)
        if line.startswith("Predict:"):
            nodes.append((-1, 0.0, 0, 0, float(line.split(":")[1])))
            return place
        split = re.fullmatch(r"If \(feature (\d+) <= (\S+)\)", line)
        if split is None:
            raise AnabranchError(
                f"Spark describes a split as {line!r}, which is unknown here: use the trainer 'forest' or 'xgboost'"
            )
        nodes.append((0, 0.0, 0, 0, 0.0))
        left = grow()
        next(lines)  # Else (...)
        nodes[place] = (int(split.group(1)), float(split.group(2)), left, grow(), 0.0)
        return place

    grow()
    feature, threshold, left, right, value = (np.array(column) for column in zip(*nodes, strict=True))
    whole_numbers = (found.astype(np.int64) for found in (feature, left, right))
    at, to_left, to_right = whole_numbers
    return Tree(
        feature=at,
        threshold=threshold.astype(np.float64),
        left=to_left,
        right=to_right,
        missing_left=np.ones(len(at), dtype=bool),
        value=value.astype(np.float64),
    )


def _from_rows(learn: Callable[[TrainingFrame], Learnt]) -> Callable[[TrainingRows], Learnt]:
    """The same trainer for rows in memory: they are handed to the process's Spark session."""

    def learn_rows(rows: TrainingRows) -> Learnt:
        import pyarrow as pa
        from pyspark.sql import SparkSession

        spark = SparkSession.getActiveSession()
        if spark is None:
            raise AnabranchError(
                "a trainer of Spark needs a Spark session, and this process has none: use 'anabranch train', or a trainer of the driver"
            )
        columns = [_decoded(given, rows.matrix[:, place]) for place, given in enumerate(rows.inputs)]
        frame = spark.createDataFrame(
            pa.table([pa.array(rows.target), *columns], names=[_TARGET, *rows.names])
        )
        return learn(TrainingFrame(frame=frame, count=len(rows.target), rows=rows))

    return learn_rows


def _decoded(given: ModelInput, column: "np.ndarray[Any, Any]") -> Any:
    import pyarrow as pa

    gone = np.isnan(column)
    if given.kind == "text":
        return pa.array(
            [
                None if missing else given.categories[int(code)]
                for code, missing in zip(column.tolist(), gone, strict=True)
            ],
            pa.string(),
        )
    return pa.array(column.astype(np.float64), mask=gone)


def _trainer(tasks: Sequence[str], learn: Callable[[TrainingFrame], Learnt]) -> Trainer:
    return Trainer(tasks=tuple(tasks), learn=_from_rows(learn), learn_frame=learn, spread="always")


SPARK_TRAINERS = {
    "spark-logistic": _trainer(("class",), _learn_logistic),
    "spark-linear": _trainer(("number",), _learn_linear),
    "spark-forest": _trainer(("class", "number"), _learn_forest),
    "spark-gbt": _trainer(("class", "number"), _learn_gbt),
}
