"""The explanation of a score as callers get it: contributions of features, and declared reasons in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.declare.projects import Project
from anabranch.stores.models.explaining.explanation import Explanation, top_reasons
from anabranch.stores.models.versions import Scorer


def explanations(
    project: Project,
    scorer: Scorer,
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[int | str | None],
) -> list[dict[str, Any]]:
    """The explanation of the score of each of `rows`, which have the model's features and got `labels`.

    Of several classes the probability of the label is explained. Raises MisuseError for a version that cannot
    be explained.
    """
    documents: dict[int, dict[str, Any]] = {}
    for label in dict.fromkeys(labels if scorer.classes else [None]):
        places = [place for place in range(len(rows)) if not scorer.classes or labels[place] == label]
        columns = {name: [rows[place][name] for place in places] for name in scorer.features}
        found = scorer.explain(columns, 0 if label is None else scorer.classes.index(label))
        for row, place in enumerate(places):
            document = _document(project, scorer.features, found, row)
            documents[place] = document if label is None else {"label": label, **document}
    return [documents[place] for place in range(len(rows))]


def _document(project: Project, names: Sequence[str], found: Explanation, row: int) -> dict[str, Any]:
    contributions = dict(zip(names, found.contributions[row].tolist(), strict=True))
    document: dict[str, Any] = {
        "method": found.method,
        "space": found.space,
        "base": found.base,
        "margin": float(found.margins[row]),
        "contributions": contributions,
    }
    if found.before_calibration:
        document["before_calibration"] = True
    if found.errors is not None:
        document["standard_errors"] = dict(zip(names, found.errors[row].tolist(), strict=True))
    if project.model is not None and project.model.reasons:
        document["reasons"] = [
            {"text": one.text, "features": list(one.features), "contribution": one.contribution}
            for one in top_reasons(project.model.reasons, contributions)
        ]
    return document
