"""The verb that takes a model to devices: export."""

from typing import Annotated

import typer

from jobs.inspect_verbs import AsJson, Name
from jobs.settings import load_settings
from jobs.show import Steps, result, table


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(export)


def export(
    name: Name,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write, on this machine or hdfs://...; a bundle that is there is replaced.")],
    version: Annotated[str | None, typer.Option(help="Model version; the champion by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the edge bundle of a model version: ONNX, features, model card, and a runner that needs numpy and onnxruntime alone."""
    from batch.announcing import announce
    from batch.exporting import export as run
    from jobs.context import Context
    from stores.hdfs import Hdfs

    settings = load_settings(None, None)
    context = Context(settings)
    found = run(context.models, context.project(name), folder, version, Steps(), Hdfs(settings.files))
    if found.place.startswith("hdfs://"):
        told = announce(context.models, context.bus, context.project(name))
        if told.why:
            Steps().step(told.why)
    value = {"project": name, "model_version": found.version, "bundle": found.place, "manifest_sha256": found.sha256, "files": found.files}
    if not as_json:
        table(f"Edge bundle of {name} version {found.version}", ["file", "SHA-256"], list(map(list, found.files.items())))
    run_it = f"anabranch files get {found.place} LOCAL" if found.place.startswith("hdfs://") else f"echo '{{}}' | python {found.place}/run.py"
    result(as_json, value, f"version {found.version} of {name} is in {found.place}\nNext: {run_it}")
