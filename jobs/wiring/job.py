"""The one way to open a job: load the settings, open each store on first use, close all at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.wiring.settings import Settings, load_settings

if TYPE_CHECKING:
    from jobs.wiring.context import Context


@contextmanager
def job(settings: Settings | None = None) -> "Iterator[Context]":
    """The context of a job; `settings` None means those in force."""
    # Here, for it imports the clients of Spark and of every store, which light verbs never need.
    from jobs.wiring.context import Context

    with Context(load_settings() if settings is None else settings) as context:
        yield context
