"""A model version on Spark's workers: files travel to a machine once and are opened once a worker process.

The features of a frame become columns as a model takes them: DOUBLE or STRING, coded as scoring.py describes.
"""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import SparkFiles
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from anabranch.errors import AnabranchError
from anabranch.events.cells import named
from anabranch.stores.models.connection import mlflow_module
from anabranch.stores.models.explaining.explanation import Explainer, Explanation
from anabranch.stores.models.explaining.kept import FILE, read_explainer
from anabranch.stores.models.inputs import ModelInput
from anabranch.stores.models.registry import Models
from anabranch.stores.models.scoring import InputCoder, Matrix, Scores, open_model

_CODES: dict[str, Callable[[Column], Column]] = {
    "number": lambda value: value.cast("double"),
    "boolean": lambda value: value.cast("double"),
    "date": lambda value: F.unix_date(value).cast("double"),
    "timestamp": lambda value: F.unix_micros(value).cast("double"),
    "text": lambda value: value.cast("string"),
}


def input_column(given: ModelInput, value: Column | None = None) -> Column:
    """The input as a model takes it, from `value` of the declared type; by default the column of its name."""
    return _CODES[given.kind](named(given.name) if value is None else value).alias(given.name)


class BulkScorer:
    """A version for many rows, by its own library in one thread; it scores as the MLflow pyfunc does."""

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        self._coder = InputCoder(described["inputs"])
        self._model = open_model(folder, described)
        self._explained = (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
        self.features = self._coder.names
        self.classes: tuple[str | int, ...] = tuple(described.get("classes", ()))

    def scores(self, columns: list[pa.Array]) -> Scores:
        """Scores, float64 (n,) or (n, classes), of the features' columns in order (see `input_column`)."""
        if not columns or len(columns[0]) == 0:
            return np.empty((0, len(self.classes)) if self.classes else 0)
        return self._model.predict(self._matrix(columns))

    def explanations(
        self, columns: list[pa.Array], labels: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], Explanation]]:
        """Contributions of the features to `scores` of the same columns, with the positions of the rows.

        Of several classes the probability of each row's label, as text, is explained, one label after the
        other; `labels` of any other model are not read.
        """
        matrix = self._matrix(columns)
        if not self.classes:
            yield np.arange(len(matrix)), self._explainer.explain(matrix)
            return
        found = np.array(labels, dtype=object)
        for output, name in enumerate(map(str, self.classes)):
            places = np.flatnonzero(found == name)
            if len(places):
                yield places, self._explainer.explain(matrix[places], output)

    @cached_property
    def _explainer(self) -> Explainer:
        return read_explainer(self._explained, self._model.predict)

    def _matrix(self, columns: list[pa.Array]) -> Matrix:
        return self._coder.matrix(
            {name: _values(column) for name, column in zip(self.features, columns, strict=True)}
        )


class PyfuncScorer:
    """Any MLflow pyfunc for many rows; the last number that it returns for a row is the score."""

    def __init__(self, archive: str) -> None:
        # Kept as long as the model: some flavours read their files only when they predict.
        self._folder = tempfile.TemporaryDirectory(prefix="anabranch-model-")
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(self._folder.name)
        self._model = mlflow_module().pyfunc.load_model(self._folder.name)

    def scores(self, names: Sequence[str], columns: Sequence[pa.Array]) -> Scores:
        """Scores, float64 (n,), of the inputs' columns, typed as in the model's signature.

        Raises AnabranchError when the model does not return a number for each row.
        """
        import pandas as pd

        if len(columns[0]) == 0:
            return np.empty(0)
        found = pd.DataFrame(
            self._model.predict(
                pd.DataFrame({name: column.to_pandas() for name, column in zip(names, columns, strict=True)})
            )
        )
        numbers = found.select_dtypes("number")
        if numbers.shape[1] == 0 or len(numbers) != len(columns[0]):
            returned = f"{len(found)} rows of {', '.join(map(str, found.dtypes))}"
            raise AnabranchError(
                f"the model gives {returned} for {len(columns[0])} rows: "
                "it must give a number a row, such as the probability of class 1"
            )
        return numbers.iloc[:, -1].to_numpy(np.float64)


def _values(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.array(column.to_pylist(), dtype=object)


class ShippedModel:
    """A version for Spark's workers, by the name of the archive that Spark distributes."""

    def __init__(self, archive: str) -> None:
        self.archive = archive

    def opened(self) -> BulkScorer:
        """The version, in a worker of Spark."""
        return _opened(SparkFiles.get(self.archive))


class ShippedPyfunc:
    """A version registered outside Anabranch for Spark's workers, by the name of its archive."""

    def __init__(self, archive: str) -> None:
        self.archive = archive

    def opened(self) -> PyfuncScorer:
        """The version, in a worker of Spark."""
        return _opened_pyfunc(SparkFiles.get(self.archive))


@lru_cache(maxsize=2)
def _opened_pyfunc(archive: str) -> PyfuncScorer:
    return PyfuncScorer(archive)


@lru_cache(maxsize=2)
def _opened(archive: str) -> BulkScorer:
    with tempfile.TemporaryDirectory(prefix="anabranch-model-") as folder:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
        return BulkScorer(Path(folder))


def ship(spark: SparkSession, models: Models, project: str, version: str) -> ShippedModel:
    """Hand the version's files to Spark, which copies them to each worker on first use."""
    return ShippedModel(
        _shipped(
            spark.sparkContext, models, project, version, _name(spark, models, project, version), whole=False
        )
    )


def ship_pyfunc(spark: SparkSession, models: Models, project: str, version: str) -> ShippedPyfunc:
    """Hand all that MLflow keeps of the version to Spark, which copies it to each worker on first use."""
    return ShippedPyfunc(
        _shipped(
            spark.sparkContext, models, project, version, _name(spark, models, project, version), whole=True
        )
    )


def _name(spark: SparkSession, models: Models, project: str, version: str) -> str:
    application = str(spark.sparkContext.applicationId)
    digest = hashlib.sha256(
        f"{application}|{models.settings.tracking_uri}|{models.uri(project, version)}".encode()
    ).hexdigest()[:12]
    return f"anabranch-{project}-{version}-{digest}.zip"


@lru_cache(maxsize=64)
def _shipped(context: Any, models: Models, project: str, version: str, name: str, *, whole: bool) -> str:
    name = f"whole-{name}" if whole else name
    archive = Path(_outbox().name) / name
    with (
        (models.version_folder if whole else models.model_folder)(project, version) as folder,
        zipfile.ZipFile(archive, "w") as zipped,
    ):
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder))
    context.addFile(str(archive))
    return name


@lru_cache(maxsize=1)
def _outbox() -> "tempfile.TemporaryDirectory[str]":
    """The folder that Spark fetches files from; it is removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="anabranch-models-")
