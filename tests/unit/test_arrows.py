"""The tree is the architecture: `features <- stores <- {batch | speed | serving} <- jobs`, `projects` imports `features` alone.

The rules are read from the source by its syntax tree, so an import inside a function or for types alone counts too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARROWS = {
    "features": set(),
    "projects": {"features"},
    "stores": {"features"},
    "batch": {"features", "stores"},
    "speed": {"features", "stores"},
    "serving": {"features", "stores"},
    "jobs": {"features", "stores", "batch", "speed", "serving"},
}
"""Which of our folders each may import, besides itself."""

SPARK_IN_FEATURES = "features/spark.py"
READS_ENVIRONMENT = {
    "jobs/settings.py": "the one reader of configuration",
    "jobs/demo.py": "KEEP=1 is a switch of make demo, not a setting",
    "stores/model_roles.py": "sets, never reads: MLflow is configured by its environment alone",
}
PURE = {"features", "projects"}
"""Folders that may import the standard library and these packages only, so that a server needs no JVM and an edge device little."""
PURE_PACKAGES = {"numpy", "pyarrow", "datasketches", "sqlglot"}


def violations(root: Path) -> list[str]:
    """Every broken arrow below a tree of our folders, as `file:line: what`."""
    found = []
    for folder in ARROWS:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=name)
            found += [f"{name}:{line}: {what}" for line, what in (*_wrong_imports(name, folder, tree), *_wrong_environment(name, tree))]
    return found


def _wrong_imports(name: str, folder: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, module in imports(tree):
        top = module.partition(".")[0]
        if top.startswith("tests") or (top in ARROWS and top != folder and top not in ARROWS[folder]):
            yield line, f"{folder} imports {module}: it may import {', '.join(sorted(ARROWS[folder])) or 'none of our other folders'}"
        elif folder in PURE and not (
            top in ARROWS or top in sys.stdlib_module_names or top in PURE_PACKAGES or (top == "pyspark" and name == SPARK_IN_FEATURES)
        ):
            yield line, f"{folder} imports {module}: only {SPARK_IN_FEATURES} imports pyspark, and further packages are {', '.join(sorted(PURE_PACKAGES))}"


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every module a file imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import would hide which folder it reaches: `from . import x` is reported as our own rule's break.
            yield node.lineno, f"tests.relative-import-of-{node.module}" if node.level else str(node.module)
        elif isinstance(node, ast.Call) and _called(node) in ("__import__", "import_module") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""


def _wrong_environment(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    if name in READS_ENVIRONMENT:
        return
    for node in ast.walk(tree):
        attribute = (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in ("environ", "getenv", "environb")
        )
        imported = isinstance(node, ast.ImportFrom) and node.module == "os" and any(alias.name in ("environ", "getenv", "environb") for alias in node.names)
        if isinstance(node, ast.Attribute | ast.ImportFrom) and (attribute or imported):
            yield node.lineno, "reads the environment: only jobs/settings.py does, and hands values down"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in (alias.name for alias in node.names) if isinstance(node, ast.Import) else (str(node.module),):
                if module in ("tomllib", "configparser"):
                    yield node.lineno, f"imports {module}: only jobs/settings.py reads conf/"


def test_every_arrow_points_the_right_way() -> None:
    assert violations(ROOT) == []


def test_every_folder_of_the_layout_is_there_and_looked_at() -> None:
    assert [folder for folder in ARROWS if not list((ROOT / folder).rglob("*.py"))] == []
    unknown = {path.parent.name for path in ROOT.glob("*/__init__.py")} - set(ARROWS) - {"tests"}
    assert unknown == set()


def test_every_exception_is_still_needed() -> None:
    for name in READS_ENVIRONMENT:
        if (ROOT / name).exists():
            assert "os.environ" in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("file", "source", "told"),
    [
        ("features/x.py", "import stores.lake\n", "features imports stores.lake"),
        ("features/x.py", "from pyspark.sql import functions\n", "only features/spark.py imports pyspark"),
        ("features/x.py", "def late():\n    import pyspark\n", "x.py:2: features imports pyspark"),
        ("features/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pandas import DataFrame\n", "features imports pandas"),
        ("features/deep/x.py", "from jobs.settings import Settings\n", "features imports jobs.settings"),
        ("stores/x.py", "from batch import views\n", "stores imports batch"),
        ("batch/x.py", "import speed.views as twin\n", "batch imports speed.views"),
        ("speed/x.py", "from serving.app import create\n", "speed imports serving.app"),
        ("serving/x.py", "import importlib\nimportlib.import_module('batch.views')\n", "serving imports batch.views"),
        ("serving/x.py", "from jobs.settings import Settings\n", "serving imports jobs.settings"),
        ("projects/x.py", "from stores.lake import Lake\n", "projects imports stores.lake"),
        ("projects/x.py", "import requests\n", "projects imports requests"),
        ("jobs/x.py", "from tests.oracle import fold\n", "jobs imports tests.oracle"),
        ("jobs/x.py", "from . import settings\n", "relative-import"),
        ("jobs/x.py", "import os\nport = os.environ['PORT']\n", "x.py:2: reads the environment"),
        ("batch/x.py", "from os import getenv\n", "reads the environment"),
        ("speed/x.py", "import tomllib\n", "only jobs/settings.py reads conf/"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, source: str, told: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    (found,) = violations(tmp_path)
    assert told in found


def test_a_right_tree_is_clean(tmp_path: Path) -> None:
    right = {
        "features/spark.py": "import math\nfrom pyspark.sql import Column\nimport numpy\nfrom features.times import HOUR\n",
        "projects/x.py": "from features import Project\n",
        "stores/x.py": "import cassandra\nfrom features.times import HOUR\nfrom stores.settings import LakeSettings\n",
        "batch/x.py": "import pyspark\nfrom stores.lake import Lake\n",
        "jobs/settings.py": "import os\nimport tomllib\nos.environ['A']\n",
        "jobs/x.py": "import batch.views, speed.views, serving.app\n",
    }
    for name, source in right.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []
