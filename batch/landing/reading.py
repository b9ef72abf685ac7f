"""Progress of a load while Spark reads: files, rows, rows a second and the time left."""

import threading
import time
from types import TracebackType
from typing import Self

from pyspark.sql import SparkSession

from anabranch.progress import Progress
from anabranch.stores.jvm import bytes_and_rows_read

_EVERY = 2.0


class Reading:
    """Shows progress of running tasks inside a `with`; call `done` after each group of files."""

    def __init__(self, spark: SparkSession, progress: Progress, files: int, size: int) -> None:
        self.spark = spark
        self.progress = progress
        self.files = files
        self.size = size
        self.files_done = self.bytes_done = self.rows_done = 0
        self.started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress of a load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def done(self, files: int, size: int, rows: int) -> None:
        """Count finished files, bytes and rows."""
        self.files_done, self.bytes_done, self.rows_done = (
            self.files_done + files,
            self.bytes_done + size,
            self.rows_done + rows,
        )
        self._tell(0, 0)

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._tell(*bytes_and_rows_read(self.spark))

    def _tell(self, size: int, rows: int) -> None:
        if not self.files_done + self.bytes_done + size + rows:
            return  # Spark is still planning
        seconds = max(time.monotonic() - self.started, 0.001)
        share = min((self.bytes_done + size) / self.size, 1.0) if self.size else 1.0
        left = f", {_span(seconds * (1 - share) / share)} left" if 0 < share < 1 else ""
        rate = (self.rows_done + rows) / seconds
        self.progress.advance(
            self.files_done,
            self.files,
            f"files, {self.rows_done + rows:,} rows, {rate:,.0f} rows/s, {100 * share:.0f}% read{left}",
        )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
