"""The configuration of nginx: where it listens, its limits, and what is refused before it starts."""

import re
from pathlib import Path
from string import Template

import pytest

from anabranch.errors import MisuseError
from jobs.servers.nginx import configuration
from jobs.servers.server import CONF, write_configuration
from jobs.wiring.settings import load_settings

TLS = {
    "servers.nginx_tls_certificate": "/etc/ssl/gateway.pem",
    "servers.nginx_tls_key": "/etc/ssl/gateway.key",
}
AUTH = {"serving.auth": "on"}
OPEN = ["0.0.0.0", "::", "203.0.113.1", "gateway.example", "127.0.0.1.example"]  # noqa: S104


def made(**changes: object) -> str:
    return configuration(load_settings({}, {**changes}))


def test_the_gateway_listens_on_loopback_by_default() -> None:
    text = made()
    assert "listen 127.0.0.1:8080;" in text
    assert not re.search(r"@\{|ssl", text)
    for host, place in (
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("localhost", "localhost"),
        ("127.1.2.3", "127.1.2.3"),
    ):
        assert f"listen {place}:8080;" in made(**{"servers.nginx_host": host})


def test_limits_of_a_caller_and_of_an_address_are_those_of_the_settings() -> None:
    text = made(**{"servers.nginx_rate": 7, "servers.nginx_address_rate": 70})
    assert "limit_req_zone $caller zone=callers:10m rate=7r/s;" in text
    assert "limit_req_zone $binary_remote_addr zone=addresses:10m rate=70r/s;" in text
    assert re.findall(r"limit_req zone=(\w+) burst=(\d+) nodelay;", text) == [
        ("addresses", "70"),
        ("callers", "7"),
    ]


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, "no TLS and no authentication"),
        (TLS, "no authentication"),
        (AUTH, "no TLS"),
        ({**AUTH, "serving.open": True}, "no TLS"),
    ],
)
@pytest.mark.parametrize("host", OPEN)
def test_a_gateway_that_others_can_reach_needs_tls_and_authentication(
    host: str, given: dict[str, object], lacking: str
) -> None:
    with pytest.raises(
        MisuseError,
        match=rf"nginx_host {re.escape(host)} can be reached by others, and the gateway has {lacking}: set ",
    ):
        made(**{"servers.nginx_host": host, **given})


@pytest.mark.parametrize(("host", "place"), [("203.0.113.1", "203.0.113.1"), ("::", "[::]")])
def test_with_tls_and_authentication_it_listens_beyond_loopback_by_tls_alone(host: str, place: str) -> None:
    text = made(**{"servers.nginx_host": host, **TLS, **AUTH})
    assert re.findall(r"^ *listen (.*);", text, re.MULTILINE) == [f"{place}:8080 ssl"]
    assert "ssl_certificate /etc/ssl/gateway.pem;" in text
    assert "ssl_certificate_key /etc/ssl/gateway.key;" in text


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(MisuseError, match="belong together"):
        made(**{"servers.nginx_tls_key": "/etc/ssl/gateway.key"})


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (
            "kafka.properties",
            {"port", "controller_port", "data", "host", "node", "voters", "copies", "majority", "trusted"},
        ),
        ("cassandra.yaml", {"port", "storage_port", "data", "host", "seeds"}),
        ("hdfs-embedded.xml", {"port", "http_port", "data_port", "data_http_port", "data_ipc_port", "data"}),
    ],
)
def test_a_template_asks_for_the_names_that_its_server_gives(
    template: str, names: set[str], tmp_path: Path
) -> None:
    write_configuration(template, tmp_path / "written", **dict.fromkeys(names, "filled-in"))
    text = (tmp_path / "written").read_text(encoding="utf-8")
    assert set(Template((CONF / template).read_text(encoding="utf-8")).get_identifiers()) == names
    assert "$" not in text
    assert "filled-in" in text
