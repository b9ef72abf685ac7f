"""The example with three classes through the whole river: files and topic, build, training, answers of every
kind, mass scoring, the edge, verification, and a look at labels that arrived later.
"""

import csv
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_wine

from jobs.wiring.settings import ROOT, Settings
from projects.wine_origins import MEASURED
from tests.e2e.conftest import running
from tests.support.command_line import Commands, Said, write
from tests.support.edge import device, scored

CLASSES = ["class_0", "class_1", "class_2"]
NAME, DATA = "wine_origins", ROOT / "projects" / "data"
FIRST = 170  # analyses that come by file; the others come by the topic
Row = dict[str, Any]


def shipped(name: str) -> list[Row]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_shipped_files_are_the_data_of_scikit_learn() -> None:
    wine, analyses, origins = load_wine(), shipped("wine_analyses.csv"), shipped("wine_origins.csv")
    assert [[float(row[name]) for name in MEASURED] for row in analyses] == wine.data.tolist()
    assert [row["cultivar"] for row in origins] == [wine.target_names[place] for place in wine.target]
    assert [row["wine_id"] for row in analyses] == [row["wine_id"] for row in origins]


@dataclass(frozen=True)
class Lived:
    """What the commands and the server said."""

    folder: Path
    said: Mapping[str, Said]
    answers: Mapping[str, Any]


def asked(address: str, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        f"{address}/v1/projects/{NAME}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def river(commands: Commands, servers: Settings) -> Lived:
    run, folder = commands.run, commands.folder
    analyses = shipped("wine_analyses.csv")
    run("check", "check", NAME, "--json")
    run("ingest", "ingest", NAME, "analyses", write(folder / "first.csv", analyses[:FIRST]), "--json")
    run("ingest origins", "ingest", NAME, "origins", DATA / "wine_origins.csv", "--json")
    run("train", "train", NAME, "--json")
    run("build", "build", NAME, "--json")
    run("publish", "publish", NAME, "analyses", write(folder / "more.csv", analyses[FIRST:]), "--json")
    run("stream", "stream", NAME, "--once", "--json")
    run("answer", "answer", NAME, "w178", "--json")
    run("answer for people", "answer", NAME, "w178")
    with running(servers) as address:
        answers = {
            "one": asked(address, "predict", {"key": "w178"}),
            "many": asked(address, "predict", {"keys": [row["wine_id"] for row in analyses[:20]]}),
            "current": asked(address, "scores/w178"),
        }
    later = datetime.now(UTC) + timedelta(seconds=1)
    judged = [
        {"origin_id": f"n{row['wine_id']}", "wine_id": row["wine_id"], "determined_at": later.isoformat(),
         "cultivar": "class_1" if row["wine_id"] == "w001" else "class_0"}
        for row in analyses[:20]
    ]  # fmt: skip
    run("publish origins", "publish", NAME, "origins", write(folder / "later.csv", judged), "--json")
    run("land", "land", NAME, "--json")
    run("watch", "watch", NAME, "--html", folder / "watched.html", "--json")
    run("score", "score", NAME, "--in", folder / "first.csv", "--out", folder / "scores", "--json")
    run("score csv", "score", NAME, "--in", folder / "first.csv", "--out", folder / "scores.csv", "--json")
    run("verify", "verify", NAME, "--all", "--json")
    run(
        "sql", "sql", f"SELECT label, count(*) AS wines FROM anabranch.{NAME}_scores GROUP BY label", "--json"
    )
    run("export", "export", NAME, folder / "bundle", "--json")
    return Lived(folder, commands.said, answers)


def test_a_model_of_three_classes_is_trained_and_passes_its_gate(river: Lived) -> None:
    trained = river.said["train"].found
    assert (trained["model_version"], trained["champion"], trained["rows"]) == ("1", True, 178)
    metrics = trained["metrics"]
    assert metrics["log_loss"] < 0.3
    assert metrics["accuracy"] > 0.9
    assert {"macro_f1", "roc_auc", "top_2_accuracy", "log_loss_low"} <= set(metrics)


def test_a_wine_that_came_by_the_topic_is_answered_with_scores_by_class(river: Lived) -> None:
    answer, one = river.said["answer"].found, river.answers["one"]
    assert (answer["label"], answer["degraded"]) == ("class_2", False)
    assert list(answer["scores"]) == CLASSES
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert answer["score"] == answer["scores"]["class_2"] == max(answer["scores"].values())
    assert (one["label"], one["scores"]) == ("class_2", pytest.approx(answer["scores"]))
    assert f"score {answer['score']:.4f}, label class_2" in river.said["answer for people"].out
    current = river.answers["current"]
    assert (current["layer"], current["label"]) == ("speed", "class_2")
    assert current["scores"] == pytest.approx(answer["scores"])
    assert {each["label"] for each in river.answers["many"]["predictions"]} == {"class_0"}


def test_mass_scoring_and_the_edge_give_the_same_scores(river: Lived, tmp_path: Path) -> None:
    rows = {row["wine_id"]: row for row in pq.read_table(river.folder / "scores").to_pylist()}
    assert len(rows) == FIRST
    right = {row["wine_id"]: row["cultivar"] for row in shipped("wine_origins.csv")}
    assert sum(row["label"] == right[wine] for wine, row in rows.items()) > 0.95 * FIRST
    with next((river.folder / "scores.csv").glob("part-*.csv")).open(newline="", encoding="utf-8") as file:
        flat = next(csv.DictReader(file))
    assert json.loads(flat["scores"]) == pytest.approx(dict(rows[flat["wine_id"]]["scores"]))
    some = shipped("wine_analyses.csv")[:FIRST:10]
    found = scored(
        river.folder / "bundle",
        device(tmp_path / "device"),
        [{name: float(row[name]) for name in MEASURED} for row in some],
    )
    for row, answer in zip(some, found, strict=True):
        served = rows[row["wine_id"]]
        assert answer["label"] == served["label"]
        assert answer["scores"] == pytest.approx(dict(served["scores"]), abs=1e-6)
        assert answer["score"] == pytest.approx(served["score"], abs=1e-6)


def test_what_is_served_equals_the_lake_and_sql_counts_labels(river: Lived) -> None:
    found = river.said["verify"].found
    assert (found["keys"], found["mismatches"], found["degraded"]) == (178, 0, 0)
    counted = {row["label"]: row["wines"] for row in river.said["sql"].found["rows"]}
    assert (sorted(counted), sum(counted.values())) == (CLASSES, 178)


def test_labels_that_arrived_later_judge_the_predictions_by_class(river: Lived) -> None:
    watched = river.said["watch"].found
    measures = {
        (one["subject"], one["name"]): one["value"] for one in watched["measures"] if not one["slice"]
    }
    assert watched["predictions"] == {"1": 21}
    assert measures["predictions", "labels"] == 20
    assert measures["predictions", "log_loss"] > 0.1  # one of the twenty is said to be another
    page = (river.folder / "watched.html").read_text(encoding="utf-8")
    assert "Drift of labels by class" in page
