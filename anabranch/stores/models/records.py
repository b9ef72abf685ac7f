"""Version records in MLflow: trainings are logged and registered, versions are listed with their metrics."""

import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

from anabranch.declare.projects import Project
from anabranch.stores.models.connection import mlflow_module
from anabranch.stores.models.inputs import Fitted
from anabranch.stores.models.roles import ModelRoles
from anabranch.stores.models.versions import SLICES, WATCH, ModelVersion, TrainingRecord
from anabranch.values.times import format_time

FILES = "model"
"""MLflow's name for the folder that Fitted writes; see model_code.py."""
_LONGEST = 500  # characters of a parameter, as long as every MLflow store takes
_logging = threading.Lock()  # MLflow's active run and address belong to the process


@dataclass(frozen=True)
class VersionRecords(ModelRoles):
    """Records of every project's versions; see the module."""

    def log(self, project: Project, record: TrainingRecord, fitted: Fitted) -> str:
        """Record a training and register its model; returns the new version, which no alias names yet."""
        mlflow = mlflow_module()
        with _logging, self.asking(), TemporaryDirectory(prefix="anabranch-model-") as temporary:
            folder = Path(temporary) / FILES
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
                _log_trials(self.client, record, experiment, run.info.run_id)
                return self._log_model(mlflow, project, record, fitted, folder, run.info.run_id)

    def _log_model(
        self, mlflow: Any, project: Project, record: TrainingRecord, fitted: Fitted, folder: Path, run: str
    ) -> str:
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        kinds = [(given.name, "string" if given.kind == "text" else "double") for given in fitted.inputs]
        scores = [str(name) for name in fitted.classes] or ["score"]
        signature = ModelSignature(
            Schema([ColSpec(kind, name) for name, kind in kinds]),
            Schema([ColSpec("double", name) for name in scores]),
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
            artifacts={FILES: str(folder)},
            signature=signature,
            input_example=example,
            pip_requirements=list(fitted.pip_requirements),
        )
        client = self.client
        if not client.search_registered_models(f"name = '{project.name}'"):
            client.create_registered_model(project.name, description=project.description)
        return str(
            client.create_model_version(
                project.name, info.model_uri, run, tags=_tags(project, record), model_id=info.model_id
            ).version
        )

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        root = self.settings.artifact_root
        where = (
            f"{root.rstrip('/')}/{name}" if urlparse(root).scheme else (Path(root).absolute() / name).as_uri()
        )
        return str(self.client.create_experiment(name, artifact_location=where))

    def log_measures(
        self, project: str, version: str, metrics: Mapping[str, float], at: int, step: int = 0
    ) -> None:
        """Log measurements made after a version's release as metrics of its run.

        `at` is their time in microseconds; the highest step is the latest.
        """
        from mlflow.entities import Metric

        with self.asking():
            run = self.client.get_model_version(project, version).run_id
            # MLflow takes plain characters only, and up to 1,000 metrics a call.
            named = [
                Metric(re.sub(r"[^A-Za-z0-9_. /-]", "_", WATCH + name)[:200], value, at // 1000, step)
                for name, value in metrics.items()
            ]
            for start in range(0, len(named), 1000):
                self.client.log_batch(run, named[start : start + 1000])

    def list(self, project: str) -> "list[ModelVersion]":
        """Every version, the newest first."""
        names: dict[str, list[str]] = {}
        roles = self.roles(project)
        for alias, version in roles.aliases.items():
            names.setdefault(version, []).append(alias)
        if roles.trial is not None:
            names.setdefault(roles.trial.version, []).append(roles.trial.described)
        with self.asking():
            found = self.reader.search_model_versions(f"name = '{project}'")
            return sorted(
                (self._listed(entry, names) for entry in found), key=lambda entry: -int(entry.version)
            )

    def entry(self, project: str, version: str) -> ModelVersion:
        """One version; raises MisuseError when it does not exist."""
        self.version_tags(project, version)
        names = [alias for alias, named in self.roles(project).aliases.items() if named == version]
        with self.asking():
            return self._listed(self.reader.get_model_version(project, version), {version: names})

    def _listed(self, entry: Any, names: Mapping[str, Sequence[str]]) -> ModelVersion:
        version, run = str(entry.version), self.reader.get_run(entry.run_id).data
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


def _tags(project: Project, record: TrainingRecord) -> dict[str, str]:
    versions = json.dumps(dict(record.lake_versions), sort_keys=True)
    return {
        **record.tags,
        "project": project.name,
        "fingerprint": project.fingerprint,
        "lake_versions": versions,
    }


def _log_report(mlflow: Any, record: TrainingRecord, folder: Path) -> None:
    """Log the report's files beside the model."""
    folder.mkdir()
    for name, content in record.report.items():
        (folder / name).write_bytes(content)
    if record.report:
        mlflow.log_artifacts(str(folder), "report")


def _log_trials(client: Any, record: TrainingRecord, experiment: str, parent: str) -> None:
    """Log a nested run for each trial, in few calls each."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    for number, trial in enumerate(record.trials):
        run = client.create_run(
            experiment, tags={"mlflow.parentRunId": parent}, run_name=f"trial {number}"
        ).info.run_id
        params = [Param(name, str(value)[:_LONGEST]) for name, value in trial.items() if name != "value"]
        client.log_batch(run, [Metric("validated", float(str(trial["value"])), now, 0)], params)
        client.set_terminated(run)
