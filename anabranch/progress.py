"""How long work says where it is; the command line gives an implementation that draws."""

from typing import Protocol


class Progress(Protocol):
    """Told by long work what it does and how far it has come."""

    def step(self, text: str) -> None:
        """A new step begins; `text` says which, for people."""
        ...

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """The step has done `done` of `total` units; None when the total is not known. `note`: what else there is to say."""
        ...


class Silent:
    """Progress that nobody watches."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def advance(self, done: int, total: int | None, note: str = "") -> None:
        """Say nothing."""
