"""From a score to its events, for the command line."""

from typing import Any

from anabranch.answers.evidence.why import WhyQuestion, trace
from anabranch.answers.service import AnswerService
from anabranch.declare.projects import Project
from jobs.wiring.context import Context


def why_key(
    context: Context, project: Project, key: dict[str, str], at: int | None, most: int
) -> dict[str, Any]:
    """From the score of a key to the events behind its features; no JVM is started."""
    service = AnswerService(context.answers)
    project, manifest = context.answers.served(project)
    (stored,) = service.features(project, [key], at, manifest=manifest)
    version = context.models.usable_champion(project) if project.model is not None else None
    scorer = None if version is None else context.models.scorer(project.name, version)
    asked = WhyQuestion(project=project, key=key, stored=stored, scorer=scorer, manifest=manifest, most=most)
    return trace(context, service, asked)
