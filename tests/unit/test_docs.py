"""The page of aggregates is true: its examples run, and it names every aggregate there is."""

import json
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import typer

from anabranch import AGGREGATES
from anabranch.events.faults import find_fault
from anabranch.testing import check_example
from anabranch.values.sql.calls import known_functions
from anabranch.values.sql.functions import ALIASES
from jobs.cli.main import app
from jobs.monitoring.rules import ALERTS
from jobs.wiring.sections import SETTINGS
from jobs.wiring.settings import ROOT

PAGE = Path(__file__).parents[2] / "docs" / "aggregates.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks() -> list[CodeType]:
    """Every Python block, with the line numbers of the page."""
    found = re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [
        compile("\n" * TEXT.count("\n", 0, match.start(1)) + match[1], str(PAGE), "exec") for match in found
    ]


def test_every_example_runs_one_after_the_other() -> None:
    names: dict[str, Any] = {}
    examples = blocks()
    assert examples
    for block in examples:
        exec(block, names)  # noqa: S102 - the page's own examples


@pytest.mark.parametrize("name", [kind.__name__ for kind in AGGREGATES])
def test_every_aggregate_is_named_on_the_page(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert re.search(rf"`{name}\b", prose), f"{PAGE.name} says nothing of {name}"


@pytest.mark.parametrize("name", [kind.__name__ for kind in AGGREGATES])
def test_every_aggregate_has_an_example(name: str) -> None:
    assert any(name in block.co_names for block in blocks()), f"{PAGE.name} has no example of {name}"


def test_the_page_of_expressions_names_every_function() -> None:
    text = (PAGE.parent / "expressions.md").read_text(encoding="utf-8")
    assert [name for name in (*known_functions(), *ALIASES) if f"`{name}`" not in text] == []


def test_the_examples_of_sources_run() -> None:
    """Those of shared views, which are found while a file is loaded, are in test_sharing.py."""
    text = (PAGE.parent / "sources.md").read_text(encoding="utf-8")
    headings = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    alone = []
    for heading, section in zip(headings[::2], headings[1::2], strict=True):
        names: dict[str, Any] = {}
        found = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        for example in found:
            if "shared(" not in example:
                exec(compile(example, "sources.md", "exec"), names)  # noqa: S102 - the page's own examples
        alone += [] if found else [heading]
        if heading == "Nested messages":
            (message,) = re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
            assert find_fault(json.loads(message), names["payments"], (("card",),)) is None
    assert alone == ["Object stores"]


def test_the_declarations_on_the_page_of_models_can_be_made() -> None:
    text = (PAGE.parent / "models.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "models.md", "exec"), {})  # noqa: S102 - the page's own examples
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    from batch.trainers.registry import TRAINERS

    assert [name for name in TRAINERS if f"`{name}`" not in prose] == []


def run_examples(page: str, count: int) -> dict[str, Any]:
    """The names that the examples of a page leave, run one after the other; there are `count` of them."""
    text = (PAGE.parent / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == count
    for example in examples:
        exec(compile(example, page, "exec"), names)  # noqa: S102 - the page's own examples
    return names


def test_the_examples_on_the_page_of_derived_features_run() -> None:
    run_examples("features.md", 6)


def test_the_examples_on_the_page_for_authors_run() -> None:
    names = run_examples("authors.md", 4)
    assert [check_example(names["project"], each) for each in names["project"].examples] == [[]]


def test_the_declaration_on_the_page_of_watching_can_be_made() -> None:
    text = (PAGE.parent / "watching.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(example, "watching.md", "exec"), {})  # noqa: S102 - the page's own example


PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "notebooks" / "README.md",
    ROOT / "docker" / "README.md",
]
FOLDERS = (
    "anabranch",
    "batch",
    "speed",
    "serving",
    "jobs",
    "projects",
    "tests",
    "docs",
    "conf",
    "docker",
    "notebooks",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_every_path_on_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    gone = [link for link in links if link and not (page.parent / link).exists()]
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*\w)(?:::\w+)?`", text)
    assert gone + [path for path in paths if not (ROOT / path).exists()] == []


_FILES = ("jars", "json", "md", "yaml")
"""What ends a name that is a file's, or a property of Spark, and no setting."""
VERBS: Any = typer.main.get_command(app)
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_VERB = re.compile(r"(?<!from )\banabranch ([a-z]+)((?: [^\n`|;#&)]*)?)")
_TARGET = re.compile(r"(?:^|[`&] ?)make ([a-z][a-z0-9-]*)", re.MULTILINE)


def wrong_commands(text: str) -> list[str]:
    """The calls in the code of a page that no verb or option of `anabranch` and no target of `make` takes."""
    found = []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        name for line in re.findall(r"^([a-z][a-z0-9 -]*):", makefile, re.MULTILINE) for name in line.split()
    }
    for whole in _CODE.findall(text):
        code = re.sub(r"(?<!\S)# .*", "", whole)
        for verb, rest in _VERB.findall(code):
            words, command = rest.split(), VERBS.commands.get(verb)
            below = getattr(command, "commands", {})
            command = below.get(words[0]) if below and words else command
            options = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
            if command is None or not options <= options_of(command):
                found.append(f"anabranch {verb}{rest}")
        found += [f"make {name}" for name in _TARGET.findall(code) if name not in targets]
    return found


def options_of(command: Any) -> set[str]:
    return {"--help", "--debug", *(name for each in command.params for name in each.opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_on_a_page_is_one(page: Path) -> None:
    # Decision records and the changelog tell of commands as they were.
    if page.parent.name != "adr":
        assert wrong_commands(page.read_text(encoding="utf-8")) == []


def test_a_wrong_command_on_a_page_is_found() -> None:
    right = (
        "`anabranch plan P --json`, `make bench-serving`\n```\nanabranch files ls /x  # anabranch fly\n```"
    )
    wrong = "`anabranch fly P`, `anabranch plan P --high`, `anabranch files fly /x`, `make haste`"
    assert wrong_commands(right) == []
    assert wrong_commands(wrong) == [
        "anabranch fly P", "anabranch plan P --high", "anabranch files fly /x", "make haste",
    ]  # fmt: skip


def wrong_settings(text: str) -> list[str]:
    """Names of settings on a page, by key or as a variable of the environment, that are none."""
    variables = re.findall(r"ANABRANCH__([A-Z]+)__([A-Z_0-9]+)", text)
    found = [f"{section}.{key}".lower() for section, key in variables if (section, key) != ("SECTION", "KEY")]
    keys = re.findall(r"`([a-z]+)\.([a-z_0-9]+)(?: ?=[^`]*)?`", text)
    found += [f"{section}.{key}" for section, key in keys if section in SETTINGS and key not in _FILES]
    return sorted({name for name in found if name.partition(".")[2] not in SETTINGS[name.partition(".")[0]]})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_on_a_page_is_one(page: Path) -> None:
    if page.parent.name != "adr":
        assert wrong_settings(page.read_text(encoding="utf-8")) == []


def test_a_wrong_setting_on_a_page_is_found() -> None:
    assert wrong_settings("`time.slot`, `time.slots = 3`, `ANABRANCH__TIME__SLIT=1h`, `serving.yaml`") == [
        "time.slit", "time.slots",
    ]  # fmt: skip


def test_the_page_of_operations_lists_every_verb() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text[text.index("| verb |") : text.index("### Exit codes")]
    assert [name for name in VERBS.commands if not re.search(rf"`{name}\b", table)] == []


def test_the_page_of_the_platform_lists_every_alert_with_its_severity() -> None:
    text = (ROOT / "docs" / "platform.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.*\| (page|ticket) \|$", text, re.MULTILINE)
    told = {name: severity for names, severity in rows for name in re.findall(r"\w+", names)}
    assert told == {alert.name: alert.severity for alert in ALERTS}


def test_the_layout_on_the_page_of_architecture_is_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text[text.index("anabranch/     the library") : text.index("A package of the library may import")]
    for folder in ("anabranch", "batch", "serving", "jobs"):
        lines = re.search(rf"^{folder}/ .*(?:\n  .*)*", tree, re.MULTILINE)
        assert lines is not None
        packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        named = set(re.findall(r"(?<![\w/])(\w+)/", lines[0])) - {folder, "conf"}
        assert packages - named == set(), folder
        assert [name for name in named if not list((ROOT / folder).rglob(name))] == []


def test_the_readme_is_one_page_and_its_project_is_sound() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - the page's own example
    assert [column.name for column in names["project"].columns][:2] == ["readings_1h", "readings_1d"]


def test_every_decision_record_is_in_the_index_once() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("0*.md"))
