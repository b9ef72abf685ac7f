"""Score rows on a device: python run.py [ROWS], or rows on standard input.

Needs numpy and onnxruntime, nothing else.

A row is a JSON object of features and columns of the request, one a line or all in one array. What is null
or left out is missing, but for columns of the request that features.json says are required. Derived features
are computed, unless a row has them.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    value = counted(value, unit)
    return float("nan") if value is None else float(value)


def counted(value: Any, unit: int | None) -> Any:
    """A time as a number of units of microseconds since 1970; any other value as it is."""
    if unit is not None and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // timedelta(microseconds=unit)
    return value


def completed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the request's defaults and derived features; raises ValueError for a missing column."""
    how = BUNDLE["derived"]
    if lacking := [(n, name) for n, row in enumerate(rows, 1) for name in how["required"] if name not in row]:
        raise ValueError("row {}: column {!r} of the request is missing".format(*lacking[0]))
    rows = [{**how["request"], **row} for row in rows]
    if how["program"] is None:
        return rows
    from vectors_programs import Program  # type: ignore[import-not-found, unused-ignore]

    reads = {name: [counted(row.get(name), unit) for row in rows] for name, unit in how["reads"].items()}
    found = Program(how["program"]).run(reads, len(rows))
    return [{**{name: found[name][n] for name in found}, **row} for n, row in enumerate(rows)]


def score(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score, label and model version of each row, in order; raises ValueError for an unknown feature."""
    if unknown := [
        (number, name) for number, row in enumerate(rows, 1) for name in row if name not in BUNDLE["accepted"]
    ]:
        raise ValueError("row {}: {!r} is no feature of {}".format(*unknown[0], BUNDLE["project"]))
    rows = completed(rows) if "derived" in BUNDLE else rows
    matrix = np.array(
        [[coded(row.get(feature["name"]), **feature) for feature in BUNDLE["features"]] for row in rows]
    )
    matrix[~(np.abs(matrix) <= np.finfo(np.float32).max)] = np.nan
    found = SESSION.run([BUNDLE["output"]], {SESSION.get_inputs()[0].name: matrix.astype(np.float32)})[0]
    found = found.reshape(len(rows), -1).astype(np.float64).tolist()
    if BUNDLE["task"] == "classes":
        return [of_classes(one, BUNDLE["label"]["classes"]) for one in found]
    return [
        {
            "score": one,
            "label": BUNDLE["label"] and int(one >= BUNDLE["label"]["threshold"]),
            **(
                {"interval": [one + BUNDLE["interval"][end] for end in ("low", "high")]}
                if "interval" in BUNDLE
                else {}
            ),
            "model_version": BUNDLE["model_version"],
        }
        for *_, one in found
    ]


def of_classes(scores: list[float], classes: list[str | int]) -> dict[str, Any]:
    """The most probable class with its score, and the scores of all."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "score": scores[best],
        "label": classes[best],
        "scores": dict(zip(map(str, classes), scores, strict=True)),
        "model_version": BUNDLE["model_version"],
    }


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
