"""The runner that goes to devices: somebody there reads it before it runs, so it is short."""

import ast
from pathlib import Path

import anabranch.stores.models

RUNNER = Path(anabranch.stores.models.__file__).with_name("edge_runner.py")


def test_the_runner_is_short_and_needs_numpy_and_onnxruntime_alone() -> None:
    tree = ast.parse(RUNNER.read_text(encoding="utf-8"))
    prose = [
        node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node not in prose]
    assert 20 < len(statements) <= 54
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"json", "sys", "numpy", "onnxruntime"}
    assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} == {
        "datetime",
        "pathlib",
        "typing",
        "vectors_programs",  # beside it in the bundle
    }
