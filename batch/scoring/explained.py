"""Columns of a mass scoring that explain its scores (`anabranch score --explain`).

explanation_base      DOUBLE   what the score adds up from, in the model's space: log-odds, for example;
                               of several classes the score is that of the row's label
contribution_<name>   DOUBLE   of each feature that the model reads; with the base they add up to the score
reason_1 .. reason_4  STRING   the declared reasons that raised the score, the strongest first; NULL for
                               none. Only in projects that declare reasons
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from anabranch.declare.projects import Project
from anabranch.errors import MisuseError
from anabranch.stores.models.explaining.explanation import MOST_REASONS, top_reasons
from anabranch.stores.models.foreign import ForeignVersion
from anabranch.stores.models.shipping import ShippedModel
from anabranch.stores.models.versions import Scorer

_ALL = "_explained"
_BASE, _CONTRIBUTION, _REASON = "explanation_base", "contribution_", "reason_"


def explained_columns(project: Project, features: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns, in order."""
    reasons = MOST_REASONS if project.model is not None and project.model.reasons else 0
    return (
        _BASE,
        *(f"{_CONTRIBUTION}{name}" for name in features),
        *(f"{_REASON}{number + 1}" for number in range(reasons)),
    )


def check_explained(project: Project, scorer: Scorer | ForeignVersion, names: Sequence[str]) -> None:
    """Raises MisuseError for a version that cannot be explained, and for rows that have such columns."""
    if isinstance(scorer, ForeignVersion):
        raise MisuseError(
            f"version {scorer.version} of {project.name!r} was registered outside Anabranch and keeps "
            "nothing that explains its scores: leave out --explain, or use a version that was trained here"
        )
    scorer.explainer  # noqa: B018 - raises for a version that keeps nothing
    results = {name.lower() for name in explained_columns(project, scorer.features)}
    taken = [name for name in names if name.lower() in results]
    if taken:
        raise MisuseError(
            f"the rows already have a column {taken[0]!r}, the name of a part of an explanation: "
            "rename or drop it"
        )


def explained(
    scored: DataFrame,
    inputs: Sequence[Column],
    shipped: ShippedModel,
    project: Project,
    features: Sequence[str],
) -> DataFrame:
    """`scored` with the columns of explanations; `inputs` are the model's, in the order of `features`.

    Of several classes the `label` of a row is explained.
    """
    texts = dict(project.model.reasons) if project.model is not None else {}
    explain = _explainer(shipped, tuple(features), texts)
    names = explained_columns(project, features)
    whole = scored.withColumn(_ALL, explain(*inputs, F.col("label").cast("string")))
    values = [F.col(f"{_ALL}.base")]
    values += [F.col(f"{_ALL}.contributions")[place] for place in range(len(features))]
    values += [F.get(F.col(f"{_ALL}.reasons"), F.lit(place)) for place in range(len(names) - len(values))]
    return whole.withColumns(dict(zip(names, values, strict=True))).drop(_ALL)


def _explainer(
    shipped: ShippedModel, features: tuple[str, ...], texts: dict[str, str]
) -> Callable[..., Column]:
    def explain(*columns: pa.Array) -> pa.Array:
        *inputs, labels = columns
        bases, contributions = np.zeros(len(labels)), np.zeros((len(labels), len(features)))
        for places, found in shipped.opened().explanations(inputs, labels.to_pylist()):
            bases[places], contributions[places] = found.base, found.contributions
        rows = contributions.tolist()
        reasons = [
            [one.text for one in top_reasons(texts, dict(zip(features, row, strict=True)))] for row in rows
        ]
        return pa.StructArray.from_arrays(
            [
                pa.array(bases),
                pa.array(rows, pa.list_(pa.float64())),
                pa.array(reasons, pa.list_(pa.string())),
            ],
            ["base", "contributions", "reasons"],
        )

    kind = "base double, contributions array<double>, reasons array<string>"
    made: Callable[..., Column] = arrow_udf(explain, f"struct<{kind}>")  # type: ignore[call-overload]
    return made
