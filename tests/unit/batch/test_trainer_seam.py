"""A trainer is one value and one line: a toy from outside is declared, learnt, checked and scored.

tests/spark/batch/test_promotion.py takes the same toy through the gate into the registry.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import xgboost

from anabranch.declare.models import Member, Model, Search
from anabranch.errors import AnabranchError, DeclarationError
from anabranch.stores.models.inputs import ModelInput
from batch.trainers.boosted import XGBOOST_PARAMETERS
from batch.trainers.registry import check_model, fit, learn, register
from batch.trainers.rows import TrainingRows
from tests.support.stump import registered, stump


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    with registered(stump("stump"), stump("torn", error=1e-3)):
        yield


def rows() -> TrainingRows:
    """Numbers from 0 to 19, some missing; above 9.5 the class is mostly 1."""
    random = np.random.default_rng(1)
    pages = random.integers(0, 20, 200).astype(np.float32)
    target = (pages + random.normal(0, 2, 200) > 9.5).astype(float)
    pages[::20] = np.nan
    inputs = (ModelInput(name="pages", kind="number"),)
    return TrainingRows(matrix=pages.reshape(-1, 1), target=target, inputs=inputs, task="class")


def test_a_toy_from_outside_is_a_trainer_like_any_other() -> None:
    check_model(Model(trainer="stump"))
    fitted = fit("stump", rows())
    assert fitted.parameters == {"bound": 9.5}
    native, graph = fitted.both_scores(rows().matrix)
    np.testing.assert_array_equal(native, graph)
    np.testing.assert_allclose(native, learn("stump", rows()).scores(rows().matrix))
    known = np.isfinite(rows().matrix[:, 0])
    assert native[known & (rows().matrix[:, 0] > 9.5)].min() > native[known].min()


def test_what_every_trainer_gets_for_nothing_the_toy_has_too() -> None:
    with pytest.raises(DeclarationError, match="'stump' has no parameter 'depth': it takes bound"):
        fit("stump", replace(rows(), params={"depth": 2}))
    with pytest.raises(DeclarationError, match="'stump' cannot learn a number"):
        check_model(Model(trainer="stump", metric="rmse"))
    found = learn("stump", rows(), Search(trials=4, space={"bound": (2.0, 18.0)}))
    assert found.parameters["trials"] == 4
    both = replace(rows(), members=(Member(trainer="stump"), Member(trainer="logistic")))
    assert np.isfinite(fit("ensemble", both).scores(rows().matrix)).all()


def test_a_graph_that_differs_from_its_model_makes_no_version() -> None:
    with pytest.raises(AnabranchError, match=r"ONNX form of the model differs from the model by 0\.001"):
        fit("torn", rows())


def test_a_name_is_registered_once_and_has_no_colon() -> None:
    for name in ("stump", "auto", "mine:function"):
        with pytest.raises(DeclarationError, match=f"{name!r} cannot be registered: choose a name"):
            register(stump(name))


def test_the_parameters_of_xgboost_are_those_that_are_written_down() -> None:
    assert set(xgboost.XGBClassifier().get_params()) == XGBOOST_PARAMETERS
