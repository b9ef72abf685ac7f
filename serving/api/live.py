"""What is being served now, looked at again in the background: declarations, champions and manifests.

A project's declaration, model and manifest stand in one frozen value that is replaced whole, so that a request which
takes it once never mixes versions. What cannot be read leaves the last good value in force and is told in `troubles`.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.roles import Roles
from anabranch.stores.models.versions import Scorer
from serving.api.context import ServingContext
from serving.api.trials import LoadedTrial

log = logging.getLogger(__name__)
T = TypeVar("T")
Stamp = tuple[tuple[str, int, int], ...]
UNTRAINED = "no model yet: run 'anabranch train {name}'"
_TRIES = 5  # a manifest changes twice in a rollback; what still changes is looked at next time


@dataclass(frozen=True, kw_only=True)
class Served:
    """One project as it is served: everything a request needs, of one moment."""

    project: Project
    scorer: Scorer | None = None
    trial: LoadedTrial | None = None
    """A version that is tried beside the champion."""
    manifest: Manifest | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)
    """What was wrong at the last look: ``model``, ``inputs``, ``trial``, ``store``, ``views`` or ``declaration``, and why."""
    looked: bool = False
    """Whether model and manifest have been looked at: before, that there are none means nothing."""


class Live:
    """The projects being served; `refresh` looks once, `start` keeps looking until `stop`."""

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._served: dict[str, Served] = {}
        self._stamps: dict[str, Stamp] = {}
        self._reported: dict[tuple[str, str], str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.broken: dict[str, str] = {}
        """Declarations that never loaded, and why."""
        self.looked = False
        """Whether the stores have been looked at once."""

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def get(self, name: str) -> Served | None:
        """The project `name`."""
        return self._served.get(name)

    def start(self, after: Callable[[], object]) -> None:
        """Load the declarations, then look again and again in a thread, and call `after` each time."""
        self.declarations()
        self._thread = threading.Thread(target=self._run, args=(after,), name="live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a look that waits for a store is not waited for."""
        self._stopping.set()

    def _run(self, after: Callable[[], object]) -> None:
        while True:
            try:
                self.refresh()
                after()
            except Exception:
                log.exception(
                    "looking for new declarations, models and batch versions failed; it is tried again"
                )
            if self._stopping.wait(self._context.settings.refresh_seconds):
                return

    def refresh(self) -> None:
        """Look at declarations, champions and manifests once; what belongs together is swapped together."""
        if self._context.access is not None:
            self._try("keys", self._context.access.refresh, None, {})
        changed = self.declarations()
        for name, served in list(self._served.items()):
            self._served[name] = self._look(changed.get(name, served))
        self.looked = True

    def declarations(self) -> Mapping[str, Served]:
        """Load what is new, forget what is gone, and return what has changed: it is served once its stores were looked at."""
        changed: dict[str, Served] = {}
        found = list_projects(self._context.folders)
        for name, path in found.items():
            stamp = _stamp(path)
            if self._stamps.get(name) != stamp:
                loaded = self._load(name)
                self._stamps[name] = stamp
                if loaded is not None and name in self._served:
                    changed[name] = loaded
                elif loaded is not None:
                    self._served[name] = loaded
        for name in [name for name in self._stamps if name not in found]:
            self._served.pop(name, None)
            self.broken.pop(name, None)
            del self._stamps[name]
        return changed

    def _load(self, name: str) -> Served | None:
        before = self._served.get(name)
        try:
            project = load_project(name, self._context.folders)
        except AnabranchError as error:
            self._report(name, "declaration", str(error))
            if before is not None:
                return replace(before, troubles={**before.troubles, "declaration": str(error)})
            self.broken[name] = str(error)
            return None
        self.broken.pop(name, None)
        self._report(name, "declaration", None)
        return Served(project=project) if before is None else replace(before, project=project, troubles={})

    def _look(self, served: Served) -> Served:
        if served.project.model is None:
            served = replace(served, scorer=None, trial=None)
        name = served.project.name
        troubles = {what: why for what, why in served.troubles.items() if what == "declaration"}
        manifest, roles = self._versions(served, troubles)
        found = served.scorer
        if roles is not None:
            found = self._try(
                "model",
                lambda: self._scorer(name, _champion(manifest, roles), served.scorer),
                served.scorer,
                troubles,
            )
        scorer = self._try("inputs", lambda: _fitting(served.project, found), None, troubles)
        if "inputs" in troubles:
            # The version before serves on, unless the declaration has left that behind too.
            scorer = self._try("inputs", lambda: _fitting(served.project, served.scorer), None, {})
        if scorer is not None and scorer is not served.scorer:
            log.info(
                "project %s: model version %s is served (before: %s)",
                name,
                scorer.version,
                served.scorer.version if served.scorer else "none",
            )
        trial = self._try(
            "trial", lambda: self._tried(served.project, roles, scorer, served.trial), None, troubles
        )
        if ("model" in troubles or "inputs" in troubles) and _torn(served, manifest):
            manifest = served.manifest
        if "store" not in troubles:
            self._try(
                "views", lambda: self._context.answers.prepare(served.project, manifest), None, troubles
            )
        for what in ("store", "model", "inputs", "trial", "views"):
            self._report(name, what, troubles.get(what))
        return replace(served, manifest=manifest, scorer=scorer, trial=trial, troubles=troubles, looked=True)

    def _versions(self, served: Served, troubles: dict[str, str]) -> tuple[Manifest | None, Roles | None]:
        """Manifest and roles of one moment: a manifest that changed while the roles were read is older than they are, and both are read again."""
        name = served.project.name
        manifest = self._try(
            "store", lambda: self._context.stores.views.manifest(name), served.manifest, troubles
        )
        if served.project.model is None:
            return manifest, None
        for _ in range(_TRIES):
            roles = self._try("model", lambda: self._context.stores.models.roles(name), None, troubles)
            if roles is None or "store" in troubles or _in_force(served, manifest, roles):
                return manifest, roles
            again = self._try("store", lambda: self._context.stores.views.manifest(name), manifest, troubles)
            if again == manifest:
                return manifest, roles
            manifest = again
        return served.manifest, None

    @staticmethod
    def _try(what: str, look: Callable[[], T], otherwise: T, troubles: dict[str, str]) -> T:
        """What `look` finds, or `otherwise` and a trouble: one project's trouble is not the others'."""
        try:
            return look()
        except AnabranchError as error:
            troubles[what] = str(error)
        except Exception as error:
            log.exception("looking at the %s failed", what)
            troubles[what] = f"{type(error).__name__}: {error}"
        return otherwise

    def _scorer(self, name: str, version: str | None, before: Scorer | None) -> Scorer | None:
        if version is None:
            return None
        return (
            before
            if before is not None and before.version == version
            else self._context.stores.models.scorer(name, version)
        )

    def _tried(
        self, project: Project, roles: Roles | None, champion: Scorer | None, before: LoadedTrial | None
    ) -> LoadedTrial | None:
        """The version tried beside the champion (the one `before` without `roles`); none when that is the champion by now."""
        if champion is None:
            return None
        trial = before
        if roles is not None:
            tried = roles.trial
            if tried is None or tried.version == champion.version:
                return None
            version = tried.version
            scorer = (
                before.scorer
                if before is not None and before.scorer.version == version
                else self._context.stores.models.scorer(project.name, version)
            )
            trial = LoadedTrial(kind=tried.kind, share=tried.share, scorer=scorer)
        if trial is not None:
            check_fits(project, trial.scorer.version, trial.scorer.kinds)
        return trial

    def _report(self, name: str, what: str, trouble: str | None) -> None:
        """Log a trouble when it comes and when it goes, not at every look."""
        before = self._reported.get((name, what))
        if trouble is None and before is not None:
            log.info("project %s: %s is well again", name, what)
            del self._reported[name, what]
        elif trouble is not None and trouble != before:
            log.warning("project %s: %s: %s", name, what, trouble)
            self._reported[name, what] = trouble


