"""Declarations found in folders and loaded by name."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

import anabranch
from anabranch.declare.loading import list_projects, load_project, project_named
from anabranch.errors import DeclarationError, UnknownProjectError

TEXT = """
from anabranch import Count, FeatureView, Project, Source

events = Source(name="events", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP")
seen = FeatureView(name="seen", source=events, key="who", features={{"n": Count()}})
project = Project(name="{name}", views=(seen,), owner="{owner}")
"""


def declare(path: Path, name: str, owner: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT.format(name=name, owner=owner), encoding="utf-8")
    return path


def test_files_and_packages_are_found_by_name(tmp_path: Path) -> None:
    one, two = declare(tmp_path / "one.py", "one"), declare(tmp_path / "two" / "__init__.py", "two")
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "Upper.py").write_text("")
    assert list_projects([tmp_path]) == {"one": one, "two": two}
    assert [load_project(name, [tmp_path]).name for name in ("one", "two")] == ["one", "two"]


def test_the_first_folder_wins(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        declare(tmp_path / folder / "same.py", "same", owner=folder)
    assert load_project("same", [tmp_path / "b", tmp_path / "a"]).owner == "b"


def test_a_folder_that_is_missing_or_empty_holds_none(tmp_path: Path) -> None:
    assert list_projects([tmp_path, tmp_path / "missing"]) == {}
    with pytest.raises(UnknownProjectError, match="no project 'one': there is none"):
        load_project("one", [tmp_path])


def test_the_error_of_an_unknown_name_lists_every_folder_searched(tmp_path: Path) -> None:
    declare(tmp_path / "a" / "one.py", "one")
    with pytest.raises(UnknownProjectError) as caught:
        load_project("two", [tmp_path / "a", tmp_path / "b"])
    assert (
        str(caught.value) == f"no project 'two': there is one (searched {tmp_path / 'a'}, {tmp_path / 'b'}): "
        "declare it in a file two.py there"
    )


def test_a_changed_declaration_is_loaded_anew(tmp_path: Path) -> None:
    declare(tmp_path / "one.py", "one", owner="first")
    assert load_project("one", [tmp_path]).owner == "first"
    declare(tmp_path / "one.py", "one", owner="second, with more to say")
    assert load_project("one", [tmp_path]).owner == "second, with more to say"


def test_a_package_may_be_split_into_modules(tmp_path: Path) -> None:
    declare(tmp_path / "whole" / "__init__.py", "whole")
    text = (tmp_path / "whole" / "__init__.py").read_text()
    (tmp_path / "whole" / "parts.py").write_text(text.split("project = ", maxsplit=1)[0])
    (tmp_path / "whole" / "__init__.py").write_text(
        "from .parts import *\n" + "project = " + text.split("project = ", maxsplit=1)[1]
    )
    assert load_project("whole", [tmp_path]).sources["events"].id == "id"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no value 'project'"),
        ("project = 3", "has no value 'project'"),
        ("import nowhere_to_be_found", "does not load: ModuleNotFoundError"),
        ("1 / 0", "does not load: ZeroDivisionError"),
        ("x = (", "does not load: SyntaxError"),
        (
            TEXT.format(name="other", owner=""),
            "declares project 'other': its name must be that of the file, 'one'",
        ),
    ],
)
def test_a_file_that_is_no_declaration_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "one.py"
    path.write_text(text)
    with pytest.raises(DeclarationError, match=said) as caught:
        load_project("one", [tmp_path])
    assert str(path) in str(caught.value)


def test_the_first_declaration_of_the_package_is_one(tmp_path: Path) -> None:
    example = str(anabranch.__doc__).split("a model:\n\n")[1].split("\n\nIts feature columns")[0]
    (tmp_path / "card_fraud.py").write_text(dedent(example), encoding="utf-8")
    project = load_project("card_fraud", [tmp_path])
    assert [column.name for column in project.columns][:3] == ["spent_1h", "spent_7d", "largest_1h"]


def test_a_project_may_be_named_by_the_file_that_declares_it(tmp_path: Path) -> None:
    """An unknown file or name suggests the nearest project; a file elsewhere says how it is found."""
    folder, other = tmp_path / "projects", tmp_path / "other"
    (folder / "boats").mkdir(parents=True)
    other.mkdir()
    for path in (folder / "cards.py", folder / "boats" / "__init__.py", other / "cards.py"):
        path.write_text("project = None")
    for text in ("cards", f"{folder}/cards.py", f"{folder}/cards"):
        assert project_named(text, [folder]) == "cards"
    assert project_named(f"{folder}/boats", [folder]) == "boats"
    for text, told in (
        (f"{other}/cards.py", f"export ANABRANCH_PROJECTS={other}"),
        (f"{folder}/crads.py", "did you mean 'cards'?"),
        (f"{folder}/engines.py", "write one ('anabranch init engines')"),
    ):
        with pytest.raises(UnknownProjectError, match=re.escape(told)):
            project_named(text, [folder])
    with pytest.raises(UnknownProjectError, match="did you mean 'cards'"):
        load_project("card", [folder])
