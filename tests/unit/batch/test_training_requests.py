"""Training requests and their answers: the topics are lists here, and no model is trained."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from anabranch.progress import Silent
from anabranch.stores.kafka.training_topics import FINAL, Message, TrainingTopics
from batch.training.request_service import TrainingService
from tests.support.training_desk import FakeDesk


class Topics:
    """Requests that wait, and the answers so far."""

    def __init__(self, *requests: dict[str, Any] | bytes) -> None:
        self.waiting = list(requests)
        self.given = 0
        self.said: list[dict[str, Any]] = []
        self.committed = 0

    def requests(self, _seconds: float) -> list[Message]:
        found, self.waiting, first = self.waiting, [], self.given
        self.given += len(found)
        return [
            Message(f"training-requests/0/{i}", one if isinstance(one, bytes) else json.dumps(one).encode())
            for i, one in enumerate(found, first)
        ]

    def alone(self, _project: str, _waiting: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()

    def answer(self, answers: Iterable[Mapping[str, Any]]) -> None:
        self.said += map(dict, answers)

    def answered(self) -> dict[str, dict[str, Any]]:
        return {one["request_id"]: one for one in self.said if one["status"] in FINAL}

    def commit(self) -> None:
        self.committed += 1


def serve(topics: Topics, desk: FakeDesk, *, others: bool = False) -> TrainingService:
    service = TrainingService(cast("TrainingTopics", topics), desk, Silent(), others=others)
    while service.serve(0):
        pass
    return service


def test_requests_that_wait_together_are_one_training_of_each_project(tmp_path: Path) -> None:
    names = ("wheat", "rye", "wheat", "stone")
    topics = Topics(
        *[{"request_id": f"{name}{i}", "project": name} for i, name in enumerate(names)],
        {"request_id": "wheat0", "project": "wheat"},
    )
    desk = FakeDesk(tmp_path)
    service = serve(topics, desk)
    assert desk.trained == [("wheat", ["wheat0", "wheat2"]), ("stone", ["stone3"])]
    assert (service.requests, service.trainings, topics.committed) == (4, 1, 1)
    final = topics.answered()
    assert {name: one["status"] for name, one in final.items()} == {
        "wheat0": "done",
        "wheat2": "done",
        "rye1": "failed",
        "stone3": "failed",
    }
    assert final["rye1"]["error"] == "the load is refused"
    assert final["stone3"]["error"] == "ZeroDivisionError: stones do not grow"
    assert final["wheat2"]["together"] == ["wheat0", "wheat2"]


def test_an_id_that_was_answered_gets_the_same_answer_again(tmp_path: Path) -> None:
    topics, desk = Topics({"request_id": "a", "project": "wheat"}), FakeDesk(tmp_path)
    serve(topics, desk)
    first = topics.said[-1]
    topics.waiting = [{"request_id": "a", "project": "wheat", "reason": "again"}]
    serve(topics, desk)
    assert topics.said[2:] == [first]
    assert len(desk.trained) == 1


def test_a_message_that_another_trainer_answered_meanwhile_is_neither_trained_nor_answered_again(
    tmp_path: Path,
) -> None:
    first, second = FakeDesk(tmp_path), FakeDesk(tmp_path)
    topics = Topics({"request_id": "a", "project": "wheat"})
    late = TrainingService(cast("TrainingTopics", topics), second, Silent(), others=False)
    serve(topics, first)
    topics.waiting, topics.given = (
        [{"request_id": "a", "project": "wheat"}, {"request_id": "b", "project": "wheat"}],
        0,
    )
    while late.serve(0):
        pass
    assert [one["status"] for one in topics.said if one["request_id"] == "a"] == ["accepted", "done"]
    assert (first.trained, second.trained) == ([("wheat", ["a"])], [("wheat", ["b"])])


def test_rows_are_landed_before_the_training(tmp_path: Path) -> None:
    rows = {"things": [{"id": "t1"}]}
    topics, desk = (
        Topics(
            {"request_id": "a", "project": "wheat", "rows": rows}, {"request_id": "b", "project": "wheat"}
        ),
        FakeDesk(tmp_path),
    )
    serve(topics, desk)
    assert desk.landed == [rows]


def test_requests_of_projects_that_others_train_are_left_to_them(tmp_path: Path) -> None:
    topics, desk = Topics({"request_id": "a", "project": "barley"}), FakeDesk(tmp_path)
    serve(topics, desk, others=True)
    assert (topics.said, desk.trained, topics.committed) == ([], [], 1)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"{", "this is no JSON"),
        (b"\xff", "this is no JSON"),
        (b"[1]", "a request is a JSON object, not [1]"),
        ({"project": "wheat"}, "request_id is missing"),
        (
            {"request_id": "a" * 201, "project": "wheat"},
            "request_id is missing or no text of at most 200 characters",
        ),
        ({"request_id": "a"}, "project is missing"),
        ({"request_id": "a", "project": "barley"}, "there is no project 'barley'"),
        ({"request_id": "a", "project": "wheat", "row": {}}, "a request has no field 'row'"),
        (
            {"request_id": "a", "project": "wheat", "rows": {"things": [1]}},
            "rows is to be an object with a list of objects",
        ),
        ({"request_id": "a", "project": "wheat", "rows": {"bad": [{}]}}, "wheat has no source 'bad'"),
    ],
)
def test_a_message_that_is_no_request_is_answered_and_never_ends_the_service(
    tmp_path: Path, message: dict[str, Any] | bytes, error: str
) -> None:
    topics, desk = Topics(message, {"request_id": "next", "project": "wheat"}), FakeDesk(tmp_path)
    serve(topics, desk)
    refused, accepted, done = topics.said
    assert (refused["status"], refused["message"], accepted["status"], done["status"]) == (
        "refused",
        "training-requests/0/0",
        "accepted",
        "done",
    )
    assert error in refused["error"]
