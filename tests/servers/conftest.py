"""What the tests against real servers share."""

from collections.abc import Iterator

import pytest

from jobs.settings import Settings
from stores.bus import Bus


@pytest.fixture
def bus(servers: Settings) -> Iterator[Bus]:
    """The gateway to the run's real broker."""
    with Bus(servers.bus) as made:
        yield made
