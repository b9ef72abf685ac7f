"""Which version of a model has which role: aliases and tags of MLflow's registered model, read by one call.

Aliases say what is in force: ``champion`` serves, ``previous`` served before it, ``challenger`` did not pass the gate. Two tags of the
registered model say the rest:

    trial           {"kind": "shadow" or "canary", "version", "share", "since"}: a version that is tried on live requests
    news_waiting    [{"project", "model_version", "alias", "previous", "at", "fingerprint"}, ...]: what devices are still to be told

A change of an alias is noted in ``news_waiting`` at once, so that news outlive a broker that is away.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from anabranch.errors import MisuseError, UnavailableError
from anabranch.settings import ModelsSettings

log = logging.getLogger(__name__)
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
SHADOW, CANARY = "shadow", "canary"
_LONGEST_TAG = 5_000  # characters, as long as every MLflow store takes
_MOST_NEWS = 8  # what is older is of use to nobody: devices want the newest of an alias
_TRIAL, _NEWS, _BUNDLE = "trial", "news_waiting", "bundle"
# MLflow is configured by its environment alone. A registry that is away is to be noticed in seconds, not minutes.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its advice is for those who write model code
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else it copies the lock file of the folder it happens to run in
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


_SETTLED = 1_000_000_000  # nanoseconds: of a file that was written later than that, a further change may not show in its times


@dataclass(frozen=True, kw_only=True)
class VersionTrial:
    """A version that is tried on live requests: in ``shadow`` it answers nobody, as ``canary`` the `share` of keys (above 0, at most 1)."""

    kind: str
    version: str
    share: float = 1.0
    since: str = ""

    @property
    def said(self) -> str:
        """As people read it."""
        return f"{self.kind} {100 * self.share:g}%" if self.kind == CANARY else self.kind


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Who is what at one moment."""

    aliases: Mapping[str, str]
    trial: VersionTrial | None = None
    news: Sequence[Mapping[str, Any]] = ()

    @property
    def champion(self) -> str | None:
        """The version that serves."""
        return self.aliases.get(CHAMPION)


_Stamp = tuple[tuple[int, int] | None, ...]
_READ: dict[tuple[str, str], tuple[_Stamp | None, Roles]] = {}
"""What was read last, by registry and project, and of which state of the registry's file. A read costs 20 ms of Python; servers ask every second."""
_AWAY: dict[tuple[str, str], tuple[float, str]] = {}
"""Of registries that were away when last asked: when `last_champion` asks again, and why not before."""
_PAUSE = 10.0  # seconds; asking a registry that is away takes some


