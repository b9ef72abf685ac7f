"""A circuit breaker: a store that fails repeatedly is not called for a while, so that it can recover."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anabranch.errors import UnavailableError, ViewUnavailableError


class Breaker:
    """Opens after `failures` failed calls in a row; then one call every `pause` seconds tests the store."""

    def __init__(
        self, what: str, failures: int, pause: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self._failures, self._pause, self._clock = what, failures, pause, clock
        self._in_a_row, self._until, self._why = 0, 0.0, ""

    @property
    def open(self) -> bool:
        """Whether the last calls failed, as many as it takes to refuse further ones."""
        return self._in_a_row >= self._failures

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused now; unlike `check` it does not make the caller test the store."""
        return self.open and self._clock() < self._until

    def check(self) -> None:
        """Raise UnavailableError when the store must not be called now."""
        if not self.open:
            return
        now = self._clock()
        if now < self._until:
            times = "" if self._failures == 1 else f"{self._in_a_row} times in a row "
            raise UnavailableError(
                f"{self.what} failed {times}and is tried again within {self._pause:g} s: {self._why}"
            )
        self._until = now + self._pause  # this call tests the store; others are refused until it ends

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Wrap one call of the store: raises UnavailableError while open, and counts the outcome."""
        self.check()
        try:
            yield
        except ViewUnavailableError:
            # The store answered: one project's missing table must not keep other projects from their answers.
            self.succeeded()
            raise
        except UnavailableError as error:
            self.failed(error)
            raise
        self.succeeded()

    def succeeded(self) -> None:
        """Record that the store answered: the breaker closes."""
        self._in_a_row = 0

    def failed(self, why: Exception | str) -> None:
        """Record that the store did not answer."""
        self._in_a_row += 1
        self._why = str(why)
        if self._in_a_row == self._failures:
            self._until = self._clock() + self._pause
