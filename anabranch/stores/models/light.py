"""Reads of MLflow's registry in an SQLite file, without MLflow, whose import takes longer than any answer.

    registered_models, registered_model_aliases, registered_model_tags
    model_versions, model_version_tags, and by run latest_metrics, params

`LightRegistry` has those reads of MLflow's client that Anabranch makes, with the same names and results.
MLflow is pinned exactly, and a test compares both; whatever writes goes through MLflow.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_DELETED = "Deleted_Internal"
_TABLES = {"registered_models", "registered_model_aliases", "model_versions", "latest_metrics", "params"}
_VERSION = "SELECT version, creation_time, run_id, source, storage_location FROM model_versions"


class NoSuchEntryError(LookupError):
    """The registry has no model or version of that name."""


class LightRegistry:
    """The registry in one file; raises sqlite3.Error for one that cannot be read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def at(cls, tracking_uri: str) -> "LightRegistry | None":
        """The registry of an address; None unless it is an SQLite file, set up by MLflow or missing yet."""
        if not tracking_uri.startswith("sqlite:///"):
            return None
        file = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        found = cls(file)
        if not file.exists():
            return found
        try:
            with found._open() as base:
                names = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
        except sqlite3.Error:
            return None
        return found if names >= _TABLES else None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self.file.exists():
            raise NoSuchEntryError(f"there is no registry at {self.file}")
        address = f"{self.file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=20)) as base:
            yield base

    def get_registered_model(self, name: str) -> Any:
        """Aliases (version by alias) and tags of a project's model."""
        with self._open() as base:
            if not base.execute("SELECT 1 FROM registered_models WHERE name = ?", (name,)).fetchone():
                raise NoSuchEntryError(name)
            aliases = base.execute(
                "SELECT alias, version FROM registered_model_aliases WHERE name = ?", (name,)
            )
            tags = base.execute("SELECT key, value FROM registered_model_tags WHERE name = ?", (name,))
            return SimpleNamespace(
                aliases={alias: str(version) for alias, version in aliases}, tags=dict(tags.fetchall())
            )

    def get_model_version(self, name: str, version: str) -> Any:
        """One version with its tags and run."""
        found = self._versions(name, "AND version = ?", str(version) if str(version).isdigit() else "-1")
        if not found:
            raise NoSuchEntryError(version)
        return found[0]

    def search_model_versions(self, filter_string: str) -> list[Any]:
        """Every version of the model that the filter ``name = '...'`` names."""
        name = filter_string.removeprefix("name = ").strip("'")
        return self._versions(name) if self.file.exists() else []

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where the version's files are."""
        found = self.get_model_version(name, version)
        return str(found.location or found.source)

    def get_run(self, run: str) -> Any:
        """The latest metrics and the parameters of a run, as `data`."""
        with self._open() as base:
            metrics = base.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run,))
            params = base.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,))
            values = {key: float("nan") if is_nan else value for key, value, is_nan in metrics}
            return SimpleNamespace(data=SimpleNamespace(metrics=values, params=dict(params.fetchall())))

    def _versions(self, name: str, further: str = "", *values: str) -> list[Any]:
        with self._open() as base:
            rows = base.execute(
                f"{_VERSION} WHERE name = ? AND current_stage != ? {further}",
                (name, _DELETED, *values),
            ).fetchall()
            tags = base.execute("SELECT version, key, value FROM model_version_tags WHERE name = ?", (name,))
            by_version: dict[int, dict[str, str]] = {}
            for version, key, value in tags:
                by_version.setdefault(version, {})[key] = value
        return [
            SimpleNamespace(
                version=version,
                creation_timestamp=created,
                run_id=run,
                source=source,
                location=location,
                tags=by_version.get(version, {}),
            )
            for version, created, run, source, location in rows
        ]
