"""Rounds with a clock that only waiting and working move."""

import threading
from dataclasses import dataclass, field

from jobs.flows.rounds import rounds


@dataclass
class Time(threading.Event):
    """A clock and an event in one: waiting takes its whole time."""

    now: float = 100.0
    waited: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        self.now += timeout
        return self.is_set()


def begun(durations: list[float]) -> tuple[list[float], Time]:
    """When rounds of these durations begin; the last one stops them."""
    time, starts = Time(), []
    for number in rounds(10.0, time, lambda: time.now):
        starts.append(time.now - 100)
        time.now += durations[number - 1]
        if number == len(durations):
            time.set()
    return starts, time


def test_rounds_begin_at_whole_multiples_however_long_each_takes() -> None:
    starts, _ = begun([1.0, 3.0, 0.0, 9.0])
    assert starts == [0.0, 10.0, 20.0, 30.0]


def test_a_round_that_takes_too_long_delays_the_next_and_skips_the_missed_ones() -> None:
    starts, _ = begun([25.0, 1.0, 10.0, 1.0])
    assert starts == [0.0, 30.0, 40.0, 60.0]


def test_there_is_no_round_once_stopped() -> None:
    time = Time()
    time.set()
    assert list(rounds(10.0, time, lambda: time.now)) == []
    starts, time = begun([1.0])
    assert (starts, time.waited) == ([0.0], [9.0])
