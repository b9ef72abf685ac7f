"""The answer service: whoever calls it gets the same answers, and each prediction is recorded once."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from anabranch import Count, FeatureView, Label, Last, Model, Project, Source
from anabranch.answers.features import Answer, Answers
from anabranch.answers.predict import Prediction
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import Asked
from anabranch.answers.service import AnswerService, Outcome, Questions, fitting_scorer
from anabranch.errors import MisuseError, UnavailableError
from tests.support.serving_fakes import NOW, SumScorer

visits = Source(
    name="visits", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, pages INT, bought INT"
)
seen = FeatureView(name="seen", source=visits, key="who", features={"pages": Last("pages"), "n": Count()})
shop = Project(
    name="shop", views=(seen,), label=Label(source=visits, key="who", target="bought > 0"), model=Model()
)
CHAMPION = SumScorer("3", ("pages", "n"))
ASKED = [
    Asked({"who": "bob"}, {}, "keys[0]"),
    Asked({"who": "ann"}, {}),
    Asked({"who": "ann"}, {"pages": 10}),
    Asked(None, {"pages": 1, "n": 2}),
    Asked({"who": "bob"}, {"pages": 30}),
]


class Known:
    """A store that knows ann; `away` while it does not answer."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.away = False

    def features(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        at: int | None = None,
        events: Sequence[Any] = (),
        manifest: object = None,
    ) -> list[Answer]:
        if self.away:
            raise UnavailableError("Cassandra is away")
        self.reads.append(len(keys))
        return [self._answer(str(key["who"]), None) for key in keys]

    async def answer(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        _: object,
        events: Sequence[Any] = (),
    ) -> list[Answer]:
        return self.features(project, keys)

    def last_known(
        self,
        project: Project,
        keys: Sequence[Mapping[str, object]],
        _: object,
        why: str,
        events: Sequence[Any] = (),
    ) -> list[Answer]:
        return [self._answer(str(key["who"]), why) for key in keys]

    @staticmethod
    def _answer(who: str, degraded: str | None) -> Answer:
        values = {"pages": 60, "n": 2} if who == "ann" else {"pages": None, "n": 0}
        return Answer({"who": who}, values, NOW, degraded, 7, who == "ann")


@pytest.fixture
def store() -> Known:
    return Known()


@pytest.fixture
def service(store: Known) -> AnswerService:
    return AnswerService(cast("Answers", store), clock=lambda: NOW)


def scores(outcomes: Sequence[Outcome]) -> list[float | str]:
    return [one.answer["score"] if isinstance(one, Prediction) else one.kind for one in outcomes]


def test_blocking_and_awaiting_callers_get_the_same_outcomes_by_one_read(
    store: Known, service: AnswerService
) -> None:
    questions = Questions(shop, CHAMPION, ASKED)
    waited = service.predict(questions)
    awaited = asyncio.run(service.predict_async(questions, None))
    assert scores(waited) == ["unknown-key", 0.062, 0.012, 0.003, 0.03]
    assert scores(awaited) == scores(waited)
    assert [one.answer for one in awaited if isinstance(one, Prediction)] == [
        one.answer for one in waited if isinstance(one, Prediction)
    ]
    assert store.reads == [4, 4]
    problem = waited[0]
    assert isinstance(problem, ProblemError)
    assert (problem.status, problem.field) == (404, "keys[0]")


def test_each_prediction_is_recorded_once_and_problems_are_not(service: AnswerService) -> None:
    recorded: list[tuple[str, Prediction]] = []
    service.record = lambda project, prediction: recorded.append((project.name, prediction))
    outcomes = service.predict(Questions(shop, CHAMPION, ASKED))
    assert recorded == [("shop", one) for one in outcomes if isinstance(one, Prediction)]
    assert [one.asked for _, one in recorded] == ASKED[1:]
    assert [one.used for _, one in recorded][1] == {"pages": 10.0, "n": 2.0}


def test_without_the_store_awaited_answers_are_the_last_known_and_blocking_calls_raise(
    store: Known, service: AnswerService
) -> None:
    store.away = True
    (outcome,) = asyncio.run(service.predict_async(Questions(shop, CHAMPION, ASKED[1:2]), None))
    assert isinstance(outcome, Prediction)
    assert (outcome.answer["degraded"], outcome.answer["degraded_reason"]) == (True, "Cassandra is away")
    with pytest.raises(UnavailableError, match="Cassandra is away"):
        service.predict(Questions(shop, CHAMPION, ASKED))


def test_each_request_is_answered_by_its_own_version_and_a_failing_one_by_the_champion(
    service: AnswerService,
) -> None:
    class Failing(SumScorer):
        def score(self, columns: Mapping[str, Any]) -> Any:
            raise MisuseError("the model is broken")

    asked = [ASKED[1]] * 3
    by = (CHAMPION, SumScorer("4", ("pages",)), Failing("5", ("n",)))
    outcomes = service.predict(Questions(shop, CHAMPION, asked, by))
    versions = [one.answer["model_version"] for one in outcomes if isinstance(one, Prediction)]
    assert (scores(outcomes), versions) == ([0.062, 0.06, 0.062], ["3", "4", "3"])


def test_a_request_that_the_model_cannot_take_does_not_spoil_the_others(service: AnswerService) -> None:
    class Picky(SumScorer):
        def score(self, columns: Mapping[str, Any]) -> Any:
            if 10.0 in columns["pages"]:
                raise ValueError("10 is no number of pages")
            return super().score(columns)

    assert scores(service.predict(Questions(shop, Picky("3", ("pages", "n")), ASKED[1:]))) == [
        0.062,
        "fault",
        0.003,
        0.03,
    ]


def test_stored_features_are_described_with_their_score_and_unknown_keys_without(
    service: AnswerService,
) -> None:
    ann, bob = service.features(shop, [{"who": "ann"}, {"who": "bob"}])
    assert service.describe(shop, ann, CHAMPION) == {
        "score": 0.062,
        "label": 0,
        "model_version": "3",
        "batch_version": 7,
        "as_of": "2024-05-01T12:00:00Z",
        "degraded": False,
    }
    assert service.describe(shop, bob, CHAMPION)["score"] is None
    assert service.describe(shop, ann, None)["model_version"] is None


def test_without_a_version_that_fits_the_declaration_there_is_a_problem_that_says_what_to_do() -> None:
    with pytest.raises(ProblemError, match="shop has no champion: run 'anabranch train shop'"):
        fitting_scorer(shop, None)
    with pytest.raises(ProblemError) as refused:
        fitting_scorer(shop, SumScorer("3", ("gone",)))
    assert (refused.value.status, refused.value.kind) == (503, "no-model")
    assert fitting_scorer(shop, CHAMPION) is CHAMPION
