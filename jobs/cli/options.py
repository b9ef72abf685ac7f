"""Arguments and options that several verbs take."""

from typing import Annotated

import typer


def _project(text: str) -> str:
    """A project's name; that of the file where a file was given."""
    from anabranch.declare.loading import project_named
    from jobs.wiring.settings import load_settings

    return project_named(text, load_settings().projects) if "/" in text or text.endswith(".py") else text


def _projects(texts: list[str] | None) -> list[str] | None:
    return None if texts is None else [_project(text) for text in texts]


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="PROJECT", help="Name of a declared project, or the file that declares it.", callback=_project
    ),
]
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of a source of the project.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PROJECT]...", help="Projects; every declared one by default.", callback=_projects
    ),
]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A model version.")]
Champion = Annotated[str | None, typer.Option("--version", help="Model version; the champion by default.")]
KeyText = Annotated[
    list[str], typer.Argument(metavar="KEY", help="A value, or COLUMN=VALUE for each column of the key.")
]
