"""The model registry: MLflow's tracking and registry behind the few questions that Anabranch asks.

A version is an MLflow pyfunc (model_code.py) whose files are no pickles; which one has which role is told by model_roles.py. MLflow takes
seconds to import, so it is imported when first asked; a `Models` holds only its settings and may be pickled.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse
from weakref import WeakValueDictionary

import numpy as np

from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, MisuseError, UnavailableError
from anabranch.stores.models.inputs import Fitted, check_fits
from anabranch.stores.models.roles import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelRoles,
    Roles,
    VersionTrial,
    mlflow_module,
)
from anabranch.stores.models.scoring import Columns, Scores
from anabranch.stores.models.versions import SLICES, WATCH, ModelVersion, Scorer, TrainingRecord
from anabranch.values.times import format_time

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "ModelVersion",
    "Models",
    "Roles",
    "Scorer",
    "TrainingRecord",
    "VersionTrial",
]

log = logging.getLogger(__name__)
_FILES = "model"  # MLflow's name for the folder that Fitted writes, see model_code.py
_LONGEST = 500  # characters of a parameter, as long as every MLflow store takes
_logging = threading.Lock()  # MLflow's active run and address belong to the process
_loading = threading.Lock()
_Version = tuple[str, str, str]
_scorers: WeakValueDictionary[_Version, Scorer] = WeakValueDictionary()  # all that somebody still has
_recent: dict[
    _Version, Scorer
] = {}  # those asked for last, the last at its end: they stay though nobody has them
_MOST_RECENT = 32
_kinds: dict[_Version, Mapping[str, str]] = {}
_places: dict[_Version, str] = {}
_away: dict[_Version, tuple[float, str]] = {}
"""Of versions whose files could not be fetched: when those who are spared ask again, and why not before."""
_PAUSE = (
    10.0  # seconds; a store that is away may take long to say so, and a stream asks with every micro-batch
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Models(ModelRoles):
    """Versions of every project's model; see the module."""

    def log(self, project: Project, record: TrainingRecord, fitted: Fitted) -> str:
        """Record a training and register its model; returns the new version, which no alias names yet."""
        mlflow = mlflow_module()
        with _logging, self._asking(), TemporaryDirectory(prefix="anabranch-model-") as temporary:
            folder = Path(temporary) / _FILES
            folder.mkdir()
            fitted.write(folder)
            mlflow.set_tracking_uri(self.settings.tracking_uri)
            mlflow.set_registry_uri(self.settings.tracking_uri)
            experiment = self._experiment(project.name)
            with mlflow.start_run(experiment_id=experiment) as run:
                mlflow.log_params(
                    {
                        name: str(value)[:_LONGEST]
                        for name, value in {**fitted.parameters, **record.parameters}.items()
                    }
                )
                mlflow.log_metrics(dict(record.metrics))
                mlflow.set_tags(_tags(project, record))
                _log_report(mlflow, record, Path(temporary) / "report")
                _log_trials(self._client, record, experiment, run.info.run_id)
                return self._log_model(mlflow, project, record, fitted, folder, run.info.run_id)

    def _log_model(
        self, mlflow: Any, project: Project, record: TrainingRecord, fitted: Fitted, folder: Path, run: str
    ) -> str:
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        kinds = [(given.name, "string" if given.kind == "text" else "double") for given in fitted.inputs]
        signature = ModelSignature(
            Schema([ColSpec(kind, name) for name, kind in kinds]), Schema([ColSpec("double", "score")])
        )
        example = pd.DataFrame(
            {
                name: pd.Series(record.example[name], dtype=object if kind == "string" else float)
                for name, kind in kinds
            }
        )
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={_FILES: str(folder)},
            signature=signature,
            input_example=example,
            pip_requirements=list(fitted.pip_requirements),
        )
        client = self._client
        if not client.search_registered_models(f"name = '{project.name}'"):
            client.create_registered_model(project.name, description=project.description)
        return str(
            client.create_model_version(
                project.name, info.model_uri, run, tags=_tags(project, record), model_id=info.model_id
            ).version
        )

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        root = self.settings.artifact_root
        where = (
            f"{root.rstrip('/')}/{name}" if urlparse(root).scheme else (Path(root).absolute() / name).as_uri()
        )
        return str(self._client.create_experiment(name, artifact_location=where))

    def measured(
        self, project: str, version: str, metrics: Mapping[str, float], at: int, step: int = 0
    ) -> None:
        """Log what was measured of a version after its release, at `at` (microseconds), as metrics of its run; the highest step is the latest."""
        from mlflow.entities import Metric

        with self._asking():
            run = self._client.get_model_version(project, version).run_id
            # MLflow takes plain characters only, and up to 1,000 metrics a call.
            named = [
                Metric(re.sub(r"[^A-Za-z0-9_. /-]", "_", WATCH + name)[:200], value, at // 1000, step)
                for name, value in metrics.items()
            ]
            for start in range(0, len(named), 1000):
                self._client.log_batch(run, named[start : start + 1000])

    def list(self, project: str) -> "list[ModelVersion]":
        """Every version, the newest first."""
        names: dict[str, list[str]] = {}
        roles = self.roles(project)
        for alias, version in roles.aliases.items():
            names.setdefault(version, []).append(alias)
        if roles.trial is not None:
            names.setdefault(roles.trial.version, []).append(roles.trial.said)
        with self._asking():
            found = self._client.search_model_versions(f"name = '{project}'")
            return sorted(
                (self._listed(entry, names) for entry in found), key=lambda entry: -int(entry.version)
            )

    def entry(self, project: str, version: str) -> ModelVersion:
        """One version; raises MisuseError when there is none."""
        self._known(project, version)
        names = [alias for alias, named in self.roles(project).aliases.items() if named == version]
        with self._asking():
            return self._listed(self._client.get_model_version(project, version), {version: names})

    def _listed(self, entry: Any, names: Mapping[str, Sequence[str]]) -> ModelVersion:
        version, run = str(entry.version), self._client.get_run(entry.run_id).data
        return ModelVersion(
            version=version,
            aliases=tuple(sorted(names.get(version, ()))),
            created=format_time(int(entry.creation_timestamp) * 1000),
            metrics={
                name: value for name, value in run.metrics.items() if not name.startswith((SLICES, WATCH))
            },
            fingerprint=entry.tags.get("fingerprint", ""),
            lake_versions=json.loads(entry.tags.get("lake_versions", "{}")),
            run=str(entry.run_id),
            parameters=dict(run.params),
            tags=dict(entry.tags),
            watched={
                name.removeprefix(WATCH): value
                for name, value in run.metrics.items()
                if name.startswith(WATCH)
            },
        )

    def uri(self, project: str, version: str) -> str:
        """Where the version's files are: a URI that any MLflow `load_model` reads without asking the registry."""
        self._known(project, version)
        with self._asking():
            return str(self._client.get_model_version_download_uri(project, version))

    def place(self, project: str, version: str) -> str:
        """`uri`, asked once a process: what a version is never moves."""
        key = (self.settings.tracking_uri, project, version)
        if key not in _places:
            _places[key] = self.uri(project, version)
        return _places[key]

    def scorer(self, project: str, version: str | None = None) -> Scorer:
        """The version (the champion when None), loaded once a process while somebody has it or it was asked for lately."""
        version = version or self.champion(project)
        if version is None:
            raise MisuseError(f"project {project!r} has no champion: run 'anabranch train {project}' first")
        key = (self.settings.tracking_uri, project, version)
        with _loading:
            found = _recent.pop(key, None) or _scorers.get(key) or self._load(project, version)
            _scorers[key] = _recent[key] = found
            if len(_recent) > _MOST_RECENT:
                del _recent[next(iter(_recent))]
            return found

    def spared_scorer(self, project: str, version: str, place: str) -> Scorer:
        """`scorer` for a stream, which knows where the files are and so does not ask the registry; files that could not be fetched are asked for again
        ten seconds later, and until then UnavailableError is raised.
        """  # fmt: skip
        _places.setdefault((self.settings.tracking_uri, project, version), place)
        return self._sparing(project, version, partial(self.scorer, project, version))

    @contextmanager
    def folder(self, project: str, version: str) -> Iterator[Path]:
        """The folder with the version's own files (see model_scoring.py), on this machine for as long as the block runs."""
        with self.files_of(project, version) as folder:
            yield folder / "artifacts" / _FILES

    @contextmanager
    def files_of(self, project: str, version: str) -> Iterator[Path]:
        """The folder that MLflow keeps the version in, likewise; raises UnavailableError when it cannot be fetched."""
        uri = self.place(project, version)
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

    def fitting_champion(self, project: Project, *, last: bool = False) -> str | None:
        """The version that serves (`last`: see `last_champion` and `spared_scorer`), unless what it reads is declared no more or otherwise: then None,
        and a warning the first time. The version itself is not loaded.
        """  # fmt: skip
        version = self.last_champion(project.name) if last else self.champion(project.name)
        if version is None:
            return None
        key = (self.settings.tracking_uri, project.name, version)
        if key not in _kinds:
            read = partial(self._read_kinds, project.name, version)
            _kinds[key] = self._sparing(project.name, version, read) if last else read()
        try:
            check_fits(project, version, _kinds[key])
        except MisuseError as error:
            _warn_once(f"{error}; until then its scores stay empty")
            return None
        return version

    def _read_kinds(self, project: str, version: str) -> Mapping[str, str]:
        with self._reading(project, version) as folder:
            inputs = json.loads((folder / "features.json").read_text(encoding="utf-8"))["inputs"]
        return {given["name"]: given["kind"] for given in inputs}

    def _sparing(self, project: str, version: str, read: Callable[[], _T]) -> _T:
        key = (self.settings.tracking_uri, project, version)
        again, why = _away.get(key, (0.0, ""))
        if time.monotonic() < again:
            raise UnavailableError(why)
        try:
            found = read()
        except UnavailableError as error:
            _away[key] = (time.monotonic() + _PAUSE, str(error))
            raise
        _away.pop(key, None)
        return found

    def _load(self, project: str, version: str) -> Scorer:
        with self._reading(project, version) as folder:
            return Scorer(version, folder)

    @contextmanager
    def _reading(self, project: str, version: str) -> Iterator[Path]:
        """The folder of `folder`; what goes wrong with its files becomes an AnabranchError that names the version."""
        with self.folder(project, version) as folder:
            try:
                yield folder
            except Exception as error:
                # Whatever a damaged file makes the libraries raise, the user needs to know which version it is.
                text = (str(error).splitlines() or [""])[0]
                uri = self.uri(project, version)
                raise AnabranchError(
                    f"version {version} of project {project!r} cannot be loaded from {uri}: {text}: train again or promote another"
                ) from error

    def files(self, project: str, version: str, names: Sequence[str]) -> dict[str, bytes]:
        """Content of the version's own files (see model_scoring.py) and, as ``report/<name>``, of its report's; what is not there is left out."""
        uri, run = self.uri(project, version), self.entry(project, version).run
        with self._asking(), TemporaryDirectory(prefix="anabranch-model-") as spare:
            folder = _local(uri, spare) / "artifacts" / _FILES
            found = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
            for artifact in self._client.list_artifacts(run, "report"):
                if artifact.path in names:
                    found[artifact.path] = Path(
                        self._client.download_artifacts(run, artifact.path, spare)
                    ).read_bytes()
        return found

    def pyfunc_scores(self, project: str, version: str, columns: Columns) -> Scores:
        """What MLflow's own loading of the version says of the columns, features alone."""
        import pandas as pd

        uri, scorer = self.uri(project, version), self.scorer(project, version)
        with self._asking():
            model = mlflow_module().pyfunc.load_model(uri)
        kinds = scorer.kinds
        frame = pd.DataFrame(
            {
                name: pd.Series(list(columns[name]), dtype=object if kinds[name] == "text" else float)
                for name in scorer.features
            }
        )
        return np.asarray(model.predict(frame)["score"], dtype=np.float64)


def _tags(project: Project, record: TrainingRecord) -> dict[str, str]:
    versions = json.dumps(dict(record.lake_versions), sort_keys=True)
    return {
        **record.tags,
        "project": project.name,
        "fingerprint": project.fingerprint,
        "lake_versions": versions,
    }


def _log_report(mlflow: Any, record: TrainingRecord, folder: Path) -> None:
    """The report's files beside the model."""
    folder.mkdir()
    for name, content in record.report.items():
        (folder / name).write_bytes(content)
    if record.report:
        mlflow.log_artifacts(str(folder), "report")


def _log_trials(client: Any, record: TrainingRecord, experiment: str, parent: str) -> None:
    """A nested run for each trial, each in few calls."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    for number, trial in enumerate(record.trials):
        run = client.create_run(
            experiment, tags={"mlflow.parentRunId": parent}, run_name=f"trial {number}"
        ).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in trial.items() if name != "value"]
        client.log_batch(run, [Metric("validated", float(str(trial["value"])), now, 0)], params)
        client.set_terminated(run)


def _local(uri: str, spare: str) -> Path:
    """The folder at `uri`, fetched into `spare` when it is not on this machine."""
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path))
    return Path(mlflow_module().artifacts.download_artifacts(artifact_uri=uri, dst_path=spare))


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    """Streams come by what it is about with every micro-batch."""
    log.warning("%s", text)
