"""Verbs that start, stop and show servers: up, down, status, serve."""

from typing import Annotated

import typer

from jobs import servers
from jobs.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object last.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (up, down, status, serve):
        app.command()(verb)


def up() -> None:
    """Start the embedded servers (Kafka, Cassandra)."""
    servers.up(load_settings(None, None))


def down() -> None:
    """Stop the servers that `up` started."""
    servers.down(load_settings(None, None))


def status() -> None:
    """Show which servers run, where, and since when."""
    servers.status(load_settings(None, None))


def serve() -> None:
    """Answer over REST until stopped."""
    from jobs.serve import serve as run_server

    run_server(load_settings(None, None))
