"""When work comes round that is done again and again until stopped."""

import threading
import time
from collections.abc import Callable, Iterator


def rounds(
    every_seconds: float, stopping: threading.Event, clock: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Counts 1, 2, ... at once and then every `every_seconds`, until `stopping` is set.

    Who takes longer for one round gets the next one at the next whole multiple: none is made up for.
    """
    begun, number = clock(), 0
    while not stopping.is_set():
        number += 1
        yield number
        stopping.wait(every_seconds - (clock() - begun) % every_seconds)
