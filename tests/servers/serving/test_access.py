"""Rights over a socket: `anabranch serve` with real stores, its own keys and an issuer's tokens."""

import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from jobs.cli.main import main
from jobs.servers.processes import tail, wait_until
from jobs.wiring.settings import ROOT, Settings
from tests.conftest import free_ports
from tests.support.issuer import pair

DECLARATION = '''
"""Readings of a ward."""
from anabranch import Count, FeatureView, Label, Model, Project, Source

readings = Source(name="readings", topic="{name}", id="id", time="at",
                  schema="id STRING, bed STRING, at TIMESTAMP, bad BOOLEAN")
seen = FeatureView(name="seen", source=readings, key="bed", features={{"n": Count()}})
project = Project(name="{name}", views=(seen,), model=Model(),
                  label=Label(source=readings, key="bed", target="bad"))
'''
ISSUER = {"iss": "https://issuer", "aud": "wards"}
EVENT = {"id": "e1", "bed": "b1", "at": "2024-05-01T12:00:00Z"}
SECONDS = 5.0
"""Within which a server has seen a change of keys, which it looks for every second."""


@dataclass
class Guarded:
    """A server that asks for credentials, its two projects, and the environment that finds them."""

    port: int
    names: tuple[str, str]
    private: str
    environment: dict[str, str]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, document and headers; `{0}` and `{1}` in the path are the projects."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            address = path.format(*(f"/v1/projects/{name}" for name in self.names))
            sent = {
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            }
            connection.request(
                "GET" if body is None else "POST", address, None if body is None else json.dumps(body), sent
            )
            response = connection.getresponse()
            text = response.read()
            headers = dict(response.getheaders())
            return (
                response.status,
                json.loads(text) if "json" in headers.get("content-type", "") else text,
                headers,
            )
        finally:
            connection.close()

    def statuses(self, credentials: str) -> dict[str, int]:
        """The status of each endpoint of both projects: a 403, or a problem for want of a model or a row."""
        asked: dict[str, Any] = {
            "/features/b1": None,
            "/scores/b1": None,
            "": None,
            "/predict": {"features": {"n": 1}},
            "/events/readings": [EVENT],
        }
        paths = {f"{{{project}}}{verb}": body for project in (0, 1) for verb, body in asked.items()}
        return {
            path: self.ask(path, body, authorization=f"Bearer {credentials}")[0]
            for path, body in {**paths, "/metrics": None}.items()
        }

    def token(self, private: str | None = None, **claims: Any) -> str:
        """A token of the issuer for the first project's features."""
        good = {"sub": "nurse", **ISSUER, "exp": int(time.time()) + 600, "scope": f"{self.names[0]}:features"}
        return jwt.encode({**good, **claims}, private or self.private, "ES256")


