"""The context of the REST server: its stores, the merged features, its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anabranch.answers.features import Answers
from anabranch.stores.opened import Stores
from serving.http.access import Access
from serving.settings import ServingSettings


@dataclass(frozen=True, kw_only=True)
class ServingContext:
    """All that the server needs; `folders` hold the declarations, `clock` gives microseconds."""

    folders: tuple[Path, ...]
    stores: Stores
    answers: Answers
    settings: ServingSettings
    clock: Callable[[], int]
    access: Access | None = None
    """Callers and their rights; None lets everybody ask everything."""
