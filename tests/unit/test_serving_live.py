import os
from pathlib import Path

import pytest

from tests.serving_fakes import Bench, FakeManifest, bench

DECLARATION = """
from features import Count, FeatureView, Label, Model, Project, Source

visits = Source(name="visits", topic="visits", id="visit_id", time="at", schema="visit_id STRING, person STRING, at TIMESTAMP, paid INT")
seen = FeatureView(name="seen", source=visits, key="person", features={{"{feature}": Count()}})
project = Project(name="shop", views=(seen,), label=Label(source=visits, key="person", target="paid > 0"), model=Model())
"""


def declare(folder: Path, text: str, at: int) -> None:
    """Write the declaration with a time of change that differs from the last one's."""
    path = folder / "shop.py"
    path.write_text(text)
    os.utime(path, (at, at))


@pytest.fixture
def shop(tmp_path: Path) -> Bench:
    declare(tmp_path, DECLARATION.format(feature="visits"), 1_000)
    return bench(tmp_path, ("visits",))


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


def test_declaration_that_never_loaded_is_named_and_does_not_stop_the_others(shop: Bench, tmp_path: Path) -> None:
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
