import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from anabranch.declare.loading import load_project
from anabranch.errors import UnavailableError
from anabranch.kept.writing import written
from anabranch.stores.models.roles import VersionTrial
from tests.support.serving_fakes import Bench, FakeManifest, SumScorer, bench

DECLARATION = """
from anabranch import Count, FeatureView, Label, Model, Project, Source

visits = Source(name="visits", topic="visits", id="visit_id", time="at",
                schema="visit_id STRING, person STRING, at TIMESTAMP, paid INT")
seen = FeatureView(name="seen", source=visits, key="person", features={{"{feature}": Count()}})
project = Project(name="shop", views=(seen,), model=Model(),
                  label=Label(source=visits, key="person", target="paid > 0"))
"""


def declare(folder: Path, text: str, at: int, name: str = "shop") -> None:
    """Write the declaration with a time of change that differs from the last one's."""
    path = folder / f"{name}.py"
    path.write_text(text)
    os.utime(path, (at, at))


@pytest.fixture
def shop(tmp_path: Path) -> Bench:
    declare(tmp_path, DECLARATION.format(feature="visits"), 1_000)
    found = bench(tmp_path, ("visits",))
    found.store.stored[("p1",)] = {"visits": 1}
    return found


def features(found: Bench) -> set[str]:
    return set(found.ask("GET", "/v1/projects/shop/features/p1")[1]["features"])


def test_changed_declaration_is_served_after_the_next_look(shop: Bench, tmp_path: Path) -> None:
    assert features(shop) == {"visits"}
    declare(tmp_path, DECLARATION.format(feature="times_seen"), 2_000)
    shop.app.live.refresh()
    assert features(shop) == {"times_seen"}


def test_broken_declaration_leaves_the_last_good_one_and_says_so(shop: Bench, tmp_path: Path) -> None:
    declare(tmp_path, "this is no Python", 2_000)
    shop.app.live.refresh()
    assert features(shop) == {"visits"}
    assert "does not load" in shop.ask("GET", "/v1/projects/shop")[1]["troubles"]["declaration"]
    declare(tmp_path, DECLARATION.format(feature="visits"), 3_000)
    shop.app.live.refresh()
    assert shop.ask("GET", "/v1/projects/shop")[1]["troubles"] == {}


def test_declaration_that_never_loaded_is_named_and_does_not_stop_the_others(
    shop: Bench, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text("project = 3")
    shop.app.live.refresh()
    assert features(shop) == {"visits"}
    assert "other" in shop.ask("GET", "/v1/projects")[1]["broken"]
    assert shop.ask("GET", "/v1/projects/other")[0] == 503


def test_folder_that_is_itself_a_package_is_no_project(shop: Bench, tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    shop.app.live.refresh()
    assert shop.app.live.broken == {}


def test_declaration_that_is_gone_is_unknown(shop: Bench, tmp_path: Path) -> None:
    (tmp_path / "shop.py").unlink()
    shop.app.live.refresh()
    assert shop.ask("GET", "/v1/projects/shop")[0] == 404


def test_promotion_and_build_are_served_after_the_next_look(shop: Bench) -> None:
    asked = {"features": {"visits": 3}}
    assert shop.ask("POST", "/v1/projects/shop/predict", asked)[1]["model_version"] == "3"
    shop.registry.version = "4"
    shop.store.served = FakeManifest(batch_version=8)
    shop.app.live.refresh()
    assert shop.ask("POST", "/v1/projects/shop/predict", asked)[1]["model_version"] == "4"
    assert shop.ask("GET", "/v1/projects/shop")[1]["freshness"]["batch_version"] == 8


def test_store_that_goes_away_leaves_model_and_versions_in_force(shop: Bench) -> None:
    shop.store.away = True
    shop.app.live.refresh()
    assert shop.ask("POST", "/v1/projects/shop/predict", {"features": {"visits": 3}})[0] == 200
    page = shop.ask("GET", "/v1/projects/shop")[1]
    assert page["freshness"]["batch_version"] == 7
    assert "Cassandra" in page["troubles"]["store"]


def predicted(found: Bench, visits: str = "visits") -> tuple[int, Any]:
    return found.ask("POST", "/v1/projects/shop/predict", {"features": {visits: 3}})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            DECLARATION.format(feature="times_seen"),
            "version 3 of 'shop' reads 'visits', which is declared no more: train again",
        ),
        (
            DECLARATION.format(feature="visits")
            .replace("Count()", 'Last("person")')
            .replace("Count,", "Last,"),
            "version 3 of 'shop' reads 'visits' as a number, but it is declared as a text: train again",
        ),
    ],
)
def test_a_champion_that_the_declaration_left_behind_answers_nothing_and_says_why(
    shop: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str, reason: str
) -> None:
    assert predicted(shop)[0] == 200
    declare(tmp_path, changed, 2_000)
    shop.app.live.refresh()
    shop.app.live.refresh()
    status, problem = shop.ask("POST", "/v1/projects/shop/predict", {"key": "p1"})
    assert (status, problem["type"], problem["detail"]) == (503, "urn:anabranch:problem:no-model", reason)
    status, ready = shop.ask("GET", "/readyz")
    assert (status, ready["model"], ready["projects"]["shop"]) == (503, reason, f"inputs: {reason}")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"project shop: inputs: {reason}"
    ]
    assert shop.ask("GET", "/v1/projects/shop/features/p1")[0] == 200
    declare(tmp_path, DECLARATION.format(feature="visits"), 3_000)
    shop.app.live.refresh()
    assert predicted(shop)[1]["model_version"] == "3"
    assert shop.ask("GET", "/readyz")[0] == 200


