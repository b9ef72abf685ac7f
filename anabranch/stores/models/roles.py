"""Which version of a model has which role: aliases and tags of MLflow's registered model, read in one call.

An alias names the version in a role: ``champion`` serves, ``previous`` served before it, ``challenger`` did
not pass the gate. Two tags of the registered model hold the rest:

    trial          {"kind": "shadow" or "canary", "version", "share", "since"}
                   a version tried on live requests
    news_waiting   [{"project", "model_version", "alias", "previous", "at", "fingerprint"}, ...]
                   news that devices have not received yet

A change of an alias is queued in ``news_waiting`` at once, so that news outlive a broker that is away.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from anabranch.errors import MisuseError, UnavailableError
from anabranch.stores.models.connection import PAUSES, RegistryConnection, is_missing, registry_stamp

log = logging.getLogger(__name__)
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
SHADOW, CANARY = "shadow", "canary"
_LONGEST_TAG = 5_000  # characters, as long as every MLflow store takes
_MOST_NEWS = 8  # the newest: devices want the latest of each alias
_TRIAL, _NEWS, _BUNDLE = "trial", "news_waiting", "bundle"


@dataclass(frozen=True, kw_only=True)
class VersionTrial:
    """A version that is tried on live requests.

    As ``shadow`` it scores every request and answers none; as ``canary`` it answers the `share` of keys
    (above 0, at most 1).
    """

    kind: str
    version: str
    share: float = 1.0
    since: str = ""

    @property
    def described(self) -> str:
        """The trial for people, such as ``canary 10%``."""
        return f"{self.kind} {100 * self.share:g}%" if self.kind == CANARY else self.kind


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The roles of a project's versions at one moment."""

    aliases: Mapping[str, str]
    trial: VersionTrial | None = None
    news: Sequence[Mapping[str, Any]] = ()

    @property
    def champion(self) -> str | None:
        """The version that serves."""
        return self.aliases.get(CHAMPION)


_READ: dict[tuple[str, str], tuple[object, Roles]] = {}
"""The roles last read (20 ms each), by registry and project, with the registry file's stamp of then."""


@dataclass(frozen=True)
class ModelRoles(RegistryConnection):
    """The roles of every project's versions; see the module."""

    def roles(self, project: str) -> Roles:
        """All roles, by one read of the registry; empty for a project without a model.

        A registry in a file is not read again while the file does not change.
        """
        stamp, name = registry_stamp(self.settings.tracking_uri), (self.settings.tracking_uri, project)
        known = _READ.get(name)
        if known is None or stamp is None or known[0] != stamp:
            known = _READ[name] = (stamp, self._read(project))
        return known[1]

    def _read(self, project: str) -> Roles:
        with self.asking():
            try:
                # search_model_versions leaves aliases empty; this read has them.
                found = self.reader.get_registered_model(project)
            except Exception as error:
                if not is_missing(error):
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

    def last_known_champion(self, project: str) -> str | None:
        """`champion`, or while the registry is away the one that this process read last.

        Raises UnavailableError when it never read one.
        """
        name = (self.settings.tracking_uri, project)
        key, known = ("roles", *name), _READ.get(name)
        failed = PAUSES.failed(key)
        try:
            return PAUSES.ask(key, lambda: self.champion(project))
        except UnavailableError as error:
            if not failed:
                log.warning("the registry is away, the last known champion of %s serves: %s", project, error)
            if known is None:
                raise
            return known[1].champion

    def promote(self, project: str, version: str) -> None:
        """Make `version` the champion; the champion before it becomes ``previous``, and a trial ends."""
        self.version_tags(project, version)
        before = self.roles(project)
        with self.asking():
            if before.champion is not None and before.champion != version:
                self.client.set_registered_model_alias(project, PREVIOUS, before.champion)
            self.client.set_registered_model_alias(project, CHAMPION, version)
            if before.aliases.get(CHALLENGER) == version:
                self.client.delete_registered_model_alias(project, CHALLENGER)
            if before.trial is not None:
                self.client.delete_registered_model_tag(project, _TRIAL)
        self._add_news(
            project, CHAMPION, before.champion if before.champion != version else before.aliases.get(PREVIOUS)
        )

    def challenge(self, project: str, version: str) -> None:
        """Make `version` the challenger: registered, but not serving."""
        self.version_tags(project, version)
        before = self.roles(project).aliases.get(CHALLENGER)
        with self.asking():
            self.client.set_registered_model_alias(project, CHALLENGER, version)
        self._add_news(project, CHALLENGER, before)

    def rollback(self, project: str) -> str:
        """Make the previous champion champion again; returns its version. Twice is forward again."""
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
            self.version_tags(project, trial.version)
        with self.asking():
            if trial is not None:
                self.client.set_registered_model_tag(project, _TRIAL, json.dumps(asdict(trial)))
            elif self.roles(project).trial is not None:
                self.client.delete_registered_model_tag(project, _TRIAL)

    def _add_news(self, project: str, alias: str, previous: str | None) -> None:
        """Queue for devices which version has the alias now, and which had it before."""
        roles = self.roles(project)
        version = roles.aliases[alias]
        tags = self.version_tags(project, version)
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

    def remove_news(self, project: str, news: Sequence[Mapping[str, Any]]) -> None:
        """Take `news` out of the queue, once devices have received them."""
        self._keep_news(project, [one for one in self.roles(project).news if one not in news])

    def _keep_news(self, project: str, news: Sequence[Mapping[str, Any]]) -> None:
        kept = list(news[-_MOST_NEWS:])
        while len(json.dumps(kept)) > _LONGEST_TAG:
            del kept[0]
        with self.asking():
            self.client.set_registered_model_tag(project, _NEWS, json.dumps(kept))

    def record_bundle(self, project: str, version: str, address: str, sha256: str) -> None:
        """Record the address of the version's edge bundle and its manifest's digest; a champion's is news."""
        self.tag(project, version, {_BUNDLE: json.dumps({"address": address, "manifest_sha256": sha256})})
        aliases = self.roles(project).aliases
        if aliases.get(CHAMPION) == version:
            self._add_news(project, CHAMPION, aliases.get(PREVIOUS))

    def tag(self, project: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags onto a version."""
        with self.asking():
            for name, value in tags.items():
                self.client.set_model_version_tag(project, version, name, value[:_LONGEST_TAG])
