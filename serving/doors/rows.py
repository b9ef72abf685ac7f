"""Rows of a table as questions: what columns mean, whichever protocol they came by.

Columns of the key name a key whose stored features are read. Features win over stored ones, as in a predict
request, also where they are missing. Columns of the request are the request's. Rows without names of columns
have the features that the model reads, in its order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.answers.predict import Prediction
from anabranch.answers.problems import ProblemError, unprocessable
from anabranch.answers.requests import MOST_INSTANCES, Asked, at_most_explained, read_one
from anabranch.answers.service import Outcome
from anabranch.declare.projects import Project
from anabranch.stores.models.versions import Scorer
from anabranch.values.datatype import DataType


def questions(
    project: Project,
    scorer: Scorer,
    names: Sequence[str] | None,
    rows: Sequence[Sequence[object]],
    *,
    explain: bool = False,
) -> list[Asked]:
    """A question for each row of columns `names`; None: the features that the model reads, in its order.

    Raises a 422 problem that names the row and the column.
    """
    if not rows:
        raise unprocessable("rows", f"there are no rows: send 1 to {MOST_INSTANCES}")
    if len(rows) > MOST_INSTANCES:
        raise unprocessable(
            "rows", f"there are {len(rows)} rows: send at most {MOST_INSTANCES} at once", "too-many"
        )
    names = scorer.features if names is None else names
    for place, row in enumerate(rows):
        if len(row) != len(names):
            raise unprocessable(
                f"rows[{place}]",
                f"the row has {len(row)} values for {len(names)} columns: {', '.join(names)}",
            )
    part_of = _parts(project, names)
    return at_most_explained(
        [
            read_one(_question(project, part_of, row), project, f"rows[{place}].", explain=explain)
            for place, row in enumerate(rows)
        ]
    )


def columns_of(project: Project) -> Mapping[str, DataType]:
    """The columns that a row may have, by name: of the key, features, of the request."""
    features = {name: column.type for name, column in project.column_of.items()}
    request = {column.name: column.type for column in project.request_columns}
    return {**features, **request, **project.key_types}


def _parts(project: Project, names: Sequence[str]) -> list[tuple[str, str]]:
    """The part of a question that each column belongs to, with the column's name."""
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise unprocessable(twice[:100], f"there are two columns {twice[:100]!r}: send one")
    request = {column.name for column in project.request_columns}
    parts = []
    for name in names:
        if name in project.keys:
            parts.append(("key", name))
        elif name in request:
            parts.append(("request", name))
        elif name in project.column_of:
            parts.append(("features", name))
        else:
            known = ", ".join(columns_of(project))
            raise unprocessable(
                name[:100],
                f"{name[:100]!r} is no column of {project.name}: it has {known}",
                "unknown-feature",
            )
    return parts


def _question(project: Project, parts: Sequence[tuple[str, str]], row: Sequence[object]) -> dict[str, object]:
    question: dict[str, dict[str, object]] = {}
    for (part, name), value in zip(parts, row, strict=True):
        question.setdefault(part, {})[name] = value
    key = question.pop("key", {})
    if not any(value is not None for value in key.values()):
        return {**question}
    return {**question, "key": key if len(project.keys) > 1 else next(iter(key.values()))}


def first_problem(outcomes: Sequence[Outcome]) -> ProblemError | None:
    """The problem of the first row, where no row has a score."""
    if any(isinstance(one, Prediction) for one in outcomes):
        return None
    return next(one for one in outcomes if isinstance(one, ProblemError))


def error_text(problem: ProblemError) -> str:
    """A problem in one text, which begins with the field to blame."""
    field = problem.field
    return problem.detail if field is None or field in problem.detail else f"{field}: {problem.detail}"


def status_of(problem: ProblemError) -> int:
    """The status of a problem for clients that know a bad request as 400 alone."""
    return 400 if problem.status == 422 else problem.status


def scores_of(outcome: Outcome) -> dict[str, Any]:
    """The answer of one row: of several classes the probability of each by its name, then the rest."""
    if isinstance(outcome, ProblemError):
        return {"score": None, "label": None, "error": error_text(outcome)}
    answer = dict(outcome.answer)
    return {**answer.pop("scores", {}), **answer}
