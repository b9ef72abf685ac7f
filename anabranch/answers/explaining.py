"""The explanation of a score as callers get it: contributions of features, and declared reasons in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.declare.projects import Project
from anabranch.stores.models.explaining.explanation import Explanation, top_reasons
from anabranch.stores.models.versions import Scorer


def explanations(project: Project, scorer: Scorer, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The explanation of the score of each of `rows`, which have the model's features.

    Of several classes that of the label is explained. Raises MisuseError for a version that cannot be
    explained.
    """
    columns = {name: [values[name] for values in rows] for name in scorer.features}
    if not scorer.classes:
        found = scorer.explain(columns)
        return [_document(project, scorer.features, found, row) for row in range(len(rows))]
    documents = []
    for row, label in enumerate(scorer.score(columns).argmax(axis=1).tolist()):
        one = scorer.explain({name: [values[row]] for name, values in columns.items()}, label)
        documents.append(_document(project, scorer.features, one, 0))
    return documents


def _document(project: Project, names: Sequence[str], found: Explanation, row: int) -> dict[str, Any]:
    contributions = dict(zip(names, found.contributions[row].tolist(), strict=True))
    document: dict[str, Any] = {
        "method": found.method,
        "space": found.space,
        "base": found.base,
        "margin": float(found.margins[row]),
        "contributions": contributions,
    }
    if found.errors is not None:
        document["standard_errors"] = dict(zip(names, found.errors[row].tolist(), strict=True))
    if project.model is not None and project.model.reasons:
        document["reasons"] = [
            {"text": one.text, "features": list(one.features), "contribution": one.contribution}
            for one in top_reasons(project.model.reasons, contributions)
        ]
    return document