def test_training_again_serves_what_a_changed_declaration_had_stopped(shop: Bench, tmp_path: Path) -> None:
    declare(tmp_path, DECLARATION.format(feature="times_seen"), 2_000)
    shop.app.live.refresh()
    shop.registry.version, shop.registry.features = "4", ("times_seen",)
    shop.app.live.refresh()
    assert predicted(shop, "times_seen")[1]["model_version"] == "4"
    assert shop.ask("GET", "/v1/projects/shop")[1]["troubles"] == {}


def test_a_new_champion_of_another_declaration_leaves_the_one_before_in_force(shop: Bench) -> None:
    shop.registry.version, shop.registry.others = "4", {"4": SumScorer("4", ("gone",))}
    shop.app.live.refresh()
    shop.app.live.refresh()
    assert predicted(shop)[1]["model_version"] == "3"
    assert "version 4 of 'shop' reads 'gone'" in shop.ask("GET", "/v1/projects/shop")[1]["troubles"]["inputs"]
    assert shop.ask("GET", "/readyz")[0] == 200


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_a_tried_version_that_does_not_fit_the_declaration_is_not_tried(shop: Bench, kind: str) -> None:
    shop.registry.others = {"4": SumScorer("4", ("gone",))}
    shop.registry.trial = VersionTrial(kind=kind, version="4")
    shop.app.live.refresh()
    page = shop.ask("GET", "/v1/projects/shop")[1]
    assert page["troubles"] == {
        "trial": "version 4 of 'shop' reads 'gone', which is declared no more: train again"
    }
    assert shop.ask("POST", "/v1/projects/shop/predict", {"key": "p1"})[1]["model_version"] == "3"


LEFT, WENT_BACK = (
    FakeManifest(batch_version=7),
    FakeManifest(batch_version=6, model_version="2", previous=FakeManifest(batch_version=7)),
)
ROLLBACK = [
    (LEFT, "3"),
    (replace(WENT_BACK, replaces="3"), "3"),
    (replace(WENT_BACK, replaces="3"), "2"),
    (WENT_BACK, "2"),
]
"""Manifest and champion while a rollback writes one after the other."""


def answering(found: Bench) -> tuple[int, str]:
    """Batch and model version of one answer."""
    answer = found.ask("POST", "/v1/projects/shop/predict", {"key": "p1"})[1]
    return answer["batch_version"], answer["model_version"]


