"""The runner that goes to devices: somebody there reads it before it runs, so it is short."""

import ast
from pathlib import Path

import stores

RUNNER = Path(stores.__file__).with_name("edge_runner.py")


def test_the_runner_is_thirty_lines_of_code_that_need_numpy_and_onnxruntime_alone() -> None:
    text = RUNNER.read_text(encoding="utf-8")
    tree = ast.parse(text)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node)]
    prose = {line for node in documented for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    code = [line for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in prose]
    assert 20 < len(code) <= 30
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"json", "sys", "numpy", "onnxruntime"}
    assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} == {"datetime", "pathlib"}
