"""The end of a project: everything that Anabranch keeps of it goes, and nothing that is its users'."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from anabranch.answers.delays import STREAM
from anabranch.declare.loading import list_projects
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError, DeclarationError, MisuseError, UnknownProjectError
from anabranch.events.origins import copy_of
from anabranch.events.predictions import predictions_topic
from anabranch.stores.cassandra.manifest import Manifest
from anabranch.stores.cassandra.removal import drop_project, tables_of
from anabranch.stores.files.filesystems import remove_folder
from anabranch.values.times import MINUTE, now_micros, to_micros
from batch.release.announcing import topic_of
from batch.watching.alerts import alerts_topic
from jobs.show import Steps
from jobs.wiring.context import Context
from speed.query import scores_topic
from speed.requests import requests_topic

_RUNNING = MINUTE
"""A stream tells how far it is every few seconds: one that told within so long is taken to run."""


@dataclass(frozen=True)
class RetiredProject:
    """A project that is to go: as it is declared now, or was when its last version was built."""

    context: Context
    name: str

    @cached_property
    def manifest(self) -> Manifest | None:
        """The versions that serve."""
        return self.context.views.manifest(self.name)

    @cached_property
    def declarations(self) -> Sequence[Project]:
        """What the project is, and was in both versions. Raises UnknownProjectError for none."""
        manifest, found = self.manifest, list[Project]()
        try:
            found.append(self.context.project(self.name))
        except UnknownProjectError:
            if _kept(manifest) is None:
                raise
        except DeclarationError:
            pass  # a file that does not load hinders nobody who wants to be rid of it
        for version in (manifest, manifest and manifest.previous):
            kept = _kept(version)
            found += [] if kept is None or kept in found else [kept]
        return found

    @cached_property
    def tables(self) -> list[str]:
        """Its tables in Cassandra: batch states of each version, tiles, current rows and their history."""
        return tables_of(self.context.views, self.name, self.declarations, self.manifest)

    @cached_property
    def topics(self) -> list[str]:
        """Topics of ours: what it answered, was asked and told, and copies that no other project reads."""
        own = [
            made(self.name)
            for made in (predictions_topic, scores_topic, requests_topic, topic_of, alerts_topic)
        ]
        read = {source.topic for other in self._others() for source in other.sources.values()}
        copies = [
            copy_of(source.topic)
            for project in self.declarations
            for source in project.sources.values()
            if source.topic is not None and source.topic not in read
        ]
        return self.context.bus.existing([*own, *copies])

    @cached_property
    def models(self) -> int:
        """How many versions of its model the registry has."""
        return len(self.context.models.list(self.name))

    @property
    def folders(self) -> list[str]:
        """Its folders of the lake and of the stream's checkpoints."""
        settings = self.context.settings
        return [f"{root.rstrip('/')}/{self.name}" for root in (settings.lake.root, settings.checkpoints)]

    def listed(self) -> list[tuple[str, str]]:
        """What goes, a row a kind, for people."""
        return [
            ("tables in Cassandra", ", ".join(self.tables) or "none"),
            ("its rows of", "manifest, gaps, stream_places, online_models, batch_versions, measures_latest"),
            ("topics", ", ".join(self.topics) or "none"),
            ("folders", ", ".join(self.folders)),
            ("versions of its model", str(self.models)),
        ]

    def check(self) -> None:
        """Raise MisuseError while another project uses its views, or a stream feeds it."""
        self.declarations  # noqa: B018 - raises for a project that there is not
        borrowers = [other.name for other in self._others() if self.name in other.lenders]
        for name in {one for project in self.declarations for one in project.shared_with}:
            noted = self.context.views.manifest(name)
            if noted is not None and any(view.startswith(f"{self.name}.") for view in noted.shared):
                borrowers.append(name)
        if borrowers:
            raise MisuseError(
                f"project {self.name!r} cannot go while {', '.join(sorted(set(borrowers)))} uses its views: "
                "declare that project without them and build it first"
            )
        told = [one for one in self.context.measures.latest(self.name) if one.subject == STREAM]
        ago = min((now_micros() - to_micros(one.at) for one in told), default=_RUNNING)
        if ago < _RUNNING:
            raise MisuseError(
                f"a stream feeds project {self.name!r}: it told how far it is {ago // 1_000_000} s ago; stop "
                "it, and try again a minute later"
            )

    def go(self, steps: Steps) -> None:
        """Remove everything that is listed; what was cut off is completed by repeating it."""
        context, tables, topics = self.context, self.tables, self.topics
        steps.step("what serves")
        drop_project(context.views, self.name, tables)
        steps.step("topics")
        context.bus.delete_topics(topics)
        steps.step("versions of its model")
        context.models.forget(self.name)
        for folder in self.folders:
            steps.step(folder)
            remove_folder(context.spark, folder)

    def _others(self) -> Iterable[Project]:
        for name in list_projects(self.context.settings.projects):
            if name != self.name:
                try:
                    yield self.context.project(name)
                except AnabranchError:  # it answers, and is fed, by what it was built with
                    kept = _kept(self.context.views.manifest(name))
                    yield from () if kept is None else (kept,)


def _kept(version: Manifest | None) -> Project | None:
    """The declaration that a version answers by, where it was kept and can be read."""
    try:
        return None if version is None else version.kept
    except DeclarationError:
        return None
