"""A bare granian of one worker that gives bodies back, which is HTTP alone: ``python -m tests.bench.echo
PORT``.
"""

import sys
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces


class Echo:
    """Answers every request with its body as JSON."""

    async def __rsgi__(self, _scope: Any, exchange: Any) -> None:
        exchange.response_bytes(200, [("content-type", "application/json")], await exchange())


def load() -> Echo:
    """The application of a worker."""
    return Echo()


if __name__ == "__main__":
    server = Granian(
        "echo", port=int(sys.argv[1]), interface=Interfaces.RSGI, workers=1, http=HTTPModes.http1
    )
    server.serve(target_loader=load, wrap_loader=False)  # type: ignore[arg-type] # it has __rsgi__
