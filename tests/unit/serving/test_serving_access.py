"""Callers and their rights: keys, tokens, and nothing open beyond loopback."""

import asyncio
import json
import socket
import stat
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from anabranch.answers.problems import ProblemError
from anabranch.errors import AnabranchError, MisuseError
from anabranch.stores.files.api_keys import RIGHTS, ApiKeys
from anabranch.values.times import DAY, SECOND
from jobs.servers.processes import wait_until
from serving.app import create_app
from serving.http.access import Access, Hosts, Issuer
from serving.http.messages import HttpRequest
from serving.server import run
from serving.settings import ServingSettings
from tests.support.issuer import pair
from tests.support.serving_fakes import NOW, PROJECTS, Bench, bench

HEART = "/v1/projects/heart_disease"
PREDICT = b'{"features": {"age": 45}}'
BROWSERS = 'Basic realm="anabranch: an API key as the password", charset="UTF-8"'
SHOP = """
from anabranch import Count, FeatureView, Label, Model, Project, Source

visits = Source(name="visits", topic="visits", id="visit_id", time="at",
                schema="visit_id STRING, person STRING, at TIMESTAMP, paid INT")
seen = FeatureView(name="seen", source=visits, key="person", features={"visits": Count()})
project = Project(name="shop", views=(seen,), model=Model(),
                  label=Label(source=visits, key="person", target="paid > 0"))
"""
ISSUER = Issuer(name="https://issuer", audience="anabranch")
PRIVATE, PUBLIC = pair()


