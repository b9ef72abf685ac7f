"""The one way to open a job: load the settings, open each store on first use, close all at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from jobs.wiring.settings import Settings, load_settings

if TYPE_CHECKING:
    from jobs.wiring.context import Context

_kept: "list[Context | None]" = []
"""The context of a process that keeps one, or None in its place until it is first asked for."""


@contextmanager
def job(settings: Settings | None = None) -> "Iterator[Context]":
    """The context of a job; `settings` None means those in force.

    Within `kept_open` it is the kept one, as long as the settings in force are those it was opened with.
    """
    # Here, for it imports the clients of every store, which light verbs never need.
    from jobs.wiring.context import Context

    wanted = load_settings() if settings is None else settings
    if not _kept:
        with Context(wanted) as context:
            yield context
        return
    if _kept[0] is None or _kept[0].settings != wanted:
        close_kept()
        _kept[0] = Context(wanted)
    yield cast("Context", _kept[0])


@contextmanager
def kept_open() -> Iterator[None]:
    """Keep one context, with its Spark session, for all jobs of the block."""
    _kept.append(None)
    try:
        yield
    finally:
        close_kept()
        _kept.clear()


def close_kept() -> None:
    """Close the kept context; the next job opens one anew."""
    if _kept and _kept[0] is not None:
        context, _kept[0] = _kept[0], None
        context.close()
