"""Views of other projects: `shared` finds a view while the declaration that uses it is loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from anabranch.declare.projects import Project
from anabranch.declare.views import FeatureView
from anabranch.errors import AnabranchError, DeclarationError


@dataclass(frozen=True)
class _Loading:
    """The projects that are being loaded, each for the one before it, and the way to load another."""

    names: tuple[str, ...]
    load: Callable[[str], Project]


_LOADING: ContextVar[_Loading | None] = ContextVar("loading", default=None)


@contextmanager
def loading(name: str, load: Callable[[str], Project]) -> Iterator[None]:
    """Let `shared` find views by `load` while the declaration of project `name` is loaded."""
    before = _LOADING.get()
    names = before.names if before is not None else ()
    token = _LOADING.set(_Loading((*names, name), load))
    try:
        yield
    finally:
        _LOADING.reset(token)


def shared(project: str, view: str) -> FeatureView:
    """The view `view` of another project, for the views of one that the owner names in `shared_with`.

    The owner lands, streams and builds it. Raises DeclarationError when it does not exist, when projects use
    views of one another in a circle, and where no declaration is being loaded from its file.
    """
    place, now = f"shared({project!r}, {view!r})", _LOADING.get()
    if now is None:
        raise DeclarationError(
            f"{place}: views of other projects are found when a declaration is loaded: write it into a file "
            "of the folder of projects, and load it by name"
        )
    if project in now.names:
        circle = " -> ".join((*now.names[now.names.index(project) :], project))
        raise DeclarationError(
            f"{place}: projects use views of one another in a circle, {circle}: declare a view that both "
            "need in a project of its own"
        )
    try:
        return now.load(project).lend(view)
    except AnabranchError as error:
        raise DeclarationError(f"{place}: {error}") from error
