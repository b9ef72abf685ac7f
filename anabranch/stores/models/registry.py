"""The model registry: MLflow's tracking and registry behind the few questions that Anabranch asks.

A version is an MLflow pyfunc (model_code.py) whose files are no pickles. `Models` adds loading and scoring to
the records (records.py) and roles (roles.py) of versions.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlparse
from weakref import WeakValueDictionary

import numpy as np
from cachetools import LRUCache

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.stores.models.connection import PAUSES, mlflow_module
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.records import FILES, VersionRecords
from anabranch.stores.models.roles import PREVIOUS
from anabranch.stores.models.scoring import Columns, Scores
from anabranch.stores.models.versions import Scorer

log = logging.getLogger(__name__)
_loading = threading.Lock()
_Version = tuple[str, str, str]
_scorers: WeakValueDictionary[_Version, Scorer] = WeakValueDictionary()  # all that are in use
_recent: LRUCache[_Version, Scorer] = LRUCache(32)  # those asked for last stay loaded though unused
_kinds: dict[_Version, Mapping[str, str]] = {}
_addresses: dict[_Version, str] = {}


@dataclass(frozen=True)
class Models(VersionRecords):
    """Versions of every project's model; see the module."""

    def uri(self, project: str, version: str) -> str:
        """The URI of the version's files, which any MLflow `load_model` reads without asking the registry."""
        self.version_tags(project, version)
        with self.asking():
            return str(self.reader.get_model_version_download_uri(project, version))

    def forget(self, project: str) -> None:
        """Delete the project's model with all versions and roles; the runs of its trainings stay."""
        if self.list(project):
            with self.asking():
                self.client.delete_registered_model(project)

    def address(self, project: str, version: str) -> str:
        """`uri`, asked once a process: a version's files never move."""
        key = self._key(project, version)
        if key not in _addresses:
            _addresses[key] = self.uri(project, version)
        return _addresses[key]

    def scorer(self, project: str, version: str | None = None) -> Scorer:
        """The version (the champion when None), loaded once a process while in use or used lately."""
        version = version or self.champion(project)
        if version is None:
            raise MisuseError(f"project {project!r} has no champion: run 'anabranch train {project}' first")
        key = self._key(project, version)
        with _loading:
            found = _recent.get(key) or _scorers.get(key) or self._load(project, version)
            _scorers[key] = _recent[key] = found
            return found

    def stream_scorer(self, project: str, version: str, address: str) -> Scorer:
        """`scorer` for a stream, which knows the `address` of the files and does not ask the registry.

        Files that could not be fetched are asked for again ten seconds later; until then UnavailableError is
        raised.
        """
        key = self._key(project, version)
        _addresses.setdefault(key, address)
        return PAUSES.ask(key, lambda: self.scorer(project, version))

    def usable_champion(self, project: Project, *, for_stream: bool = False) -> str | None:
        """The champion when its inputs fit the declaration, else the one before it if its own do.

        A model that was trained for a declaration which waits for its build does not fit the one that serves,
        and the one before goes on. None with a warning the first time when neither fits. The version itself
        is not loaded. With `for_stream` the registry may be away; see `last_known_champion` and
        `stream_scorer`.
        """
        version = self.last_known_champion(project.name) if for_stream else self.champion(project.name)
        if version is None:
            return None
        try:
            check_fits(project, version, self._known_kinds(project.name, version, for_stream=for_stream))
        except MisuseError as error:
            before = self._previous(project, for_stream=for_stream)
            _warn_once(
                f"{error}; until then {'its scores stay empty' if before is None else f'{before} serves'}"
            )
            return before
        return version

    def _previous(self, project: Project, *, for_stream: bool) -> str | None:
        try:
            version = self.roles(project.name).aliases.get(PREVIOUS)
            if version is not None:
                check_fits(project, version, self._known_kinds(project.name, version, for_stream=for_stream))
        except (MisuseError, UnavailableError):
            return None
        return version

    def _known_kinds(self, project: str, version: str, *, for_stream: bool) -> Mapping[str, str]:
        key = self._key(project, version)
        if key not in _kinds:
            if for_stream:
                _kinds[key] = PAUSES.ask(key, lambda: self._read_kinds(project, version))
            else:
                _kinds[key] = self._read_kinds(project, version)
        return _kinds[key]

    @contextmanager
    def model_folder(self, project: str, version: str) -> Iterator[Path]:
        """The folder with the version's own files (see scoring.py), on this machine while the block runs."""
        with self.version_folder(project, version) as folder:
            yield folder / "artifacts" / FILES

    @contextmanager
    def version_folder(self, project: str, version: str) -> Iterator[Path]:
        """The folder that MLflow keeps the version in, on this machine while the block runs.

        Raises UnavailableError when it cannot be fetched.
        """
        uri = self.address(project, version)
        with TemporaryDirectory(prefix="anabranch-model-") as spare:
            try:
                folder = _local(uri, spare)
                folder.stat()
            except Exception as error:
                text = (str(error).splitlines() or [type(error).__name__])[0]
                what = f"version {version} of project {project!r} cannot be fetched from {uri}: {text}"
                raise UnavailableError(
                    f"{what}: see that the store of artifacts answers, or promote another version"
                ) from error
            yield folder

    def _read_kinds(self, project: str, version: str) -> Mapping[str, str]:
        with self._reading(project, version) as folder:
            inputs = json.loads((folder / "features.json").read_text(encoding="utf-8"))["inputs"]
        return {given["name"]: given["kind"] for given in inputs}

    def _load(self, project: str, version: str) -> Scorer:
        with self._reading(project, version) as folder:
            return Scorer(version, folder)

    @contextmanager
    def _reading(self, project: str, version: str) -> Iterator[Path]:
        """`model_folder`; any error with its files becomes an AnabranchError that names the version."""
        with self.model_folder(project, version) as folder:
            try:
                yield folder
            except Exception as error:
                # Libraries raise anything for a damaged file; the message names the version.
                text = (str(error).splitlines() or [""])[0]
                uri = self.uri(project, version)
                raise AnabranchError(
                    f"version {version} of project {project!r} cannot be loaded from {uri}: {text}: "
                    "train again or promote another"
                ) from error

    def files(self, project: str, version: str, names: Sequence[str]) -> dict[str, bytes]:
        """Content of the version's own files (see scoring.py) and, as ``report/<name>``, of its report.

        Files that the version does not have are left out.
        """
        uri, run = self.uri(project, version), self.entry(project, version).run
        with self.asking(), TemporaryDirectory(prefix="anabranch-model-") as spare:
            folder = _local(uri, spare) / "artifacts" / FILES
            found = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
            for artifact in self.client.list_artifacts(run, "report"):
                if artifact.path in names:
                    found[artifact.path] = Path(
                        self.client.download_artifacts(run, artifact.path, spare)
                    ).read_bytes()
        return found

    def pyfunc_scores(self, project: str, version: str, columns: Columns) -> Scores:
        """Scores of the columns by the version as MLflow itself loads it."""
        import pandas as pd

        uri, scorer = self.uri(project, version), self.scorer(project, version)
        with self.asking():
            model = mlflow_module().pyfunc.load_model(uri)
        kinds = scorer.kinds
        frame = pd.DataFrame(
            {
                name: pd.Series(list(columns[name]), dtype=object if kinds[name] == "text" else float)
                for name in scorer.features
            }
        )
        found = np.asarray(model.predict(frame), dtype=np.float64)
        return found if scorer.classes else found[:, -1]

    def _key(self, project: str, version: str) -> _Version:
        return (self.settings.tracking_uri, project, version)


def _local(uri: str, spare: str) -> Path:
    """The folder at `uri`, fetched into `spare` when it is not on this machine."""
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path))
    return Path(mlflow_module().artifacts.download_artifacts(artifact_uri=uri, dst_path=spare))


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    """Log a warning once a process: streams meet its cause with every micro-batch."""
    log.warning("%s", text)
