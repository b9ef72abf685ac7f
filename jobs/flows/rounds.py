"""Work that is repeated at an interval until stopped."""

import threading
import time
from collections.abc import Callable, Iterator


def rounds(
    every_seconds: float, stopping: threading.Event, clock: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Count 1, 2, ... at once and then every `every_seconds`, until `stopping` is set.

    A round that takes longer is followed by one at the next whole multiple: missed rounds are skipped.
    """
    begun, number = clock(), 0
    while not stopping.is_set():
        number += 1
        yield number
        stopping.wait(every_seconds - (clock() - begun) % every_seconds)
