"""The tree is the architecture: which package may import which, read from the source by its syntax tree.

An import inside a function or for types alone counts too.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARROWS = {
    "anabranch": set(),
    "projects": {"anabranch"},
    "batch": {"anabranch"},
    "speed": {"anabranch"},
    "serving": {"anabranch"},
    "jobs": {"anabranch", "batch", "speed", "serving"},
}
"""Which of our folders each may import, besides itself."""

UPWARD = {
    ("anabranch/__init__.py", "jobs.flows.river"): "anabranch.open(), which says what to install without it"
}
"""Imports against the arrows, each with its reason (docs/adr/0056)."""

LAYERS = (
    "values",
    "states",
    "aggregates",
    "declare",
    "kept",
    "folds",
    "events",
    "testing",
    "client",
    "pages",
    "stores",
    "answers",
    "planning",
)
"""Packages of the library, each of which may import those before it; `errors`, `progress` and `settings` lie
beneath all.
"""
BENEATH = ("errors", "progress", "settings")
PURE_LAYERS = ("values", "states", "aggregates", "declare", "kept", "folds")
MOST_MODULES = 16
"""A folder with more of them has no subject of its own."""

SPARK_IN_PURE_LAYERS = "anabranch/folds/spark.py"
READS_ENVIRONMENT = {
    "jobs/wiring/settings.py": "the one reader of configuration",
    "jobs/schedules/dags.py": "runs in Airflow's environment, where there are no settings",
    "jobs/demo.py": "KEEP=1 is a switch of make demo, not a setting",
    "anabranch/stores/models/connection.py": "sets, never reads: MLflow has no other configuration",
}
PRIVATE_SPARK = {
    "_jvm", "_jsc", "_jdf", "_jsq", "_jsparkSession", "_gateway", "_ensure_initialized",
    "_get_j_spark_session_module",
}  # fmt: skip
"""Names that PySpark keeps for itself: a release may rename them."""
USES_PRIVATE_SPARK = "anabranch/stores/jvm.py"
PURE_PACKAGES = {"numpy", "pyarrow", "datasketches", "sqlglot"}
"""What the pure layers and declarations may import beside the standard library: a server needs no JVM, a
device little.
"""
DRIVERS = {
    "cassandra": "anabranch/stores/cassandra/",
    "kafka": "anabranch/stores/kafka/",
    "pyignite": "anabranch/stores/ignite/",
}
"""Drivers of stores, each of which one package imports: nobody else meets their types, their exceptions or
their language.
"""


def violations(root: Path) -> list[str]:
    """Every broken arrow below a tree of our folders, as `file:line: what`."""
    found = []
    for folder in ARROWS:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=name)
            wrong = (
                *_wrong_imports(name, folder, tree),
                *_wrong_layers(name, tree),
                *_wrong_drivers(name, tree),
                *_wrong_environment(name, tree),
                *_private_spark(name, tree),
            )
            found += [f"{name}:{line}: {what}" for line, what in wrong]
    return found


def circles(root: Path) -> list[str]:
    """Packages below `root` that import one another, whichever way round."""
    graph: dict[str, set[str]] = {}
    for folder in ARROWS:
        for path in sorted((root / folder).rglob("*.py")):
            importer = _package(path.relative_to(root).with_suffix("").as_posix().replace("/", "."), root)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            reached = {_package(name, root) for _, name in imports(tree) if name.partition(".")[0] in ARROWS}
            graph.setdefault(importer, set()).update(reached - {importer})
    # A package's own face re-exports what lies in it.
    graph.pop("anabranch", None)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def _package(module: str, root: Path) -> str:
    """The package that a module lies in; a module beside packages, or of a top-level folder, stands for
    itself.
    """
    parts = module.removesuffix(".__init__").split(".")
    while len(parts) > 1 and not (root / Path(*parts)).is_dir():
        parts.pop()
    beside_packages = any((root / Path(*parts)).glob("*/__init__.py"))
    return module if len(parts) == 1 or beside_packages else ".".join(parts)


def _wrong_imports(name: str, folder: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    pure = folder == "projects" or _layer(name) in PURE_LAYERS
    for line, module in imports(tree):
        top = module.partition(".")[0]
        if (name, module) in UPWARD:
            continue
        if top.startswith("tests") or (top in ARROWS and top != folder and top not in ARROWS[folder]):
            allowed = ", ".join(sorted(ARROWS[folder])) or "none of our other folders"
            yield line, f"{folder} imports {module}: it may import {allowed}"
        elif folder == "projects" and top == "anabranch" and module != "anabranch":
            yield line, f"projects imports {module}: it may import anabranch itself, not a part of it"
        elif pure and not (top in ARROWS or top in sys.stdlib_module_names or top in PURE_PACKAGES):
            if top == "pyspark" and name == SPARK_IN_PURE_LAYERS:
                continue
            further = ", ".join(sorted(PURE_PACKAGES))
            yield (
                line,
                f"{name} imports {module}: only {SPARK_IN_PURE_LAYERS} imports pyspark, others only "
                f"{further}",
            )


def _wrong_layers(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    if not name.startswith("anabranch/") or name == "anabranch/__init__.py":
        return
    layer = _layer(name)
    allowed = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else ()
    for line, module in imports(tree):
        parts = module.split(".")
        if parts[0] != "anabranch":
            continue
        reached = parts[1] if len(parts) > 1 else ""
        if reached not in BENEATH and reached not in allowed:
            yield line, f"{layer or name} imports {module}: it may import {', '.join((*BENEATH, *allowed))}"


def _wrong_drivers(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for line, module in imports(tree):
        home = DRIVERS.get(module.partition(".")[0])
        if home is not None and not name.startswith(home):
            yield line, f"imports {module}: only {home} does, and translates what it raises"


def _layer(name: str) -> str:
    """The package of the library that a file lies in: ``anabranch/folds/merge.py`` lies in ``folds``."""
    parts = name.split("/")
    return parts[1].removesuffix(".py") if parts[0] == "anabranch" and len(parts) > 1 else ""


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every module a file imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import would hide which folder it reaches: `from . import x` is
            # reported as our own rule's break.
            yield node.lineno, f"tests.relative-import-of-{node.module}" if node.level else str(node.module)
        elif isinstance(node, ast.Call) and _called(node) in ("__import__", "import_module") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _wrong_environment(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    if name in READS_ENVIRONMENT:
        return
    names = ("environ", "getenv", "environb")
    for node in ast.walk(tree):
        attribute = (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr in names
        )
        imported = (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(alias.name in names for alias in node.names)
        )
        if isinstance(node, ast.Attribute | ast.ImportFrom) and (attribute or imported):
            yield (
                node.lineno,
                "reads the environment: only jobs/wiring/settings.py does, and hands values down",
            )
    for line, module in imports(tree):
        if module in ("tomllib", "configparser"):
            yield line, f"imports {module}: only jobs/wiring/settings.py reads conf/"


def _private_spark(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    if name == USES_PRIVATE_SPARK:
        return
    for node in ast.walk(tree):
        called = node.args if isinstance(node, ast.Call) and _called(node) == "getattr" else []
        named = [argument.value for argument in called if isinstance(argument, ast.Constant)]
        used = PRIVATE_SPARK & {node.attr if isinstance(node, ast.Attribute) else "", *named}
        if used:
            yield (
                getattr(node, "lineno", 0),
                f"uses {used.pop()}: only {USES_PRIVATE_SPARK} reaches into PySpark",
            )


def test_every_arrow_points_the_right_way() -> None:
    assert violations(ROOT) == []


def test_no_packages_import_one_another() -> None:
    assert circles(ROOT) == []


def test_no_folder_holds_more_modules_than_one_reads_at_a_glance() -> None:
    folders = {path.parent for folder in ARROWS for path in (ROOT / folder).rglob("*.py")}
    counts = {
        folder.relative_to(ROOT).as_posix(): len(
            [p for p in folder.glob("*.py") if not p.stem.startswith("__")]
        )
        for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_every_class_has_a_name_of_its_own() -> None:
    found: dict[str, list[str]] = {}
    for folder in ARROWS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_every_folder_of_the_layout_is_there_and_looked_at() -> None:
    assert [folder for folder in ARROWS if not list((ROOT / folder).rglob("*.py"))] == []
    assert [layer for layer in LAYERS if not list((ROOT / "anabranch" / layer).rglob("*.py"))] == []
    unknown = {path.parent.name for path in ROOT.glob("*/__init__.py")} - set(ARROWS) - {"tests"}
    assert unknown == set()


def test_every_exception_is_still_needed() -> None:
    for name in READS_ENVIRONMENT:
        assert "os.environ" in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("file", "source", "told"),
    [
        ("anabranch/folds/x.py", "from batch import views\n", "anabranch imports batch"),
        (
            "anabranch/folds/x.py",
            "from pyspark.sql import functions\n",
            "only anabranch/folds/spark.py imports pyspark",
        ),
        (
            "anabranch/values/x.py",
            "def late():\n    import pyspark\n",
            "x.py:2: anabranch/values/x.py imports pyspark",
        ),
        (
            "anabranch/states/x.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pandas import DataFrame\n",
            "imports pandas",
        ),
        (
            "anabranch/values/x.py",
            "from anabranch.folds.merge import merge\n",
            "values imports anabranch.folds.merge",
        ),
        (
            "anabranch/stores/x.py",
            "import anabranch.answers.features\n",
            "stores imports anabranch.answers.features",
        ),
        ("anabranch/events/x.py", "from anabranch import Source\n", "events imports anabranch"),
        (
            "anabranch/settings.py",
            "from anabranch.values.times import DAY\n",
            "settings imports anabranch.values.times",
        ),
        (
            "anabranch/stores/x.py",
            "from jobs.wiring.settings import Settings\n",
            "anabranch imports jobs.wiring.settings",
        ),
        ("batch/x.py", "import speed.views as twin\n", "batch imports speed.views"),
        ("speed/x.py", "from serving.app import create\n", "speed imports serving.app"),
        (
            "serving/x.py",
            "import importlib\nimportlib.import_module('batch.views')\n",
            "serving imports batch.views",
        ),
        (
            "serving/x.py",
            "from jobs.wiring.settings import Settings\n",
            "serving imports jobs.wiring.settings",
        ),
        ("projects/x.py", "from batch.views import build\n", "projects imports batch.views"),
        ("projects/x.py", "from anabranch.stores.lake.lake import Lake\n", "not a part of it"),
        ("projects/x.py", "import requests\n", "projects/x.py imports requests"),
        ("jobs/x.py", "from tests.support.oracle import fold\n", "jobs imports tests.support.oracle"),
        ("jobs/x.py", "from . import settings\n", "relative-import"),
        ("jobs/x.py", "import os\nport = os.environ['PORT']\n", "x.py:2: reads the environment"),
        ("batch/x.py", "from os import getenv\n", "reads the environment"),
        (
            "speed/x.py",
            "from cassandra.query import BatchStatement\n",
            "only anabranch/stores/cassandra/ does",
        ),
        ("anabranch/stores/kafka/x.py", "import cassandra\n", "only anabranch/stores/cassandra/ does"),
        (
            "jobs/x.py",
            "def late():\n    from kafka import KafkaProducer\n",
            "only anabranch/stores/kafka/ does",
        ),
        ("batch/x.py", "def plan(frame):\n    return frame._jdf\n", "x.py:2: uses _jdf"),
        ("anabranch/stores/x.py", "jvm = getattr(spark, '_jvm')\n", "uses _jvm"),
        ("speed/x.py", "import tomllib\n", "only jobs/wiring/settings.py reads conf/"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, source: str, told: str) -> None:
    _write(tmp_path, {file: source})
    (found,) = violations(tmp_path)
    assert told in found


def test_a_circle_is_found(tmp_path: Path) -> None:
    sources = {
        "batch/training/x.py": "from batch.release.y import gate\n",
        "batch/release/y.py": "import batch.scoring.z\n",
        "batch/scoring/z.py": "def late():\n    from batch.training.x import train\n",
    }
    _write(tmp_path, sources)
    assert set(circles(tmp_path)) == {"batch.training", "batch.release", "batch.scoring"}


def test_a_right_tree_is_clean(tmp_path: Path) -> None:
    right = {
        "anabranch/folds/spark.py": "import math\nfrom pyspark.sql import Column\nimport numpy\n"
        "from anabranch.values.times import HOUR\n",
        "anabranch/stores/cassandra/x.py": "import cassandra\nfrom anabranch.folds.merge import merge\n"
        "from anabranch.settings import LakeSettings\n",
        "projects/x.py": "from anabranch import Project\n",
        "batch/x.py": "import pyspark\nfrom anabranch.stores.lake.lake import Lake\n",
        "jobs/wiring/settings.py": "import os\nimport tomllib\nos.environ['A']\n",
        "jobs/x.py": "import batch.views, speed.views, serving.app\n",
    }
    _write(tmp_path, right)
    assert violations(tmp_path) == []
    assert circles(tmp_path) == []


def _write(root: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
