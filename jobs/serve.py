"""Serve: answers over REST in the foreground, until SIGTERM or Ctrl-C. Needs no JVM."""

import logging
import sys
from functools import partial

from jobs.settings import Settings, load_settings
from serving.app import Application, create_app
from serving.context import Context
from serving.server import run


def serve(settings: Settings) -> None:
    """Run the REST server over the real stores; raises UnavailableError when its port is taken."""
    run(settings.serving, partial(build, settings), partial(print, flush=True))


def build(settings: Settings) -> Application:
    """The application over the real stores; runs in each worker, for connections do not survive a fork."""
    from stores.answers import Answers, now_micros
    from stores.bus import Bus
    from stores.models import Models
    from stores.views import Views

    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    views = Views(settings.views)
    context = Context(
        folders=tuple(settings.projects),
        views=views,
        answers=Answers(views, patience=settings.serving.refresh_seconds),
        models=Models(settings.models),
        bus=Bus(settings.bus),
        settings=settings.serving,
        future_skew_seconds=settings.times.future_skew_seconds,
        clock=now_micros,
    )
    return create_app(context)


if __name__ == "__main__":
    serve(load_settings(None, None))
