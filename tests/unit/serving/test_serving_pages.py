import asyncio
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from anabranch import ApproxDistinct, FeatureView, Freshness, Last, Mean, Project, Source
from anabranch.declare.loading import load_project
from anabranch.errors import AnabranchError, DeclarationError, MisuseError, UnavailableError
from anabranch.kept.writing import written
from anabranch.settings import FileSettings, LakeSettings
from anabranch.stores.cassandra.current_rows import CurrentRow
from anabranch.stores.cassandra.measures import OUTCOMES, Measure
from anabranch.stores.files.api_keys import ApiKeys
from anabranch.stores.files.reports import Reports
from anabranch.stores.models.explaining.explanation import Explainer
from anabranch.stores.models.roles import VersionTrial
from anabranch.values.times import HOUR, from_micros
from serving.http.access import Access, Issuer
from serving.http.messages import HttpRequest, Response
from tests.support.serving_fakes import NOW, PROJECTS, Bench, FakeManifest, SumScorer, bench

EVIL = "<script>alert(1)</script>'\" onload=x"
PAGE = "/projects/heart_disease"


def row(key: str, score: float | None, layer: str = "batch") -> CurrentRow:
    return CurrentRow(
        key=key, score=score, label=None, model_version="3", batch_version=7, as_of=NOW - HOUR, layer=layer
    )


def measure(name: str, value: float, part: str = "", hours: int = 0) -> Measure:
    at = from_micros(NOW) - timedelta(hours=hours)
    return Measure(project="heart_disease", subject="features", name=name, at=at, value=value, slice=part)


ALERTS = [
    replace(measure("psi", value, part), subject="alerts") for part, value in (("age", 1.0), ("chol", 0.0))
]


class Unexplained(SumScorer):
    """A version of an earlier release."""

    @property
    def explainer(self) -> Explainer:
        raise MisuseError(f"version {self.version} cannot be explained: train again")


