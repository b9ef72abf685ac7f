"""A circuit breaker: a store that fails again and again is left alone for a while, so that answers fail fast and it can recover."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anabranch.errors import UnavailableError, ViewUnavailableError


class Breaker:
    """Counts failures in a row; open after `failures` of them. Every `pause` seconds one call may try whether the store is back."""

    def __init__(
        self, what: str, failures: int, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self._failures, self._pause, self._clock = what, failures, pause, clock
        self._in_a_row, self._until, self._why = 0, 0.0, ""

    @property
    def open(self) -> bool:
        """Whether calls are refused."""
        return self._in_a_row >= self._failures

    def check(self) -> None:
        """Raise UnavailableError when the store is to be left alone."""
        if self._in_a_row < self._failures:
            return
        now = self._clock()
        if now < self._until:
            raise UnavailableError(
                f"{self.what} failed {self._in_a_row} times in a row and is tried again within {self._pause:g} s: {self._why}"
            )
        self._until = now + self._pause  # this call tries, others wait for what comes of it

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around one call of the store: it is refused while the store is to be left alone, and counts by how it ends."""
        self.check()
        try:
            yield
        except ViewUnavailableError:
            self.succeeded()  # it said so: a table of one project that is gone must not keep the others from their answers
            raise
        except UnavailableError as error:
            self.failed(error)
            raise
        self.succeeded()

    def succeeded(self) -> None:
        """The store answered."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> None:
        """The store did not answer."""
        self._in_a_row += 1
        self._why = str(error)
        if self._in_a_row == self._failures:
            self._until = self._clock() + self._pause


@dataclass(frozen=True)
class Breakers:
    """One for each store that requests ask."""

    store: Breaker
    bus: Breaker