@dataclass(frozen=True)
class ModelRoles:
    """Roles of every project's versions; see the module."""

    settings: ModelsSettings

    def roles(self, project: str) -> Roles:
        """All of them by one read of the registry, which a registry in a file is spared while the file does not change; none without a model."""
        stamp, name = _stamp(self.settings.tracking_uri), (self.settings.tracking_uri, project)
        known = _READ.get(name)
        if known is None or stamp is None or known[0] != stamp:
            known = _READ[name] = (stamp, self._read(project))
        return known[1]

    def _read(self, project: str) -> Roles:
        from mlflow.exceptions import MlflowException

        with self._asking():
            try:
                # search_model_versions leaves aliases empty; this read has them.
                found = self._client.get_registered_model(project)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return Roles(aliases={})
        trial, news = (found.tags.get(name) for name in (_TRIAL, _NEWS))
        return Roles(
            aliases={alias: str(version) for alias, version in found.aliases.items()},
            trial=VersionTrial(**json.loads(trial)) if trial else None,
            news=json.loads(news) if news else (),
        )

    def champion(self, project: str) -> str | None:
        """The version that serves; None when the project has none. One read of the registry."""
        return self.roles(project).champion

    def last_champion(self, project: str) -> str | None:
        """The same while the registry is away: the version that served when this process last read it. Raises UnavailableError when it never did."""
        name = (self.settings.tracking_uri, project)
        away = _AWAY.get(name)
        if away is None or time.monotonic() >= away[0]:
            try:
                version = self.champion(project)
            except UnavailableError as error:
                if away is None:
                    log.warning(
                        "while the registry is away, the champion of %s is the one that was last known, if any: %s",
                        project,
                        error,
                    )
                away = _AWAY[name] = (time.monotonic() + _PAUSE, str(error))
            else:
                _AWAY.pop(name, None)
                return version
        if name not in _READ:
            raise UnavailableError(away[1])
        return _READ[name][1].champion

    def promote(self, project: str, version: str) -> None:
        """Make `version` the champion; the champion before it becomes ``previous``, and a trial ends."""
        self._known(project, version)
        before = self.roles(project)
        with self._asking():
            if before.champion is not None and before.champion != version:
                self._client.set_registered_model_alias(project, PREVIOUS, before.champion)
            self._client.set_registered_model_alias(project, CHAMPION, version)
            if before.aliases.get(CHALLENGER) == version:
                self._client.delete_registered_model_alias(project, CHALLENGER)
            if before.trial is not None:
                self._client.delete_registered_model_tag(project, _TRIAL)
        self.note(
            project, CHAMPION, before.champion if before.champion != version else before.aliases.get(PREVIOUS)
        )

    def challenge(self, project: str, version: str) -> None:
        """Make `version` the challenger: it is registered, and does not serve."""
        self._known(project, version)
        before = self.roles(project).aliases.get(CHALLENGER)
        with self._asking():
            self._client.set_registered_model_alias(project, CHALLENGER, version)
        self.note(project, CHALLENGER, before)

    def rollback(self, project: str) -> str:
        """Make the previous champion the champion again; returns its version. Twice is forward again."""
        previous = self.roles(project).aliases.get(PREVIOUS)
        if previous is None:
            raise MisuseError(
                f"project {project!r} has no earlier champion to go back to: promote a version instead"
            )
        self.promote(project, previous)
        return previous

    def try_out(self, project: str, trial: VersionTrial | None) -> None:
        """Try a version on live requests; None ends the trial."""
        if trial is not None:
            self._known(project, trial.version)
        with self._asking():
            if trial is not None:
                self._client.set_registered_model_tag(project, _TRIAL, json.dumps(asdict(trial)))
            elif self.roles(project).trial is not None:
                self._client.delete_registered_model_tag(project, _TRIAL)

    def note(self, project: str, alias: str, previous: str | None) -> None:
        """Note for devices which version has the alias now, and which had it before."""
        roles = self.roles(project)
        version = roles.aliases[alias]
        tags = self._known(project, version)
        news = {
            "project": project,
            "model_version": version,
            "alias": alias,
            "previous": previous,
            "at": datetime.now(tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "fingerprint": tags.get("fingerprint", ""),
        }
        if _BUNDLE in tags:
            news["bundle"] = json.loads(tags[_BUNDLE])
        self._keep_news(project, [*roles.news, news])

    def told(self, project: str, news: Sequence[Mapping[str, Any]]) -> None:
        """Devices have been told `news`: they wait no more."""
        self._keep_news(project, [one for one in self.roles(project).news if one not in news])

    def _keep_news(self, project: str, news: Sequence[Mapping[str, Any]]) -> None:
        kept = list(news[-_MOST_NEWS:])
        while len(json.dumps(kept)) > _LONGEST_TAG:
            del kept[0]
        with self._asking():
            self._client.set_registered_model_tag(project, _NEWS, json.dumps(kept))

    def exported(self, project: str, version: str, address: str, sha256: str) -> None:
        """Remember where everybody finds the version's edge bundle, with the digest of its manifest; a champion's is news."""
        self.tag(project, version, {_BUNDLE: json.dumps({"address": address, "manifest_sha256": sha256})})
        aliases = self.roles(project).aliases
        if aliases.get(CHAMPION) == version:
            self.note(project, CHAMPION, aliases.get(PREVIOUS))

    def tag(self, project: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags onto a version."""
        with self._asking():
            for name, value in tags.items():
                self._client.set_model_version_tag(project, version, name, value[:_LONGEST_TAG])

    def _known(self, project: str, version: str) -> dict[str, str]:
        """Tags of a version; raises MisuseError when there is none."""
        from mlflow.exceptions import MlflowException

        with self._asking():
            try:
                return dict(self._client.get_model_version(project, version).tags)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise MisuseError(
                    f"project {project!r} has no model version {version!r}: 'anabranch models {project}' lists them"
                ) from error

    @property
    def _client(self) -> Any:
        return client(self.settings.tracking_uri)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            text = (str(error).splitlines() or [""])[0]
            raise UnavailableError(
                f"MLflow at {self.settings.tracking_uri} does not do what was asked: {text}: check the address and that it runs"
            ) from error


@lru_cache(maxsize=8)
def client(tracking_uri: str) -> Any:
    """MLflow's client of one address, made once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow_module().MlflowClient(tracking_uri, tracking_uri)


@lru_cache(maxsize=1)
def mlflow_module() -> Any:
    """MLflow, kept quiet: no reports to its makers, nothing on stdout, no warnings of its modules about each other."""
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


def _stamp(registry: str) -> _Stamp | None:
    """What changes when somebody writes to a registry that is an SQLite file; None where that cannot be told."""
    if not registry.startswith("sqlite:///"):
        return None
    file = registry.removeprefix("sqlite:///").partition("?")[0]
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
