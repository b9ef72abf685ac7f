"""Score rows on a device: python run.py [ROWS], or rows on standard input.

Needs numpy and onnxruntime, nothing else.

A row is a JSON object of features, one a line or all in one array. What is null or left out is missing.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime

HERE, EPOCH = Path(__file__).resolve().parent, datetime(1970, 1, 1, tzinfo=UTC)
BUNDLE = json.loads((HERE / "features.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def coded(
    value: str | float | None,
    kind: str,
    categories: list[object] | tuple[()] = (),
    unit: int | None = None,
    **_: object,
) -> float:
    """A feature's value as the number that the model takes; NaN is missing.

    What it is, features.json says: a time counts units of microseconds.
    """
    if kind == "text":
        value = categories.index(value) if value in categories else None
    elif unit is not None and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        value = (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // timedelta(microseconds=unit)
    return float("nan") if value is None else float(value)


def score(rows: list[dict[str, str | float | None]]) -> list[dict[str, str | float | None]]:
    """Score, label and model version of each row, in order; raises ValueError for an unknown feature."""
    if unknown := [
        (number, name) for number, row in enumerate(rows, 1) for name in row if name not in BUNDLE["accepted"]
    ]:
        raise ValueError("row {}: {!r} is no feature of {}".format(*unknown[0], BUNDLE["project"]))
    matrix = np.array(
        [[coded(row.get(feature["name"]), **feature) for feature in BUNDLE["features"]] for row in rows]
    )
    matrix[~(np.abs(matrix) <= np.finfo(np.float32).max)] = np.nan
    found = (
        SESSION.run([BUNDLE["output"]], {SESSION.get_inputs()[0].name: matrix.astype(np.float32)})[0]
        .reshape(len(rows), -1)[:, -1]
        .tolist()
    )
    return [
        {
            "score": one,
            "label": BUNDLE["label"] and int(one >= BUNDLE["label"]["threshold"]),
            "model_version": BUNDLE["model_version"],
        }
        for one in found
    ]


if __name__ == "__main__":
    try:
        text = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else sys.stdin.read()
        asked = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
        sys.stdout.writelines(f"{json.dumps(answer)}\n" for answer in (score(asked) if asked else []))
    except (OSError, OverflowError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
