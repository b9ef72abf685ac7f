"""A version tried on live requests: who answers, what is compared, and that no answer suffers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.errors import AnabranchError, MisuseError
from anabranch.stores.models.roles import VersionTrial
from serving.settings import ServingSettings
from tests.support.serving_fakes import Bench, SumScorer, bench
from tests.unit.serving.test_serving_live import DECLARATION

PREDICT = "/v1/projects/shop/predict"
KEYS = [f"p{number}" for number in range(1_000)]


class Higher(SumScorer):
    """A version that says 0.1 more than the champion, and of 300 visits that they are enough."""

    def score(self, columns: Mapping[str, Any]) -> Any:
        return super().score(columns) + 0.1

    def label(self, scores: Any) -> Any:
        return (scores > 0.4).astype(np.int64).tolist()


class Failing(SumScorer):
    def score(self, columns: Mapping[str, Any]) -> Any:
        raise MisuseError("the model is broken")


@pytest.fixture
def shop(tmp_path: Path) -> Bench:
    (tmp_path / "shop.py").write_text(
        DECLARATION.format(feature="visits").replace("Count()}", 'Count(), "paid": Count()}')
    )
    found = bench(tmp_path, ("visits",), ServingSettings(shadow_buffer=2_000))
    found.registry.others = {"4": Higher("4", ("visits",)), "5": Failing("5", ("visits",))}
    found.store.stored = {(key,): {"visits": 100 + number % 300} for number, key in enumerate(KEYS)}
    return found


def tried(shop: Bench, kind: str, share: float = 1.0, version: str = "4") -> None:
    shop.registry.trial = VersionTrial(kind=kind, version=version, share=share)
    shop.app.live.refresh()


def versions(shop: Bench, keys: list[str]) -> dict[str, str]:
    status, answer = shop.ask("POST", PREDICT, {"keys": keys})
    assert status == 200
    return {one["key"]: one["model_version"] for one in answer["predictions"]}


def kept(shop: Bench) -> dict[str, float]:
    shop.app.parts.shadow.compare()
    shop.app.parts.shadow.keep()
    assert {(one.project, one.version, one.slice) for one in shop.kept} <= {("shop", "4", "3")}
    return {one.name: one.value for one in shop.kept}


def metric(shop: Bench, name: str) -> float:
    (line,) = [
        line for line in shop.raw("GET", "/metrics").body.decode().splitlines() if line.startswith(name)
    ]
    return float(line.rsplit(" ", 1)[1])


def test_a_shadow_answers_nobody_and_is_compared_with_every_answer(shop: Bench) -> None:
    before = shop.ask("POST", PREDICT, {"keys": KEYS})
    tried(shop, "shadow")
    assert shop.ask("POST", PREDICT, {"keys": KEYS}) == before
    assert shop.ask("POST", PREDICT, {"features": {"visits": 450}})[1]["model_version"] == "3"
    found = kept(shop)
    assert found["rows"] == 1_001
    assert found["mean_difference"] == pytest.approx(0.1)
    assert found["p99_apart"] == pytest.approx(0.1)
    # The shadow says 1 from 301 visits on, the champion from 501.
    assert found["flips"] == pytest.approx(
        (sum(100 + number % 300 > 300 for number in range(1_000)) + 1) / 1_001
    )
    assert found["p99_ms"] > 0
    assert {one.subject for one in shop.kept} == {"shadow"}
    assert metric(shop, 'anabranch_trial_compared_total{kind="shadow",label="flipped"') == round(
        found["flips"] * 1_001
    )


def test_a_canary_answers_the_same_share_of_keys_each_time_and_a_larger_share_keeps_them(shop: Bench) -> None:
    assert set(versions(shop, KEYS).values()) == {"3"}
    tried(shop, "canary", 0.1)
    some = {key for key, version in versions(shop, KEYS).items() if version == "4"}
    assert 60 < len(some) < 140
    assert {key for key in KEYS[:50] if versions(shop, [key])[key] == "4"} == some & set(KEYS[:50])
    tried(shop, "canary", 0.3)
    more = {key for key, version in versions(shop, KEYS).items() if version == "4"}
    assert some < more
    assert 240 < len(more) < 360
    tried(shop, "canary")
    assert set(versions(shop, KEYS).values()) == {"4"}
    assert (
        shop.ask("POST", PREDICT, {"features": {"visits": 5}})[1]["model_version"] == "3"
    )  # no key, so none of its keys


def test_a_canarys_answers_are_its_own_and_are_compared_with_what_the_champion_would_say(shop: Bench) -> None:
    tried(shop, "canary", 0.5)
    answer = shop.ask("POST", PREDICT, {"keys": KEYS})[1]["predictions"]
    for number, one in enumerate(answer):
        expected = (100 + number % 300) / 1000 + (0.1 if one["model_version"] == "4" else 0.0)
        assert one["score"] == pytest.approx(expected)
    found = kept(shop)
    assert found["rows"] == sum(one["model_version"] == "4" for one in answer)
    assert found["mean_difference"] == pytest.approx(0.1)
    assert {one.subject for one in shop.kept} == {"canary"}


def test_a_tried_version_that_fails_costs_no_answer(shop: Bench) -> None:
    expected = shop.ask("POST", PREDICT, {"keys": KEYS})
    for kind in ("shadow", "canary"):
        tried(shop, kind, version="5")
        assert shop.ask("POST", PREDICT, {"keys": KEYS}) == expected
    shop.app.parts.shadow.compare()
    assert metric(shop, 'anabranch_trial_not_compared_total{reason="failed"') == 1_000
    shop.registry.others["6"] = AnabranchError("version 6 cannot be loaded")
    tried(shop, "canary", version="6")
    assert shop.ask("POST", PREDICT, {"keys": KEYS}) == expected
    assert shop.ask("GET", "/v1/projects/shop")[1]["troubles"] == {"trial": "version 6 cannot be loaded"}


def test_requests_beyond_the_buffer_are_answered_and_counted(shop: Bench) -> None:
    tried(shop, "shadow")
    for _ in range(3):
        assert shop.ask("POST", PREDICT, {"keys": KEYS})[0] == 200
    assert metric(shop, 'anabranch_trial_not_compared_total{reason="buffer full"') == 1_000
    assert kept(shop)["rows"] == 2_000


def test_a_shadow_that_needs_features_that_were_not_read_is_not_compared(shop: Bench) -> None:
    shop.registry.others["4"] = Higher("4", ("visits", "paid"))
    tried(shop, "shadow")
    assert shop.ask("POST", PREDICT, {"key": "p1", "features": {"visits": 3}})[0] == 200
    assert kept(shop) == {}
    assert metric(shop, 'anabranch_trial_not_compared_total{reason="features not read"') == 1


def test_comparisons_wait_while_their_store_is_away(shop: Bench) -> None:
    tried(shop, "shadow")
    assert shop.ask("POST", PREDICT, {"features": {"visits": 5}})[0] == 200
    shop.store.away = True
    assert kept(shop) == {}
    assert shop.ask("POST", PREDICT, {"features": {"visits": 5}})[0] == 200
    shop.store.away = False
    assert kept(shop)["rows"] == 2
    assert kept(shop)["rows"] == 2  # kept once


def test_a_promotion_ends_the_trial_with_the_same_look(shop: Bench) -> None:
    tried(shop, "canary")
    shop.registry.version, shop.registry.trial = "4", None
    shop.app.live.refresh()
    served = shop.app.live.get("shop")
    assert served is not None
    assert (served.scorer is not None and served.scorer.version, served.trial) == ("4", None)
    assert shop.ask("GET", "/v1/projects/shop")[1]["model"]["trial"] is None
