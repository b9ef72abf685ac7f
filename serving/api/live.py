"""The projects as they are served now: declarations, champions and manifests, read in the background.

A project's declaration, model and manifest stand in one frozen value that is replaced as a whole: a request
takes it once and never mixes versions. What cannot be read leaves the last good value in force and is named
in `troubles`.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from anabranch.answers.trials import LoadedTrial
from anabranch.declare.loading import Stamp, list_projects, load_project, stamp_of
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, without_secrets
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.models.inputs import check_fits
from anabranch.stores.models.roles import PREVIOUS, Roles
from anabranch.stores.models.versions import Scorer
from serving.api.context import ServingContext

log = logging.getLogger(__name__)
T = TypeVar("T")
UNTRAINED = "no model yet: run 'anabranch train {name}'"
_ATTEMPTS = 5  # a manifest changes twice in a rollback; one that still changes is read by the next look
_FIRST_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """One project as it is served: everything that a request needs, of one moment."""

    project: Project
    """The declaration that answers are by: that of the batch version that serves."""
    waiting: Project | None = None
    """The declaration of now, where it is another one: it waits for its build."""
    scorer: Scorer | None = None
    trial: LoadedTrial | None = None
    """A version that is tried beside the champion."""
    manifest: Manifest | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Troubles at the last look: the reason, by the part that is wrong.

    The parts are ``declaration``, ``store``, ``model``, ``inputs``, ``trial`` and ``views``.
    """
    looked: bool = False
    """Whether model and manifest have been read at all; until then, None means nothing."""