@pytest.fixture
def heart() -> Bench:
    found = bench(PROJECTS, load_project("heart_disease", (PROJECTS,)).model_features)
    stores = found.stores
    report = {
        "arrival": "2024-05-01T10:00:00",
        "source": "exams",
        "rows": 303,
        "bad": 2,
        "verdict": EVIL,
        "name": "a-1",
    }
    stores.store.sample_current = lambda _, most: [row(EVIL, 0.2), row("p2", 0.9, "speed"), row("p3", None)][
        :most
    ]
    stores.gate_reports.latest = lambda *_: [report]
    stores.gate_reports.page = lambda _, source, name: (
        b"<p>report</p>" if (source, name) == ("exams", "a-1") else None
    )
    stores.kept.latest = lambda _: [*ALERTS, measure("psi", 0.31, "age"), measure("mean", 1.5, EVIL)]
    stores.kept.history = lambda *_: [measure("psi", 0.1, "age", 2), measure("psi", 0.31, "age")]
    return found


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(heart: Bench, path: str, status: int = 200) -> Elements:
    response = heart.raw("GET", path)
    assert response.status == status, response.body[:2000]
    headers = dict(response.headers)
    assert "default-src 'none'; style-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    found = Elements(response.body)
    assert not [name for name, _ in found.found if name in ("script", "iframe", "object", "style")]
    attributes = [(name, value) for _, given in found.found for name, value in given.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    assert not [
        value
        for name, value in attributes
        if name in ("src", "href", "action") and not re.match(r"/(?!/)|data:,$|#", value or "")
    ]
    return found


def test_the_page_of_a_project_shows_its_objectives_and_what_is_left_of_their_budgets(heart: Bench) -> None:
    heart.app._after_looking()
    for _ in range(3):
        heart.app.parts.metrics.answered("predict", "heart_disease", 200, time.perf_counter() - 1)
    page = read(heart, PAGE).text
    for text in ("Objectives", "Counted by this server since it started", "99% within 50ms", "budget left"):
        assert text in page, text
    budgets = {one["name"]: one for one in heart.ask("GET", f"/v1{PAGE}")[1]["objectives"]}
    assert budgets["latency"]["missed"] == 3
    assert budgets["latency"]["budget_left"] < 0
    assert (budgets["availability"]["missed"], budgets["availability"]["budget_left"]) == (0, 1)
    assert budgets["quality"]["kept"] is None


def test_first_page_lists_projects_with_freshness_versions_metric_and_drift(heart: Bench) -> None:
    page = read(heart, "/")
    for text in (
        "heart_disease",
        "cardiology",
        "fresh",
        "7",
        "cut 60 min ago",
        "0.8750",
        "0.31",
        "psi of age",
        "Alerts",
    ):
        assert text in page.text, text
    assert ("a", {"href": PAGE}) in page.found
    assert ("psi of age" in page.text, "psi of chol" in page.text) == (True, False)
    sheet = next(
        given["href"] for name, given in page.found if name == "link" and given["rel"] == "stylesheet"
    )
    response = heart.raw("GET", str(sheet).partition("?")[0])
    assert (response.status, dict(response.headers)["content-type"]) == (200, "text/css; charset=utf-8")


def test_the_page_of_a_project_shows_all_that_its_users_need(heart: Bench) -> None:
    page = read(heart, PAGE)
    for text in (
        *(
            "Risk of coronary heart disease",
            "bpm_mean_1h",
            "StdDev('heart_rate')",
            "to rounding",
            "bracelet-feed",
        ),
        *("angiography", "promised", "kept", "0.8000 to 0.9300", "not for decisions about patients", "303"),
        *(
            "predictions.heart_disease",
            "heart_disease__latest_exam__b7",
            "anabranch.heart_disease_events_exams",
        ),
        *(
            "Open Inference Protocolpredict/v2/models/heart_disease/infer",
            "MLflow's protocolpredict/v1/projects",
        ),
        *("lake version 3", "batch (2) and speed (1)", "hindsight changed no value", "no gap"),
    ):
        assert text in page.text, text
    assert "alert psi of age is beyond its declared threshold" in page.text
    names = [name for name, _ in page.found]
    assert names.count("rect") == 20
    assert names.count("polyline") == 1  # one measure has a past
    assert all(given.get("aria-label") for name, given in page.found if name == "svg")


def test_measures_of_the_whole_and_the_most_drift_come_first_of_many(heart: Bench) -> None:
    parts = [measure("psi", value / 1000, f"f{value}") for value in range(200)]
    heart.stores.kept.latest = lambda _: [*parts, measure("mean", 0.4)]
    text = " ".join(read(heart, PAGE).text.split())
    assert text.index("features: mean") < text.index("f199") < text.index("f101")
    assert "f99 " not in text
    assert "101 more are in /metrics" in text


def test_the_page_of_a_project_says_that_a_declaration_waits_and_what_its_build_changes(
    heart: Bench, tmp_path: Path
) -> None:
    assert "Declared anew" not in read(heart, PAGE).text
    declaration = (PROJECTS / "heart_disease.py").read_text()
    assert 'Count(where="heart_rate > 120")' in declaration
    (tmp_path / "heart_disease.py").write_text(declaration.replace("heart_rate > 120", "heart_rate > 130"))
    served = load_project("heart_disease", (PROJECTS,))
    fingerprints = {view.name: view.fingerprint for view in served.own_views}
    heart.store.served = FakeManifest(declaration=written(served), fingerprints=fingerprints)
    text = " ".join(read(heart.changed(folders=(tmp_path,)), PAGE).text.split())
    for part in (
        "Declared anew heart_disease against batch version 7: 3 features change meaning,",
        "stay the same, 1 view is built anew.",
        "anabranch plan heart_disease",
        "fast_7d",
        "where: heart_rate > 120 → heart_rate > 130",
    ):
        assert part in text, text


def outcome(version: str, values: Mapping[str, float], hours: int = 1) -> list[Measure]:
    """What a look at labels kept of a version beside champion 3."""
    return [
        replace(measure(name, value, "3", hours), subject=OUTCOMES, version=version)
        for name, value in values.items()
    ]


def test_the_page_of_a_project_compares_a_version_on_trial_by_the_labels_that_came(heart: Bench) -> None:
    assert "On trial" not in read(heart, PAGE).text
    heart.registry.others["4"] = SumScorer("4", heart.registry.features)
    heart.registry.trial = VersionTrial(kind="canary", version="4", share=0.125)
    heart.app.live.refresh()
    text = " ".join(read(heart, PAGE).text.split())
    assert "Version 4 is tried beside the champion, as a canary for 12.5% of the keys." in text
    assert "It has not been compared by labels yet: anabranch watch heart_disease does it" in text
    gain = {"gain": 0.0125, "gain_low": -0.01, "gain_high": 0.035}
    kept = [
        *outcome("4", {"labels": 1200, "tried": 0.875, "champion": 0.8625, "needed": 2300, **gain}),
        *outcome(
            "2", {"labels": 5000, "tried": 0.8, "champion": 0.8625, "needed": 0, "gain": -0.0625}, hours=30
        ),
        *outcome("1", {"labels": 3}, hours=40),
    ]
    heart.stores.kept.latest = lambda _: kept
    text = " ".join(read(heart.changed(), PAGE).text.split())
    assert "has not been compared" not in text
    assert "its roc_auc" in text
    rows = [
        "430.8750.8625+0.0125-0.0100 to +0.03501,200about 2,30060 min ago",
        "230.80.8625-0.0625–5,000none: these are enough30 h ago",
        "13––––3not known yet40 h ago",
    ]
    assert [row for row in rows if row in text] == rows, text
    assert "Nothing has been measured yet" in text  # what is shown here is not among the measures again


def test_nothing_stored_or_asked_becomes_part_of_a_page(heart: Bench) -> None:
    heart.store.stored[(EVIL,)] = {"age": 60}
    heart.store.rows[EVIL] = {"score": 0.5, "layer": EVIL, "model_version": EVIL}
    for path in ("/", PAGE, f"{PAGE}/keys/{EVIL}"):
        page = read(heart, path)
        assert path == "/" or "<script>alert(1)" in page.text  # as text
    read(heart, f"/projects/{EVIL}", 404)
    read(heart, f"{PAGE}/{EVIL}", 404)


def test_a_key_is_shown_by_window_and_over_time(heart: Bench) -> None:
    heart.store.stored[("p1",)] = {"bpm_mean_1h": 71.5, "bpm_mean_1d": 72.25, "age": 60}
    heart.store.rows["p1"] = {
        "score": 0.25,
        "label": 1,
        "layer": "speed",
        "model_version": "3",
        "batch_version": 7,
        "as_of": NOW,
    }
    page = read(heart, f"{PAGE}/keys/p1")
    for text in ("p1", "0.25", "label 1", "speed", "71.5", "72.25", "1h", "7d", "Over time", "11:12:00"):
        assert text in page.text, text
    assert heart.store.reads == 6


def test_the_page_of_a_key_shows_why_its_score_is_what_it_is(heart: Bench) -> None:
    heart.store.stored[("p1",)] = {"age": 60, "chol": 200}
    page = read(heart, f"{PAGE}/keys/p1")
    bars = [given["class"] for name, given in page.found if name == "rect"]
    assert bars == ["raised"] * 13  # twelve features, and the others together
    for text in ("Why this score", "0.26 by version 3", "from 0 to 0.26 in units of the score", "chol: +0.2"):
        assert text in page.text, text
    assert "Why this score" not in read(heart, f"{PAGE}/keys/never").text
    heart.registry.version, heart.registry.others["4"] = "4", Unexplained("4", heart.registry.features)
    heart.app.live.refresh()
    assert "version 4 cannot be explained" in read(heart, f"{PAGE}/keys/p1").text


def test_the_page_of_an_unknown_key_says_so(heart: Bench) -> None:
    text = "No event of this key has arrived"
    assert text in read(heart, f"{PAGE}/keys/never").text
    heart.store.stored[("p1",)] = {}
    assert text not in read(heart, f"{PAGE}/keys/p1").text


def test_past_values_that_are_not_exact_are_not_shown(heart: Bench) -> None:
    heart.store.degraded = "the batch is too old"
    page = read(heart, f"{PAGE}/keys/p1")
    assert "degraded the batch is too old" in page.text
    assert "Only the features of now are known exactly" in page.text


def test_form_leads_to_the_page_of_the_key(heart: Bench) -> None:
    asked = HttpRequest("GET", f"{PAGE}/keys", query="patient_id=a%2Fb+c")
    response = asyncio.run(heart.app.handle(asked))
    assert (response.status, dict(response.headers)["location"]) == (303, f"{PAGE}/keys/a%2Fb%20c")
    assert asyncio.run(heart.app.handle(HttpRequest("GET", f"{PAGE}/keys", query=""))).status == 422


def test_a_page_lacks_only_the_parts_of_stores_that_are_down(heart: Bench) -> None:
    def away(*_: object) -> Any:
        raise UnavailableError("the store is away")

    def slow(*_: object) -> Any:
        asyncio.run(asyncio.sleep(0.4))

    heart.store.sample_current = heart.stores.gate_reports.latest = heart.stores.kept.latest = away
    heart.stores.kept.history = slow
    lame = heart.changed(settings=replace(heart.app.parts.context.settings, store_timeout_seconds=0.2))
    page = read(lame, PAGE)
    assert page.text.count("Not available now: the store is away") == 3
    assert "bpm_mean_1h" in page.text
    lame.store.away = True
    page = read(lame, f"{PAGE}/keys/p1")
    assert page.text.count("Not available now: Cassandra does not answer") == 2


def test_stored_pages_are_sandboxed_and_found_by_name_only(heart: Bench) -> None:
    assert heart.raw("GET", f"{PAGE}/card").status == 404
    heart.registry.kept["report/model_card.html"] = b"<h1>card</h1><script>1</script>"
    for path, text in (("card", b"<h1>card"), ("quality/exams/a-1", b"<p>report")):
        response = heart.changed().raw("GET", f"{PAGE}/{path}")
        assert response.status == 200
        assert response.body.startswith(text)
        assert (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
            in dict(response.headers)["content-security-policy"]
        )
        assert "sandbox" in dict(response.headers)["content-security-policy"]
    assert heart.raw("GET", f"{PAGE}/quality/exams/../../secret").status == 404
    assert heart.raw("POST", PAGE).status == 405


def test_reports_are_read_from_their_folder_and_no_other(tmp_path: Path) -> None:
    project = load_project("heart_disease", (PROJECTS,))
    reports = Reports(lake=LakeSettings(root=str(tmp_path)), files=FileSettings(webhdfs="http://127.0.0.1:1"))
    assert reports.latest(project, 5) == []
    folder = tmp_path / "heart_disease" / "quality" / "exams"
    folder.mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    for day in range(1, 8):
        (folder / f"2024050{day}-x.json").write_text(f'{{"arrival": "2024-05-0{day}", "source": "exams"}}')
    (folder / "20240501-x.html").write_text("<p>one</p>")
    assert [one["name"] for one in reports.latest(project, 3)] == ["20240507-x", "20240506-x", "20240505-x"]
    assert reports.page(project, "exams", "20240501-x") == b"<p>one</p>"
    assert reports.page(project, "exams", "20240502-x") is None
    for source, name in (("exams", "../../../secret"), ("../..", "secret"), ("nobody", "x")):
        assert reports.page(project, source, name) is None
    away = Reports(
        lake=LakeSettings(root="s3a://bucket/lake"), files=FileSettings(webhdfs="http://127.0.0.1:1")
    )
    with pytest.raises(UnavailableError, match="anabranch quality"):
        away.latest(project, 3)


@contextmanager
def secured(heart: Bench, folder: Path) -> Iterator[tuple[Bench, ApiKeys]]:
    keys = ApiKeys(folder / "keys.json")
    access = Access(keys.read, Issuer(), lambda: NOW)
    yield heart.changed(access=access), keys


def asked(heart: Bench, path: str, key: str | None, method: str = "GET", body: bytes = b"") -> Response:
    basic = "" if key is None else f"Basic {b64encode(f'anybody:{key}'.encode()).decode()}"
    return asyncio.run(heart.app.handle(HttpRequest(method, path, body, authorization=basic)))


def test_readers_of_pages_are_asked_for_a_key_by_their_browser(heart: Bench, tmp_path: Path) -> None:
    with secured(heart, tmp_path) as (closed, keys):
        for path in ("/", PAGE, f"{PAGE}/keys/p1", f"{PAGE}/card"):
            response = asked(closed, path, None)
            assert response.status == 401
            assert dict(response.headers)["www-authenticate"].startswith("Basic realm=")
        own, other, seeing = (
            keys.add("heart_disease", NOW)[1],
            keys.add("shop", NOW)[1],
            keys.add("heart_disease", NOW, rights=["catalogue"])[1],
        )
        closed.app.live.refresh()
        assert asked(closed, PAGE, own).status == asked(closed, f"{PAGE}/keys/p1", own).status == 200
        assert b"heart_disease" in asked(closed, "/", own).body
        assert b"heart_disease" not in asked(closed, "/", other).body
        assert asked(closed, PAGE, other).status == asked(closed, f"{PAGE}/keys/p1", seeing).status == 403
        assert asked(closed, PAGE, own[:-1] + "_").status == asked(closed, PAGE, "%%%").status == 401
        for path in ("/docs", "/openapi.json"):
            assert b"/v1/projects/heart_disease/predict" in asked(closed, path, seeing).body
            assert b"heart_disease" not in asked(closed, path, other).body
            assert asked(closed, path, own[:-1] + "_").status == 401
        assert b'id="credentials"' in asked(closed, "/docs", own).body
        # What a browser sends by itself opens pages and nothing else.
        assert (
            asked(closed, "/v1/projects/heart_disease/predict", own, "POST", b'{"key": "p1"}').status == 401
        )
        assert asked(closed, "/style.css", None).status == 200


def test_every_feature_says_how_exact_it_is() -> None:
    things = Source(
        name="things", id="id", time="at", schema="id STRING, who STRING, at TIMESTAMP, x DOUBLE, n INT"
    )
    features = {"last": Last("x"), "mean": Mean("x"), "kinds": ApproxDistinct("n", log_size=12)}
    view = FeatureView(name="view", source=things, key="who", features=features)
    assert {name: bound.exactness for name, bound in view.layout.bounds.items()} == {
        "last": "exact", "mean": "to 1e-9 of the sizes", "kinds": "standard error 1.6%",
    }  # fmt: skip
    assert Project(name="shop", views=(view,), freshness=Freshness(batch="1d")).freshness == Freshness(
        batch="1d"
    )
    for wrong in ({}, {"batch": "soon"}, {"stream": "0s"}):
        with pytest.raises(DeclarationError, match="freshness"):
            Freshness(**wrong)
    with pytest.raises(AnabranchError, match="owner is 7"):
        Project(name="shop", views=(view,), owner=7)  # type: ignore[arg-type]
    with pytest.raises(AnabranchError, match="freshness is '1d'"):
        Project(name="shop", views=(view,), freshness="1d")  # type: ignore[arg-type]
