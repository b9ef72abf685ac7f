"""What `pip install anabranch` brings is enough for declarations, checks, proof on rows and the client."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from jobs.wiring.settings import ROOT

DECLARED: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARATION = """
from anabranch import Count, Example, FeatureView, Label, Model, Project, Source, Sum

payments = Source(name="payments", topic="payments", id="id", time="at",
                  schema="id STRING, card STRING, amount DOUBLE, fraud BOOLEAN, at TIMESTAMP")
spending = FeatureView(name="spending", source=payments, key="card", windows=("1d",),
                       features={"spent": Sum("amount"), "payments": Count(where="amount > 1")})
events = [{"id": "1", "card": "c", "amount": 3.5, "at": "2024-05-01T10:00:00Z"}]
project = Project(
    name="cards", views=(spending,), label=Label(source=payments, key="card", target="fraud"), model=Model(),
    examples=(Example(events=events, key={"card": "c"}, at="2024-05-01T12:00:00Z", gives={"spent_1d": 3.5}),),
)
"""
USED = """
import anabranch
from anabranch.testing import assert_lawful, fold
from pathlib import Path
from anabranch.declare.loading import load_project

project = load_project("cards", [Path("declared")])
events = project.examples[0].events
assert fold(project, events, {"card": "c"}, "2024-05-01T12:00:00Z") == {"spent_1d": 3.5, "payments_1d": 1}
assert_lawful(project, events, examples=5)
assert anabranch.Client("http://127.0.0.1:1")["cards"].name == "cards"
try:
    anabranch.open()
except anabranch.errors.MisuseError as error:
    assert "pip install 'anabranch[platform]'" in str(error), error
else:
    raise AssertionError("a river was opened without its packages")
"""
ISOLATED = """
import sys
class Alone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent and path is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Alone())
"""


def brought() -> set[str]:
    """The distributions that the library alone needs, itself included, for this Python."""
    found, waiting = {"anabranch"}, [_name(each) for each in DECLARED["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [_name(each) for each in requires(name) or () if _applies(each)]
    return found


def _applies(requirement: str) -> bool:
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def isolated(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A run of code that does not find the modules of distributions that the library alone does not need."""
    there = brought()
    absent = {
        module
        for module, names in packages_distributions().items()
        if not any(_name(name) in there for name in names)
    }
    text = f"absent = {absent!r}\n{ISOLATED}\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ANABRANCH_PROJECTS": str(folder / "declared")}
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a declaration."""
    (tmp_path / "declared").mkdir()
    (tmp_path / "declared" / "cards.py").write_text(DECLARATION, encoding="utf-8")
    return tmp_path


def test_the_library_alone_declares_folds_proves_checks_and_says_what_the_rest_needs(folder: Path) -> None:
    code = "from jobs.cli.main import main\ncodes = [main(['check', 'cards']), main(['test', 'cards'])]\n"
    ran = isolated(f"{USED}{code}print(codes, main(['verify', 'cards']))", folder)
    assert ran.stdout.splitlines()[-1:] == ["[0, 0] 2"], ran.stdout + ran.stderr
    assert "which this verb needs" in ran.stderr
    assert "pip install 'anabranch[platform]'" in ran.stderr
    assert "is not checked, as there is no package '" in ran.stdout


def test_heavy_packages_are_in_the_extra_alone() -> None:
    alone = {_name(each) for each in DECLARED["dependencies"]}
    platform = {_name(each) for each in DECLARED["optional-dependencies"]["platform"]}
    assert not alone & platform
    assert {"pyspark", "mlflow", "kafka-python", "cassandra-driver", "granian"} <= platform
    assert not {"pyspark", "mlflow", "pandas"} & brought()


@pytest.mark.drill
@pytest.mark.proof("the wheel in an empty environment folds, proves, checks and tests a declaration")
def test_the_wheel_alone_works_in_an_empty_environment(folder: Path) -> None:
    uv = str(ROOT / ".anabranch" / "tools" / "bin" / "uv")
    python, environment = folder / "venv" / "bin" / "python", {**os.environ}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    environment["ANABRANCH_PROJECTS"] = str(folder / "declared")
    steps = [
        [uv, "build", "--wheel", "-q", "-o", str(folder / "dist"), str(ROOT)],
        [uv, "venv", "-q", "-p", os.environ.get("LIBRARY_PYTHON", sys.executable), str(folder / "venv")],
    ]
    for step in steps:
        subprocess.run(step, cwd=folder, env=environment, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([uv, "pip", "install", "-q", "-p", str(python), str(wheel)], cwd=folder, check=True)
    for words in (["-c", USED], ["-m", "jobs.cli", "check", "cards"], ["-m", "jobs.cli", "test", "cards"]):
        subprocess.run([str(python), *words], cwd=folder, env=environment, check=True)
    typed = folder / "venv" / "lib"
    assert list(typed.glob("python*/site-packages/anabranch/py.typed"))
    shutil.rmtree(folder / "venv")
