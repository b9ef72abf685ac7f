"""The river of the demo, run once, for every test that looks at what it left."""

from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from anabranch.declare.projects import Project
from jobs.demo import NAME, WEARERS, Demonstrated, demonstrate
from jobs.flows.answering import answer_key
from jobs.wiring.context import Context
from jobs.wiring.settings import Settings

PATIENT = WEARERS[0]


@dataclass(frozen=True)
class Lived:
    """What the demo gave, with one patient's current row and answer after it."""

    context: Context
    project: Project
    demo: Demonstrated
    current: dict[str, Any]
    answer: dict[str, Any]


def live(servers: Settings, spark: SparkSession) -> Lived:
    """The demo over the servers and the session of the tests."""
    context = Context(servers)
    context.spark = spark
    done = demonstrate(context)
    project = context.project(NAME)
    current = context.views.current(project, PATIENT)
    assert current is not None
    return Lived(context, project, done, current, answer_key(context, project, {"patient_id": PATIENT}, None))
