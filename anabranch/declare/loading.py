"""Finding declarations: the value `project` of `<folder>/<name>.py` or `<folder>/<name>/__init__.py`."""

import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from anabranch.declare.projects import Project
from anabranch.declare.sharing import loading
from anabranch.declare.wire_formats import schemas_in
from anabranch.errors import AnabranchError, DeclarationError, UnknownProjectError
from anabranch.values.names import nearest

Stamp = tuple[tuple[str, int, int], ...]
"""What changes with the files of a declaration."""


def list_projects(folders: Sequence[Path]) -> dict[str, Path]:
    """Name and file of every declaration; of equal names the one in the first folder."""
    paths: dict[str, Path] = {}
    for folder in folders:
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        for path in files + sorted(folder.glob("*/__init__.py")):
            name = path.stem if path.name != "__init__.py" else path.parent.name
            if re.fullmatch(r"[a-z][a-z0-9_]*", name):
                paths.setdefault(name, path)
    return paths


def project_named(text: str, folders: Sequence[Path]) -> str:
    """The name of the project that `text` names: itself, or the file that declares it, such as
    ``projects/cards.py``.

    Raises UnknownProjectError for a file that is not in the folders.
    """
    if not text.endswith(".py") and not {"/", "\\"} & set(text):
        return text
    path = Path(text)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    declared = list_projects(folders)
    for name, file in declared.items():
        if path.exists() and path.samefile(file):
            return name
    name = path.parent.name if path.name == "__init__.py" else path.stem
    if path.exists():
        raise UnknownProjectError(
            f"{text} lies in none of the folders that are searched ({', '.join(map(str, folders))}): move it "
            f"there, or add its folder: export ANABRANCH_PROJECTS={path.resolve().parent}"
        )
    near = nearest(name, declared)
    hint = f"write one ('anabranch init {name}')" if near is None else f"did you mean {near!r}?"
    raise UnknownProjectError(f"there is no file {text}: {hint}")


def stamp_of(path: Path) -> Stamp:
    """Path, time of change and size of each file of the declaration at `path`."""
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    stats = [(file, file.stat()) for file in files if file.exists()]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


def load_project(name: str, folders: Sequence[Path]) -> Project:
    """The project `name`; raises UnknownProjectError, naming every folder searched, or DeclarationError."""
    paths = list_projects(folders)
    if name not in paths:
        searched = ", ".join(str(folder) for folder in folders)
        near = nearest(name, paths)
        hint = f"declare it in a file {name}.py there" if near is None else f"did you mean {near!r}?"
        raise UnknownProjectError(
            f"no project {name!r}: there is {', '.join(paths) or 'none'} (searched {searched}): {hint}"
        )
    with loading(name, partial(load_project, folders=folders)):
        project = getattr(_module(name, paths[name]), "project", None)
    if not isinstance(project, Project):
        raise DeclarationError(f"{paths[name]} has no value 'project': end it with project = Project(...)")
    if project.name != name:
        raise DeclarationError(
            f"{paths[name]} declares project {project.name!r}: its name must be that of the file, {name!r}"
        )
    return project


def load_function(name: str, folders: Sequence[Path]) -> Callable[..., Any]:
    """The function ``module:function`` of a file `<folder>/<module>.py`.

    Raises DeclarationError, naming every folder searched, when it does not exist.
    """
    module, _, function = name.partition(":")
    path = list_projects(folders).get(module)
    if path is None:
        searched = ", ".join(str(folder) for folder in folders) or "no folder"
        near = nearest(module, list_projects(folders))
        hint = f"write it in a file {module}.py there" if near is None else f"did you mean {near!r}?"
        raise DeclarationError(
            f"there is no module {module!r} for the function {name!r} (searched {searched}): {hint}"
        )
    value = getattr(_module(module, path), function, None)
    if not callable(value):
        written = [one for one, value in vars(_module(module, path)).items() if callable(value)]
        near = nearest(function, written)
        hint = f"define it there, or correct {name!r}" if near is None else f"did you mean {near!r}?"
        raise DeclarationError(f"{path} has no function {function!r}: {hint}")
    return cast("Callable[..., Any]", value)


def module_name(name: str) -> str:
    """The name of a project's module in this process; no other process can import it by that name."""
    return f"anabranch_project_{name}"


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        module_name(name), path, submodule_search_locations=[str(path.parent)]
    )
    if spec is None or spec.loader is None:
        raise DeclarationError(f"{path} cannot be loaded as Python: check the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with schemas_in(path.parent):
            spec.loader.exec_module(module)
    except AnabranchError:
        raise
    except Exception as error:
        raise DeclarationError(f"{path} does not load: {type(error).__name__}: {error}") from error
    return module
