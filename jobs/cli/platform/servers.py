"""Verbs that start, stop and show servers: up, down, status, serve."""

from typing import Annotated

import typer

from anabranch.errors import AnabranchError
from jobs.show import say
from jobs.wiring.settings import Settings, load_settings


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (up, down, status, serve):
        app.command()(verb)


def up(
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SERVER",
            help="Also start hdfs, spark, ignite, registry, postgres, airflow, prometheus or nginx.",
        ),
    ] = None,
) -> None:
    """Start the embedded servers: Kafka, Cassandra, and those named by --with."""
    from jobs.servers import embedded

    names = [name.strip() for text in further or [] for name in text.split(",") if name.strip()]
    embedded.up(load_settings(), [*embedded.NAMES, *names])


def down() -> None:
    """Stop the servers that `up` started."""
    from jobs.servers import embedded

    embedded.down(load_settings())


def status() -> None:
    """Show which servers run, where, and since when; REST by asking it."""
    from jobs.servers import embedded
    from serving.server import address, look

    settings = load_settings()
    states = embedded.status(settings)
    shown = {state.name for state in states}
    others = [
        name for name, made in embedded.SERVERS.items() if not shown & {one(settings).name for one in made}
    ]
    if others:
        say(f"{', '.join(others)}: not started (anabranch up --with NAME)")
    place, answer = address(settings.serving), look(settings.serving, "/readyz")
    words = {None: "nothing answers", 200: "running and ready"}
    say(f"rest: {words.get(answer, f'running, not ready ({place}/readyz says why)')} at {place}")
    if not settings.servers.nginx_upstreams and any(
        (state.name, state.state) == ("nginx", "running") for state in states
    ):
        _replicas(settings)


def _replicas(settings: Settings) -> None:
    """Tell which workers of REST servers say that they are up."""
    from anabranch.stores.cassandra.replicas import Replicas

    try:
        found = Replicas(settings.views).all()
    except AnabranchError as error:
        say(f"replicas: {error}")
        return
    for one in found:
        say(f"replica: {one.place}: {'ready' if one.ready else 'not ready'}, answers {one.load} calls now")


def serve(
    port: Annotated[
        int | None,
        typer.Option(help="Port, instead of serving.port: for a second server behind the gateway."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, instead of serving.workers.")] = None,
) -> None:
    """Answer over REST until stopped."""
    from jobs.wiring.serve import serve as run

    overrides = {"serving.port": port, "serving.workers": workers}
    run(load_settings(None, {name: value for name, value in overrides.items() if value is not None}))
