"""A score is answered with what its features contributed, by whichever way it is asked for."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from anabranch import Count, Derived, FeatureView, Label, Last, Model, Project, Request, Source
from anabranch.answers.features import Answer, Answers
from anabranch.answers.predict import Prediction, record
from anabranch.answers.problems import ProblemError
from anabranch.answers.requests import MOST_EXPLAINED, Asked, read_asked, read_message
from anabranch.answers.service import AnswerService, Outcome, Questions
from anabranch.errors import DeclarationError
from anabranch.stores.models.explaining.explanation import top_reasons
from anabranch.stores.models.inputs import model_inputs
from anabranch.stores.models.versions import Scorer
from batch.calibration.adjusted import adjusted
from batch.trainers.registry import learn
from batch.trainers.rows import TrainingRows
from serving.api.bodies import ExplanationBody
from tests.support.serving_fakes import NOW, SumScorer

visits = Source(
    name="visits",
    id="id",
    time="at",
    schema="id STRING, who STRING, at TIMESTAMP, pages INT, wanted DOUBLE, bought INT",
)
seen = FeatureView(name="seen", source=visits, key="who", features={"pages": Last("pages"), "n": Count()})
WORDS = {"pages": "looked at many pages", "n": "came often", "jump": "asked for more than was looked at"}
shop = Project(
    name="shop",
    views=(seen,),
    request=Request(schema="wanted DOUBLE"),
    derived={"jump": Derived("wanted / nullif(pages, 0)")},
    label=Label(source=visits, key="who", target="bought > 0"),
    model=Model(reasons=WORDS),
)


class AnnIsKnown:
    """A store that knows ann."""

    def features(
        self,
        project: Project,
        keys: Sequence[Any],
        at: int | None = None,
        events: Sequence[Any] = (),
        manifest: object = None,
    ) -> list[Answer]:
        return [Answer(key, {"pages": 60, "n": 2}, NOW, None, 7, key["who"] == "ann") for key in keys]

    async def answer(
        self, project: Project, keys: Sequence[Any], _: object, events: Sequence[Any] = ()
    ) -> list[Answer]:
        return self.features(project, keys)


def version(
    folder: Path,
    name: str,
    trainer: str = "xgboost",
    classes: tuple[str | int, ...] = (),
    calibrate: str | None = None,
    **params: object,
) -> Scorer:
    """A version that has learnt that those who ask for more than they looked at buy, and who come often.

    With three `classes` those who do so much more than others are of the third.
    """
    inputs = model_inputs(shop)
    rng = np.random.default_rng(1)
    matrix = np.abs(rng.normal(size=(300, len(inputs)))).astype(np.float32) * [100, 5, 1, 100]
    wish = matrix @ [0.005, 0.1, 4, 0] + rng.normal(size=300)
    rows = TrainingRows(
        matrix=matrix.astype(np.float32),
        target=(wish > 3.5).astype(float) + (wish > 6.0) * bool(classes),
        inputs=inputs,
        task="classes" if classes else "class",
        classes=classes,
        params=params,
    )
    (folder / name).mkdir()
    declared = Model(trainer=trainer, calibrate=calibrate)
    adjusted(learn(trainer, rows), declared, rows).fitted().write(folder / name)
    return Scorer(name, folder / name)


@pytest.fixture
def champion(tmp_path: Path) -> Scorer:
    return version(tmp_path, "3", rounds=30)


@pytest.fixture
def service() -> AnswerService:
    return AnswerService(cast("Answers", AnnIsKnown()), clock=lambda: NOW)


def ask(body: object) -> list[Asked]:
    found = read_asked(json.dumps(body).encode(), shop)
    return found if isinstance(found, list) else [found]


def explanation(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Prediction), outcome
    found: dict[str, Any] = outcome.answer["explanation"]
    return found


ANN = {"key": "ann", "request": {"wanted": 90.0}}


def test_an_explanation_adds_up_to_the_score_over_features_derived_ones_and_the_request(
    service: AnswerService, champion: Scorer
) -> None:
    (outcome,) = service.predict(Questions(shop, champion, ask({**ANN, "explain": True})))
    found = explanation(outcome)
    assert isinstance(outcome, Prediction)
    assert (found["method"], found["space"]) == ("trees", "log-odds")
    assert set(found["contributions"]) == {"pages", "n", "wanted", "jump"}
    margin = found["base"] + sum(found["contributions"].values())
    assert found["margin"] == pytest.approx(margin, abs=1e-9)
    assert 1 / (1 + np.exp(-margin)) == pytest.approx(outcome.answer["score"], abs=1e-6)
    assert outcome.used["jump"] == 1.5
    assert "standard_errors" not in found


def test_reasons_are_the_declared_words_of_what_raised_the_score(
    service: AnswerService, champion: Scorer
) -> None:
    (outcome,) = service.predict(Questions(shop, champion, ask({**ANN, "explain": True})))
    found = explanation(outcome)
    raised = {name: found["contributions"][name] for name in WORDS if found["contributions"][name] > 0}
    assert [each["features"] for each in found["reasons"]] == [
        [name] for name in sorted(raised, key=lambda name: -raised[name])
    ]
    assert found["reasons"][0] == {
        "text": WORDS["jump"], "features": ["jump"], "contribution": raised["jump"],
    }  # fmt: skip
    plain = replace(shop, model=Model())
    (outcome,) = service.predict(Questions(plain, champion, ask({**ANN, "explain": True})))
    assert "reasons" not in explanation(outcome)


def test_features_with_one_text_are_one_reason_and_four_are_told() -> None:
    texts = {"a": "often", "b": "often", "c": "much", "d": "less", "e": "fifth", "f": "sixth", "g": "gone"}
    contributions = {"a": 0.2, "b": 0.4, "c": 0.5, "d": -1.0, "e": 0.1, "f": 0.05, "h": 9.0}
    found = top_reasons(texts, contributions)
    assert [(one.text, one.features) for one in found] == [
        ("often", ("b", "a")), ("much", ("c",)), ("fifth", ("e",)), ("sixth", ("f",)),
    ]  # fmt: skip
    assert found[0].contribution == pytest.approx(0.6)
    several = {f"x{at}": f"text {at}" for at in range(9)}
    assert len(top_reasons(several, dict.fromkeys(several, 1.0))) == 4
    assert top_reasons({"d": "less"}, contributions) == []


def test_every_way_to_ask_gives_the_same_explanation(service: AnswerService, champion: Scorer) -> None:
    alone = ask({**ANN, "explain": True})
    (waited,) = service.predict(Questions(shop, champion, alone))
    (awaited,) = asyncio.run(service.predict_async(Questions(shop, champion, alone), None))
    message = read_message(json.dumps({"request_id": "r", **ANN, "explain": True}).encode(), shop)
    assert message.asked is not None
    (by_message,) = service.predict(Questions(shop, champion, [message.asked]))
    among = ask({"instances": [ANN, {**ANN, "request": {"wanted": 1.0}}, ANN], "explain": True})
    several = service.predict(Questions(shop, champion, among))
    told = [explanation(each) for each in (waited, awaited, by_message, several[0], several[2])]
    assert all(each == told[0] for each in told)
    assert explanation(several[1]) != told[0]
    one_of_two = service.predict(
        Questions(shop, champion, ask({"instances": [ANN, {**ANN, "explain": True}]}))
    )
    assert isinstance(one_of_two[0], Prediction)
    assert "explanation" not in one_of_two[0].answer
    assert explanation(one_of_two[1]) == told[0]


def test_each_version_explains_its_own_score(
    service: AnswerService, champion: Scorer, tmp_path: Path
) -> None:
    canary = version(tmp_path, "4", "logistic")
    asked = ask({"instances": [ANN, ANN], "explain": True})
    first, second = service.predict(Questions(shop, champion, asked, (champion, canary)))
    assert explanation(first)["method"] == "trees"
    assert explanation(second)["method"] == "linear"
    assert isinstance(second, Prediction)
    assert 1 / (1 + np.exp(-explanation(second)["margin"])) == pytest.approx(second.answer["score"], abs=1e-6)


@pytest.mark.parametrize("classes", [("none", "some", "many"), (10, 3, 2)])
def test_of_several_classes_the_label_that_was_answered_is_explained(
    service: AnswerService, tmp_path: Path, classes: tuple[str | int, ...]
) -> None:
    scorer = version(tmp_path, "5", classes=classes, rounds=150)
    wanted = [1.0, 60.0, 600.0, 2.0, 900.0]
    instances = [{"key": "ann", "request": {"wanted": each}} for each in wanted]
    outcomes = service.predict(Questions(shop, scorer, ask({"instances": instances, "explain": True})))
    labels = []
    for instance, outcome in zip(instances, outcomes, strict=True):
        found = explanation(outcome)
        assert isinstance(outcome, Prediction)
        assert (found["method"], found["space"]) == ("sampled", "probability")
        assert found["label"] == outcome.answer["label"]
        labels.append(found["label"])
        assert found["margin"] == pytest.approx(outcome.answer["score"], abs=1e-5)
        assert found["base"] + sum(found["contributions"].values()) == pytest.approx(found["margin"])
        (alone,) = service.predict(Questions(shop, scorer, ask({**instance, "explain": True})))
        assert explanation(alone)["contributions"] == pytest.approx(found["contributions"], abs=1e-6)
        msgspec.convert(found, ExplanationBody)
    assert set(labels) == set(classes)
    stored = AnnIsKnown().features(shop, [{"who": "ann"}])[0]
    described = service.describe(
        shop, replace(stored, values={**stored.values, "wanted": 600.0, "jump": 10.0}), scorer,
        requested=True, explain=True,
    )  # fmt: skip
    assert described["explanation"]["label"] == described["label"]


def test_a_calibrated_score_is_explained_as_it_is_before_calibration(
    service: AnswerService, champion: Scorer, tmp_path: Path
) -> None:
    plain = explanation(service.predict(Questions(shop, champion, ask({**ANN, "explain": True})))[0])
    calibrated = version(tmp_path, "6", calibrate="sigmoid", rounds=30)
    (outcome,) = service.predict(Questions(shop, calibrated, ask({**ANN, "explain": True})))
    assert isinstance(outcome, Prediction)
    assert explanation(outcome) == plain | {"before_calibration": True}
    assert "before_calibration" not in plain
    assert 1 / (1 + np.exp(-plain["margin"])) != pytest.approx(outcome.answer["score"], abs=1e-4)


def test_what_was_told_is_in_the_log_of_predictions(service: AnswerService, champion: Scorer) -> None:
    recorded: list[bytes] = []
    service.record = lambda project, one: recorded.append(record(project.name, "1", one))
    service.predict(Questions(shop, champion, ask({**ANN, "explain": True})))
    kept = json.loads(recorded[0])
    assert kept["answered"]["explanation"]["reasons"][0]["text"] == WORDS["jump"]


def test_a_version_that_cannot_be_explained_is_a_problem_and_no_prediction(
    service: AnswerService, champion: Scorer, tmp_path: Path
) -> None:
    (tmp_path / "3" / "explainer.npz").unlink()
    old = Scorer("3", tmp_path / "3")
    recorded: list[Prediction] = []
    service.record = lambda _, one: recorded.append(one)
    plain, explained = service.predict(
        Questions(shop, old, ask({"instances": [ANN, {**ANN, "explain": True}]}))
    )
    assert isinstance(plain, Prediction)
    assert isinstance(explained, ProblemError)
    assert (explained.status, explained.kind) == (409, "not-explained")
    assert "version 3 cannot be explained" in str(explained)
    assert recorded == [plain]


def test_an_unknown_key_is_a_problem_whether_or_not_it_is_to_be_explained(
    service: AnswerService, champion: Scorer
) -> None:
    asked = ask({"key": "bob", "request": {"wanted": None}, "explain": True})
    (outcome,) = service.predict(Questions(shop, champion, asked))
    assert isinstance(outcome, ProblemError)
    assert outcome.kind == "unknown-key"


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({**ANN, "explain": "yes"}, "explain", "explain is 'yes': send true or false"),
        (
            {"instances": [{**ANN, "explain": 1}]},
            r"instances\[0\].explain",
            "explain is 1: send true or false",
        ),
        (
            {"instances": [ANN] * 101, "explain": True},
            "explain",
            f"101 scores.*{MOST_EXPLAINED} explanations",
        ),
        ({"keys": ["ann"], "why": True}, "why", "'why' does not go with keys"),
    ],
)
def test_a_wrong_wish_is_refused_by_its_field(body: object, field: str, text: str) -> None:
    with pytest.raises(ProblemError, match=text) as refused:
        ask(body)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ({"gone": "x"}, "reason for 'gone' is in no view"),
        ({"pages": " "}, "the reason of 'pages' is ' '"),
        (("pages",), "reasons is \\('pages',\\): give a text by feature"),
    ],
)
def test_a_wrong_declaration_of_reasons_is_refused(reasons: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        replace(shop, model=Model(reasons=reasons))


def test_a_reason_for_what_the_model_does_not_read_is_refused() -> None:
    with pytest.raises(DeclarationError, match="reason for 'n', which the model does not read"):
        replace(shop, model=Model(features=("pages",), reasons={"n": "came often"}))
    assert replace(shop, model=Model()).fingerprint == shop.fingerprint  # words change no model


def test_the_sum_of_the_servers_own_tests_is_explained_too(service: AnswerService) -> None:
    scorer = SumScorer("3", ("pages", "n"))
    (outcome,) = service.predict(Questions(shop, scorer, ask({**ANN, "explain": True})))
    assert explanation(outcome)["contributions"] == pytest.approx({"pages": 0.06, "n": 0.002})
