"""Verbs that start, stop and show servers: up, down, status, serve."""

from typing import Annotated

import typer

from jobs.servers import embedded as servers
from jobs.wiring.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (up, down, status, serve):
        app.command()(verb)


def up(
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="SERVER", help="Also start this: hdfs, spark, ignite, nginx (may be repeated)."
        ),
    ] = None,
) -> None:
    """Start the embedded servers: Kafka, Cassandra, and those asked for."""
    asked = [name.strip() for text in further or [] for name in text.split(",") if name.strip()]
    servers.up(load_settings(), [*servers.NAMES, *asked])


def down() -> None:
    """Stop the servers that `up` started."""
    servers.down(load_settings())


def status() -> None:
    """Show which servers run, where, and since when."""
    servers.status(load_settings())


def serve(
    port: Annotated[
        int | None,
        typer.Option(help="Listen here instead of serving.port: for a second server behind the gateway."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer, instead of serving.workers.")
    ] = None,
) -> None:
    """Answer over REST until stopped."""
    from jobs.wiring.serve import serve as run_server

    given = {"serving.port": port, "serving.workers": workers}
    run_server(load_settings(None, {name: value for name, value in given.items() if value is not None}))
