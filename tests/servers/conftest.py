"""What the tests against real servers share."""

from collections.abc import Iterator

import pytest

from anabranch.stores.kafka.bus import Bus
from jobs.wiring.settings import Settings


@pytest.fixture
def bus(servers: Settings) -> Iterator[Bus]:
    """The gateway to the run's real broker."""
    with Bus(servers.bus) as made:
        yield made