@pytest.mark.parametrize("moments", list(product(range(4), repeat=3)))
def test_no_look_in_the_midst_of_a_rollback_mixes_versions(
    shop: Bench, monkeypatch: pytest.MonkeyPatch, moments: tuple[int, ...]
) -> None:
    """Before each of the look's reads the rollback goes on by so many writes."""
    steps, at = iter(moments), 0

    def going_on(read: Callable[[str], Any]) -> Callable[[str], Any]:
        def asked(project: str) -> Any:
            nonlocal at
            at = min(at + next(steps, 0), len(ROLLBACK) - 1)
            shop.store.served, shop.registry.version = ROLLBACK[at]
            return read(project)

        return asked

    with monkeypatch.context() as patched:
        patched.setattr(shop.store, "manifest", going_on(shop.store.manifest))
        patched.setattr(shop.registry, "roles", going_on(shop.registry.roles))
        shop.app.live.refresh()
        assert answering(shop) in {(7, "3"), (6, "2")}
    shop.store.served, shop.registry.version = ROLLBACK[-1]
    shop.app.live.refresh()
    assert answering(shop) == (6, "2")


def test_a_model_that_is_promoted_after_a_rollback_was_cut_off_is_served(shop: Bench) -> None:
    shop.store.served, shop.registry.version = ROLLBACK[1]
    shop.app.live.refresh()
    assert answering(shop) == (6, "2")
    shop.registry.version = "4"
    shop.app.live.refresh()
    assert answering(shop) == (6, "4")


def test_a_rollback_to_a_model_that_cannot_be_loaded_waits_for_it_until_its_batch_version_is_gone(
    shop: Bench,
) -> None:
    shop.registry.others["2"] = UnavailableError("MLflow does not do what was asked")
    shop.store.served, shop.registry.version = WENT_BACK, "2"
    shop.app.live.refresh()
    assert answering(shop) == (7, "3")
    assert "MLflow" in shop.ask("GET", "/v1/projects/shop")[1]["troubles"]["model"]
    shop.store.served = FakeManifest(batch_version=8, model_version="2", previous=WENT_BACK)
    shop.app.live.refresh()
    assert answering(shop) == (8, "3")
    del shop.registry.others["2"]
    shop.app.live.refresh()
    assert answering(shop) == (8, "2")


