"""The MLflow pyfunc, which MLflow copies into every model version and runs from there ("models from code").

It imports nothing of Anabranch; what codes the inputs and runs the model lies among the version's own files.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class AnabranchModel(PythonModel):  # type: ignore[misc, unused-ignore]
    """A data frame of features in, a data frame of scores out.

    It has one column `score`, or for several classes a column each, named after the class.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Open the version's files; runs once a load."""
        folder = Path(context.artifacts["model"])
        described = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        scoring = _scoring(folder / "scoring.py")
        self._coder = scoring.InputCoder(described["inputs"])
        self._model = scoring.open_model(folder, described)
        self._columns = [str(name) for name in described.get("classes", ())] or ["score"]

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores in the order of the rows."""
        columns = {str(name): model_input[name].to_numpy() for name in model_input.columns}
        scores = self._model.predict(self._coder.matrix(columns)).reshape(len(model_input), -1)
        return pd.DataFrame(scores, columns=self._columns, index=model_input.index)


def _scoring(path: Path) -> Any:
    """The module in `path`, under no name: versions loaded side by side each keep their own."""
    spec = importlib.util.spec_from_file_location("anabranch_scoring", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module: the model's files are damaged, log it again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mlflow.models.set_model(AnabranchModel())