class Live:
    """The served projects. `refresh` looks once; `start` looks again and again until `stop`."""

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._served: dict[str, Served] = {}
        self._declared: dict[str, Project] = {}
        self._stamps: dict[str, Stamp] = {}
        self._reported: dict[tuple[str, str], str] = {}
        self._stopping, self._first = threading.Event(), threading.Event()
        self.broken: dict[str, str] = {}
        """Declarations that never loaded, and why."""
        self.looked = False
        """Whether the stores have been read once."""
        self.keys_trouble: str | None = None
        """Why the API keys could not be read at the last look: those of the look before are in force."""

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def get(self, name: str) -> Served | None:
        """The project `name`."""
        return self._served.get(name)

    def start(self, after: Callable[[], object]) -> None:
        """Load the declarations, then look in a thread, and call `after` each time.

        API keys are looked at in a thread of their own: a revoked one must not wait for a store that is down.
        Returns after the first look, so that the first callers are not answered 503, or after some seconds.
        """
        self.declarations()

        def look() -> None:
            try:
                self.refresh()
                after()
            finally:
                self._first.set()

        threading.Thread(target=self._run, args=(look,), name="live", daemon=True).start()
        if self._context.access is not None:
            threading.Thread(target=self._run, args=(self.keys,), name="keys", daemon=True).start()
        self._first.wait(_FIRST_SECONDS)

    def stop(self) -> None:
        """Look no more; a look that waits for a store is not waited for."""
        self._stopping.set()

    def _run(self, look: Callable[[], object]) -> None:
        while True:
            try:
                look()
            except Exception:
                log.exception("looking for new declarations, models and batch versions failed; retrying")
            if self._stopping.wait(self._context.settings.refresh_seconds):
                return

    def refresh(self) -> None:
        """Read keys, declarations, champions and manifests once; a project's are replaced together."""
        self.keys()
        changed = self.declarations()
        for name, served in list(self._served.items()):
            self._served[name] = self._look(changed.get(name, served))
        self.looked = True

    def keys(self) -> None:
        """Read the API keys once; a file that cannot be read is told when that begins and when it ends."""
        if self._context.access is None:
            return
        try:
            self._context.access.refresh()
        except AnabranchError as error:
            if self.keys_trouble is None:
                until = "until then keys are accepted and refused as they were before"
                log.error("%s; %s", error, until)  # noqa: TRY400 - the message says all
            self.keys_trouble = str(error)
        else:
            if self.keys_trouble is not None:
                log.info("the API keys can be read again")
            self.keys_trouble = None

    def declarations(self) -> Mapping[str, Served]:
        """Load new declarations and forget removed ones.

        Changed ones are returned: each is served once its model and manifest have been read.
        """
        changed: dict[str, Served] = {}
        paths = list_projects(self._context.folders)
        stamps = {name: stamp_of(path) for name, path in paths.items()}
        for name in paths:
            stamp = self._stamp(name, stamps)
            if self._stamps.get(name) != stamp:
                loaded = self._load(name)
                self._stamps[name] = stamp if loaded is None else self._stamp(name, stamps, loaded)
                if loaded is not None and name in self._served:
                    changed[name] = loaded
                elif loaded is not None:
                    self._served[name] = loaded
        for name in self._stamps.keys() - paths.keys():
            self._served.pop(name, None)
            self._declared.pop(name, None)
            self.broken.pop(name, None)
            del self._stamps[name]
        return changed

    def _stamp(self, name: str, stamps: Mapping[str, Stamp], served: Served | None = None) -> Stamp:
        """The stamp of a declaration, with those of the projects whose views it uses.

        What is wrong with one that does not load may lie in any other.
        """
        served = self._served.get(name) if served is None else served
        if served is None or "declaration" in served.troubles:
            return tuple(part for each in stamps.values() for part in each)
        used = (name, *self._declared[name].lenders)
        return tuple(part for each in used for part in stamps.get(each, ()))

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
        self._declared[name] = project
        return Served(project=project) if before is None else replace(before, troubles={})

    def _look(self, served: Served) -> Served:
        name, declared = served.project.name, self._declared[served.project.name]
        troubles = {what: why for what, why in served.troubles.items() if what == "declaration"}
        manifest, roles = self._versions(served, troubles)
        project = declared if manifest is None else manifest.meant(declared)
        if project.model is None:
            served = replace(served, scorer=None, trial=None)
        champion = served.scorer
        if roles is not None:
            version = _champion(manifest, roles)
            champion = self._try(
                "model",
                lambda: None if version is None else self._scorer(name, version, served.scorer),
                served.scorer,
                troubles,
            )
        scorer = self._try("inputs", lambda: _fitting(project, champion), None, troubles)
        if "inputs" in troubles:
            # The version before serves on, unless it does not fit the declaration either.
            before = served.scorer
            previous = None if roles is None else roles.aliases.get(PREVIOUS)
            if before is None and previous is not None:
                before = self._try("model", lambda: self._scorer(name, str(previous), None), None, {})
            scorer = self._try("inputs", lambda: _fitting(project, before), None, {})
        if scorer is not None and scorer is not served.scorer:
            former = served.scorer.version if served.scorer else "none"
            log.info("project %s: model version %s is served (before: %s)", name, scorer.version, former)
        trial = self._try("trial", lambda: self._trial(project, served, roles, scorer), None, troubles)
        if ("model" in troubles or "inputs" in troubles) and _waits_for_its_model(served, manifest):
            manifest, project = served.manifest, served.project
        if "store" not in troubles:
            self._try("views", lambda: self._context.answers.prepare(project, manifest), None, troubles)
        waits = None
        if manifest is not None and project != declared:
            waits = f"answers are by batch version {manifest.batch_version} until 'anabranch build {name}'"
        self._report(name, "the declaration is another one", waits)
        for what in ("store", "model", "inputs", "trial", "views"):
            self._report(name, what, troubles.get(what))
        return replace(
            served,
            project=project,
            waiting=None if project == declared else declared,
            manifest=manifest,
            scorer=scorer,
            trial=trial,
            troubles=troubles,
            looked=True,
        )

    def _versions(self, served: Served, troubles: dict[str, str]) -> tuple[Manifest | None, Roles | None]:
        """Manifest and roles of one moment; both are read again when the manifest changed between."""
        name, stores = served.project.name, self._context.stores
        declared = self._declared[name]
        manifest = self._try("store", lambda: stores.views.manifest(name), served.manifest, troubles)
        if (declared if manifest is None else manifest.meant(declared)).model is None:
            return manifest, None
        for _ in range(_ATTEMPTS):
            roles = self._try("model", lambda: stores.models.roles(name), None, troubles)
            if roles is None or "store" in troubles or _in_force(served, manifest, roles):
                return manifest, roles
            again = self._try("store", lambda: stores.views.manifest(name), manifest, troubles)
            if again == manifest:
                return manifest, roles
            manifest = again
        return served.manifest, None

    @staticmethod
    def _try(what: str, read: Callable[[], T], otherwise: T, troubles: dict[str, str]) -> T:
        """The result of `read`, or `otherwise` and a trouble, which does not stop other projects."""
        try:
            return read()
        except AnabranchError as error:
            troubles[what] = str(error)
        except Exception as error:
            log.exception("reading the %s failed", what)
            troubles[what] = without_secrets(f"{type(error).__name__}: {error}")
        return otherwise

    def _scorer(self, name: str, version: str, before: Scorer | None) -> Scorer:
        """A version, which is `before` where that is the same one."""
        if before is not None and before.version == version:
            return before
        return self._context.stores.models.scorer(name, version)

    def _trial(
        self, project: Project, served: Served, roles: Roles | None, champion: Scorer | None
    ) -> LoadedTrial | None:
        """The version on trial (as before when the roles could not be read); None once it is the champion."""
        if champion is None:
            return None
        trial = served.trial
        if roles is not None:
            declared = roles.trial
            if declared is None or declared.version == champion.version:
                return None
            before = trial.scorer if trial is not None else None
            scorer = self._scorer(project.name, declared.version, before)
            trial = LoadedTrial(kind=declared.kind, share=declared.share, scorer=scorer)
        if trial is not None:
            check_fits(project, trial.scorer.version, trial.scorer.kinds)
        return trial

    def _report(self, name: str, what: str, trouble: str | None) -> None:
        """Log a trouble when it begins and when it ends, not at every look."""
        before = self._reported.get((name, what))
        if trouble is None and before is not None:
            log.info("project %s: the trouble with %s is over", name, what)
            del self._reported[name, what]
        elif trouble is not None and trouble != before:
            log.warning("project %s: %s: %s", name, what, trouble)
            self._reported[name, what] = trouble


def _fitting(project: Project, scorer: Scorer | None) -> Scorer | None:
    """`scorer`; raises MisuseError when it reads features that are not declared, or of another type.

    They would silently count as missing.
    """
    if scorer is not None:
        check_fits(project, scorer.version, scorer.kinds)
    return scorer


def _champion(manifest: Manifest | None, roles: Roles) -> str | None:
    """The version that answers; during a rollback the manifest is ahead of the registry."""
    return roles.champion if manifest is None else manifest.champion(roles.champion)


def _in_force(served: Served, manifest: Manifest | None, roles: Roles) -> bool:
    """Whether manifest and champion are the served ones already."""
    version = served.scorer.version if served.scorer else None
    return manifest == served.manifest and _champion(manifest, roles) == version


def _waits_for_its_model(served: Served, manifest: Manifest | None) -> bool:
    """Whether a manifest's model cannot be served yet, while the batch version before can still be read."""
    before, scorer = served.manifest, served.scorer
    if before is None or scorer is None or manifest is None or manifest.previous is None:
        return False
    readable = manifest.previous.batch_version == before.batch_version
    return readable and manifest.model_version not in (None, scorer.version)
