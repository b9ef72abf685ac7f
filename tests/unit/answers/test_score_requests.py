"""Reading score requests from messages: the checks of REST's predict, an id, and no exceptions."""

import json
from collections.abc import Mapping, Sequence

import pytest

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.answers.features import Answer
from anabranch.answers.predict import Prediction
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked, read_asked, read_message
from speed.requests import outcomes
from tests.support.serving_fakes import NOW, SumScorer

visits = Source(
    name="visits",
    id="id",
    time="at",
    schema="id STRING, who STRING, at TIMESTAMP, pages INT, town STRING, bought INT",
)
seen = FeatureView(
    name="seen",
    source=visits,
    key="who",
    features={"pages": Last("pages"), "town": Last("town"), "visits": Count()},
)
shop = Project(
    name="shop", views=(seen,), label=Label(source=visits, key="who", target="bought > 0"), model=Model()
)


@pytest.mark.parametrize(
    ("document", "asked"),
    [
        ({"request_id": "r", "key": "ann"}, Asked({"who": "ann"}, {})),
        ({"request_id": "r", "key": {"who": 7}}, Asked({"who": "7"}, {})),
        (
            {"request_id": "r", "features": {"pages": 3, "town": None}},
            Asked(None, {"pages": 3, "town": None}),
        ),
        (
            {"request_id": "r", "key": "ann", "features": {"town": "Oslo"}},
            Asked({"who": "ann"}, {"town": "Oslo"}),
        ),
    ],
)
def test_a_valid_message_is_read_like_the_body_of_an_http_request(
    document: dict[str, object], asked: Asked
) -> None:
    found = read_message(json.dumps(document).encode(), shop)
    assert (found.id, found.asked, found.problem) == ("r", asked, None)


@pytest.mark.parametrize("sent", ["1.10", "-9.292860303920501e17", "9007199254740993.0", "1E+2"])
def test_a_number_in_a_key_is_the_text_that_was_sent(sent: str) -> None:
    """As that of an event is, wherever a request has its key; features are doubles."""
    key = {"who": sent}
    for form in (sent, f'{{"who": {sent}}}'):
        message = f'{{"request_id": "r", "key": {form}, "features": {{"pages": 3}}}}'
        assert read_message(message.encode(), shop).asked == Asked(key, {"pages": 3})
        several = read_asked(f'{{"keys": ["ann", {form}]}}'.encode(), shop)
        assert isinstance(several, list)
        assert [one.key for one in several] == [{"who": "ann"}, key]
        instances = read_asked(f'{{"instances": [{{"key": "ann"}}, {{"key": {form}}}]}}'.encode(), shop)
        assert isinstance(instances, list)
        assert [one.key for one in instances] == [{"who": "ann"}, key]


def test_a_whole_number_can_be_an_id_and_stays_a_number() -> None:
    assert read_message(b'{"request_id": 12, "key": "ann"}', shop).id == 12


@pytest.mark.parametrize(
    ("value", "identity", "kind", "field"),
    [
        (None, None, "bad-json", None),
        (b"", None, "bad-json", None),
        (b"{", None, "bad-json", None),
        (b"\xff\xfe", None, "bad-json", None),
        (b'{"request_id": "\\ud800", "key": NaN}', None, "wrong-value", "key"),
        (b"[" * 100_000, None, "bad-json", None),
        (b"[1]", None, "wrong-value", "request_id"),
        (b'{"key": "ann"}', None, "wrong-value", "request_id"),
        (b'{"request_id": "", "key": "ann"}', None, "wrong-value", "request_id"),
        (b'{"request_id": 1.5, "key": "ann"}', None, "wrong-value", "request_id"),
        (b'{"request_id": true, "key": "ann"}', None, "wrong-value", "request_id"),
        (json.dumps({"request_id": "x" * 513, "key": "ann"}).encode(), None, "wrong-value", "request_id"),
        (b'{"request_id": "r", "key": "' + b"x" * 1_100_000 + b'"}', None, "too-large", None),
        (b'{"request_id": "r"}', "r", "wrong-value", "key"),
        (b'{"request_id": "r", "keys": ["ann"]}', "r", "unknown-field", "keys"),
        (b'{"request_id": "r", "key": {"town": "Oslo"}}', "r", "unknown-field", "key.town"),
        (b'{"request_id": "r", "features": 3}', "r", "wrong-value", "features"),
        (b'{"request_id": "r", "features": {"age": 3}}', "r", "unknown-feature", "features.age"),
        (b'{"request_id": "r", "features": {"pages": "3"}}', "r", "wrong-type", "features.pages"),
        (
            b'{"request_id": "r", "features": {"pages": 99999999999999999999}}',
            "r",
            "wrong-type",
            "features.pages",
        ),
        (b'{"request_id": "r", "features": {"pages": NaN}}', "r", "wrong-value", "features.pages"),
        (b'{"request_id": "r", "features": {"pages": 1e999}}', "r", "wrong-value", "features.pages"),
    ],
)
def test_an_invalid_message_is_a_problem_that_keeps_its_id(
    value: bytes | None, identity: str | None, kind: str, field: str | None
) -> None:
    found = read_message(value, shop)
    assert found.asked is None
    assert found.problem is not None
    assert (found.id, found.problem.kind, found.problem.field) == (identity, kind, field)


class Known:
    """A store that knows ann; counts what it was asked for."""

    reads = 0

    def features(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        at: int | None = None,
        events: Sequence[object] = (),
        manifest: object = None,
    ) -> list[Answer]:
        self.reads += 1
        empty: dict[str, object] = {"pages": None, "town": None, "visits": 0}
        return [
            Answer(
                {"who": str(key["who"])},
                {"pages": 60, "town": None, "visits": 2} if key["who"] == "ann" else empty,
                NOW,
                known=key["who"] == "ann",
            )
            for key in keys
        ]


def test_unknown_keys_among_the_requests_of_a_micro_batch_are_problems_and_the_rest_is_scored() -> None:
    bodies: list[dict[str, object]] = [
        {"key": "bob"},
        {"key": "ann"},
        {"key": "bob", "features": {"pages": 10}},
        {"key": "zoe"},
        {"features": {"pages": 30}},
    ]
    asked = [
        found
        for body in bodies
        if (found := read_message(json.dumps({"request_id": "r", **body}).encode(), shop).asked) is not None
    ]
    store = Known()
    said = outcomes(shop, SumScorer("3", ("pages", "visits")), store, asked)  # type: ignore[arg-type]
    assert store.reads == 1
    assert [each.answer["score"] if isinstance(each, Prediction) else each.kind for each in said] == [
        "unknown-key",
        0.062,
        0.01,
        "unknown-key",
        0.03,
    ]
    problem = said[3]
    assert isinstance(problem, ProblemError)
    assert (problem.status, problem.field) == (404, "key")
    assert problem.detail.startswith("nothing is known of key 'zoe': shop has no event of it")
    alone = outcomes(shop, SumScorer("3", ("pages", "visits")), store, asked[:1])  # type: ignore[arg-type]
    assert [each.document for each in alone if isinstance(each, ProblemError)] == [
        {**problem.document, "detail": problem.detail.replace("zoe", "bob")}
    ]
