"""Progress of long work; the command line implements it with progress bars."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work."""

    def step(self, text: str) -> None:
        """Begin a step; `text` describes it to people."""
        ...

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Report `done` of `total` units of the step (None: unknown), with a `note` for people."""
        ...


class Silent:
    """Progress that is not shown."""

    def step(self, text: str) -> None:
        """Ignore it."""

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Ignore it."""