@pytest.fixture(scope="module")
def guarded(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    declared, log = folder / "declared", folder / "log"
    declared.mkdir()
    names = (f"ward_{uuid.uuid4().hex[:8]}", f"shop_{uuid.uuid4().hex[:8]}")
    for name in names:
        (declared / f"{name}.py").write_text(DECLARATION.format(name=name), encoding="utf-8")
    private, public = pair()
    (folder / "issuer.pem").write_text(public, encoding="ascii")
    (folder / "former.pem").write_text(pair()[1], encoding="ascii")
    (port,) = free_ports(1)
    ours = servers.servers
    environment = {
        "ANABRANCH_PROJECTS": str(declared),
        "ANABRANCH__PATHS__DATA": str(folder / "data"),
        "ANABRANCH__SERVERS__KAFKA_PORT": str(ours.kafka_port),
        "ANABRANCH__SERVERS__CASSANDRA_PORT": str(ours.cassandra_port),
        "ANABRANCH__SERVING__AUTH": "on",
        "ANABRANCH__SERVING__JWT_PUBLIC_KEYS": f"{folder / 'former.pem'},{folder / 'issuer.pem'}",
        "ANABRANCH__SERVING__JWT_ISSUER": ISSUER["iss"],
        "ANABRANCH__SERVING__JWT_AUDIENCE": ISSUER["aud"],
    }
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", str(port)]
    found = Guarded(port, names, private, environment)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        reader = f"Bearer {found.token()}"
        assert wait_until(lambda: process.poll() is not None or _answers(found, reader), 120), tail(log)
        assert process.poll() is None, tail(log)
        yield found
    finally:
        process.terminate()
        process.wait(30)
    assert process.returncode == 0, tail(log)


def _answers(found: Guarded, reader: str) -> bool:
    try:
        return found.ask("{0}/features/b1", authorization=reader)[0] == 200
    except OSError:
        return False


@pytest.fixture
def keys(guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`anabranch keys` with the server's settings: its JSON output."""
    for name, value in guarded.environment.items():
        monkeypatch.setenv(name, value)

    def verb(*words: str) -> Any:
        assert main(["keys", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return verb


def refusal(answer: tuple[int, Any, dict[str, str]]) -> tuple[int, str]:
    """Status and reason of an answer that is a problem document."""
    status, problem, headers = answer
    assert headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["type"].partition("problem:")[2]) == (
        status,
        {401: "unauthorized", 403: "forbidden"}[status],
    )
    return status, problem["detail"]


def test_nothing_but_the_probes_is_answered_without_credentials(guarded: Guarded) -> None:
    for path, body in (
        ("{0}", None),
        ("{0}/features/b1", None),
        ("{0}/predict", {"features": {"n": 1}}),
        ("{0}/events/readings", [EVENT]),
        ("/metrics", None),
    ):
        assert refusal(guarded.ask(path, body)) == (
            401,
            "no credentials: send 'Authorization: Bearer KEY' with an API key or a token",
        )
    assert guarded.ask("{0}")[2]["www-authenticate"] == 'Bearer realm="anabranch"'
    assert guarded.ask("/healthz")[0] == 200


def test_a_key_is_good_for_its_project_and_verbs_until_it_is_revoked(guarded: Guarded, keys: Any) -> None:
    name, other = guarded.names
    made = keys("add", name, "--rights", "features,events", "--name", "ward-3")
    kept = keys("add", name, "--rights", "predict,scores,catalogue", "--days", "1")
    everywhere = keys("add", "*", "--rights", "metrics")
    assert wait_until(lambda: guarded.ask("{0}/features/b1", x_api_key=made["key"])[0] == 200, SECONDS)
    assert wait_until(lambda: guarded.ask("/metrics", x_api_key=everywhere["key"])[0] == 200, SECONDS)
    watched = keys("add", other, "--rights", "metrics")
    assert wait_until(lambda: guarded.ask("/metrics", x_api_key=watched["key"])[0] == 200, SECONDS)
    named = {
        project: [
            f'project="{project}"'.encode() in guarded.ask("/metrics", x_api_key=key["key"])[1]
            for key in (everywhere, watched)
        ]
        for project in (name, other)
    }
    assert named[name] == [True, False]

    refused = {
        f"{{1}}{verb}": 403 for verb in ("/features/b1", "/scores/b1", "", "/predict", "/events/readings")
    }
    here = {
        "{0}/features/b1": 200,
        "{0}/scores/b1": 403,
        "{0}": 403,
        "{0}/predict": 403,
        "{0}/events/readings": 202,
    }
    assert guarded.statuses(made["key"]) == {**here, **refused, "/metrics": 403}
    here = {
        "{0}/features/b1": 403,
        "{0}/scores/b1": 404,
        "{0}": 200,
        "{0}/predict": 503,
        "{0}/events/readings": 403,
    }
    assert guarded.statuses(kept["key"]) == {**here, **refused, "/metrics": 403}
    assert refusal(guarded.ask("{0}/scores/b1", x_api_key=made["key"])) == (
        403,
        f"key {made['id']} has no right to scores for {name}: ask for a key or token that has",
    )

    listed = keys("list", name)["keys"]
    assert {(one["id"], one["name"], tuple(one["rights"])) for one in listed} == {
        (made["id"], "ward-3", ("features", "events")),
        (kept["id"], "", ("predict", "scores", "catalogue")),
    }
    assert made["key"].split("_", 2)[2] not in json.dumps(listed)
    assert [one["id"] for one in keys("list", other)["keys"]] == [watched["id"]]

    keys("revoke", name, made["id"])
    assert wait_until(lambda: guarded.ask("{0}/features/b1", x_api_key=made["key"])[0] == 401, SECONDS), (
        "a revoked key is still good"
    )
    assert refusal(guarded.ask("{0}/features/b1", authorization=f"Bearer {made['key']}"))[1].startswith(
        "the API key is unknown or was revoked"
    )
    assert (
        guarded.ask("{0}/scores/b1", x_api_key=kept["key"])[0] == 404
    )  # good for scores still, of which there are none
    assert [one["id"] for one in keys("list", name)["keys"]] == [kept["id"]]


def test_a_token_is_believed_when_a_named_key_signed_it_and_until_it_expires(guarded: Guarded) -> None:
    def ask(token: str, path: str = "{0}/features/b1") -> tuple[int, Any, dict[str, str]]:
        return guarded.ask(path, authorization=f"Bearer {token}")

    expires = int(time.time()) + 3
    brief = guarded.token(exp=expires)
    assert ask(brief)[0] == 200
    assert ask(guarded.token())[0] == 200
    lacking = (
        f"the token of nurse has no right to scores for {guarded.names[0]}: ask for a key or token that has"
    )
    assert refusal(ask(guarded.token(), "{0}/scores/b1")) == (403, lacking)
    assert refusal(ask(guarded.token(), "{1}/features/b1"))[0] == 403
    assert ask(guarded.token(scope="*:features"), "{1}/features/b1")[0] == 200

    forged = "the token was not signed by an issuer that this server trusts"
    assert refusal(ask(guarded.token(pair()[0]))) == (401, forged)
    head, _, signature = guarded.token().split(".")
    more = guarded.token(scope="*:features *:events").split(".")[1]
    assert refusal(ask(f"{head}.{more}.{signature}")) == (401, forged)
    unsigned = jwt.encode(jwt.decode(guarded.token(), options={"verify_signature": False}), "", "none")
    assert refusal(ask(unsigned)) == (
        401,
        "the token was not signed with a public-key algorithm of a trusted issuer",
    )
    assert refusal(ask(guarded.token(aud="others"))) == (401, "the token is for another audience")
    assert refusal(ask(guarded.token(exp=int(time.time()) - 1))) == (
        401,
        "the token has expired: get a new one",
    )

    time.sleep(max(0.0, expires - time.time()))
    assert refusal(ask(brief)) == (401, "the token has expired: get a new one")