class Secured:
    """A server that asks for credentials."""

    def __init__(self, folder: Path) -> None:
        self.keys = ApiKeys(folder / "keys.json")
        self.now = [NOW]
        self.access = Access(
            self.keys.read, replace(ISSUER, public_keys=(pair()[1], PUBLIC)), lambda: self.now[0]
        )
        self.bench: Bench = bench(PROJECTS, ("age",))
        self.bench.app = create_app(replace(self.bench.app.parts.context, access=self.access))
        self.bench.app.live.refresh()

    def key(self, project: str = "heart_disease", **more: Any) -> str:
        text = self.keys.add(project, NOW, **more)[1]
        self.access.refresh()
        return text

    def ask(
        self, method: str, path: str, credentials: str = "", body: bytes = b"", **more: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        sent = HttpRequest(
            method, path, body, authorization=f"Bearer {credentials}" if credentials else "", **more
        )
        response = asyncio.run(self.bench.app.handle(sent))
        return (
            response.status,
            json.loads(response.body) if response.body[:1] == b"{" else response.body,
            dict(response.headers),
        )

    def predict(self, credentials: str = "", **more: str) -> tuple[int, Any, Mapping[str, str]]:
        return self.ask("POST", f"{HEART}/predict", credentials, PREDICT, **more)


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


def token(key: str = PRIVATE, algorithm: str = "ES256", **claims: Any) -> str:
    """A good token for the fakes' time, which is the past: only its expiry is real."""
    good = {
        "sub": "nurse",
        "iss": "https://issuer",
        "aud": "anabranch",
        "exp": 4_000_000_000,
        "scope": "heart_disease:predict",
    }
    return jwt.encode(
        {name: value for name, value in {**good, **claims}.items() if value is not None}, key, algorithm
    )


def test_nothing_is_answered_without_credentials_but_the_probes(secured: Secured) -> None:
    read = (f"{HEART}/features/p1", HEART, "/v1/projects/nobody", "/v1/projects", "/docs", "/openapi.json")
    for path in (f"{HEART}/predict", *read, "/metrics", "/nothing"):
        status, problem, headers = secured.ask("POST" if path.endswith("predict") else "GET", path)
        # A browser must learn how to sign in to the pages that people read.
        how = BROWSERS if path in ("/docs", "/openapi.json") else 'Bearer realm="anabranch"'
        assert (status, headers.get("www-authenticate")) == (401, how), (path, problem)
    assert secured.ask("GET", "/healthz")[0] == secured.ask("GET", "/readyz")[0] == 200
    assert secured.bench.store.reads == 0


def test_single_events_need_a_right_of_their_own(secured: Secured) -> None:
    others = [right for right in RIGHTS if right != "why"]
    assert secured.ask("GET", f"{HEART}/why/p1", secured.key(rights=others))[0] == 403
    assert (
        secured.ask("GET", f"{HEART}/why/p1", secured.key(rights=("why",)))[0] == 404
    )  # nothing is known of it


def test_key_is_valid_for_its_project_and_its_rights_alone(secured: Secured) -> None:
    key = secured.key()
    assert secured.predict(key)[0] == 200
    assert secured.predict(api_key=key)[0] == 200
    assert secured.ask("GET", HEART, key)[0] == 200
    status, problem, _ = secured.ask("POST", f"{HEART}/events/bracelet", key, b"{}")
    assert (status, "no right to events for heart_disease" in problem["detail"]) == (403, True)
    assert secured.ask("GET", "/metrics", key)[0] == 403
    other = secured.key("shop", rights=RIGHTS)
    assert secured.predict(other)[0] == 403
    assert secured.ask("GET", "/v1/projects", other)[1]["projects"] == []
    assert secured.ask("GET", "/metrics", secured.key("*", rights=["metrics"]))[0] == 200


def test_metrics_show_the_projects_that_the_caller_has_the_right_for(secured: Secured) -> None:
    secured.predict(secured.key())
    own, other, all_of_them = (
        secured.ask("GET", "/metrics", secured.key(name, rights=["metrics"]))[1]
        for name in ("heart_disease", "shop", "*")
    )
    assert b'anabranch_requests_total{project="heart_disease",route="predict",status="200"} 1.0' in own
    assert b'project="heart_disease"' not in other
    assert b"process_resident_memory_bytes" in other
    assert own.count(b'project="heart_disease"') == all_of_them.count(b'project="heart_disease"') > 3


def test_key_is_changed_by_adding_a_new_one_and_revoking_the_old(secured: Secured) -> None:
    old, new = secured.key(), secured.key()
    assert secured.predict(old)[0] == secured.predict(new)[0] == 200
    secured.keys.revoke("heart_disease", old.split("_")[1])
    secured.bench.app.live.refresh()
    status, problem, _ = secured.predict(old)
    assert (status, "revoked" in problem["detail"]) == (401, True)
    assert secured.predict(new)[0] == 200
    with pytest.raises(MisuseError, match="has no key"):
        secured.keys.revoke("shop", new.split("_")[1])


def test_a_revoked_key_is_refused_while_the_registry_does_not_answer(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.api.live._FIRST_SECONDS", 0.1)
    key, hung = secured.key(), threading.Event()
    context = secured.bench.app.parts.context
    monkeypatch.setattr(secured.bench.registry, "roles", lambda _: hung.wait())
    settings = replace(context.settings, refresh_seconds=0.05)
    secured.bench.app = create_app(replace(context, settings=settings))
    secured.bench.app.start()
    try:
        assert secured.ask("GET", "/v1/projects", key)[0] == 200
        secured.keys.revoke("heart_disease", key.split("_")[1])
        assert wait_until(lambda: secured.ask("GET", "/v1/projects", key)[0] == 401, 10)
    finally:
        hung.set()
        secured.bench.app.stop()


def test_a_damaged_file_of_keys_is_told_and_those_read_before_stay_in_force(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    key = secured.key()
    good = secured.keys.file.read_text()
    secured.keys.file.write_text(good[:-20])
    secured.bench.app.live.keys()
    secured.bench.app.live.keys()
    (record,) = [each for each in caplog.records if "the file of API keys" in each.getMessage()]
    assert record.levelname == "ERROR"
    assert secured.predict(key)[0] == 200
    status, ready, _ = secured.ask("GET", "/readyz")
    assert (status, "the log says why" in ready["keys"]) == (200, True)
    assert str(secured.keys.file) not in json.dumps(ready)
    secured.keys.file.write_text(good)
    secured.bench.app.live.keys()
    assert secured.ask("GET", "/readyz")[1]["keys"] == "ok"


def test_a_server_that_listens_on_every_address_takes_addresses_and_its_own_names() -> None:
    everywhere, one = Hosts("0.0.0.0", ["API.example"]), Hosts("10.1.2.3", [])  # noqa: S104
    for sent in (
        "10.9.8.7:8100",
        "[2001:db8::1]:8100",
        "api.example.",
        socket.gethostname(),
        "localhost",
        "",
    ):
        everywhere.check(sent)
    one.check("10.1.2.3:80")
    for hosts, sent in ((everywhere, "evil.example"), (one, "10.1.2.4"), (one, "10.1.2.3.evil.example")):
        with pytest.raises(ProblemError, match="is not a name of this server"):
            hosts.check(sent)
    Hosts("127.0.0.1", ["*"]).check("evil.example")


def test_wrong_secret_and_expired_key_are_401(secured: Secured) -> None:
    key = secured.key(expires=NOW + DAY)
    assert secured.predict(f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}")[0] == 401
    assert secured.predict(key)[0] == 200
    secured.now[0] = NOW + DAY
    status, problem, _ = secured.predict(key)
    assert (status, "expired" in problem["detail"]) == (401, True)


def test_secrets_are_neither_kept_nor_shown(secured: Secured) -> None:
    key = secured.key()
    secret = key.split("_", 2)[2]
    assert secret not in secured.keys.file.read_text()
    assert stat.S_IMODE(secured.keys.file.stat().st_mode) == 0o600
    (entry,) = secured.keys.read().values()
    assert entry.hash not in repr(entry)
    assert secret not in repr(HttpRequest("GET", "/", authorization=f"Bearer {key}", api_key=key))
    assert "BEGIN" not in repr(Issuer(public_keys=(PUBLIC,)))


def test_token_of_the_issuer_is_believed_until_it_expires(secured: Secured) -> None:
    good = token()
    assert secured.predict(good)[0] == 200
    assert secured.predict(token(scope="*:predict"))[0] == 200
    assert secured.predict(token(scope="heart_disease:features shop:predict"))[0] == 403
    assert secured.predict(token(scope=None))[0] == 403
    # The issuer is trusted no more: a believed token is checked again when it expires, not before.
    secured.access._issuer = replace(ISSUER, public_keys=(pair()[1],))
    assert secured.predict(token(sub="somebody else"))[0] == 401
    secured.now[0] = 4_000_000_000 * SECOND - 1
    assert secured.predict(good)[0] == 200
    secured.now[0] += 1
    assert secured.predict(good)[0] == 401


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (token(exp=1_000_000_000), "expired"),
        (token(exp=None), "lacks a claim"),
        (token(pair()[0]), "not signed by an issuer"),
        (token("a secret of 32 bytes or more: 0123456789", "HS256"), "public-key algorithm"),
        (jwt.encode({"exp": 4_000_000_000}, "", "none"), "public-key algorithm"),
        (token(iss="https://elsewhere"), "another issuer"),
        (token(aud="others"), "another audience"),
        (token(nbf=3_900_000_000), "not valid yet"),
        (token()[:-4] + "AAAA", "not signed by an issuer"),
        ("x.y.z", "cannot be read"),
        ("anb_nothing_here", "unknown"),
        ("\ud800", "cannot be read"),
    ],
)
def test_expired_and_forged_tokens_are_401_with_a_reason(secured: Secured, forged: str, reason: str) -> None:
    status, problem, _ = secured.predict(forged)
    assert (status, reason in problem["detail"]) == (401, True), problem
    assert forged not in problem["detail"]


def test_project_names_are_shown_only_to_callers_that_may_see_them(secured: Secured, tmp_path: Path) -> None:
    declared = tmp_path / "declared"
    declared.mkdir()
    (declared / "shop.py").write_text(SHOP)
    (declared / "torn.py").write_text("project = ")
    app = secured.bench.app = create_app(
        replace(secured.bench.app.parts.context, folders=(PROJECTS, declared))
    )
    app.live.refresh()
    heart, everywhere, blind = secured.key(), secured.key("*"), secured.key("*", rights=["predict"])

    def visible(path: str, credentials: str = "", method: str = "GET") -> tuple[int, set[str]]:
        status, answer, _ = secured.ask(method, path, credentials, PREDICT)
        return status, {name for name in ("heart_disease", "shop", "torn") if name in json.dumps(answer)}

    for name in (
        "shop",
        "torn",
        "nobody",
    ):  # there is one, or one that is broken, or none: all the same to who has no right
        status, problem, _ = secured.ask("GET", f"/v1/projects/{name}", heart)
        refused = f"key {heart.split('_')[1]} has no right to catalogue for {name}"
        assert (status, problem["detail"]) == (403, f"{refused}: ask for a key or token that has")
        page = asyncio.run(app.handle(HttpRequest("GET", f"/projects/{name}", api_key=heart)))
        assert (page.status, b"has no right to catalogue" in page.body) == (403, True)
    assert visible("/v1/projects/nobody", everywhere) == (404, {"heart_disease", "shop"})
    assert visible("/v1/projects/torn", everywhere) == (503, {"torn"})
    assert visible("/v1/projects/nobody/predict", blind, "POST") == (404, set())

    seen: list[tuple[str, set[str]]] = [
        ("", set()),
        ("anb_made_up", set()),
        (blind, set()),
        (heart, {"heart_disease"}),
    ]
    for sent, names in [*seen, (everywhere, {"heart_disease", "shop", "torn"})]:
        status, document, _ = secured.ask("GET", "/readyz", api_key=sent)
        assert (status, {*document["projects"], *document["broken"]}) == (200, names)
    assert visible("/v1/projects", everywhere)[1] == {"heart_disease", "shop", "torn"}
    assert visible("/v1/projects", heart)[1] == {"heart_disease"}

    secured.bench.registry.version = None
    app.live.refresh()
    assert visible("/readyz") == (200, set())
    assert visible("/readyz", heart) == (200, {"heart_disease"})


def test_callers_without_rights_do_not_learn_which_project_cannot_be_read(secured: Secured) -> None:
    def away(project: str) -> None:
        raise AnabranchError(f"MLflow has no {project}")

    secured.bench.registry.roles = away  # type: ignore[method-assign, assignment]
    secured.bench.app.live.refresh()
    assert secured.ask("GET", "/readyz")[1]["model"] == "the model of a project cannot be read"
    assert secured.ask("GET", "/readyz", secured.key())[1]["model"] == "MLflow has no heart_disease"


def test_damaged_file_of_keys_leaves_the_last_good_ones(secured: Secured) -> None:
    key = secured.key()
    secured.keys.file.write_text("{")
    with pytest.raises(AnabranchError, match="cannot be read"):
        secured.access.refresh()
    secured.bench.app.live.refresh()
    assert secured.predict(key)[0] == 200


def test_page_says_how_to_send_credentials(secured: Secured) -> None:
    document = secured.ask("GET", "/openapi.json", secured.key())[1]
    assert document["paths"][f"{HEART}/predict"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_server_beyond_loopback_starts_only_with_authentication_or_when_opened() -> None:
    with pytest.raises(MisuseError, match=r"serving\.auth is off"):
        run(ServingSettings(host="203.0.113.1", port=1), lambda _: pytest.fail("it started"))
    with pytest.raises(AnabranchError, match="cannot listen"):
        run(ServingSettings(host="203.0.113.1", port=1, open=True), lambda _: pytest.fail("it started"))
