"""Suites of expectations: from `<folder>/<project>/<source>.json`, else from the declaration."""

from pathlib import Path

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from anabranch.errors import MisuseError
from anabranch.events.expectations import Suite, project_suite, read_suite
from anabranch.settings import QualitySettings


def suite_file(settings: QualitySettings, project: Project, source: Source) -> Path:
    """The file for the suite of a source, whether or not it exists."""
    return Path(settings.suites) / project.name / f"{source.name}.json"


def suites(settings: QualitySettings, project: Project) -> dict[str, Suite]:
    """The suite of every source by name; raises MisuseError for a malformed file and for one of no source."""
    folder = Path(settings.suites) / project.name
    strange = [path for path in sorted(folder.glob("*.json")) if path.stem not in project.sources]
    if strange:
        raise MisuseError(
            f"{strange[0]} is the suite of no source: project {project.name!r} has "
            f"{', '.join(project.sources)}; rename or remove the file"
        )
    return {name: _suite(settings, project, source) for name, source in project.sources.items()}


def suites_in_force(settings: QualitySettings, project: Project) -> dict[str, Suite]:
    """The suites that judge rows in landing and in the stream; none while the gate is off."""
    return {} if settings.mode == "off" else suites(settings, project)


def _suite(settings: QualitySettings, project: Project, source: Source) -> Suite:
    path = suite_file(settings, project, source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return project_suite(project, source)
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(f"{path} cannot be read ({error}): make it readable UTF-8") from error
    return read_suite(text, source, str(path))
