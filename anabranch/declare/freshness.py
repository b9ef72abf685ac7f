"""The age of answers that a project promises. The server measures it, and the catalogue shows it."""

from dataclasses import dataclass

from anabranch.errors import DeclarationError
from anabranch.values.times import parse_duration


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Promised durations such as ``"1d"``; None promises nothing.

    `batch` limits the age of the serving batch's cut. `stream` limits the time from the arrival of an event
    until its key's current row includes it.
    """

    batch: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        if self.batch is None and self.stream is None:
            raise DeclarationError(
                'freshness promises nothing: give Freshness(batch="1d"), Freshness(stream="10s") or both'
            )
        for name, text in (("batch", self.batch), ("stream", self.stream)):
            if text is not None:
                parse_duration(text, f"freshness: {name}")

    @property
    def batch_micros(self) -> int | None:
        """The promised age of the cut in microseconds."""
        return None if self.batch is None else parse_duration(self.batch)

    @property
    def stream_micros(self) -> int | None:
        """The promised delay of the stream in microseconds."""
        return None if self.stream is None else parse_duration(self.stream)