def _fitting(project: Project, scorer: Scorer | None) -> Scorer | None:
    """`scorer`; raises MisuseError when it reads what is declared no more or otherwise: a missing input would be scored without a word."""
    if scorer is not None:
        check_fits(project, scorer.version, scorer.kinds)
    return scorer


def _champion(manifest: Manifest | None, roles: Roles) -> str | None:
    """The version that answers; a manifest knows when a rollback is ahead of the registry."""
    return roles.champion if manifest is None else manifest.champion(roles.champion)


def _in_force(served: Served, manifest: Manifest | None, roles: Roles) -> bool:
    """Whether they are what is served already."""
    return manifest == served.manifest and _champion(manifest, roles) == (
        served.scorer.version if served.scorer else None
    )


def _torn(served: Served, manifest: Manifest | None) -> bool:
    """Whether a manifest came without its model: it waits for that for as long as the version before it can be read."""
    before, scorer = served.manifest, served.scorer
    if before is None or scorer is None or manifest is None or manifest.previous is None:
        return False
    return manifest.previous.batch_version == before.batch_version and manifest.model_version not in (
        None,
        scorer.version,
    )


def _stamp(path: Path) -> Stamp:
    """Changes when a file of the declaration does."""
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    stats = [(file, file.stat()) for file in files if file.exists()]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
