"""The connection to MLflow: one quiet client an address, its errors translated, pauses after a failure."""

import logging
import os
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from cachetools import LRUCache

from anabranch.errors import MisuseError, UnavailableError
from anabranch.settings import ModelsSettings
from anabranch.stores.breaker import Breaker
from anabranch.stores.models.light import LightRegistry, NoSuchEntryError

_T = TypeVar("_T")
_PAUSE = 10.0
"""Seconds; asking a store that is away takes some, and a stream would ask with every micro-batch."""
_SETTLED = 1_000_000_000
"""Nanoseconds; a further change of a file written less long ago may not show in its times."""
# MLflow is configured by its environment alone. A registry that is away must be noticed in seconds, not
# minutes.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its advice is for those who write model code
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else it copies the lock file of the folder it happens to run in
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class RetryPauses:
    """A circuit breaker for each key: what did not answer is not asked again for some seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._breakers: LRUCache[Hashable, Breaker] = LRUCache(1024)
        self._lock = threading.Lock()

    def failed(self, key: Hashable) -> bool:
        """Whether the last attempt for `key` failed."""
        return self._breaker(key).open

    def ask(self, key: Hashable, read: Callable[[], _T]) -> _T:
        """The result of `read`; raises UnavailableError when it does, or did within the pause."""
        with self._breaker(key).calling():
            return read()

    def _breaker(self, key: Hashable) -> Breaker:
        with self._lock:
            return self._breakers.setdefault(key, Breaker("MLflow", 1, self._seconds, self._clock))


PAUSES = RetryPauses(_PAUSE)
"""The pauses of this process."""


@dataclass(frozen=True)
class RegistryConnection:
    """A registry at one address. It holds settings only, so it may be pickled."""

    settings: ModelsSettings

    @property
    def client(self) -> Any:
        """MLflow's client."""
        return _client(self.settings.tracking_uri)

    @property
    def reader(self) -> Any:
        """What reads as `client` does: a file directly, unless this process has imported MLflow anyway."""
        light = None if "mlflow" in sys.modules else LightRegistry.at(self.settings.tracking_uri)
        return light or self.client

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Translate what MLflow, its database or its files raise to UnavailableError."""
        try:
            yield
        except Exception as error:
            if not _is_of_store(error):
                raise
            text = (str(error).splitlines() or [""])[0]
            raise UnavailableError(
                f"MLflow at {self.settings.tracking_uri} does not do what was asked: {text}: "
                "check the address and that it runs"
            ) from error

    def version_tags(self, project: str, version: str) -> dict[str, str]:
        """The tags of a version; raises MisuseError when it does not exist."""
        with self.asking():
            try:
                return dict(self.reader.get_model_version(project, version).tags)
            except Exception as error:
                if not is_missing(error, "INVALID_PARAMETER_VALUE"):
                    raise
                raise MisuseError(
                    f"project {project!r} has no model version {version!r}: "
                    f"'anabranch models {project}' lists them"
                ) from error


def _is_of_store(error: Exception) -> bool:
    """Whether MLflow, its database or its files raised it; told without importing MLflow."""
    kinds = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    return isinstance(error, OSError | sqlite3.Error) or "mlflow" in kinds or "sqlalchemy" in kinds


def is_missing(error: Exception, *codes: str) -> bool:
    """Whether a read failed as there is no such model or version, or with one of MLflow's `codes`."""
    code = getattr(error, "error_code", None)
    return isinstance(error, NoSuchEntryError) or code in ("RESOURCE_DOES_NOT_EXIST", *codes)


@lru_cache(maxsize=8)
def _client(tracking_uri: str) -> Any:
    if tracking_uri.startswith("postgresql") and find_spec("psycopg") is None:
        raise MisuseError(
            "models.tracking_uri names a PostgreSQL, and its driver is not installed: "
            "run 'make setup WITH=postgres', or install anabranch[platform,postgres]"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow_module().MlflowClient(tracking_uri, tracking_uri)


@lru_cache(maxsize=1)
def mlflow_module() -> Any:
    """MLflow, kept quiet: no telemetry, nothing on stdout, no warnings of its modules about each other.

    It takes seconds to import, so it is imported on first use.
    """
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc

        from anabranch.stores.models.artifacts import register
    register()
    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def registry_stamp(tracking_uri: str) -> tuple[tuple[int, int] | None, ...] | None:
    """A value that changes when a registry in an SQLite file is written; None when it might not."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    file = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    found: list[tuple[int, int] | None] = []
    for path in (Path(file), Path(f"{file}-wal")):
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
            continue
        if time.time_ns() - stat.st_mtime_ns < _SETTLED:
            return None
        found.append((stat.st_mtime_ns, stat.st_size))
    return None if found[0] is None else tuple(found)
