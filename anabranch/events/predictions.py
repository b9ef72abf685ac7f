"""Predictions that were made, as a source of the system's own: they land like events, beside the sources that are declared.

It is in no declaration and its name is one that no declaration can have, so no feature is made of predictions by accident.
"""

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source

NAME = "own-predictions"


class _Own(Source):
    """A source whose name nobody can declare."""

    def __post_init__(self) -> None:
        """Checked by being written here."""


def predictions_topic(project: str) -> str:
    """The topic that a project's predictions are published to."""
    return f"predictions.{project}"


def predictions_source(project: str) -> Source:
    """What serving publishes (serving/api/prediction_log.py): `asked`, `used`, `answered` and `versions` are JSON texts."""
    return _Own(
        name=NAME,
        topic=predictions_topic(project),
        id="prediction_id",
        time="at",
        schema="prediction_id STRING, at TIMESTAMP, asked STRING, used STRING, answered STRING, versions STRING",
        description="Predictions that were answered, with what was asked and what the model was given",
    )


def landed_sources(project: Project) -> dict[str, Source]:
    """Every source that the lake has tables of, by name: the declared ones and, with a model, the predictions."""
    own = {NAME: predictions_source(project.name)} if project.model is not None else {}
    return {**project.sources, **own}
