"""A device: a Python that has numpy and onnxruntime, what these need, and nothing else."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any


def device(folder: Path) -> dict[str, str]:
    """The environment of a Python that can import only what lies in `folder`, which is filled."""
    folder.mkdir(exist_ok=True)
    waiting, seen = ["numpy", "onnxruntime"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # wanted on other systems only
        waiting += [
            re.split(r"[^\w.-]", needed)[0] for needed in found.requires or () if "extra ==" not in needed
        ]
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def run(bundle: Path, environment: Mapping[str, str], text: str) -> subprocess.CompletedProcess[str]:
    """The bundle's runner on rows, without the site's packages."""
    return subprocess.run(
        [sys.executable, "-S", str(bundle / "run.py")],
        input=text,
        env=dict(environment),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def scored(
    bundle: Path, environment: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The runner's answers, one a row."""
    ran = run(bundle, environment, "".join(f"{json.dumps(row)}\n" for row in rows))
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]
