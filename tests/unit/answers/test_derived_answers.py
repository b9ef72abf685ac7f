"""Derived features and the request in answers: computed for all keys together, over what was given."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from anabranch.answers.current import rows_of
from anabranch.answers.features import Answer, Answers
from anabranch.answers.predict import Prediction, needs_store, predict, record
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, read_asked, read_message
from anabranch.answers.service import AnswerService
from anabranch.stores.models.versions import Scorer
from tests.support.fraud import fraud
from tests.support.serving_fakes import NOW

STORED = {
    "spent_1h": 1.0,
    "spent_7d": 4.0,
    "payments_1h": 1,
    "payments_7d": 4,
    "last_shop": "abc",
    "last_paid": NOW,
    "ratio": 0.25,
    "share": 0.125,
    "jump": None,
    "by_web": None,
    "odd_card": True,
    "shop_name": "AB-7",
}
ANSWER = Answer({"card": "7"}, STORED, NOW)


class Recorder(Scorer):
    """Scores with 0 and keeps what it was asked."""

    def __init__(self, features: Sequence[str]) -> None:
        self.version, self.features = "1", tuple(features)
        self.columns: Mapping[str, Any] = {}

    def score(self, columns: Mapping[str, Any]) -> Any:
        self.columns = columns
        return np.zeros(len(next(iter(columns.values()))))

    def label(self, scores: Any) -> Any:
        return [0] * len(scores)


def used(*asked: Asked, stored: Answer | None = ANSWER) -> list[dict[str, Any]]:
    scorer = Recorder(fraud.model_features)
    return [one.used for one in predict(fraud, scorer, asked, [stored] * len(asked), NOW)]


def test_the_request_completes_the_derived_features_of_an_answer() -> None:
    one, other = used(
        Asked({"card": "7"}, {}, request={"amount": 2, "channel": "web"}),
        Asked({"card": "7"}, {}, request={"amount": None, "channel": "app"}),
    )
    assert one == {
        "spent_1h": 1.0,
        "spent_7d": 4.0,
        "ratio": 0.25,
        "share": 0.125,
        "odd_card": 1.0,
        "jump": 0.5,
        "by_web": 0.0,
        "amount": 2.0,
        "channel": "web",
    }
    assert (other["jump"], other["amount"], other["by_web"], other["channel"]) == (None, None, 0.0, "app")


def test_given_features_count_in_derived_ones_and_given_derived_ones_win() -> None:
    request = {"amount": 2.0, "channel": "web"}
    one, two, alone = used(
        Asked({"card": "7"}, {"spent_7d": 8}, request=request),
        Asked({"card": "7"}, {"ratio": 9}, request=request),
        Asked(None, {"spent_1h": 1, "last_paid": "2024-05-01T03:00:00Z"}, request=request),
    )
    assert (one["ratio"], one["share"], one["jump"]) == (0.125, 0.0625, 0.25)
    assert (two["ratio"], two["jump"]) == (9.0, 0.5)
    (alone,) = used(
        Asked(None, {"spent_1h": 1, "last_paid": "2024-05-01T03:00:00Z"}, request=request), stored=None
    )
    assert (alone["ratio"], alone["by_web"], alone["odd_card"]) == (None, 1.0, None)


def test_the_store_is_read_only_for_features_that_the_score_depends_on() -> None:
    request = {"amount": 2.0, "channel": "web"}
    by_ratio = Recorder(("ratio", "amount", "odd_card"))
    assert needs_store(fraud, Asked({"card": "7"}, {}, request=request), by_ratio)
    assert needs_store(fraud, Asked({"card": "7"}, {"spent_1h": 1}, request=request), by_ratio)
    assert not needs_store(
        fraud, Asked({"card": "7"}, {"spent_1h": 1, "spent_7d": 2}, request=request), by_ratio
    )
    assert not needs_store(fraud, Asked({"card": "7"}, {"ratio": 1}, request=request), by_ratio)


def test_a_request_is_read_with_its_defaults() -> None:
    one = read_asked(b'{"key": 7, "request": {"amount": 3}}', fraud)
    assert one == Asked({"card": "7"}, {}, request={"amount": 3, "channel": "web"})
    message = read_message(
        b'{"request_id": "r", "key": "7", "request": {"amount": null, "channel": "app"}}', fraud
    )
    assert message.asked == Asked({"card": "7"}, {}, request={"amount": None, "channel": "app"})


@pytest.mark.parametrize(
    ("body", "field", "kind"),
    [
        ({"key": 7}, "request.amount", "missing-field"),
        ({"key": 7, "request": {}}, "request.amount", "missing-field"),
        ({"key": 7, "request": {"amount": "3"}}, "request.amount", "wrong-type"),
        ({"key": 7, "request": {"amount": 3, "channel": 1}}, "request.channel", "wrong-type"),
        ({"key": 7, "request": {"amount": 3, "kind": 1}}, "request.kind", "unknown-field"),
        ({"key": 7, "request": [3]}, "request", "wrong-value"),
        ({"keys": [7]}, "request.amount", "missing-field"),
        ({"instances": [{"key": 7, "request": {}}]}, "instances[0].request.amount", "missing-field"),
        ({"request": {"amount": 3}}, "key", "wrong-value"),
    ],
)
def test_a_bad_request_is_a_422_that_names_the_field(body: dict[str, Any], field: str, kind: str) -> None:
    with pytest.raises(ProblemError) as raised:
        read_asked(json.dumps(body).encode(), fraud)
    assert (raised.value.status, raised.value.field, raised.value.kind) == (422, field, kind)


def test_without_a_request_current_rows_have_no_score_of_a_model_that_reads_it() -> None:
    reads_it, does_not = Recorder(fraud.model_features), Recorder(("ratio", "spent_1h"))
    (row,) = rows_of(fraud, [ANSWER], reads_it, "speed")
    assert (row["score"], row["ratio"], row["jump"], row["odd_card"]) == (None, 0.25, None, True)
    (row,) = rows_of(fraud, [ANSWER], does_not, "speed")
    assert row["score"] == 0.0
    service = AnswerService(cast("Answers", None), clock=lambda: NOW)
    assert service.describe(fraud, ANSWER, reads_it)["score"] is None
    assert service.describe(fraud, ANSWER, does_not)["score"] == 0.0


def test_a_recorded_prediction_has_its_request() -> None:
    asked = Asked({"card": "7"}, {}, request={"amount": 2.0, "channel": "web"})
    (made,) = predict(fraud, Recorder(fraud.model_features), [asked], [ANSWER], NOW)
    assert isinstance(made, Prediction)
    assert json.loads(record("fraud", "p1", made))["asked"] == {
        "key": "7",
        "features": {},
        "request": {"amount": 2.0, "channel": "web"},
    }
