"""Examples of declarations as tests of pytest.

With ``anabranch_projects = ["projects"]`` in pytest's configuration, each example of a declaration in these
folders is a test, and so is the law for the events of its examples.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.declare.examples import Example
from anabranch.declare.loading import list_projects, load_project
from anabranch.declare.projects import Project
from anabranch.errors import AnabranchError
from anabranch.testing.examples import check_example, difference_table
from anabranch.testing.proof import BrokenLawError, assert_lawful

_FOLDERS = "anabranch_projects"


class BrokenExampleError(AssertionError):
    """An example gives other values than it says."""


class DeclarationFile(pytest.File):
    """The file of a declaration."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each example, and one of the law."""
        folders = [Path(folder) for folder in self.config.getini(_FOLDERS)]
        names = [name for name, path in list_projects(folders).items() if path == self.path]
        for name in names:
            project = load_project(name, folders)
            for number, example in enumerate(project.examples, 1):
                yield ExampleItem.from_parent(
                    self, name=example.name or f"example {number}", project=project, example=example
                )
            if project.examples:
                yield LawItem.from_parent(self, name="law", project=project)


class ExampleItem(pytest.Item):
    """One example."""

    def __init__(self, *, project: Project, example: Example, **more: Any) -> None:
        super().__init__(**more)
        self.project, self.example = project, example

    def runtest(self) -> None:
        """Raises BrokenExampleError when the events give other values."""
        found = check_example(self.project, self.example)
        if found:
            raise BrokenExampleError(difference_table(found))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return _shown(self, excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.project.name}: {self.name}"


class LawItem(pytest.Item):
    """The law for the events of a project's examples."""

    def __init__(self, *, project: Project, **more: Any) -> None:
        super().__init__(**more)
        self.project = project

    def runtest(self) -> None:
        """Raises BrokenLawError when the merge gives other values than the fold."""
        for example in self.project.examples:
            assert_lawful(self.project, example.events)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return _shown(self, excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.project.name}: the law"


def _shown(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], style: Any) -> Any:
    """What an author needs to see of a failure: not the frames of this library."""
    if isinstance(excinfo.value, AnabranchError | BrokenExampleError | BrokenLawError):
        return str(excinfo.value)
    return pytest.Item.repr_failure(item, excinfo, style)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting that names the folders."""
    parser.addini(_FOLDERS, "Folders of declarations whose examples are tests.", type="paths", default=[])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> DeclarationFile | None:
    """A declaration in one of the folders."""
    folders = [Path(folder) for folder in parent.config.getini(_FOLDERS)]
    if file_path.suffix != ".py" or not any(folder in file_path.parents for folder in folders):
        return None
    if file_path not in list_projects(folders).values():
        return None
    return DeclarationFile.from_parent(parent, path=file_path)
