"""Which views the stream of a project feeds: those that are declared, that serve, and that a rollback needs.

A batch version answers by its own declaration, so its tiles go on while a new declaration is built, and after
that for as long as a rollback can go back to it. Each declaration has a query of its own for each source
whose views mean something else; where they mean the same, one query feeds both.
"""

from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.declare.sources import Source
from speed.query import SpeedLayer
from speed.views import sources_of


@dataclass(frozen=True)
class StreamFeed:
    """The views of a source in one declaration of a project, which one query feeds."""

    project: Project
    source: Source

    @property
    def meaning(self) -> tuple[object, ...]:
        """What the query's checkpoint, its tiles and the keys that it names depend on."""
        return meaning_of(self.project, self.source)

    def serves(self, project: Project) -> bool:
        """Whether it is also a feed of another declaration, of which views mean the same."""
        return any(each.meaning == self.meaning for each in feeds_of(project))


def meaning_of(project: Project, source: Source) -> tuple[object, ...]:
    """What a query of a source's views depends on."""
    views = project.views_of(source.name)
    keys = project.key_columns_in(source) or project.keys
    return (project.name, source.name, keys, *(view.tiles_name for view in views))


def feeds_of(project: Project) -> list[StreamFeed]:
    """The feeds of one declaration."""
    return [StreamFeed(project, source) for source in sources_of(project)]


def standing_feeds(layer: SpeedLayer, declared: Project) -> list[StreamFeed]:
    """The feeds of the version that serves and of the one before it."""
    project, manifest = layer.served(declared)
    before = None if manifest is None else manifest.previous
    return [*feeds_of(project), *([] if before is None else feeds_of(before.meant(layer.declared(declared))))]


def feeds(layer: SpeedLayer, declared: Project) -> list[StreamFeed]:
    """All feeds of a project, each meaning once: as it is declared now where that is the same."""
    found: dict[tuple[object, ...], StreamFeed] = {}
    for each in (*feeds_of(layer.declared(declared)), *standing_feeds(layer, declared)):
        found.setdefault(each.meaning, each)
    return list(found.values())