def test_a_manifest_that_never_stands_still_leaves_both_versions_in_force(
    shop: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = count(8)
    monkeypatch.setattr(shop.store, "manifest", lambda _: FakeManifest(batch_version=next(versions)))
    shop.registry.version = "4"
    shop.app.live.refresh()
    assert answering(shop) == (7, "3")


def test_a_model_is_fetched_once_however_many_looks_and_answers(
    shop: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = list[str](), shop.registry.scorer

    def counting(project: str, version: str) -> Any:
        fetched.append(version)
        return fetch(project, version)

    monkeypatch.setattr(shop.registry, "scorer", counting)
    shop.registry.version = "4"
    for _ in range(20):
        shop.app.live.refresh()
        assert answering(shop) == (7, "4")
    assert fetched == ["4"]


def test_the_server_has_looked_at_its_stores_when_the_first_caller_comes(shop: Bench) -> None:
    shop.app.live.looked = False
    shop.app.live.start(lambda: None)
    assert shop.app.live.looked
    shop.app.live.stop()


LENDER = """
from anabranch import Count, FeatureView, Project, Source

sales = Source(name="sales", id="id", time="at", schema="id STRING, shop STRING, at TIMESTAMP")
risk = FeatureView(name="risk", source=sales, key="shop", features={{"{feature}": Count()}})
project = Project(name="lender", views=(risk,), shared_with=({consent}))
"""
BORROWER = """
from anabranch import Project, shared

project = Project(name="borrower", views=(shared("lender", "risk").on(shop="seller", prefix="seller"),))
"""


def test_a_borrower_is_loaded_anew_when_its_owners_declaration_changes(shop: Bench, tmp_path: Path) -> None:
    declare(tmp_path, BORROWER, 1_000, "borrower")
    shop.app.live.refresh()
    assert "no project 'lender'" in shop.app.live.broken["borrower"]
    declare(tmp_path, LENDER.format(feature="sold", consent='"borrower",'), 1_000, "lender")
    shop.app.live.refresh()
    assert list(shop.app.live.broken) == []
    (feature,) = shop.ask("GET", "/v1/projects/borrower")[1]["features"]
    assert (feature["name"], feature["view"], feature["source"], feature["key"]) == (
        "seller_sold",
        "lender.risk",
        "lender.sales",
        ["seller"],
    )
    declare(tmp_path, LENDER.format(feature="sales", consent='"borrower",'), 2_000, "lender")
    shop.app.live.refresh()
    shop.app.live.refresh()
    assert shop.ask("GET", "/v1/projects/borrower")[1]["features"][0]["name"] == "seller_sales"
    declare(tmp_path, LENDER.format(feature="sales", consent=""), 3_000, "lender")
    shop.app.live.refresh()
    page = shop.ask("GET", "/v1/projects/borrower")[1]
    assert "does not share view 'risk' with it" in page["troubles"]["declaration"]
    assert page["features"][0]["name"] == "seller_sales"  # the last good declaration stays in force
    declare(tmp_path, LENDER.format(feature="sales", consent='"borrower",'), 4_000, "lender")
    shop.app.live.refresh()
    assert shop.ask("GET", "/v1/projects/borrower")[1]["troubles"] == {}


def test_the_lineage_of_a_borrower_names_the_versions_that_it_reads_of_others(
    shop: Bench, tmp_path: Path
) -> None:
    declare(tmp_path, LENDER.format(feature="sold", consent='"borrower",'), 1_000, "lender")
    declare(tmp_path, BORROWER, 1_000, "borrower")
    shop.store.served = FakeManifest(lent={"lender": FakeManifest(project="lender", batch_version=12)})
    shop.app.live.refresh()
    lineage = shop.ask("GET", "/v1/projects/borrower")[1]["lineage"]
    assert lineage["shared"] == {"lender": 12}
    assert shop.ask("GET", "/v1/projects/lender")[1]["lineage"]["batch"]["version"] == 7


def test_a_changed_declaration_is_answered_by_the_one_before_until_it_is_built(
    shop: Bench, tmp_path: Path
) -> None:
    def built(number: int) -> FakeManifest:
        return FakeManifest(
            project="shop", batch_version=number, declaration=written(load_project("shop", [tmp_path]))
        )

    first = shop.store.served = built(7)
    shop.app.live.refresh()
    declare(tmp_path, DECLARATION.format(feature="times_seen"), 2_000)
    shop.app.live.refresh()
    assert features(shop) == {"visits"}
    assert predicted(shop)[0] == 200
    served = shop.app.live.get("shop")
    assert served is not None
    assert served.waiting is not None
    assert served.waiting.column_of.keys() == {"times_seen"}
    second = shop.store.served = replace(built(8), previous=first)
    shop.registry.others["4"] = SumScorer("4", ("times_seen",))
    shop.registry.version = "4"
    shop.app.live.refresh()
    assert features(shop) == {"times_seen"}
    assert predicted(shop, "times_seen")[1]["model_version"] == "4"
    shop.store.served, shop.registry.version = replace(first, previous=second), "3"
    shop.app.live.refresh()
    assert features(shop) == {"visits"}
    assert predicted(shop)[1]["model_version"] == "3"


def test_a_model_for_a_declaration_that_waits_does_not_take_the_one_that_serves_from_answers(
    tmp_path: Path,
) -> None:
    declare(tmp_path, DECLARATION.format(feature="visits"), 1_000)
    built = FakeManifest(project="shop", declaration=written(load_project("shop", [tmp_path])))
    declare(tmp_path, DECLARATION.format(feature="times_seen"), 2_000)
    started = bench(tmp_path, ("visits",))  # a server that never served version 3
    started.store.served = built
    started.registry.others["4"] = SumScorer("4", ("times_seen",))
    started.registry.version, started.registry.before = "4", "3"
    started.app.live.refresh()
    assert predicted(started)[1]["model_version"] == "3"
