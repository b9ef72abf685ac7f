"""Some of a project's current rows, for a look at how scores are distributed: bounded, and fair, for tokens are hashes of keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cassandra import InvalidRequest, OperationTimedOut, RequestExecutionException
from cassandra.cluster import NoHostAvailable
from cassandra.util import Date

from anabranch.declare.projects import Project
from anabranch.errors import UnavailableError
from anabranch.stores.cassandra.views import Views, current_table
from anabranch.values.times import to_micros


@dataclass(frozen=True, kw_only=True)
class CurrentRow:
    """A current row without its features; `key` is the stored text, `as_of` in microseconds, `layer` the channel that wrote it."""

    key: str
    score: float | None
    label: int | None
    model_version: str | None
    batch_version: int | None
    as_of: int
    layer: str


def sample_features(views: Views, project: Project, names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Feature columns `names` of up to `most` current rows, likewise; none where a feature is newer than the last build."""
    found = _first(views, project, names, most)
    return [
        {
            name: value.date() if isinstance(value, Date) else value
            for name, value in zip(names, row, strict=True)
        }
        for row in found
    ]


def sample_current(views: Views, project: Project, most: int) -> list[CurrentRow]:
    """Up to `most` current rows, those first in the order of tokens; none before the first build. Raises UnavailableError."""
    rows = _first(
        views, project, ("key", "score", "label", "model_version", "batch_version", "as_of", "layer"), most
    )
    return [_row(*row) for row in rows if row.as_of is not None]


def _first(views: Views, project: Project, names: Sequence[str], most: int) -> list[Any]:
    name, columns = current_table(project.name), ", ".join(f'"{column}"' for column in names)
    if not views.has_table(name):
        return []
    try:
        return list(views.session.execute(f"SELECT {columns} FROM {name} LIMIT {int(most)}"))
    except InvalidRequest:  # it is being made anew
        return []
    except (NoHostAvailable, OperationTimedOut, RequestExecutionException) as error:
        raise UnavailableError(f"Cassandra did not answer: {error}: see 'anabranch status'") from error


def _row(
    key: str,
    score: float | None,
    label: int | None,
    model: str | None,
    batch: int | None,
    as_of: datetime,
    layer: str | None,
) -> CurrentRow:
    moment = to_micros(as_of.replace(tzinfo=UTC))
    return CurrentRow(
        key=key,
        score=score,
        label=label,
        model_version=model,
        batch_version=batch,
        as_of=moment,
        layer=layer or "",
    )
