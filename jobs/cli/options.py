"""Arguments and options that several verbs take."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last.")]
Name = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of a declared project.")]
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Name of a source of the project.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[PROJECT]...", help="Projects; every declared one by default.")
]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A model version.")]
Champion = Annotated[str | None, typer.Option("--version", help="Model version; the champion by default.")]
KeyText = Annotated[
    list[str], typer.Argument(metavar="KEY", help="A value, or COLUMN=VALUE for each column of the key.")
]
