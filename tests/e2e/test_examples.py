"""The shipped examples through the whole river, side by side: files and topics, builds, training, answers of
every kind, mass scoring, verification, and a look at labels that arrived later.

`wine_origins` learns three classes, and is taken to a device too. `card_fraud` uses a view of
`merchant_risk`, and is asked with a request and the event itself.
"""

import csv
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_wine
from sklearn.metrics import roc_auc_score

from anabranch.declare.loading import load_project
from anabranch.testing import fold
from jobs.wiring.settings import ROOT, Settings
from projects.data.simulate_cards import Simulated, simulate
from projects.wine_origins import MEASURED
from tests.e2e.conftest import running
from tests.support.command_line import Commands, Said, write
from tests.support.edge import device, scored

CLASSES = ["class_0", "class_1", "class_2"]
NAME, CARDS, DATA = "wine_origins", "card_fraud", ROOT / "projects" / "data"
FIRST = 170  # analyses that come by file; the others come by the topic
LAST = 40  # payments that come by the topic; the others come by file
WHO = {"card": "c007", "merchant": "m01"}
REQUEST = {"amount": 950.0, "channel": "web"}
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
    cards: Simulated
    payment: Row  # the one that is asked about


def asked(address: str, path: str, body: object = None, name: str = NAME) -> Any:
    request = urllib.request.Request(
        f"{address}/v1/projects/{name}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def river(commands: Commands, servers: Settings) -> Lived:
    run, folder = commands.run, commands.folder
    analyses, cards = shipped("wine_analyses.csv"), simulate(datetime.now(UTC))
    run("check", "check", NAME, "--json")
    run("ingest", "ingest", NAME, "analyses", write(folder / "first.csv", analyses[:FIRST]), "--json")
    run("ingest origins", "ingest", NAME, "origins", DATA / "wine_origins.csv", "--json")
    run("train", "train", NAME, "--json")
    run("build", "build", NAME, "--json")
    build_cards(commands, cards)
    run("publish", "publish", NAME, "analyses", write(folder / "more.csv", analyses[FIRST:]), "--json")
    paid = {"payment_id": "q1", **WHO, "category": "travel", "amount": REQUEST["amount"]}
    payment = {**paid, "paid_at": text(datetime.now(UTC))}
    event = {"source": "payments", "event": payment}
    question = {"key": WHO, "request": REQUEST, "explain": True}
    ours = [CARDS, "--request", json.dumps(REQUEST), *(f"{name}={value}" for name, value in WHO.items())]
    run("card before", "answer", *ours, "--event", json.dumps(event), "--json")
    with running(servers) as address:
        answers = {
            "card": asked(address, "predict", {**question, "event": {**event, "publish": True}}, CARDS),
            "card without": asked(address, "predict", question, CARDS),
        }
        run("stream", "stream", NAME, CARDS, "merchant_risk", "--once", "--json")
        answers |= {
            "one": asked(address, "predict", {"key": "w178"}),
            "many": asked(address, "predict", {"keys": [row["wine_id"] for row in analyses[:20]]}),
            "current": asked(address, "scores/w178"),
            "card again": asked(address, "predict", {**question, "event": {**event, "publish": True}}, CARDS),
        }
    run("answer", "answer", NAME, "w178", "--json")
    run("answer for people", "answer", NAME, "w178")
    run("card after", "answer", *ours, "--json")
    run("card why", "why", CARDS, *(f"{name}={value}" for name, value in WHO.items()), "--json")
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
    look_at_cards(commands, cards, later)
    return Lived(folder, commands.said, answers, cards, payment)


def build_cards(commands: Commands, cards: Simulated) -> None:
    """Land, train and build `card_fraud` and the project whose view it uses."""
    run, folder = commands.run, commands.folder
    disputes = lines(folder / "disputes.jsonl", cards.disputes)
    run("card disputes", "ingest", "merchant_risk", "disputes", disputes, "--json")
    payments = lines(folder / "payments.jsonl", cards.payments[:-LAST])
    run("card ingest", "ingest", CARDS, "payments", payments, "--json")
    outcomes = lines(folder / "outcomes.jsonl", cards.outcomes)
    run("card outcomes", "ingest", CARDS, "outcomes", outcomes, "--json")
    run("card merchants", "build", "merchant_risk", "--json")
    run("card train", "train", CARDS, "--json")
    run("card build", "build", CARDS, "--json")
    recent = lines(folder / "recent.jsonl", cards.payments[-LAST:])
    run("card publish", "publish", CARDS, "payments", recent, "--json")


def look_at_cards(commands: Commands, cards: Simulated, later: datetime) -> None:
    """The outcome of the payment that was asked about, mass scoring, and a verification."""
    run, folder = commands.run, commands.folder
    outcome = {"outcome_id": "oq1", **WHO, **REQUEST, "fraud": True, "decided_at": text(later)}
    run("card outcome", "publish", CARDS, "outcomes", lines(folder / "outcome.jsonl", [outcome]), "--json")
    run("card watch", "watch", CARDS, "--json")
    rows = lines(folder / "rows.jsonl", cards.outcomes[-500:])
    run("card score", "score", CARDS, "--in", rows, "--out", folder / "frauds", "--join-features", "--json")
    run("card verify", "verify", CARDS, "--all", "--json")


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


def test_a_model_over_derived_shared_and_shifted_features_and_the_request_passes_its_gate(
    river: Lived,
) -> None:
    said = {name: river.said[f"card {name}"].found for name in ("disputes", "ingest", "outcomes", "publish")}
    assert [said[name]["rows"] for name in ("disputes", "ingest", "outcomes")] == [
        len(rows) for rows in (river.cards.disputes, river.cards.payments[:-LAST], river.cards.outcomes)
    ]
    trained = river.said["card train"].found
    assert (trained["champion"], trained["rows"]) == (True, len(river.cards.outcomes))
    assert trained["metrics"]["roc_auc"] > 0.9


def folded(river: Lived, at: str, paid: Sequence[Row]) -> Row:
    """The features of the asked card and merchant by the plain fold over what had arrived."""
    project = load_project(CARDS, (ROOT / "projects",))
    payments = [{"source": "payments", **row} for row in paid if row["card"] == WHO["card"]]
    disputes = [{"source": "merchant_risk.disputes", **row} for row in river.cards.disputes]
    return fold(project, [*payments, *disputes], WHO, at, REQUEST)


def same(values: Row, answered: Mapping[str, Any]) -> None:
    """The answered features are the folded ones and the request; times are texts in answers."""
    assert answered.keys() == values.keys() | REQUEST.keys()
    for name, value in (values | REQUEST).items():
        if isinstance(value, datetime):
            assert datetime.fromisoformat(answered[name]) == value, name
        else:
            assert answered[name] == pytest.approx(value), name


def test_an_answer_with_its_event_and_the_one_after_the_event_arrived_equal_the_fold(river: Lived) -> None:
    before, after = river.said["card before"].found, river.said["card after"].found
    batch, paid = river.cards.payments[:-LAST], [*river.cards.payments, river.payment]
    assert (before["degraded"], after["degraded"]) == (False, False)
    assert before["features"]["payments_1h"] >= 1
    assert before["features"]["last_paid"] == river.payment["paid_at"]
    same(folded(river, before["as_of"], [*batch, river.payment]), before["features"])
    same(folded(river, after["as_of"], paid), after["features"])


def test_a_question_that_publishes_its_event_counts_it_once(river: Lived) -> None:
    first, again = river.answers["card"], river.answers["card again"]
    (known,) = {one["known"] for one in first["events"]}
    assert (known, [one["known"] for one in again["events"]]) == (False, [True])
    assert [one["degraded"] for one in (first, again)] == [False, False]
    assert first["explanation"]["margin"] != river.answers["card without"]["explanation"]["margin"]
    reasons = {reason["text"] for reason in first["explanation"]["reasons"]}
    assert "far more than this card pays at a time" in reasons


def test_why_shows_the_published_payment_and_the_disputes_of_the_other_project(river: Lived) -> None:
    views = {view["view"]: view for view in river.said["card why"].found["views"]}
    (payment,) = [event for event in views["hours"]["events"] if event["id"] == "q1"]
    assert (payment["channel"], payment["topic"]) == ("speed", "card-payments")
    (shared,) = [view for name, view in views.items() if name.endswith("merchants")]
    disputes = [row for row in river.cards.disputes if row["merchant"] == WHO["merchant"]]
    assert shared["found"] == len(disputes)


def test_mass_scoring_of_payments_tells_frauds_and_what_is_served_equals_the_lake(river: Lived) -> None:
    assert river.said["card score"].found["rows"] == 500
    rows = pq.read_table(river.folder / "frauds").to_pylist()
    assert len(rows) == 500
    assert roc_auc_score([row["fraud"] for row in rows], [row["score"] for row in rows]) > 0.9
    found = river.said["card verify"].found
    assert (found["mismatches"], found["degraded"]) == (0, 0)
    assert found["keys"] > 0


def test_a_look_joins_the_outcome_of_the_asked_payment(river: Lived) -> None:
    watched = river.said["card watch"].found
    measures = {
        (one["subject"], one["name"]): one["value"] for one in watched["measures"] if not one["slice"]
    }
    assert watched["predictions"] == {"1": 3}
    assert measures["predictions", "labels"] == 1  # it judges the latest prediction before it
