"""The REST server's process: how it waits for its workers."""

from multiprocessing import Process
from typing import cast

from serving.server import _join


class _EndsLater:
    """A process that has ended, as two threads that wait for it see it: one of them hears of it later."""

    def __init__(self) -> None:
        self.looks = 0

    def join(self, timeout: float | None = None) -> None:
        pass

    def is_alive(self) -> bool:
        self.looks += 1
        return self.looks < 5


def test_a_worker_that_has_just_ended_is_not_called_one_that_does_not_stop() -> None:
    process = _EndsLater()
    _join(cast("Process", process), 1.0)
    assert not process.is_alive()
    assert process.looks == 6
