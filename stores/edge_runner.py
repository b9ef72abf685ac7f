"""Score rows on a device: python run.py [ROWS], or rows on standard input. Needs numpy and onnxruntime, nothing else.

A row is a JSON object of features, one a line or all in one array. What is null or left out is missing.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE, EPOCH = Path(__file__).resolve().parent, datetime(1970, 1, 1, tzinfo=UTC)
BUNDLE = json.loads((HERE / "features.json").read_text(encoding="utf-8"))
FEATURES = {feature["name"]: feature for feature in BUNDLE["features"]}
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def coded(feature: dict[str, Any], value: Any) -> float:
    """A feature's value as the number that the model takes; NaN is missing."""
    if value is None:
        return float("nan")
    if feature["kind"] == "text":
        return float(feature["categories"].index(value)) if value in feature["categories"] else float("nan")
    if feature["kind"] in ("date", "timestamp") and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        since = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - EPOCH
        return float(since.days if feature["kind"] == "date" else since // datetime.resolution)
    return float(value)


def score(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A score, a label and the model's version for each row, in their order; raises ValueError for a feature that there is not."""
    for number, row in enumerate(rows, 1):
        if unknown := sorted(set(row) - set(FEATURES) - set(BUNDLE["keys"])):
            raise ValueError(f"row {number}: {unknown[0]!r} is no feature of {BUNDLE['project']}")
    if not rows:
        return []
    numbers = [[coded(feature, row.get(name)) for name, feature in FEATURES.items()] for row in rows]
    with np.errstate(over="ignore"):
        matrix = np.array(numbers, dtype=np.float64).astype(np.float32)
    matrix[~np.isfinite(matrix)] = np.nan
    found = SESSION.run([BUNDLE["output"]], {SESSION.get_inputs()[0].name: matrix})[0]
    scores = [float(each) for each in found.reshape(len(rows), -1)[:, -1]]
    bound = BUNDLE["label"]["threshold"] if BUNDLE["label"] else None
    return [{"score": each, "label": None if bound is None else int(each >= bound), "model_version": BUNDLE["model_version"]} for each in scores]


if __name__ == "__main__":
    try:
        text = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else sys.stdin.read()
        asked = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
        sys.stdout.writelines(f"{json.dumps(answer)}\n" for answer in score(asked))
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
