"""Predictions as a source of the system's own: they land like events, beside the declared sources.

No declaration contains it and none can have its name, so that no feature is made of predictions by accident.
"""

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source

NAME = "own-predictions"


class _Own(Source):
    """A source whose name nobody can declare."""

    def __post_init__(self) -> None:
        """Skip the checks of a declaration, which its name would fail."""


def predictions_topic(project: str) -> str:
    """The topic that a project's predictions are published to."""
    return f"predictions.{project}"


def predictions_source(project: str) -> Source:
    """The source of the predictions that serving publishes (serving/api/prediction_log.py).

    `asked`, `used`, `answered` and `versions` are JSON texts.
    """
    return _Own(
        name=NAME,
        topic=predictions_topic(project),
        id="prediction_id",
        time="at",
        schema="prediction_id STRING, at TIMESTAMP, asked STRING, used STRING, answered STRING, "
        "versions STRING",
        description="Predictions, with the request and the values that the model used",
    )


def landed_sources(project: Project) -> dict[str, Source]:
    """Every source with tables in the lake, by name: the declared ones and, with a model, the predictions."""
    own = {NAME: predictions_source(project.name)} if project.model is not None else {}
    return {**project.sources, **own}
